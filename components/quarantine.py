"""Rejected rows, whole and with their reasons, so that each can be looked at, mended and brought back."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from components import rows
from components.records import Artifact
from components.store import Store


def write(source: Artifact, rejected: "pd.Series[str]", faults: Iterable[str], store: Store) -> Artifact:
    """Each row of `source` that has a reason in `rejected` (an entry per row, null where it has none), with the reason.

    `faults` names every fault that was found, a row's second too; `reasons.json` counts them.
    """
    schema = rows.SCHEMA.append(pa.field("reason", pa.string(), nullable=False))
    with store.writing("quarantine") as draft:
        with pq.ParquetWriter(draft.directory / "quarantine.parquet", schema) as writer:
            for batch in _picked(rows.read(store.path(source)), rejected):
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
        (draft.directory / "reasons.json").write_text(
            json.dumps(dict(sorted(Counter(faults).items())), indent=2) + "\n"
        )
    return draft.artifact


def _picked(batches: Iterable[pa.RecordBatch], rejected: "pd.Series[str]") -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in batches:
        reasons = pa.array(list(rejected.iloc[start : start + len(batch)]), pa.string(), from_pandas=True)
        here = batch.select(rows.SCHEMA.names).append_column("reason", reasons).filter(reasons.is_valid())
        if len(here):
            yield here
        start += len(batch)
