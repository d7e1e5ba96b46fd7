"""How things stand with every recipe: each fact from where it is kept, and what cannot be read stops nothing else."""

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from components.ledger import Ledger
from flows import disk, events, known, runs, standing
from flows.workspace import Workspace
from tests.flows.test_promotion import place_with


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    """A project with the recipe of `toy`, version 1 of which is champion, and one that was never run."""
    place = place_with(tmp_path, "1", "2")
    folder = tmp_path / known.FOLDER
    folder.mkdir(parents=True)
    (folder / "toy.yaml").write_text("model: toy\nschedule: {cron: '0 3 * * *', timezone: UTC, owner: ana}\n")
    (folder / "new.yaml").write_text("model: new\n")
    (folder / "broken.yaml").write_text("model: [\n")
    return place


def row(place: Workspace, model: str = "toy") -> dict[str, Any]:
    (found,) = (row for row in standing.gather(place)["recipes"] if row["model"] == model)
    return found


def test_each_recipe_has_a_row_and_one_that_cannot_be_read_has_none(place: Workspace) -> None:
    found = standing.gather(place)
    assert [row["model"] for row in found["recipes"]] == ["new", "toy"] and found["troubles"] == {}
    assert row(place, "new") == {
        "model": "new", "recipe": "flows/recipes/new.yaml", "last": None, "verdict": None, "champion": None,
        "challenger": None, "schedule": None, "drift": None,
    }  # fmt: skip
    toy = row(place)
    assert toy["champion"]["version"] == "1" and toy["verdict"]["passed"]
    assert toy["schedule"] == {"said": "0 3 * * * UTC", "owner": "ana", "next": None, "paused": False}


def test_the_last_run_is_told_with_its_reason_while_it_goes_on_and_after(place: Workspace) -> None:
    run = runs.begin(place, model="toy", recipe="flows/recipes/toy.yaml", why="drift", detail="PSI 0.31")
    last = row(place)["last"]
    assert (last["why"], last["detail"], last["ended"], last["outcome"]) == ("drift", "PSI 0.31", None, None)
    runs.end(place, run, exit_code=4)
    assert (row(place)["last"]["exit_code"], row(place)["last"]["outcome"]) == (4, "gates failed")


def test_of_a_run_that_passed_the_verdict_is_the_one_that_did(place: Workspace) -> None:
    ledger = Ledger(place.ledger_url)
    passed = ledger.verdict(ledger.versions("toy")[0].verdict)
    assert passed is not None
    ledger.record(passed.model_copy(update={"candidate": "worse", "passed": False}), run="r")
    runs.end(place, runs.begin(place, model="toy", recipe="toy.yaml", why="by hand"), exit_code=4)
    assert row(place)["verdict"] | {"created": ""} == {"passed": False, "candidate": "worse", "created": ""}
    runs.end(place, runs.begin(place, model="toy", recipe="toy.yaml", why="by hand"), exit_code=0)
    assert row(place)["verdict"] | {"created": ""} == {"passed": True, "candidate": "c", "created": ""}


def test_what_cannot_be_read_is_a_trouble_and_all_else_is_told(place: Workspace) -> None:
    place.prefect.mkdir()
    (place.prefect / "prefect.db").write_bytes(b"no database" * 1000)
    runs.file(place).write_bytes(b"no database" * 1000)
    found = standing.gather(place)
    assert set(found["troubles"]) == {"runs", "schedules"}
    assert [row["champion"] is not None for row in found["recipes"]] == [False, True]


def test_the_newest_events_are_told_without_their_facts(place: Workspace) -> None:
    for number in range(standing.EVENTS + 5):
        events.append(place, [events.Event(str(number), "2026-01-01T00:00:00+00:00", "run.ended", "toy", str(number))])
    found = standing.gather(place)["events"]
    assert len(found) == standing.EVENTS and found[-1]["why"] == str(standing.EVENTS + 4) and "facts" not in found[-1]


def test_it_is_written_whole_for_the_endpoints(place: Workspace) -> None:
    standing.write(place)
    told = json.loads(standing.file(place).read_bytes())
    assert {"written", "recipes", "events", "disk", "parts", "troubles"} <= told.keys()
    assert [path.name for path in place.serving.iterdir()] == ["status.json"]


def test_ages_are_told_in_their_largest_unit() -> None:
    now = datetime(2026, 1, 2, tzinfo=UTC)
    ages = {"5 s": 5, "2 min": 125, "23 h": 86399, "3 d": 3 * 86400 + 5, "0 s": -9}
    assert [standing.age((now - timedelta(seconds=seconds)).isoformat(), now) for seconds in ages.values()] == [*ages]


def test_disk_is_counted_whole_or_said_to_be_more(place: Workspace) -> None:
    place.store.mkdir()
    for number in range(50):
        (place.store / str(number)).write_bytes(b"x" * 1000)
    assert disk.used(place, seconds=5)["store"] == {"bytes": 50_000, "whole": True}
    assert disk.used(place, seconds=0)["store"] == {"bytes": 0, "whole": False}
    assert [disk.shown(size) for size in (999, 1000, 5 * 2**30)] == ["999 B", "0.977 KiB", "5 GiB"]


def test_a_deployment_belongs_to_the_model_of_its_recipe(place: Workspace) -> None:
    place.prefect.mkdir()
    with closing(sqlite3.connect(place.prefect / "prefect.db")) as base, base:
        base.execute("CREATE TABLE flow (id, name)")
        base.execute("CREATE TABLE deployment (id, name, flow_id, parameters, paused)")
        base.execute("CREATE TABLE flow_run (deployment_id, state_type, auto_scheduled, next_scheduled_start_time)")
        base.execute("INSERT INTO flow VALUES ('f', 'retrain'), ('g', 'monitor')")
        named = json.dumps({"recipe": "flows/recipes/toy.yaml"})
        base.execute("INSERT INTO deployment VALUES ('d', 'any', 'f', ?, 0), ('m', 'any', 'g', ?, 0)", (named, named))
        for deployment, state, due in (
            ("d", "SCHEDULED", 9),
            ("d", "SCHEDULED", 5),
            ("d", "PENDING", 1),
            ("m", "SCHEDULED", 2),
        ):
            base.execute(
                "INSERT INTO flow_run VALUES (?, ?, 1, ?)", (deployment, state, f"2026-12-0{due} 03:00:00.000000")
            )
    assert row(place)["schedule"]["next"] == "2026-12-05T03:00:00Z"
