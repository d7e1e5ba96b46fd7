"""The figures of the README, measured here and now: `make bench`, or `python -m tests.benchmarks NAME ...`.

Each benchmark prints one line per figure, with its median and spread where it is repeated. Nothing else should run
meanwhile: these are comparisons within one run, never tests.
"""

import sys
from collections.abc import Callable

from tests.benchmarks import (
    audio,
    cost,
    families,
    floors,
    gates,
    kills,
    line,
    loop,
    monitoring,
    rows,
    schedules,
    serving,
    status,
    streams,
    text,
)

BENCHMARKS: dict[str, Callable[[], None]] = {
    "loop": loop.main,
    "families": families.main,
    "line": line.main,
    "rows": rows.main,
    "kills": kills.main,
    "text": text.main,
    "streams": streams.main,
    "audio": audio.main,
    "floors": floors.main,
    "gates": gates.main,
    "cost": cost.main,
    "monitoring": monitoring.main,
    "serving": serving.main,
    "schedules": schedules.main,
    "status": status.main,
}


def main(names: list[str]) -> None:
    """Run the named benchmarks, or all."""
    for name in names or list(BENCHMARKS):
        if name not in BENCHMARKS:
            sys.exit(f"unknown benchmark {name!r}; known: {', '.join(BENCHMARKS)}")
        print(f"== {name}: {(BENCHMARKS[name].__doc__ or '').strip().splitlines()[0]}", flush=True)
        BENCHMARKS[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
