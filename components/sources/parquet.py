"""Parquet files with the bytes, or the text, of each row in a column; as the Hugging Face Hub keeps data sets too."""

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
            groups = [file.metadata.row_group(index).total_byte_size for index in range(file.num_row_groups)]
            fitting = contract.BYTES_AT_ONCE * file.metadata.num_rows // max(sum(groups), 1)
            try:
                yield from file.iter_batches(max(1, min(contract.ROWS_AT_ONCE, fitting)), columns=list(columns))
            except (pa.ArrowException, OSError) as error:
                raise _damaged(path, error) from None


def _opened(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> AtelierError:
    return AtelierError(f"{path} is not a whole Parquet file: {' '.join(str(error).split())}. Put it there again.")


KIND = Kind("parquet", "Parquet files", ".parquet", _claims, _open)
