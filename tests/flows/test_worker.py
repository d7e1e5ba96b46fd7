"""An event whose run Prefect never made is found, once no run can be on its way any more; and the worker is alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.errors import AtelierError
from flows import events, runs, worker, workspace
from flows.runs import Cause
from flows.schedules import Applied
from flows.workspace import Workspace

ONE = Applied(
    model="words", recipe="words.yaml", source="data/words", schedule=None, retrain={"data": True, "wait": "10s"},
    upstream=("base",), since="2026-01-01",
)  # fmt: skip


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    return Workspace(tmp_path, tmp_path)


def lost(place: Workspace, one: Applied = ONE, *, after: float = 60.0) -> events.Event | None:
    told = events.since(place)
    return worker._uncovered(place, one, told, datetime.now(UTC) + timedelta(seconds=after))


def test_an_event_that_no_run_covers_is_lost_once_prefect_had_its_time(place: Workspace) -> None:
    told = events.tell(place, "data.changed", model="words", why="new")
    assert lost(place, after=49) is None and lost(place, after=51) == told
    assert lost(place, replace(ONE, since=datetime.now(UTC).isoformat())) is None, "before it was applied, or resumed"
    runs.start(place, runs.begin(place, model="words", recipe="words.yaml", why="by hand"))
    assert lost(place) is None
    again = events.tell(place, "data.changed", model="words", why="newer")
    assert lost(place) == again, "the run had begun before it"


def test_only_what_the_recipe_asks_for_is_lost(place: Workspace) -> None:
    events.tell(place, "drift.found", model="words", why="psi 0.4")
    events.tell(place, "data.changed", model="other", why="new")
    events.tell(place, "champion.moved", model="words", why="its own")
    assert lost(place) is None
    moved = events.tell(place, "champion.moved", model="base", why="the one before")
    assert lost(place) == moved


@pytest.mark.parametrize("content", [None, "model: [words\n"])
def test_a_start_whose_recipe_is_gone_or_broken_is_a_failed_run_that_people_are_told_of(
    place: Workspace, monkeypatch: pytest.MonkeyPatch, content: str | None
) -> None:
    from flows import retrain

    monkeypatch.setattr(workspace, "enter", lambda *_, **__: None)  # the environment of other tests stays theirs
    (place.project / "data.dvc").touch()
    if content is not None:
        (place.project / "words.yaml").write_text(content)
    told = events.tell(place, "data.changed", model="words", why="new")
    assert lost(place) == told
    state = retrain._run(place, "words", place.project / "words.yaml", Cause("data", "new", flow_run="f1"))
    (run,) = runs.of_flow_run(place, "f1")
    assert state.is_failed() and (run.model, run.why, run.outcome, run.exit_code) == ("words", "data", "bad input", 2)
    failed = events.since(place)[-1]
    assert (failed.kind, failed.model, failed.why) == ("run.failed", "words", state.message)
    assert lost(place) is None, "the worker makes no other run of the same event"


def test_a_workspace_has_one_worker(place: Workspace) -> None:
    with (
        worker.only(place, "worker"),
        pytest.raises(AtelierError, match="has a worker already"),
        worker.only(place, "worker"),
    ):
        pass
