"""An event whose run Prefect never made is found, once no run can be on its way any more; and the worker is alone."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.errors import AtelierError
from flows import events, runs, worker
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


def test_a_workspace_has_one_worker(place: Workspace) -> None:
    with (
        worker.only(place, "worker"),
        pytest.raises(AtelierError, match="has a worker already"),
        worker.only(place, "worker"),
    ):
        pass
