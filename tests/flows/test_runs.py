"""The log of runs: every run with its cause and its end, in order, whatever the clock does; killed ones too."""

import sqlite3
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from components.errors import AtelierError
from flows import runs
from flows.workspace import Workspace

KILLED = """
import sys
from pathlib import Path
from flows import runs
from flows.workspace import Workspace
runs.begin(Workspace(Path(sys.argv[1]), Path(sys.argv[1])), model="toy", recipe="toy.yaml", why="schedule")
"""


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path)


def test_a_run_has_its_cause_and_its_end(place: Workspace) -> None:
    assert runs.last(place) == {} and runs.of(place, "toy") == [] and not runs.file(place).exists()
    run = runs.begin(place, model="toy", recipe="toy.yaml", why="drift", detail="psi 0.4", flow_run="f1")
    (open_run,) = runs.of(place, "toy")
    assert (open_run.id, open_run.why, open_run.detail, open_run.flow_run) == (run, "drift", "psi 0.4", "f1")
    assert open_run.ended is None and open_run.started is None and open_run.seconds is None
    runs.start(place, run)
    runs.end(place, run, exit_code=4)
    runs.end(place, run, exit_code=0)  # it has ended
    (ended,) = runs.of_flow_run(place, "f1")
    assert (ended.exit_code, ended.outcome) == (4, "gates failed")
    assert ended.seconds is not None and 0 <= ended.seconds < 10
    assert ended.began <= str(ended.started) <= str(ended.ended)


def test_the_newest_is_the_last_that_began_though_the_clock_was_set_back(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    for model in ("toy", "other"):
        for now in ("2026-11-01T11:00:00", "2026-11-01T10:00:00"):
            monkeypatch.setattr(runs, "_now", lambda now=now: now)
            runs.end(place, runs.begin(place, model=model, recipe=now, why="by hand"), exit_code=0)
    assert {model: run.began for model, run in runs.last(place).items()} == {
        "toy": "2026-11-01T10:00:00", "other": "2026-11-01T10:00:00"
    }  # fmt: skip
    assert [run.began[11:13] for run in runs.of(place, "toy")] == ["10", "11"]
    assert len(runs.of(place, "toy", limit=1)) == 1


def test_a_run_whose_process_is_gone_was_killed_and_one_that_is_on_was_not(place: Workspace) -> None:
    mine = runs.begin(place, model="mine", recipe="mine.yaml", why="by hand")
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", KILLED, str(place.root)], cwd=root, check=True)
    (killed,) = runs.bury(place)
    assert (killed.model, killed.outcome, killed.exit_code) == ("toy", "killed", 137) and killed.ended
    assert runs.bury(place) == [] and runs.of(place, "mine")[0].id == mine


def test_a_run_covers_what_had_happened_when_it_took_its_turn(place: Workspace) -> None:
    before = datetime.now(UTC)
    waits = runs.begin(place, model="toy", recipe="toy.yaml", why="data")
    assert runs.covering(place, "toy", before) is None, "it has not begun to read"
    runs.start(place, waits)
    covering = runs.covering(place, "toy", before)
    assert covering is not None and covering.id == waits
    assert runs.covering(place, "toy", datetime.now(UTC)) is None and runs.covering(place, "other", before) is None
    runs.end(place, waits, exit_code=4)
    assert runs.covering(place, "toy", before) is not None, "what failed has read it all the same"
    for outcome in ("killed", "stopped", runs.AWAY):
        run = runs.begin(place, model=outcome, recipe="toy.yaml", why="data")
        runs.start(place, run)
        runs.end(place, run, exit_code=137, outcome=outcome)
        assert runs.covering(place, outcome, before) is None, "it is gone on with"


def test_many_that_begin_at_once_are_all_there(place: Workspace) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = set(pool.map(lambda i: runs.begin(place, model="toy", recipe=str(i), why="data"), range(64)))
    assert {run.id for run in runs.of(place, "toy", limit=100)} == made and len(made) == 64


def test_ten_thousand_runs_are_read_at_once(place: Workspace) -> None:
    runs.begin(place, model="m0", recipe="r", why="by hand")
    row = "id, model, recipe, why, detail, began, pid, clock"
    many = [(str(i), f"m{i % 100}", "r", "schedule", "", f"2026-{i}", 1, 0.0) for i in range(10_000)]
    with closing(sqlite3.connect(runs.file(place))) as base, base:
        base.executemany(f"INSERT INTO runs ({row}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)", many)
        plan = base.execute("EXPLAIN QUERY PLAN SELECT max(number) FROM runs GROUP BY model").fetchall()
    begun = time.monotonic()
    assert len(runs.last(place)) == 100 and [run.id for run in runs.of(place, "m7", 2)] == ["9907", "9807"]
    assert time.monotonic() - begun < 1 and "runs_model" in str(plan)


def test_a_damaged_log_is_told_with_its_mend(place: Workspace) -> None:
    runs.file(place).write_bytes(b"no database at all" * 100)
    with pytest.raises(AtelierError, match="move it away"):
        runs.begin(place, model="toy", recipe="toy.yaml", why="by hand")
    with pytest.raises(AtelierError, match="move it away"):
        runs.last(place)
