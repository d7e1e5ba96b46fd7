"""A monitor of a whole workspace: references made once, what drifted told by page, metrics file and events, once."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from components.bundle import EndpointCard, assemble
from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.recipe import Monitor
from components.records import Artifact, Scores, Verdict
from components.store import Store
from flows import events, schedules, standing, watching
from flows.workspace import Workspace
from serving.journal import Entry, Journal
from serving.release import Served
from tests.components.test_monitoring import bundle_of
from tests.components.traffic import Traffic, write
from tests.serving.shop import TRACE, Shop, application, close

ROOT = Path(__file__).resolve().parents[2]
HOUR = timedelta(hours=1)
SETTINGS = Monitor(window="1h")
HEALTHY = Traffic(burst=20, habit=1.0, plain=False)  # nor are its outputs those of a bundle


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A workspace with a champion, `toy`, that has a bundle."""
    place = Workspace(tmp_path, tmp_path / "workspace")
    place.root.mkdir()
    promote(place, bundle_of(Store(place.store), 1.0), "1")
    return place


def promote(place: Workspace, bundle: Artifact, number: str) -> datetime:
    ledger = Ledger(place.ledger_url)
    scores = Scores(
        bundle=bundle, encoder="e", held_out="h", samples=16, seeds=(0, 1), values={}, floor={}, pictures=bundle
    )
    verdict = Verdict(
        model="toy", candidate="c", family="vae", bundle=bundle, scores=scores, checks=(), rank=1.0, passed=True
    )
    pointers = ({"kind": "bundle", "digest": bundle.digest, "dvc": "md5:0.dir"},)
    entered = ledger.enter(Version(
        model="toy", version=number, modality="image", family="vae", bundle=bundle.digest,
        verdict=ledger.record(verdict, run="r"), data="md5:0", commit=None, recipe="sha256:0", run="r",
        pointers=pointers, created="2026-01-01T00:00:00Z",
    ))  # fmt: skip
    generation = ledger.generation("toy")
    moved = ledger.move(
        "toy", "champion", number, verdict=entered.verdict, expected_generation=generation, actor="t", reason="r"
    )
    return datetime.fromisoformat(moved.created)


def begun(place: Workspace) -> datetime:
    return datetime.fromisoformat(Ledger(place.ledger_url).current("toy")["champion"].created)


def ask(place: Workspace, traffic: Traffic, rows: int, hour: int, *, version: str = "1") -> datetime:
    """Requests of the hour so many after the promotion; its end."""
    start = begun(place) + hour * HOUR
    table = traffic.table(rows, seed=hour + 1, start=start, last=HOUR, version=version)
    write(place.observations, table, name=f"part-{hour}.parquet")
    return start + HOUR + timedelta(seconds=1)


def watch(place: Workspace, now: datetime, **options) -> watching.Watched:
    return watching.watch("toy", place, settings=SETTINGS, now=now, **options)


def kinds(place: Workspace) -> list[str]:
    return [event.kind for event in events.since(place)]


def test_healthy_traffic_makes_references_once_and_raises_no_alarm(place: Workspace) -> None:
    over = ask(place, HEALTHY, 3000, 0)
    early = watch(place, over - HOUR / 2)
    assert early.drift.first_window is None and not early.drift.alarms
    assert {one.name.partition(".")[0] for one in early.drift.columns} == {"bundle"} and not early.drift.rates
    first = watch(place, over)
    assert first.drift.first_window is not None and first.drift.requests == 0 and first.drift.false_alarms == 0
    later = watch(place, ask(place, HEALTHY, 3000, 1))
    assert later.drift.references == first.drift.references and set(later.drift.references) == {"drawn", "mix"}
    assert not later.drift.alarms and kinds(place) == []
    assert 2900 <= later.drift.requests <= 3000 and later.drift.judged >= 10


def test_what_the_endpoints_write_is_what_the_monitor_reads(place: Workspace, tmp_path: Path) -> None:
    """Through the routes: the bundle that was promoted answers, and then another one in its place."""
    shop = Shop(tmp_path / "shop")
    shop.store = Store(place.store)
    found = {}
    for name, gain in (("as promoted", 1.0), ("another", 3.0)):
        served = Served(digest=bundle_of(shop.store, gain).digest, bento_model="toy:x", trace=TRACE)
        parts = shop.parts(shop.release(toy={"champion": "1", "versions": {"1": served}}), observed=place.observations)
        try:
            parts.observations._lots.seed(0)
            client = TestClient(application(parts))
            for seed in range(60):
                answer = client.post("/v1/generate", json={"model": "toy", "seed": 10**6 + seed})
                assert answer.status_code == 200
                if seed % 20 == 19:
                    parts.observations.settle()
        finally:
            close(parts)
        settings = Monitor(window="1h", at_least=20)
        found[name] = watching.watch("toy", place, settings=settings).drift
        for path in place.observations.rglob("part-*.parquet"):
            path.unlink()
    calm, moved = found["as promoted"], found["another"]
    assert calm.requests == 60 and calm.looked_at >= 40 and calm.unreadable == 0
    judged = [one for one in calm.columns if one.standing == "steady"]
    assert len(judged) >= 5 and not calm.drifted
    assert "bundle.mean" in moved.drifted


def test_what_drifts_is_told_once_on_its_page_in_its_file_and_as_an_event(place: Workspace) -> None:
    watch(place, ask(place, HEALTHY, 3000, 0))
    now = ask(place, HEALTHY.but(truncation=0.7, moderated=0.06), 3000, 1)
    found = watch(place, now)
    assert {"controls.truncation", "moderated"} <= set(found.drift.drifted) and found.drift.alarms
    told = json.loads((place.observations / "model=toy" / watching.FOUND).read_bytes())
    row = standing._drift(place, "toy", "1")
    assert row is not None and row["drifted"] is True and "controls" in row["why"]
    assert standing._drift(place, "toy", "2") is None, "another champion has nothing found of it yet"
    assert told["version"] == "1" and {one["name"] for one in told["columns"]} >= {"controls.truncation"}
    assert "controls.truncation" in found.page.read_text()
    assert kinds(place) == ["drift.found"]
    event = events.since(place)[-1]
    assert event.model == "toy" and "controls.truncation" in event.facts["moved"] and event.facts["version"] == "1"
    assert watch(place, now + timedelta(minutes=5)).told == (), "the same is not told again at once"
    assert watch(place, now + HOUR / 2 + timedelta(minutes=31), window="2h").told == ("drift.found",)


def test_slow_and_failed_answers_alone_are_told_as_what_no_run_mends(place: Workspace) -> None:
    watch(place, ask(place, HEALTHY, 3000, 0))
    found = watch(place, ask(place, HEALTHY.but(seconds=0.3, failed=0.2), 3000, 1))
    assert set(found.drift.drifted) == {"slow", "failed"} and found.told == ("service.drifted",)
    event = events.since(place)[-1]
    assert event.kind not in schedules.REASONS and event.facts["moved"].keys() == {"slow", "failed"}
    later = watch(place, ask(place, HEALTHY.but(seconds=0.3, brightness=0.6), 3000, 2))
    assert "outputs.mean" in later.drift.drifted and later.told == ("drift.found",)


def test_low_feedback_is_told_where_the_recipe_names_a_bound(place: Workspace) -> None:
    watch(place, ask(place, HEALTHY, 1000, 0))
    now = ask(place, HEALTHY, 1000, 1)
    thumbs(place, now, up=5, down=25)
    assert watch(place, now).told == ()
    found = watch(place, now, feedback_below=0.6)
    assert found.told == ("feedback.low",) and found.drift.alarms
    event = events.since(place)[-1]
    assert (event.kind, event.facts["up"], event.facts["down"]) == ("feedback.low", 5, 25)
    assert watching.rows(found.drift)[-1]["now"] == "17% of 30"


def thumbs(place: Workspace, now: datetime, *, up: int, down: int) -> None:
    """Thumbs of requests in the window, and of ones that are another version's or too old."""
    journal = Journal(place.serving / "journal.db", log=(place.root / "log").open("w"))
    entry = Entry("", "/v1/generate", 200, "t", 0.1, model="toy", version="1", digest="d", seeds=(1,))
    for number in range(up + down):
        journal.note(replace(entry, id=f"r{number}"))
        journal.feedback(f"r{number}", 0, "up" if number < up else "down", None, team="t")
    for number, version in ((1000, "2"), (1001, "1")):
        journal.note(replace(entry, id=f"r{number}", version=version))
        journal.feedback(f"r{number}", 0, "down", None, team="t")
    journal.close()
    import sqlite3

    with sqlite3.connect(place.serving / "journal.db") as base:
        base.execute("UPDATE feedback SET time = ?", (now.timestamp() - 60,))
        base.execute("UPDATE feedback SET time = 1 WHERE request = 'r1001'")


def test_a_new_champion_begins_anew(place: Workspace) -> None:
    before = watch(place, ask(place, HEALTHY, 1000, 0))
    promote(place, bundle_of(Store(place.store), 2.0), "2")
    found = watch(place, begun(place) + HOUR)
    assert (found.drift.version, found.drift.first_window, found.drift.requests) == ("2", None, 0)
    assert found.drift.references["drawn"] != before.drift.references["drawn"]


def test_a_reference_that_the_store_lost_is_made_again(place: Workspace) -> None:
    now = ask(place, HEALTHY, 1000, 0)
    first = watch(place, now)
    for path in (place.store / "reference").rglob("*.json"):
        path.unlink()
    assert watch(place, now).drift.references == first.drift.references


def test_a_model_that_edits_is_compared_with_its_first_window_alone(place: Workspace) -> None:
    from components import families
    from components.modalities.image.batch import ImageSpec

    store, module = Store(place.store), families.get("cyclegan")
    with store.writing("weights") as draft:
        spec = ImageSpec(channels=1, size=28, degrade="invert")
        module.Model(module.Config(width=2), spec).save(draft.directory)
    promote(place, assemble(draft.artifact, EndpointCard(model="toy"), store), "2")
    watch(place, ask(place, HEALTHY, 1000, 0, version="2"))
    found = watch(place, ask(place, HEALTHY, 1000, 1, version="2"))
    assert set(found.drift.references) == {"mix"} and not found.drift.alarms


@pytest.mark.parametrize(
    ("model", "window", "told"), [("none", None, "none has no champion"), ("toy", "1 day", "'1 day' is not a duration")]
)
def test_what_cannot_be_monitored_is_told(place: Workspace, model: str, window: str | None, told: str) -> None:
    with pytest.raises(AtelierError, match=told):
        watching.by_hand(place, model, window=window)


def test_by_hand_the_recipe_of_the_model_says_how(place: Workspace) -> None:
    folder = place.project / "flows" / "recipes"
    folder.mkdir(parents=True)
    text = (ROOT / "flows" / "recipes" / "fashion-tiny.yaml").read_text()
    model = next(line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model:"))
    (folder / "own.yaml").write_text(
        text.replace(f"model: {model}\n", "model: toy  # ours\n", 1) + "\nmonitor: {window: 1h, drift_above: 0.35}\n"
    )
    assert watching.by_hand(place, "toy").drift.drift_above == 0.35


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_flow_and_the_command_say_the_same_and_prefect_has_the_table(place: Workspace, tmp_path: Path) -> None:
    (tmp_path / "data.dvc").write_text("outs: []\n")
    recipe = tmp_path / "toy.yaml"
    text = (ROOT / "flows" / "recipes" / "fashion-tiny.yaml").read_text()
    model = next(line for line in text.splitlines() if line.startswith("model:"))
    recipe.write_text(text.replace(model, "model: toy") + "\nmonitor: {window: 1h}\n")
    start = datetime.now(UTC) - begun(place)
    assert start < HOUR
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    environment = {**kept, "ATELIER_WORKSPACE": str(place.root), "PYTHONPATH": str(ROOT)}
    program = """
import json, sys
from pathlib import Path
from flows import workspace
workspace.enter(workspace.find(Path.cwd()))
from flows.monitor import monitor
from prefect.client.orchestration import get_client
outcome = monitor(sys.argv[1])
asked = {"artifacts": {"key": {"any_": ["drift-toy"]}}}  # Prefect's own reader sends what its server refuses
with get_client(sync_client=True) as client:
    (found,) = client._client.post("/artifacts/filter", json=asked).json()
print(json.dumps([outcome, found["description"], found["data"]]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(recipe)], cwd=tmp_path, env=environment, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    outcome, description, table = json.loads(done.stdout.splitlines()[-1])
    assert "first window" in outcome and outcome in description
    assert {row["standing"] for row in json.loads(table)} == {"too few"}
    command = [str(Path(sys.executable).with_name("atelier")), "monitor", "toy", "--json"]
    by_hand = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert by_hand.returncode == 0, by_hand.stderr
    assert json.loads(by_hand.stdout)["outcome"] == outcome
