"""What recipes ask for runs by itself, once for each reason, under Prefect's own server; what was killed goes on."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from components.errors import AtelierError
from flows import events, runs, schedules
from flows.schedules import Applied
from flows.workspace import Workspace
from tests.flows.clockwork import RECIPE, ROOT, Clockwork, applied, delay, make_project, settled, survive, trigger

ONE = Applied(
    model="words", recipe="words.yaml", source="data/words", schedule=None, upstream=("base",), since="2026-01-01",
    retrain={"data": True, "drift": False, "feedback_below": 0.6, "older_than": None, "wait": "2m"},
)  # fmt: skip


def test_what_a_recipe_asks_for_says_which_events_start_it() -> None:
    assert ONE.kinds == {"data.changed", "feedback.low"} and ONE.wait == 120
    assert schedules._automations(ONE, "0" * 32).keys() == {"own", "upstream"}
    own = schedules._automations(ONE, "0" * 32)["own"]
    assert own.trigger.expect == {"atelier.data.changed", "atelier.feedback.low"}
    assert own.trigger.within == own.actions[0].schedule_after, "what comes meanwhile is in what the run reads"


def test_a_model_has_one_schedule_and_recipes_that_ask_for_nothing_need_no_prefect(tmp_path: Path) -> None:
    place = Workspace(tmp_path, tmp_path / "workspace")
    paths = [tmp_path / name for name in ("plain.yaml", "nightly.yaml", "hourly.yaml")]
    for path, more in zip(paths, ("", 'schedule: {cron: "0 3 * * *"}\n', "schedule: {every: 1h}\n"), strict=True):
        path.write_text(RECIPE + more)
    assert schedules.apply(place, paths[:1]) == {"schema": 1, "made": [], "kept": [], "removed": []}
    with pytest.raises(AtelierError, match=r"hourly\.yaml and .*nightly\.yaml are both recipes of words"):
        schedules.apply(place, paths)
    away = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
    with away, pytest.raises(AtelierError, match=r"Prefect does not take it: .*refused"):
        schedules.apply(place, paths[:2])
    assert schedules.applied(place) == {}


def test_models_that_start_each_other_in_a_circle_are_refused_before_anything_is_applied(tmp_path: Path) -> None:
    place, paths = Workspace(tmp_path, tmp_path / "workspace"), [tmp_path / f"{name}.yaml" for name in "ab"]
    for path, after in zip(paths, ("bb", "aa"), strict=True):
        recipe = RECIPE.replace("model: words", f"model: {path.stem * 2}")
        path.write_text(f"{recipe}retrain: {{after: [{after}]}}\n")
    with pytest.raises(AtelierError, match=r"in a circle, without an end: (aa -> bb -> aa|bb -> aa -> bb)\."):
        schedules.apply(place, paths)
    schedules._write(place, {"aa": replace(ONE, model="aa", recipe=str(paths[0]), upstream=("bb",))})
    with pytest.raises(AtelierError, match="in a circle"):  # with what was applied before
        schedules.apply(place, paths[1:])
    paths[1].write_text(RECIPE.replace("model: words", "model: bb") + "retrain: {after: [bb]}\n")
    with pytest.raises(AtelierError, match="bb -> bb"):
        schedules.apply(place, paths[1:])
    paths[1].write_text(RECIPE.replace("model: words", "model: bb") + "retrain: {after: [base]}\n")
    away = temporary_settings({PREFECT_API_URL: "http://127.0.0.1:9/api"})
    with away, pytest.raises(AtelierError, match="Prefect does not take it"):
        schedules.apply(place, paths[1:])


@pytest.fixture(scope="module")
def clockwork(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clockwork]:
    place = make_project(tmp_path_factory.mktemp("clockwork"))
    running = Clockwork(place)
    try:
        running.start()
        yield running
    finally:
        running.stop()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_what_is_scheduled_starts_on_time_with_its_reason(clockwork: Clockwork) -> None:
    clockwork.schedule(schedule="{every: 20s, owner: ana}", retrain="{data: true, drift: true, wait: 3s}")
    assert clockwork.atelier("schedule", "apply") == {"schema": 1, "made": [], "kept": ["words"], "removed": []}
    (row,) = clockwork.wait(
        lambda: [one for one in clockwork.atelier("schedule", "list")["schedules"] if one["next"]],
        seconds=60, what="a planned start",
    )  # fmt: skip
    assert (row["model"], row["schedule"]["owner"], row["schedule"]["catch_up"]) == ("words", "ana", "one")
    clockwork.wait(clockwork.runs, seconds=120, what="a scheduled run")
    clockwork.atelier("schedule", "pause", "words")
    assert applied(clockwork.place).paused
    clockwork.wait(lambda: all(run.ended for run in clockwork.runs()), seconds=300, what="its end")
    run = clockwork.runs()[-1]
    assert (run.why, run.outcome, run.exit_code) == ("schedule", "passed", 0)
    made = next(one for one in clockwork.flow_runs() if one["id"] == run.flow_run)
    clockwork.wait(
        lambda: all(one["state_type"] == "COMPLETED" for one in clockwork.flow_runs() if one["start_time"]),
        seconds=30, what="its state",
    )  # fmt: skip
    assert delay(made) < 10
    moved = [event for event in events.since(clockwork.place) if event.kind == "champion.moved"]
    assert [event.facts["version"] for event in moved] == ["1"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_storm_of_events_makes_one_run_that_says_why(clockwork: Clockwork) -> None:
    clockwork.schedule(retrain="{data: true, drift: true, wait: 3s}")
    clockwork.atelier("schedule", "resume", "words")
    before = len(clockwork.runs())
    trigger(clockwork.place, 1000)
    clockwork.wait(
        lambda: len(clockwork.runs()) > before and clockwork.runs()[0].ended, seconds=200, what="the run of the storm"
    )
    time.sleep(8)  # for what should not come
    clockwork.wait(lambda: not clockwork.of_line(), seconds=60, what="the end of all")
    (run,) = clockwork.runs()[:-before]
    assert (run.why, run.exit_code) == ("data", 0) and run.detail.startswith("change ")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_runs_whose_processes_are_killed_go_on_and_end_once(clockwork: Clockwork) -> None:
    before = len(clockwork.runs())
    trigger(clockwork.place, 1, kind="drift.found")
    clockwork.wait(
        lambda: len(clockwork.runs()) > before and clockwork.runs()[0].started, seconds=200, what="a run of drift"
    )
    first = clockwork.runs()[0]
    for pid in clockwork.of_line():
        os.kill(pid, signal.SIGKILL)
    clockwork.kill("worker")
    clockwork.kill("prefect")
    again = clockwork.wait(
        lambda: settled(runs.of_flow_run(clockwork.place, str(first.flow_run))), seconds=300, what="its end"
    )
    assert [(run.why, run.exit_code) for run in again] == [("drift", 0)]
    killed = [run for run in clockwork.runs() if run.outcome == "killed"]
    assert [run.id for run in killed] == [first.id] and len(clockwork.runs()) == before + 2
    made = {one["id"]: one["state_type"] for one in clockwork.flow_runs()}
    assert made[str(first.flow_run)] in ("RUNNING", "COMPLETED")
    clockwork.wait(
        lambda: all(one["state_type"] == "COMPLETED" for one in clockwork.flow_runs()), seconds=60, what="its state"
    )


@pytest.mark.slow
@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_runs_survive_kills_at_random_moments(clockwork: Clockwork) -> None:
    clockwork.schedule(retrain="{data: true, drift: true, wait: 3s}")
    seed = random.SystemRandom().randrange(10**6)
    survived = survive(clockwork, 24, seed)
    print(*survived.injected, sep="\n")
    assert not survived.wrong, f"seed {seed}"
    assert survived.resumed >= 6


@pytest.mark.slow
def test_teams_deploy_by_file_to_a_pool_of_their_own(clockwork: Clockwork, tmp_path: Path) -> None:
    prefect = [sys.executable, "-m", "prefect", "--no-prompt"]
    known = {"PREFECT_API_URL": clockwork.api, "PREFECT_HOME": str(tmp_path), "DO_NOT_TRACK": "1"}
    for command in (
        ["work-pool", "create", "--type", "process", "atelier"],
        ["deploy", "--prefect-file", "infra/prefect.yaml", "--all"],
    ):
        done = subprocess.run(
            [*prefect, *command], cwd=ROOT, env={**os.environ, **known}, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
    query = """SELECT deployment.name, work_queue.name IS NOT NULL, concurrency_limit_v2."limit" FROM deployment
      JOIN flow ON flow.id = deployment.flow_id LEFT JOIN work_queue ON work_queue.id = deployment.work_queue_id
      LEFT JOIN concurrency_limit_v2 ON concurrency_limit_v2.id = deployment.concurrency_limit_id
      WHERE flow.name = 'retrain' AND deployment.name != 'words'"""
    with closing(sqlite3.connect(clockwork.place.prefect / "prefect.db", timeout=30)) as base:
        assert sorted(base.execute(query)) == [("fashion", 1, 1), ("shakespeare", 1, 1)]


@pytest.mark.slow
def test_what_is_removed_is_gone_from_prefect_too(clockwork: Clockwork) -> None:
    clockwork.atelier("schedule", "remove", "words")
    assert schedules.applied(clockwork.place) == {}
    assert clockwork.atelier("schedule", "list") == {"schema": 1, "schedules": []}


def test_an_unknown_model_is_answered_with_those_that_are_known() -> None:
    with pytest.raises(AtelierError, match="nothing is scheduled yet"):
        schedules._known({}, "words")
    with pytest.raises(AtelierError, match=r"unknown scheduled model 'wrods'; did you mean 'words'"):
        schedules._known({"words": ONE}, "wrods")
