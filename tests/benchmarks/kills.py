"""Runs that are killed at random moments, and whether they end as an undisturbed one."""

import random
import signal
import tempfile
from pathlib import Path

from tests.faults.kills import Line, points, survive

KILLS = 24


def main() -> None:
    """`kill -9` at random moments of every stage: kills injected, survived, and what of the outcome differs (0)."""
    seed = random.SystemRandom().randrange(10**6)
    with tempfile.TemporaryDirectory() as folder:
        calm = Line(Path(folder) / "undisturbed")
        summary = calm.run()
        where = points(summary["stages"], KILLS, seed, signal.SIGKILL)
        survived = survive(Line(Path(folder) / "killed"), calm.outcome(summary), where)
    print(f"seed {seed}: {len(survived.injected)} kills injected; differing: {len(survived.differing)}")
    print("  and the run went on to its end" if not survived.left else "  left behind:")
    for line in [*survived.differing, *survived.left]:
        print(f"  {line}")
