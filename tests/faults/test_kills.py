"""`kill -9` at any moment, and the same command again ends as an undisturbed run does, bit for bit."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kills import Line, points, survive

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The stages of a run that nobody disturbs, and what it comes to."""
    line = Line(tmp_path_factory.mktemp("undisturbed") / "workspace")
    summary = line.run()
    return summary["stages"], line.outcome(summary)


@pytest.mark.parametrize("kills", [pytest.param(3, id="a few"), pytest.param(40, id="many", marks=pytest.mark.soak)])
def test_killed_runs_end_as_an_undisturbed_one(
    kills: int, undisturbed: tuple[list[dict[str, Any]], dict[str, Any]], tmp_path: Path
) -> None:
    stages, outcome = undisturbed
    seed = random.SystemRandom().randrange(10**6)
    print(f"kill points of seed {seed}")
    survived = survive(Line(tmp_path / "workspace"), outcome, points(stages, kills, seed))
    print(*survived.injected, sep="\n")
    assert not survived.differing and not survived.left, f"seed {seed}"
    assert len(survived.injected) >= kills // 2
