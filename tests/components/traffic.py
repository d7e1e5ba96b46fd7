"""Requests as the endpoints write them, by lot: healthy ones, and ones that are not, each in a way that is planted."""

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = datetime(2026, 11, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TEAMS = np.array(["shop", "web", "lab"])


@dataclass(frozen=True)
class Traffic:
    """What requests are like. They come in bursts of one team, each with habits of its own, more by day than by night.

    `burst` is how many requests a burst has, `habit` how much bursts differ from each other.
    """

    truncation: float = 1.0  # that most ask for
    label: tuple[float, float, float] = (0.5, 0.3, 0.2)
    brightness: float = 0.3  # of what is answered
    moderated: float = 0.005
    failed: float = 0.002
    seconds: float = 0.05  # the median
    looked_at: float = 1.0
    plain: bool = True  # whether any ask for nothing but the defaults
    burst: int = 1
    habit: float = 0.0

    def table(self, rows: int, *, seed: int, start: datetime = START, last: timedelta = DAY, version="1") -> pa.Table:
        """So many requests, in the order of time."""
        lots = np.random.default_rng(seed)
        bursts = -(-rows // self.burst)

        def of_burst(values):
            return np.repeat(values, self.burst)[:rows]

        def own(size):
            return of_burst(lots.normal(0, self.habit, bursts)) * size

        answered = lots.random(rows) >= self.failed
        plain = lots.random(rows) < 0.7
        truncation = np.where(plain, self.truncation, np.round(lots.uniform(0.5, 1.5, rows), 2))
        brightness = lots.beta(8 * self.brightness, 8 * (1 - self.brightness), rows) + own(0.02)
        looked = answered & (lots.random(rows) < self.looked_at)
        share = np.sort(lots.random(rows))
        share += np.sin(2 * np.pi * share) / (4 * np.pi)  # fewer at the ends of the day
        micros = (start.timestamp() * 1e6 + share * last.total_seconds() * 1e6).astype(np.int64)

        def null(values, there):
            return pa.array(values, mask=~there)

        return pa.table({
            "id": pa.array([f"req-{seed:08x}{number:024x}" for number in range(rows)]),
            "time": pa.array(micros, pa.timestamp("us", tz="UTC")),
            "version": pa.array(np.full(rows, version)),
            "team": pa.array(of_burst(lots.choice(TEAMS, bursts, p=(0.6, 0.3, 0.1)))),
            "route": pa.array(lots.choice(["/v1/generate", "/v1/images/generations"], rows, p=(0.8, 0.2))),
            "status": pa.array(np.where(answered, 200, 500).astype(np.int16)),
            "seconds": pa.array(self.seconds * np.exp(lots.normal(0, 0.4, rows) + own(0.1))),
            "queued": pa.array(lots.exponential(0.01, rows)),
            "first": pa.nulls(rows, pa.float64()),
            "count": pa.array(lots.choice([1, 4], rows, p=(0.9, 0.1)).astype(np.int32)),
            "flagged": pa.array((lots.random(rows) < self.moderated).astype(np.int32)),
            "blocked": pa.array(np.zeros(rows, np.int32)),
            "plain": null(plain & self.plain, answered),
            "control.truncation": null(truncation, answered),
            "choice.label": null(lots.choice(["bag", "shoe", "coat"], rows, p=self.label), answered),
            "output.mean": null(brightness.astype(np.float32), looked),
            "output.entropy": null(lots.normal(5.3, 0.4, rows).astype(np.float32), looked),
            "output.edges": null((0.2 * brightness * lots.gamma(9, 1 / 9, rows)).astype(np.float32), looked),
        })  # fmt: skip

    def but(self, **planted) -> "Traffic":
        """The same with a fault."""
        return replace(self, **planted)


def write(folder: Path, table: pa.Table, *, model: str = "toy", name: str = "part-0.parquet") -> None:
    """The requests under their days, as the endpoints lay them."""
    days = np.array(table["time"].cast(pa.date32()).to_pylist())
    for day in sorted(set(days)):
        path = folder / f"model={model}" / f"date={day}" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.filter(pa.array(days == day)), path, compression="zstd")


@dataclass(frozen=True)
class Held:
    """Requests in memory, read as `Observed` reads files."""

    table: pa.Table

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.table.column_names)

    @property
    def count(self) -> int:
        return len(self.table)

    def batches(self, columns: list[str]):
        return iter(self.table.select(columns).combine_chunks().to_batches())
