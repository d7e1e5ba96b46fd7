"""What the endpoints wrote of the requests of one model, read again batch by batch in the order of time.

`serving/observations.py` says how it lies there. Memory stays what it is, however many there are.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

ROWS = 2**15  # of a batch


@dataclass(frozen=True)
class Observed:
    """The requests of one version of a model from a time on, and before another."""

    folder: Path
    model: str
    version: str
    since: datetime
    until: datetime

    @property
    def unreadable(self) -> int:
        """Files that are no Parquet, and are left out."""
        return self._found[2]

    @property
    def names(self) -> tuple[str, ...]:
        """The columns that any of the files has."""
        return tuple(self._found[1].names)

    @cached_property
    def count(self) -> int:
        """How many requests there are."""
        return sum(map(len, self.batches(["time"])))

    @cached_property
    def first(self) -> datetime | None:
        """The time of the first."""
        return min((pc.min(batch["time"]).as_py() for batch in self.batches(["time"])), default=None)

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The rows with those columns, null where a file has no such column."""
        files, schema, _ = self._found
        for path in files:  # the scanner of datasets reads ahead, the further the more there are
            with parquet.ParquetFile(path) as file:
                there = [name for name in {*columns, "version", "time"} if name in file.schema_arrow.names]
                for batch in file.iter_batches(ROWS, columns=there, use_threads=False):
                    wanted = batch.filter(self._wanted(batch))
                    if len(wanted):
                        yield _with(wanted, columns, schema)

    def _wanted(self, batch: pa.RecordBatch) -> pa.Array:
        kind = batch["time"].type
        since, until = (pa.scalar(time.astimezone(UTC), kind) for time in (self.since, self.until))
        within = pc.and_(pc.greater_equal(batch["time"], since), pc.less(batch["time"], until))
        return pc.and_(pc.equal(batch["version"], self.version), within)

    @cached_property
    def _found(self) -> tuple[list[Path], pa.Schema, int]:
        """The files of the days in question in the order of time, what columns they have, and how many are none."""
        first, last = (f"date={time.astimezone(UTC):%Y-%m-%d}" for time in (self.since, self.until))
        files, schemas, unreadable = [], [pa.schema([])], 0
        for path in sorted((self.folder / f"model={self.model}").glob("date=*/part-*.parquet")):
            if not first <= path.parent.name <= last:
                continue
            try:
                schemas.append(parquet.read_schema(path))
                files.append(path)
            except FileNotFoundError:  # it made room meanwhile
                continue
            except (OSError, pa.ArrowInvalid):
                unreadable += 1
        return files, pa.unify_schemas(schemas), unreadable


def _with(batch: pa.RecordBatch, columns: list[str], schema: pa.Schema) -> pa.RecordBatch:
    """The columns in the order asked for."""
    arrays = [
        batch[name] if name in batch.schema.names else pa.nulls(len(batch), schema.field(name).type) for name in columns
    ]
    return pa.RecordBatch.from_arrays(arrays, names=columns)
