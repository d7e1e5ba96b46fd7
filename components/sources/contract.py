"""What a kind of source is: which files are its own, and how they are read as a stream of columns."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from components.sources.listing import Listing

ROWS_AT_ONCE = 1024
BYTES_AT_ONCE = 64 * 2**20  # where rows are large, fewer are read at once
MOST_CLASSES = 65_536  # beyond it a column of labels holds something else, such as captions


@dataclass(frozen=True)
class Table:
    """An opened source. `read` streams the named columns, at most `ROWS_AT_ONCE` rows and `BYTES_AT_ONCE` at once.

    The columns `id`, `label`, `text` and `split` mean what they do in `rows.py`; a label is a name, or an index where
    it is a whole number and the classes are listed, here or by the source's card.
    """

    columns: tuple[str, ...]
    read: Callable[[Sequence[str]], Iterator[pa.RecordBatch]]
    payload: str | None = None  # the column of bytes; None: it is found by its name
    classes: tuple[str, ...] = ()  # where the source itself lists them
    indexed: bool = False  # whether its labels are indices into these; -1 is a label that is not known
    blocks: bool = False  # whether its rows are blocks cut from longer text


@dataclass(frozen=True)
class Kind:
    """One kind of source. `open(listing, modality)` reads as much as tells the columns, and not the rows."""

    name: str
    holds: str  # what its files are, as in "holds pictures"
    suffixes: str  # how its files are known, for messages
    claims: Callable[[str], bool]  # whether a file of that relative name is one of its own
    open: Callable[[Listing, str], Table]
    modality: str | None = None  # the only one that it serves


def gather(rows: Iterable[Mapping[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Rows as batches bounded in rows and bytes; what a row lacks is null. The largest value is taken to be bytes."""
    gathered: list[Mapping[str, Any]] = []
    size = 0
    for row in rows:
        heavy = max((len(value) for value in row.values() if isinstance(value, bytes | str)), default=0)
        if gathered and (len(gathered) == ROWS_AT_ONCE or size + heavy > BYTES_AT_ONCE):
            yield _batch(gathered, schema)
            gathered, size = [], 0
        gathered.append(row)
        size += heavy
    if gathered:
        yield _batch(gathered, schema)


def _batch(gathered: Sequence[Mapping[str, Any]], schema: pa.Schema) -> pa.RecordBatch:
    arrays = [pa.array([row.get(field.name) for row in gathered], field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def fitting(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """A batch of any size as batches of at most `ROWS_AT_ONCE` rows, and of `BYTES_AT_ONCE` where more than one row.

    With a column of dictionaries or views, of which each part holds all values, they are of about that size.
    """
    step = max(1, min(ROWS_AT_ONCE, BYTES_AT_ONCE * len(batch) // max(batch.nbytes, 1)))
    for start in range(0, len(batch), step):
        part = batch.slice(start, step)
        if part.nbytes > BYTES_AT_ONCE and len(part) > 1 and not any(map(_shares_values, batch.schema.types)):
            yield from fitting(part)  # its rows are larger than the mean
        else:
            yield part


def _shares_values(kind: pa.DataType) -> bool:
    return pa.types.is_dictionary(kind) or kind in (pa.string_view(), pa.binary_view())
