"""What monitoring costs: the first window made a reference, and a window of 10^5 and 10^6 requests compared with it.

`ATELIER_BENCH_ROWS=100000` leaves out the larger. Requests lie as the endpoints write them, in parts of 50,000.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from components import monitoring
from components.observed import Observed
from components.recipe import Monitor
from tests.components.traffic import DAY, START, Traffic, write

SIZES = (100_000, 1_000_000)
PART = 50_000  # as serving/observations.py closes one
FEATURES = 7  # of an output
LOOKED_AT = 0.25  # of the requests


def main() -> None:
    """10^6 requests in under 60 s, and memory that does not grow with them: one process for each size."""
    largest = int(os.environ.get("ATELIER_BENCH_ROWS", SIZES[-1]))
    print("requests   first window   self-check    window   in all   compared   MiB before   peak MiB   files MB")
    peaks = []
    for count in (size for size in SIZES if size <= largest):
        with tempfile.TemporaryDirectory() as folder:
            size = _lay(Path(folder), count)
            command = [sys.executable, "-m", "tests.benchmarks.monitoring", folder, str(count)]
            told = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
        first, check, window = told["seconds"]
        peaks.append(told["peak"])
        print(
            f"{count:>8,} {first:>12.1f} s {check:>10.1f} s {window:>7.1f} s {sum(told['seconds']):>6.1f} s "
            f"{told['compared']:>10} {told['before']:>12,.0f} {told['peak']:>10,.0f} {size / 1e6:>10.1f}",
            flush=True,
        )
    print(f"peak memory grows by {peaks[-1] - peaks[0]:+,.0f} MiB")


def _lay(folder: Path, count: int) -> int:
    """Two days of so many requests each, with as many features as a picture has; the bytes of all files."""
    traffic = Traffic(burst=20, habit=1.0, looked_at=LOOKED_AT)
    for day in range(2):
        for part in range(-(-count // PART)):
            rows, share = min(PART, count - part * PART), DAY * PART / count
            table = traffic.table(
                rows, seed=1000 * day + part, start=START + day * DAY + part * share, last=share * rows / PART
            )
            for number in range(FEATURES - 3):
                lots = np.random.default_rng(number + part)
                table = table.append_column(
                    f"output.more_{number}",
                    pa.array(lots.normal(size=rows).astype(np.float32), mask=lots.random(rows) >= LOOKED_AT),
                )
            write(folder, table, name=f"part-{day}{part:04}.parquet")
    return sum(path.stat().st_size for path in folder.rglob("*.parquet"))


def _compare(folder: Path, count: int) -> None:
    """One monitor, in a process of its own: its seconds and memory as JSON."""
    settings, before = Monitor(), _peak()
    marks = [time.perf_counter()]
    mix = monitoring.first_window(Observed(folder, "toy", "1", START, START + DAY))
    marks.append(time.perf_counter())
    monitoring.resampled(mix, settings)
    marks.append(time.perf_counter())
    seen = Observed(folder, "toy", "1", START + DAY, START + 2 * DAY)
    window = monitoring.counted_in(seen, mix.groups, slow_above=mix.slow_above)
    columns, rates, _ = monitoring.compare(
        window, mix=mix, bundle=None, thumbs=(0, 0), settings=settings, feedback_below=None
    )
    marks.append(time.perf_counter())
    assert (mix.rows, window.rows) == (count, count)
    assert not [one.name for one in (*columns, *rates) if one.standing == "drifted"]
    told = {
        "seconds": np.diff(marks).tolist(),
        "before": before,
        "peak": _peak(),
        "compared": len(columns) + len(rates),
    }
    print(json.dumps(told))


def _peak() -> float:
    """MiB that this process had at most: of its own, where what `getrusage` tells begins with the parent's."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    _compare(Path(sys.argv[1]), int(sys.argv[2]))
