"""The facts of a dataset, one line per row: what its modality tells of a row alone, then what the others tell."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from components import modalities, rows

PASSED_ON = ["id", "label", "split"]  # what a row's facts keep of the row itself


def gather(directory: Path, modality: str) -> pd.DataFrame:
    """One line per row: its number, id, label and split, the modality's facts, and what only the whole table tells."""
    part = modalities.part(modality, "rows")
    schema = pa.schema([rows.SCHEMA.field(name) for name in PASSED_ON] + list(part.FACTS))
    lines = [
        pa.RecordBatch.from_pylist(
            [
                {**row, **part.facts(payload)}
                for row, payload in zip(batch.select(PASSED_ON).to_pylist(), batch["payload"].to_pylist(), strict=True)
            ],
            schema=schema,
        )
        for batch in rows.read(directory)
    ]
    table: pd.DataFrame = pa.Table.from_batches(lines, schema).to_pandas(types_mapper=_nullable)
    return compared(table.assign(row=range(len(table))))


def compared(table: pd.DataFrame) -> pd.DataFrame:
    """The rows with what each is beside the others: a duplicate on its side, or in training too."""
    held_out = table["split"] == "held_out"
    train = table[table["split"] == "train"]
    near = table["near_hash"].isin(train["near_hash"].dropna()).astype("boolean")
    return table.assign(
        duplicate=table["content_digest"].notna() & table.duplicated(["split", "content_digest"]),
        leaks=held_out & table["content_digest"].isin(train["content_digest"].dropna()),
        near_leaks=near.where(held_out),  # unknown of training rows, so that a share is one of held-out rows
    )


def _nullable(kind: pa.DataType) -> Any:
    return pd.Int64Dtype() if kind == pa.int64() else None


def label_weight(table: pd.DataFrame) -> "pd.Series[float]":
    """Each row's label: its share of its side, over the share it would have if all labels were equal."""
    sides = table.groupby("split")["label"]
    share = table.groupby(["split", "label"])["label"].transform("size") / sides.transform("size")
    return share * sides.transform("nunique")
