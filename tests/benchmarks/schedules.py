"""Schedules and triggers: delays with 100 recipes, a storm of events, a moved clock, kills at random moments."""

import random
import sqlite3
import statistics
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from tests.flows.clockwork import RECIPE, Clockwork, delay, make_project, settled, survive, trigger

RECIPES = 100
STARTS = 5
EVENTS = 1000
KILLS = 8
HOUR = 60
EVERY = 20  # minutes between the starts that a moved clock passes


def main() -> None:
    """Schedules and triggers: delays with 100 recipes, a storm of events, a moved clock, kills at random moments."""
    with tempfile.TemporaryDirectory() as folder:
        clockwork = Clockwork(make_project(Path(folder)))
        try:
            clockwork.start()
            _delays(clockwork)
            _storm(clockwork)
            _clock(clockwork, "one")
            _clock(clockwork, "all")
            _kills(clockwork)
        finally:
            clockwork.stop()


def _delays(clockwork: Clockwork) -> None:
    """How long after they were due scheduled runs began; the other recipes are due at night."""
    recipes = clockwork.place.project / "flows" / "recipes"
    for number in range(1, RECIPES):
        text = RECIPE.replace("model: words", f"model: words-{number}") + 'schedule: {cron: "0 3 * * *"}\n'
        (recipes / f"words-{number}.yaml").write_text(text)
    begun = time.monotonic()
    clockwork.schedule(schedule="{every: 30s}")
    print(f"atelier schedule apply of {RECIPES} recipes: {time.monotonic() - begun:.1f} s")
    clockwork.wait(lambda: len(settled(clockwork.runs())) > STARTS, seconds=900, what="the starts")
    clockwork.schedule()  # no more
    _idle(clockwork)
    began = {run.flow_run for run in settled(clockwork.runs())}
    made = [one for one in clockwork.flow_runs() if one["id"] in began and one["auto_scheduled"]]
    found = sorted(delay(one) for one in made)
    print(
        f"scheduled starts with {RECIPES} recipes on schedules: {len(found)} runs, delay median "
        f"{statistics.median(found):.1f} s, longest {found[-1]:.1f} s (a start that finds a run on waits for it)"
    )


def _storm(clockwork: Clockwork) -> None:
    clockwork.schedule(retrain="{data: true, drift: true, wait: 5s}")
    before, known = len(clockwork.runs()), len(clockwork.flow_runs())
    begun = time.monotonic()
    trigger(clockwork.place, EVENTS)
    clockwork.wait(lambda: len(settled(clockwork.runs())) > before, seconds=300, what="the run of the storm")
    took = time.monotonic() - begun
    clockwork.wait(lambda: time.monotonic() > begun + took + 30, seconds=60, what="what should not come")
    _idle(clockwork)
    print(
        f"a storm of {EVENTS} events: {len(clockwork.flow_runs()) - known} flow runs, "
        f"{len(clockwork.runs()) - before} runs, {took:.0f} s to the end of the first"
    )


def _clock(clockwork: Clockwork, rule: str) -> None:
    """An hour forward, as Prefect's database sees it: what it has planned is an hour earlier. Then back again.

    The machine's own clock is not ours to move. A clock an hour ahead and plans an hour behind are the same to whoever
    compares them; the starts keep the keys by which Prefect knows them, so once the clock is back, which it never left,
    its scheduler plans them anew unless they are there.
    """
    clockwork.schedule(schedule=f"{{every: {EVERY}m, catch_up: {rule}}}")
    planned = clockwork.wait(lambda: _planned(clockwork, only="SCHEDULED"), seconds=90, what="plans")
    clockwork.kill("worker")  # it would start what is due while the plans are moved
    before = len(settled(clockwork.runs()))
    passed = _earlier(clockwork, HOUR)
    wanted = 1 if rule == "one" else passed
    clockwork.wait(lambda: len(settled(clockwork.runs())) >= before + wanted, seconds=600, what="what is made up for")
    _idle(clockwork)
    again = time.monotonic() + 70  # Prefect's scheduler goes round once a minute
    clockwork.wait(lambda: time.monotonic() > again, seconds=90, what="another round of the scheduler")
    made, keys = len(settled(clockwork.runs())) - before, _planned(clockwork)
    twice = len(keys) - len(set(keys))
    print(
        f"a clock moved an hour forward and back, catch_up {rule}: {passed} starts passed, {made} runs made, "
        f"{sum(key in keys for key in planned)} of {len(planned)} starts still known, {twice} doubled"
    )


def _kills(clockwork: Clockwork) -> None:
    clockwork.schedule(retrain="{data: true, drift: true, wait: 3s}")
    seed = random.SystemRandom().randrange(10**6)
    found = survive(clockwork, KILLS, seed)
    print(*found.injected, sep="\n")
    print(
        f"kills at random moments (seed {seed}): {len(found.injected)} injected, {found.resumed} runs gone on with, "
        f"{len(found.wrong)} that did not end right and once"
    )
    print(*found.wrong, sep="\n")


def _idle(clockwork: Clockwork) -> None:
    clockwork.wait(lambda: not clockwork.of_line(), seconds=300, what="the end of all runs")


def _base(clockwork: Clockwork) -> Any:
    return closing(sqlite3.connect(clockwork.place.prefect / "prefect.db", timeout=30))


def _planned(clockwork: Clockwork, *, only: str = "") -> list[str]:
    """The keys of the starts of the model that Prefect has planned, made or not; or `only` those in a state."""
    query = """SELECT idempotency_key FROM flow_run JOIN deployment ON deployment.id = flow_run.deployment_id
      WHERE deployment.name = 'words' AND auto_scheduled = 1 AND state_type LIKE ?"""
    with _base(clockwork) as base:
        return [key for (key,) in base.execute(query, (only or "%",))]


def _earlier(clockwork: Clockwork, minutes: int) -> int:
    """Move what is planned to an earlier time; how many starts are due then."""
    moved = ", ".join(
        f"{column} = strftime('%Y-%m-%d %H:%M:%f000', {column}, '-{minutes} minutes')"
        for column in ("expected_start_time", "next_scheduled_start_time")
    )
    mine = """deployment_id IN (SELECT id FROM deployment WHERE name = 'words') AND state_type = 'SCHEDULED'"""
    with _base(clockwork) as base, base:
        base.execute(f"UPDATE flow_run SET {moved} WHERE {mine}")
        base.execute(
            f"""UPDATE flow_run_state SET state_details = json_set(state_details, '$.scheduled_time',
              strftime('%Y-%m-%dT%H:%M:%SZ', json_extract(state_details, '$.scheduled_time'), '-{minutes} minutes'))
              WHERE type = 'SCHEDULED' AND flow_run_id IN (SELECT id FROM flow_run WHERE {mine})"""
        )
        due = f"SELECT count(*) FROM flow_run WHERE {mine} AND next_scheduled_start_time <= datetime('now')"
        return int(base.execute(due).fetchone()[0])


if __name__ == "__main__":
    main()
