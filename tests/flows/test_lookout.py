"""New data and old champions are told once each, also where they came while nothing was up."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from components.ledger import Ledger, Version
from components.records import Artifact, Check, Scores, Verdict
from flows import events, lookout, runs
from flows.schedules import Applied
from flows.workspace import Workspace
from tests.flows.clockwork import dvc, make_project, write_words

WORDS = Applied(
    model="words", recipe="words.yaml", source="data/words", schedule=None, retrain={"data": True}, upstream=(),
    since="",
)  # fmt: skip


def appoint(ledger: Ledger, model: str) -> None:
    """A version that passed, and is champion."""
    bundle = Artifact(kind="bundle", digest=f"sha256:{'0' * 64}")
    scores = Scores(
        bundle=bundle, encoder="e", held_out="h", samples=16, seeds=(0, 1), values={"fd": (1.0, 2.0)}, floor={},
        pictures=bundle,
    )  # fmt: skip
    check = Check(gate="fd at most 9", metric="fd", value=1.5, low=1.0, high=2.0, bound=9.0, passed=True)
    verdict = Verdict(
        model=model, candidate="c", family="lstm", bundle=bundle, scores=scores, checks=(check,), rank=1.0, passed=True
    )  # fmt: skip
    version = Version(
        model=model, version="1", modality="text", family="lstm", bundle=bundle.digest,
        verdict=ledger.record(verdict, run="r"), data="md5:0", commit=None, recipe="sha256:0", run="r", pointers=(),
        created="2026-01-01T00:00:00Z",
    )  # fmt: skip
    ledger.enter(version)
    ledger.move(model, "champion", "1", verdict=version.verdict, expected_generation=0, actor="test", reason="first")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("lookout")
    make_project(root)
    return root


@pytest.fixture
def place(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.delenv("ATELIER_LEDGER_URL", raising=False)
    return Workspace(project, tmp_path)


def test_data_that_changed_is_told_once_with_its_versions(place: Workspace, project: Path) -> None:
    assert lookout.look(place, [WORDS]) == [] == lookout.look(place, [WORDS])
    write_words(project / "data" / "words", 1)
    assert lookout.look(place, [WORDS]) == [], "not a version yet"
    dvc(project, "add", "-q", "data")
    assert lookout.look(place, [replace(WORDS, paused=True), replace(WORDS, retrain={})]) == []
    (told,) = lookout.look(place, [WORDS])
    assert told.kind == "data.changed" and told.model == "words" and "data/words is now md5:" in told.why
    assert told.facts["version"] != told.facts["before"] and lookout.look(place, [WORDS]) == []
    assert events.since(place) == [told]


def test_what_cannot_be_looked_at_has_no_change_told_at_each_look(
    place: Workspace, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert lookout.look(place, [WORDS]) == []
    write_words(project / "data" / "words", 2)
    dvc(project, "add", "-q", "data")
    (place.root / "ledger.db").write_bytes(b"no database" * 1000)
    other = replace(WORDS, model="other", retrain={"older_than": "30d"})
    for _ in range(3):
        with pytest.raises(Exception, match="not a database"):
            lookout.look(place, [WORDS, other])
    assert [event.kind for event in events.since(place)] == ["data.changed"]
    full = replace(WORDS, model="more")
    assert lookout.look(place, [full]) == []
    write_words(project / "data" / "words", 3)
    dvc(project, "add", "-q", "data")
    with monkeypatch.context() as patch:
        patch.setattr(events, "_write", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            lookout.look(place, [full])
    assert len(lookout.look(place, [full])) == 1, "what could not be written down is told later"


def test_a_champion_is_told_to_be_old_once_for_each_span_without_a_run(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    appoint(Ledger(place.ledger_url), "words")
    made = datetime.now(UTC)
    old = replace(WORDS, retrain={"older_than": "30d"})

    def look(days: float) -> list[events.Event]:
        return lookout.look(place, [old], now=made + timedelta(days=days))

    assert look(29) == []
    (told,) = look(31)
    assert told.kind == "champion.aged" and "words@1" in told.why and "30d" in told.why
    assert look(40) == [] and len(look(62)) == 1
    monkeypatch.setattr(runs, "_now", lambda: (made + timedelta(days=70)).isoformat())
    runs.begin(place, model="words", recipe="words.yaml", why="age")
    assert look(99) == [] and len(look(101)) == 1
