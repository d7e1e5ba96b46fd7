"""The one form of ingested rows, whatever the source's was: Parquet parts, read as a stream."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

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


def read(directory: Path, *, batch_rows: int = 1024) -> Iterator[pa.RecordBatch]:
    """The rows of an ingested dataset in order, at most `batch_rows` in memory at once."""
    for part in sorted(directory.glob("*.parquet")):
        with pq.ParquetFile(part) as file:
            yield from file.iter_batches(batch_size=batch_rows)
