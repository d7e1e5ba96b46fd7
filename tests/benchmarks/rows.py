"""What rows cost: ingestion, validation and preprocessing of 10^4, 10^5 and 10^6 small pictures.

`ATELIER_BENCH_ROWS=100000` leaves out the sizes above it.
"""

import io
import json
import os
import resource
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

SIZES = (10_000, 100_000, 1_000_000)
SIDE = 28  # pixels
AT_ONCE = 10_000
DECODED = 10_000  # payloads that Pillow alone decodes, several times, to compare with
CARD = "---\nlicence: CC0\nclasses: [a, b, c, d, e, f, g, h, i, j]\n---\n# Noise\n"
STAGES = ("ingest", "validate", "preprocess")


def main() -> None:
    """Seconds, rows a second and peak memory by the number of rows: memory may grow by 400 MB from 10^4 to 10^6."""
    largest = int(os.environ.get("ATELIER_BENCH_ROWS", SIZES[-1]))
    print(f"pictures of {SIDE} x {SIDE}; rows/s of all stages together; peak MiB of the process, and with its workers")
    print(
        f"{'rows':>9}  " + "  ".join(f"{stage:>11}" for stage in STAGES) + "    rows/s   Pillow  share    MiB  in all"
    )
    first: dict[str, Any] | None = None
    for count in (size for size in SIZES if size <= largest):
        with tempfile.TemporaryDirectory() as folder:
            _build(Path(folder) / "data/noise", count)
            told = _measured(Path(folder))
        seconds = [told["seconds"][stage] for stage in STAGES]
        rate = count / sum(seconds)
        line = f"{count:>9,}  " + "  ".join(f"{value:>9.1f} s" for value in seconds)
        bare, own, tree = told["bare"], told["peak"], told["tree"]
        print(f"{line}  {rate:>8,.0f} {bare:>8,.0f}  {rate / bare:>5.2f}  {own:>5,.0f}   {tree:>5,.0f}", flush=True)
        first = first or told
        grown = f"{own - first['peak']:+,.0f} MiB, with its workers {tree - first['tree']:+,.0f} MiB"
    print(f"from {SIZES[0]:,} to {count:,} rows peak memory grows by {grown}")


def _build(folder: Path, count: int) -> None:
    """A source of distinct noise pictures in one Parquet file, written as a stream."""
    folder.mkdir(parents=True)
    (folder / "README.md").write_text(CARD)
    noise = np.random.default_rng(0)
    with pq.ParquetWriter(folder / "rows.parquet", _table(noise, 0, 1).schema, compression="none") as writer:
        for start in range(0, count, AT_ONCE):
            writer.write_table(_table(noise, start, min(AT_ONCE, count - start)), row_group_size=1_000)


def _table(noise: np.random.Generator, start: int, count: int) -> pa.Table:
    levels = noise.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)
    numbers = np.arange(start, start + count)
    return pa.table(
        {
            "id": [f"row-{number:07}" for number in numbers],
            "image": [_png(picture) for picture in levels],
            "label": numbers % 10,
            "split": np.where(numbers // 10 % 10 == 0, "held_out", "train"),
        }
    )


def _png(levels: np.ndarray) -> bytes:
    """A grey PNG by hand: Pillow's writer would take most of the benchmark's time."""
    lines = np.pad(levels, ((0, 0), (1, 0)))  # no filter on any line
    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(lines.tobytes(), 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )


def _measured(project: Path) -> dict[str, Any]:
    """What a fresh process tells of itself, and the most memory that it and its workers held at one moment."""
    command = [sys.executable, "-m", "tests.benchmarks.rows", str(project)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, env={**os.environ, "GX_ANALYTICS_ENABLED": "false"})
    most = [0.0]
    threading.Thread(target=_watch, args=(process.pid, most), daemon=True).start()
    printed, _ = process.communicate()
    if process.returncode:
        sys.exit(f"the stages ended with status {process.returncode}")
    told: dict[str, Any] = json.loads(printed)
    return told | {"tree": max(most[0], told["peak"])}


def _watch(pid: int, most: list[float]) -> None:
    """Sums memory over the process and its children, what they share counted once (Linux tells it as PSS)."""
    while True:
        try:
            above = psutil.Process(pid)
            held = [process.memory_full_info().pss for process in (above, *above.children(recursive=True))]
        except psutil.Error:  # one of them ended meanwhile
            if not psutil.pid_exists(pid):
                return
            continue
        most[0] = max(most[0], sum(held) / 2**20)
        time.sleep(0.1)


def _run(project: Path) -> dict[str, Any]:
    """The three stages on the source of a project, each timed, then Pillow alone on the same payloads."""
    from components import ingestion, preprocessing, validation
    from components.recipe import Data, HeldOut, Validate
    from components.store import Store

    store, seconds = Store(project / "store"), {}

    def timed(stage: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        record = work()
        seconds[stage] = time.perf_counter() - begun
        return record

    data = Data(source="data/noise", held_out=HeldOut(column="split", value="held_out"))
    dataset = timed("ingest", lambda: ingestion.ingest(data, modality="image", project=project, store=store))
    checks = Validate()
    validated = timed(
        "validate",
        lambda: validation.validate(dataset, checks, modality="image", reject_at_most=0.0, store=store),
    )
    options = {"size": SIDE, "channels": 1}
    timed("preprocess", lambda: preprocessing.prepare(validated, options, modality="image", store=store))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak": peak, "bare": _bare_rate(store.path(dataset.rows))}


def _bare_rate(directory: Path) -> float:
    """Pictures a second that Pillow decodes on one core when it does nothing else: the best of three rounds."""
    payloads = list(_some(directory))
    rounds = []
    for _ in range(3):
        begun = time.perf_counter()
        for payload in payloads:
            Image.open(io.BytesIO(payload)).load()
        rounds.append(time.perf_counter() - begun)
    return len(payloads) / min(rounds)


def _some(directory: Path) -> Iterator[bytes]:
    from components import rows

    left = DECODED
    for batch in rows.read(directory):
        yield from batch["payload"].to_pylist()[:left]
        left -= len(batch)
        if left <= 0:
            return


if __name__ == "__main__":
    print(json.dumps(_run(Path(sys.argv[1]))))
