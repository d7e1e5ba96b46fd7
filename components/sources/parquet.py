"""Parquet files with the bytes, or the text, of each row in a column; as the Hugging Face Hub keeps data sets too.

How many rows are read at once is reckoned from the mean size of a row in their row group, and a batch is cut where it
comes out larger. What is left: while it is read a batch may hold as many of the largest rows of its group as would fit
at the mean size, at most `ROWS_AT_ONCE`; and a file tells the size of a value that repeats but once.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from components.errors import AtelierError
from components.sources import contract, features
from components.sources.contract import Kind, Table
from components.sources.listing import Listing


def _claims(name: str) -> bool:
    return name.lower().endswith(".parquet")


def _open(listing: Listing, modality: str) -> Table:
    files = [listing.root / name for name in listing.files() if _claims(name)]
    with _opened(files[0]) as file:
        schema = file.schema_arrow
    classes = features.classes_of(schema)
    return Table(tuple(schema.names), lambda columns: _read(files, columns), classes=classes, indexed=bool(classes))


def _read(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for path in files:
        with _opened(path) as file:
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise AtelierError(f"{path} has no column {missing[0]!r}, though {files[0].name} beside it has one")
            try:
                for group in range(file.num_row_groups):
                    for batch in file.iter_batches(_rows_of(file, group), row_groups=[group], columns=list(columns)):
                        yield from contract.fitting(batch)
            except (pa.ArrowException, OSError) as error:
                raise _damaged(path, error) from None


def _rows_of(file: pq.ParquetFile, group: int) -> int:
    """How many rows of a row group are read at once."""
    told = file.metadata.row_group(group)
    fitting: int = contract.BYTES_AT_ONCE * told.num_rows // max(told.total_byte_size, 1)
    return max(1, min(contract.ROWS_AT_ONCE, fitting))


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> AtelierError:
    return AtelierError(f"{path} is not a whole Parquet file: {' '.join(str(error).split())}. Put it there again.")


KIND = Kind("parquet", "Parquet files", ".parquet", _claims, _open)
