"""The facts of a dataset, one line per row: what its modality tells of a row alone, then what the others tell.

They lie in a Parquet file; memory holds a chunk of them, and a few bytes a row to compare the rows by.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from components import modalities, rows, workers

if TYPE_CHECKING:  # workers do without pandas
    import pandas as pd

PASSED_ON = ["id", "label", "text", "split"]  # what a row's facts keep of the row itself
COMPARED = ("duplicate", "near_duplicate", "leaks", "near_leaks")  # what a row is beside the others
SHARE_OF = "share_of_"  # before the name of a fact: the share of all rows that have the same as this one
CHUNK = 25_000  # rows of facts in memory at once


@dataclass(frozen=True)
class Facts:
    """Every row's facts: on disk what is told of it alone, in memory what it is compared by.

    `same` and `near` number the contents: rows with the same number are the same, or nearly; -1 where it is unknown.
    """

    path: Path  # a row group for each chunk
    sides: np.ndarray  # [N] an index into `names`
    same: np.ndarray  # [N]
    near: np.ndarray  # [N]
    names: tuple[str | None, ...]  # of the sides

    def __len__(self) -> int:
        return len(self.sides)

    @property
    def known(self) -> list[str]:
        """Every fact that an expectation may name."""
        return [*pq.read_schema(self.path).names, "row", *COMPARED]

    def chunks(self, beside: pa.Table, columns: Iterable[str] | None = None) -> Iterator[pa.Table]:
        """The named facts, or all, of every row in order; `beside` is what `compared` told, or has no columns yet."""
        wanted = None if columns is None else set(columns)
        with pq.ParquetFile(self.path) as file:
            named = [name for name in file.schema_arrow.names if wanted is None or name in wanted]
            start = 0
            for group in range(file.num_row_groups):
                alone = file.read_row_group(group, columns=named)
                yield _joined(alone, start, beside, wanted)
                start += len(alone)

    def whole(self, beside: pa.Table, columns: Iterable[str], kept: np.ndarray) -> pa.Table:
        """The named facts of the rows that are `kept`, all at once."""
        parts, start = [], 0
        for chunk in self.chunks(beside, columns):
            parts.append(chunk.filter(pa.array(kept[start : start + len(chunk)])))
            start += len(chunk)
        return pa.concat_tables(parts)

    def compared(self, alive: np.ndarray) -> pa.Table:
        """What each row is beside those that are `alive`: the twin of an earlier one on its side, or of one in train.

        Of training rows `near_leaks` is unknown, so that a share of it is one of held-out rows.
        """
        train, held_out = (self.sides == self._side(name) for name in ("train", "held_out"))
        near_leaks = _among(self.near, alive & train)
        return pa.table(
            {
                "duplicate": self._repeated(self.same, alive),
                "near_duplicate": self._repeated(self.near, alive),
                "leaks": held_out & _among(self.same, alive & train),
                "near_leaks": pa.array(near_leaks, mask=~held_out),
            }
        )

    def _repeated(self, numbers: np.ndarray, alive: np.ndarray) -> np.ndarray:
        """Whether a living row before it on its side has the same number."""
        known = numbers >= 0
        place = np.where(known, numbers.astype(np.int64) * len(self.names) + self.sides, 0)
        first = np.full(place.max(initial=0) + 1, len(self), np.int32)
        backwards = np.flatnonzero(alive & known)[::-1]
        first[place[backwards]] = backwards  # of several at one place the last stays: the first row
        return known & (np.arange(len(self)) > first[place])

    def _side(self, name: str) -> int:
        return self.names.index(name) if name in self.names else -1


def gather(directory: Path, modality: str, path: Path) -> Facts:
    """Write to `path` what is told of each row of an ingested dataset alone."""
    names: list[str | None] = []
    sides, same, near = [], [], []
    lines = workers.mapped(tell, rows.read(directory), options={"modality": modality})
    with pq.ParquetWriter(path, _schema(modality)) as writer:
        for chunk in _chunked(lines):
            writer.write_table(chunk, row_group_size=CHUNK)
            said = chunk["split"].to_pylist()
            names += sorted(set(said) - set(names), key=str)
            sides.append(np.array([names.index(side) for side in said], np.int16))
            same.append(_keys(chunk["content_digest"]))
            near.append(_keys(chunk["near_hash"]))
    return Facts(path, np.concatenate(sides), _numbered(same), _numbered(near), tuple(names))


def tell(batch: pa.RecordBatch, *, modality: str) -> pa.RecordBatch:
    """What is told of each of these rows alone, by their modality."""
    part = modalities.part(modality, "rows")
    lines = zip(batch.select(PASSED_ON).to_pylist(), batch["payload"].to_pylist(), strict=True)
    told = [{**row, **part.facts(payload)} for row, payload in lines]
    return pa.RecordBatch.from_pylist(told, schema=_schema(modality))


def _schema(modality: str) -> pa.Schema:
    return pa.schema([rows.SCHEMA.field(name) for name in PASSED_ON] + list(modalities.part(modality, "rows").FACTS))


def frame(table: pa.Table) -> "pd.DataFrame":
    """Facts as Great Expectations takes them: what is unknown stays so, whatever the kind."""
    told: pd.DataFrame = table.to_pandas(types_mapper=_nullable)
    return told


def weighed(table: "pd.DataFrame", name: str) -> "pd.Series[float]":
    """What each row weighs among all: as `label_weight` its label on its side, or as `share_of_...` that fact.

    A label weighs its share over the share that it would have if all were equal. What is unknown weighs nothing known.
    """
    if name.startswith(SHARE_OF):
        fact = table[name.removeprefix(SHARE_OF)]
        return fact.map(fact.value_counts(normalize=True)).astype(float)
    sides = table.groupby("split")["label"]
    share = table.groupby(["split", "label"])["label"].transform("size") / sides.transform("size")
    return share * sides.transform("nunique")


def _chunked(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The batches in tables of at most `CHUNK` rows."""
    held: list[pa.RecordBatch] = []
    for batch in batches:
        if sum(map(len, held)) + len(batch) > CHUNK:
            yield pa.Table.from_batches(held)
            held = []
        held.append(batch)
    if held:
        yield pa.Table.from_batches(held)


def _joined(alone: pa.Table, start: int, beside: pa.Table, wanted: set[str] | None) -> pa.Table:
    """One chunk with the numbers of its rows, and what they are beside the others."""
    more = {"row": pa.array(np.arange(start, start + len(alone)))}
    here = beside.slice(start, len(alone))
    more |= {name: here[name] for name in here.column_names}
    for name, column in more.items():
        if wanted is None or name in wanted:
            alone = alone.append_column(name, column)
    return alone


def _among(numbers: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Whether each row's number is that of one of the `others`, too; never for an unknown one."""
    there = np.zeros(numbers.max(initial=-1) + 2, bool)
    there[numbers[others]] = True
    there[-1] = False  # where -1 points
    found: np.ndarray = there[numbers]
    return found


def _keys(texts: pa.ChunkedArray) -> np.ndarray:
    """128 bits of each text's hash [N, 2], zero where there is none: no two of 10^9 texts share them but by forgery."""
    digests = (b"\0" * 16 if text is None else _hash(text) for text in texts.to_pylist())
    return np.frombuffer(b"".join(digests), np.uint64).reshape(-1, 2)


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _numbered(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Equal keys get equal numbers, from 0; -1 where the key is zero."""
    keys = np.concatenate(parts)
    order = np.lexsort((keys[:, 1], keys[:, 0]))
    ordered = keys[order]
    fresh = np.concatenate([[False], (ordered[1:] != ordered[:-1]).any(axis=1)])
    numbers = np.empty(len(keys), np.int32)
    numbers[order] = np.cumsum(fresh, dtype=np.int32)
    numbers[~keys.any(axis=1)] = -1
    return numbers


def _nullable(kind: pa.DataType) -> Any:
    import pandas as pd

    if pa.types.is_boolean(kind):
        return pd.BooleanDtype()
    return pd.Int64Dtype() if pa.types.is_integer(kind) else None
