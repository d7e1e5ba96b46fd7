"""What becomes of late starts, whatever the clock does; and since when the worker has been up."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from flows import heartbeat, lateness
from flows.workspace import Workspace

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)


def at(minutes: float) -> datetime:
    return NOON + timedelta(minutes=minutes)


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path)


@pytest.mark.parametrize("rule", ["none", "one", "all"])
def test_a_start_on_time_is_made_by_every_rule(rule: str) -> None:
    for now in (at(0), at(0.9), at(-0.2)):  # prefetched, even before it is due
        assert lateness.verdict(rule, at(0), now=now, others=[at(1), at(2)], alive=at(5)) is None


def test_of_missed_starts_none_one_or_all_are_made() -> None:
    missed = [at(0), at(60), at(120)]
    back = at(150)  # the platform is up again

    def made(rule: str) -> list[datetime]:
        return [
            due for due in missed if lateness.verdict(rule, due, now=back, others=missed, alive=back) is None
        ]  # fmt: skip

    assert made("none") == [] and made("one") == [at(120)] and made("all") == missed
    assert "12:00" in str(lateness.verdict("one", at(0), now=back, others=missed, alive=back))


def test_what_only_waited_for_another_run_was_not_missed() -> None:
    assert lateness.verdict("none", at(0), now=at(30), others=[], alive=at(-600)) is None
    assert lateness.verdict("none", at(0), now=at(30), others=[], alive=None) is not None


def test_a_start_that_is_still_to_come_makes_up_for_nothing() -> None:
    assert lateness.verdict("one", at(0), now=at(30), others=[at(60)], alive=at(29)) is None


def moved(rule: str, jumps: list[tuple[float, float]], every: float = 20) -> list[datetime]:
    """The starts that are made while the clock is moved: each of `jumps` is a time and how far it is moved then.

    A start is planned once, under its own time, as Prefect's key of it says.
    """
    planned = [at(minute) for minute in range(0, 241, int(every))]
    made, gone, clock, moves, alive, last = list[datetime](), set[datetime](), at(-1), list(jumps), at(-1), at(-1)
    for _ in range(4 * 240):
        if moves and clock >= at(moves[0][0]):
            clock += timedelta(minutes=moves.pop(0)[1])
        if clock - last > timedelta(seconds=heartbeat.GAP_SECONDS):
            alive = clock
        last = clock
        for due in planned:
            if due <= clock and due not in gone:
                gone.add(due)
                others = [other for other in planned if other <= clock]
                if lateness.verdict(rule, due, now=clock, others=others, alive=alive) is None:
                    made.append(due)
        clock += timedelta(seconds=15)
    return made


def test_a_clock_that_is_moved_an_hour_and_back_loses_no_run_and_doubles_none() -> None:
    still = moved("all", [])
    assert len(still) == len(set(still)) == 12
    there_and_back = moved("all", [(50, 60), (130, -60)])
    assert len(there_and_back) == len(set(there_and_back)) and set(still) <= set(there_and_back)
    one = moved("one", [(50, 60), (130, -60)])
    assert len(one) == len(set(one))
    assert at(100) in one and at(60) not in one, "the newest of the hour that was jumped over, for all of it"
    assert {due for due in still if due not in (at(60), at(80))} <= set(one)


def test_the_worker_is_up_since_its_last_gap(place: Workspace) -> None:
    assert heartbeat.alive_since(place) is None
    for minute in (0, 0.5, 1, 1.5):
        heartbeat.beat(place, {"pid": 1}, now=at(minute))
    assert heartbeat.alive_since(place) == at(0)
    heartbeat.beat(place, {}, now=at(10))  # it slept
    assert heartbeat.alive_since(place) == at(10)
    heartbeat.beat(place, {}, now=at(-50))  # the clock was set back
    assert heartbeat.alive_since(place) == at(10)
    heartbeat.file(place).write_text("{ cut o")
    assert heartbeat.read(place) is None and heartbeat.beat(place, {}, now=at(20)) == at(20)
