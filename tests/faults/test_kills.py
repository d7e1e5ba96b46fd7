"""`kill -9` or Ctrl-C at any moment, and the same command again ends as an undisturbed run does, bit for bit."""

import random
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kills import Line, points, survive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
KILL, STOP = signal.SIGKILL, signal.SIGINT


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The stages of a run that nobody disturbs, and what it comes to."""
    line = Line(tmp_path_factory.mktemp("undisturbed") / "workspace")
    summary = line.run()
    return summary["stages"], line.outcome(summary)


@pytest.mark.parametrize(
    ("count", "number"),
    [
        pytest.param(3, KILL, id="a few kills"),
        pytest.param(40, KILL, id="many kills", marks=pytest.mark.soak),
        pytest.param(24, STOP, id="many times Ctrl-C", marks=pytest.mark.soak),
    ],
)
def test_stopped_runs_end_as_an_undisturbed_one(
    count: int,
    number: signal.Signals,
    undisturbed: tuple[list[dict[str, Any]], dict[str, Any]],
    tmp_path: Path,
) -> None:
    stages, outcome = undisturbed
    seed = random.SystemRandom().randrange(10**6)
    print(f"points of seed {seed}")
    survived = survive(Line(tmp_path / "workspace"), outcome, points(stages, count, seed, number))
    print(*survived.injected, sep="\n")
    assert not survived.differing and not survived.left, f"seed {seed}"
    assert len(survived.injected) >= count // 2
