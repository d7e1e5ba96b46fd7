"""Ingest: a source of rows, whatever its form, into the one form of `rows.py`, in the store.

A kind of source is two small functions, which say what columns it has and stream them as Arrow batches; it is known by
the suffix of the source's files. All the rest (payloads, ids, labels, sides) is the same for every kind.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from components import rows, versioning
from components.errors import AtelierError
from components.recipe import Data, HeldOut
from components.records import Dataset
from components.spelling import unknown
from components.store import Store

ROWS_AT_ONCE = 1024
BYTES_AT_ONCE = 64 * 2**20  # where rows are large, fewer are read at once
ROWS_A_PART = 64 * ROWS_AT_ONCE
CARD = "README.md"


@dataclass(frozen=True)
class Kind:
    """How one kind of source is read: its column names, and a stream of the named ones."""

    columns: Callable[[Sequence[Path]], list[str]]
    read: Callable[[Sequence[Path], Sequence[str]], Iterator[pa.RecordBatch]]


@dataclass(frozen=True)
class _Source:
    """A source whose kind, columns and classes are known."""

    name: str
    files: Sequence[Path]
    kind: Kind
    payload: str
    held_out: HeldOut
    named: Sequence[str]  # those of id, label and text that are there
    classes: tuple[str, ...] = ()
    listed: bool = False  # whether the card lists the classes: whole numbers are indices into it then

    def read(self, *columns: str) -> Iterator[pa.RecordBatch]:
        return self.kind.read(self.files, columns)


def ingest(data: Data, *, modality: str, project: Path, store: Store) -> Dataset:
    """The rows of a recipe's source as an artifact of kind "rows": the same source gives the same digest.

    The source is pulled first where DVC tracks it. Memory is bounded by a batch of rows and a page of the source; a
    source without ids needs about 150 bytes more for each row. An `AtelierError` names what is wrong with the source.
    """
    versioning.pull(project, data.source)
    version = versioning.version_of(project, data.source)
    path = versioning.locate(project, data.source)
    card = _card(path)
    source = _open(path, data, modality, card)
    with store.writing("rows") as draft:
        sides = _write(_canonical(source), draft.directory)
        _check_sides(source, sides)
    return Dataset(
        source=path.relative_to(project.resolve()).as_posix(),
        version=version,
        commit=versioning.commit_of(project, data.source),
        rows=draft.artifact,
        count=sides.total(),
        classes=source.classes,
        licence=str(card.get("licence") or card.get("license") or "unknown"),
    )


def _parquet_columns(files: Sequence[Path]) -> list[str]:
    with _opened_parquet(files[0]) as file:
        return list(file.schema_arrow.names)


def _read_parquet(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for path in files:
        with _opened_parquet(path) as file:
            if missing := [name for name in columns if name not in file.schema_arrow.names]:
                raise AtelierError(f"{path} has no column {missing[0]!r}, though {files[0].name} beside it has one")
            groups = [file.metadata.row_group(index).total_byte_size for index in range(file.num_row_groups)]
            fitting = BYTES_AT_ONCE * file.metadata.num_rows // max(sum(groups), 1)
            try:
                yield from file.iter_batches(max(1, min(ROWS_AT_ONCE, fitting)), columns=list(columns))
            except (pa.ArrowException, OSError) as error:
                raise _damaged(path, error) from None


def _opened_parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20)
    except (pa.ArrowException, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> AtelierError:
    return AtelierError(f"{path} is not a whole Parquet file: {' '.join(str(error).split())}. Put it there again.")


KINDS: Mapping[str, Kind] = {".parquet": Kind(_parquet_columns, _read_parquet)}


def _open(path: Path, data: Data, modality: str, card: Mapping[str, Any]) -> _Source:
    """The source with its kind, its columns and its classes known."""
    every = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and not _is_aside(p, path))
    suffixes = sorted({file.suffix for file in every})
    if not every:
        raise AtelierError(f"the source {data.source!r} holds no files. Put {' or '.join(KINDS)} files into it.")
    if not (known := [suffix for suffix in suffixes if suffix in KINDS]):
        found = ", ".join(suffix or "no suffix" for suffix in suffixes)
        raise AtelierError(f"the source {data.source!r} is of no known kind: {found}; known: {', '.join(KINDS)}")
    kind, files = KINDS[known[0]], [file for file in every if file.suffix == known[0]]
    columns = kind.columns(files)
    payload = next((name for name in (modality, "payload", "bytes") if name in columns), None)
    if payload is None:
        raise AtelierError(
            f"the source {data.source!r} has no column with the bytes of each row: name it {modality!r}, 'payload' or "
            f"'bytes'; there are: {', '.join(columns)}"
        )
    if data.held_out.column is not None and data.held_out.column not in columns:
        raise AtelierError(
            f"data.held_out.column of {data.source!r}: {unknown('column', data.held_out.column, columns)}"
        )
    named = [name for name in ("id", "label", "text") if name in columns and name != payload]
    source = _Source(data.source, files, kind, payload, data.held_out, named)
    return source if "label" not in named else _with_classes(source, card)


def _is_aside(path: Path, source: Path) -> bool:
    return path.name == CARD or any(part.startswith(".") for part in path.relative_to(source).parts)


def _card(path: Path) -> Mapping[str, Any]:
    """The front matter of the source's README.md; empty where there is none."""
    card = path / CARD
    if not card.is_file():
        return {}
    head, *rest = card.read_text(encoding="utf-8").split("\n---", 1)
    if not head.startswith("---") or not rest:
        return {}
    try:
        facts = yaml.safe_load(head.removeprefix("---"))
    except yaml.YAMLError as error:
        raise AtelierError(f"the front matter of {card} is not valid YAML: {' '.join(str(error).split())}") from None
    if not isinstance(facts, dict) or not isinstance(facts.get("classes", []), list):
        raise AtelierError(f"the front matter of {card} must be a mapping, and its `classes` a list of names in order")
    return facts


def _with_classes(source: _Source, card: Mapping[str, Any]) -> _Source:
    """The classes of the card; without one, the labels that there are, in order."""
    if names := card.get("classes"):
        return replace(source, classes=tuple(str(name) for name in names), listed=True)
    seen = {label for batch in source.read("label") for label in batch.column(0).unique().to_pylist()}
    return replace(source, classes=tuple(str(label) for label in sorted(seen - {None})))


def _canonical(source: _Source) -> Iterator[pa.RecordBatch]:
    """The source's rows in the form of `rows.SCHEMA`."""
    by_column = source.held_out.column
    wanted = dict.fromkeys([source.payload, *source.named, *([by_column] if by_column else [])])
    repeats: Counter[bytes] = Counter()
    for batch in source.read(*wanted):
        payloads = _payloads(source, batch)
        digests = [hashlib.sha256(payload).digest() for payload in payloads.to_pylist()]
        yield pa.RecordBatch.from_arrays(
            [
                _ids(source, batch, digests, repeats),
                payloads,
                _labels(source, batch) if "label" in source.named else pa.nulls(len(batch), pa.int64()),
                _cast(source, batch["text"], "text", pa.string())
                if "text" in source.named
                else pa.nulls(len(batch), pa.string()),
                _by_column(source, batch) if by_column else _by_digest(source.held_out, digests),
            ],
            schema=rows.SCHEMA,
        )


def _payloads(source: _Source, batch: pa.RecordBatch) -> pa.Array:
    """The bytes of each row; a row without any gets none, and is for the checks to reject."""
    column = batch[source.payload]
    if pa.types.is_struct(column.type) and column.type.get_field_index("bytes") >= 0:  # as Hugging Face writes them
        column = pc.struct_field(column, "bytes")
    return _cast(source, column, source.payload, pa.binary()).fill_null(b"")


def _ids(source: _Source, batch: pa.RecordBatch, digests: Sequence[bytes], repeats: Counter[bytes]) -> pa.Array:
    """The source's ids; where one is missing, 16 hex digits of the payload's sha256, `-2` and so on at a repeat."""
    given = _cast(source, batch["id"], "id", pa.string()).to_pylist() if "id" in source.named else [None] * len(batch)
    ids = []
    for name, digest in zip(given, digests, strict=True):
        if name is None:
            repeats[digest[:8]] += 1
            ordinal = repeats[digest[:8]]
            name = digest[:8].hex() + (f"-{ordinal}" if ordinal > 1 else "")
        ids.append(name)
    return pa.array(ids, pa.string())


def _labels(source: _Source, batch: pa.RecordBatch) -> pa.Array:
    """The index of each row's class; an index that the source gives itself is taken as it is."""
    column = batch["label"]
    if source.listed and pa.types.is_integer(column.type):
        return _cast(source, column, "label", pa.int64())
    names = _cast(source, column, "label", pa.string())
    indices = pc.index_in(names, value_set=pa.array(source.classes, pa.string())).cast(pa.int64())
    strange = names.filter(pc.and_(indices.is_null(), names.is_valid()))
    if len(strange):
        raise AtelierError(f"a label of {source.name!r}: {unknown('class', strange[0].as_py(), source.classes)}")
    return indices


def _by_column(source: _Source, batch: pa.RecordBatch) -> pa.Array:
    column = source.held_out.column
    assert column is not None
    held_out = pc.equal(_cast(source, batch[column], column, pa.string()), source.held_out.value).fill_null(False)
    return pc.if_else(held_out, "held_out", "train")


def _by_digest(held_out: HeldOut, digests: Iterable[bytes]) -> pa.Array:
    """A row's side hangs on its bytes alone, so it stays there as the data grows, and equal rows go together."""
    assert held_out.share is not None
    limit = int(held_out.share * 2**64)
    return pa.array(["held_out" if int.from_bytes(digest[8:16]) < limit else "train" for digest in digests])


def _cast(source: _Source, column: pa.Array, name: str, kind: pa.DataType) -> pa.Array:
    try:
        return column.cast(kind)
    except pa.ArrowException:
        raise AtelierError(f"the column {name!r} of {source.name!r} is {column.type}: it must read as {kind}") from None


def _write(batches: Iterable[pa.RecordBatch], directory: Path) -> Counter[str]:
    """Parts of `ROWS_A_PART` rows, a batch at a time; how many rows each side has."""
    sides: Counter[str] = Counter()
    stream = iter(batches)
    for part, first in enumerate(stream):
        place, written = directory / f"part-{part:05}.parquet", 0
        # Payloads are compressed already, have no useful minimum, and as a dictionary would be read all at once.
        options = {"compression": "none", "write_statistics": False, "use_dictionary": ["split"]}
        with pq.ParquetWriter(place, rows.SCHEMA, **options) as writer:
            for batch in chain([first], stream):
                writer.write_batch(batch, row_group_size=ROWS_AT_ONCE)
                sides.update(batch["split"].to_pylist())
                written += len(batch)
                if written >= ROWS_A_PART:
                    break
    return sides


def _check_sides(source: _Source, sides: Counter[str]) -> None:
    if not sides.total():
        raise AtelierError(f"the source {source.name!r} has no rows: its files are there, but empty.")
    empty = [side for side in ("train", "held_out") if not sides[side]]
    if not empty:
        return
    column = source.held_out.column
    if column is None:
        raise AtelierError(
            f"data.held_out.share {source.held_out.share} of the {sides.total()} rows of {source.name!r} leaves none "
            f"{'held out' if empty == ['held_out'] else 'to train on'}. Add rows, or change the share."
        )
    values = {value for batch in source.read(column) for value in batch[column].unique().cast(pa.string()).to_pylist()}
    shown = ", ".join(sorted(map(str, values))[:10])
    raise AtelierError(
        f"data.held_out says that rows of {source.name!r} with {column} = {source.held_out.value!r} are held out: that "
        f"is {'none' if empty == ['held_out'] else 'every one'} of them. The values there are: {shown}"
    )
