"""The one form of ingested rows, whatever the source's was: Parquet parts, read as a stream."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import AtelierError

# `id` is unique and stable while data grows, `label` an index into the dataset's classes, `split` the
# source's own side ("train" or "held_out"), null where the source has none, `text` what is said of the payload: the
# transcript of a recording, the caption of a picture.
SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
        pa.field("label", pa.int64()),
        pa.field("text", pa.string()),
        pa.field("split", pa.string()),
    ]
)


class Row(NamedTuple):
    """One accepted row, as a modality's shards take it."""

    id: str
    payload: bytes
    label: int | None
    text: str | None
    split: str


def label_index(row: Row, classes: Sequence[str]) -> int | None:
    """Which of the dataset's classes a row is of; None for any row where the dataset has none, and only there."""
    if not classes:
        return None
    if row.label is None or not 0 <= row.label < len(classes):
        raise AtelierError(
            f"the row {row.id!r} has the label {row.label}, but the dataset's {len(classes)} classes are numbered from "
            "0. Validation rejects such rows: let the recipe's suite ask for labels."
        )
    return row.label


def read(directory: Path, *, batch_rows: int = 1024) -> Iterator[pa.RecordBatch]:
    """The rows of an ingested dataset in order, at most `batch_rows` in memory at once."""
    for part in sorted(directory.glob("*.parquet")):
        with pq.ParquetFile(part) as file:
            yield from file.iter_batches(batch_size=batch_rows)
