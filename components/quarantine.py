"""Every rejected row whole and with its reasons, so that each can be looked at, mended and brought back."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components import rows
from components.records import Artifact
from components.store import Store


def write(source: Artifact, facts: Path, faults: Mapping[str, int], store: Store) -> Artifact:
    """Each row of `source` that the Parquet file `facts` gives a reason in its column `rejected`, with the reason.

    `faults` counts every fault that was found, a row's second too; `reasons.json` keeps it.
    """
    schema = rows.SCHEMA.append(pa.field("reason", pa.string(), nullable=False))
    with store.writing("quarantine") as draft:
        with pq.ParquetWriter(draft.directory / "quarantine.parquet", schema) as writer:
            for batch in _picked(store.path(source), facts) if faults else ():
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        (draft.directory / "reasons.json").write_text(json.dumps(dict(sorted(faults.items())), indent=2) + "\n")
    return draft.artifact


def _picked(directory: Path, facts: Path) -> Iterator[pa.RecordBatch]:
    rejected = pq.read_table(facts, columns=["rejected"])["rejected"]
    start = 0
    for batch in rows.read(directory):
        reasons = rejected.slice(start, len(batch)).combine_chunks()
        start += len(batch)
        if reasons.null_count < len(reasons):
            here = batch.select(rows.SCHEMA.names).append_column("reason", reasons)
            yield here.filter(reasons.is_valid())
