"""`kill -9` or Ctrl-C at any moment, and the same command again ends as an undisturbed run does, bit for bit."""

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.ledger import Ledger
from tests.faults.kills import Line, points, survive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KILL, STOP = signal.SIGKILL, signal.SIGINT


@dataclass(frozen=True)
class Undisturbed:
    """A run that nobody disturbs: where, its stages, and what it comes to."""

    line: Line
    summary: dict[str, Any]
    outcome: dict[str, Any]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    line = Line(tmp_path_factory.mktemp("undisturbed") / "workspace")
    summary = line.run()
    return Undisturbed(line, summary, line.outcome(summary))


@pytest.mark.parametrize(
    ("count", "number"),
    [
        pytest.param(3, KILL, id="a few kills"),
        pytest.param(40, KILL, id="many kills", marks=pytest.mark.soak),
        pytest.param(24, STOP, id="many times Ctrl-C", marks=pytest.mark.soak),
    ],
)
def test_stopped_runs_end_as_an_undisturbed_one(
    count: int, number: signal.Signals, undisturbed: Undisturbed, tmp_path: Path
) -> None:
    seed = random.SystemRandom().randrange(10**6)
    print(f"points of seed {seed}")
    where = points(undisturbed.summary["stages"], count, seed, number)
    survived = survive(Line(tmp_path / "workspace"), undisturbed.outcome, where)
    print(*survived.injected, sep="\n")
    assert not survived.differing and not survived.left, f"seed {seed}"
    assert len(survived.injected) >= count // 2


def test_a_flow_within_that_was_killed_before_it_was_noted_is_closed_with_its_run(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    line = Line(tmp_path / "workspace")
    shutil.copytree(undisturbed.line.workspace, line.workspace, symlinks=True)
    with sqlite3.connect(line.workspace / "prefect" / "prefect.db") as database:
        inner = database.execute("update flow_run set state_type = 'RUNNING' where name = 'fashion-tiny'").rowcount
        database.execute(
            "update flow_run_state set type = 'RUNNING', name = 'Running' where id in "
            "(select state_id from flow_run where name = 'fashion-tiny')"
        )
        outer = database.execute("select id from flow_run where name != 'fashion-tiny'").fetchall()
    database.close()
    assert inner == 1 and line.left_behind()
    (line.workspace / "locks" / "fashion-tiny.flows").write_text("".join(f"{run}\n" for (run,) in outer))
    line.run()
    assert not line.left_behind()


def test_what_differs_or_is_left_behind_would_be_told(undisturbed: Undisturbed, tmp_path: Path) -> None:
    line = Line(tmp_path / "workspace")
    shutil.copytree(undisturbed.line.workspace, line.workspace, symlinks=True)
    bundle = next((line.workspace / "store" / "bundle").glob("*/endpoint.json"))
    bundle.write_text(bundle.read_text().replace("fashion", "fashiom"))
    ledger = Ledger(f"sqlite:///{line.workspace / 'ledger.db'}")
    (version,) = ledger.versions()
    ledger.move(
        version.model, "challenger", "1", verdict=version.verdict, expected_generation=None, actor="test", reason="?"
    )
    found = line.outcome(undisturbed.summary)
    assert {name for name in found if found[name] != undisturbed.outcome[name]} == {"damaged", "moves"}
    with sqlite3.connect(line.workspace / "prefect" / "prefect.db") as database:
        database.execute("update flow_run set state_type = 'RUNNING'")
    database.close()
    marked = {**os.environ, "ATELIER_WORKSPACE": str(line.workspace)}
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], env=marked) as process:
        left = line.left_behind()
        process.kill()
    assert any("RUNNING" in words for words in left) and any("time.sleep" in words for words in left)
