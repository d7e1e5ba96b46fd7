"""What `Dataset.save_to_disk` and `DatasetDict.save_to_disk` of the library `datasets` write: Arrow streams and JSON.

`dataset_dict.json` lists the splits, each a folder; `state.json` of a folder lists its Arrow files in order. They are
read with pyarrow alone: nothing else of the library is needed, and no code of a data set ever runs.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from components.errors import AtelierError
from components.sources import contract, features
from components.sources.contract import Kind, Table
from components.sources.listing import Listing

File = tuple[str, str | None]  # its relative name, and the split it belongs to


def _claims(name: str) -> bool:
    return name.endswith(".arrow")


def _open(listing: Listing, modality: str) -> Table:
    files = list(_files(listing))
    with _opened(listing, files[0][0]) as stream:
        schema = stream.schema
    names = tuple(schema.names)
    if files[0][1] is not None and "split" not in names:
        names = (*names, "split")
    classes = features.classes_of(schema)
    return Table(names, lambda columns: _read(listing, files, columns), classes=classes, indexed=bool(classes))


def _files(listing: Listing) -> Iterator[File]:
    """The Arrow files in the order in which the library would read them."""
    if listing.only is not None:
        yield listing.only, None
        return
    beside = "dataset_dict.json"
    splits: list[str | None] = [None]
    if (listing.root / beside).exists():
        splits = list(_listed(listing, beside, lambda said: said["splits"]))
    for split in splits:
        state = f"{split}/state.json" if split else "state.json"
        if split is not None and "/" in split or not (listing.root / state).exists():
            raise AtelierError(
                f"{state!r} is missing from {listing.title!r}, though it holds Arrow files: save the data set again "
                "with `save_to_disk`, or write Parquet files."
            )
        for file in _listed(listing, state, lambda said: [entry["filename"] for entry in said["_data_files"]]):
            yield listing.resolve(file, beside=state, where=f"{state!r} of {listing.title!r}"), split


def _listed(listing: Listing, name: str, pick: Any) -> list[str]:
    """The names that one of the JSON files lists, at least one."""
    try:
        found = pick(json.loads(listing.content(name, at_most=2**20)))
        if found and all(isinstance(entry, str) for entry in found):
            return list(found)
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise AtelierError(f"{name!r} of {listing.title!r} is not what `save_to_disk` writes. Save the data set again.")


def _read(listing: Listing, files: Sequence[File], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    for name, split in files:
        try:
            with _opened(listing, name) as stream:
                for batch in stream:
                    yield from contract.fitting(_chosen(batch, columns, split, name))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(name, listing, error) from None


def _chosen(batch: pa.RecordBatch, columns: Sequence[str], split: str | None, name: str) -> pa.RecordBatch:
    """The named columns, with the split of the file."""
    arrays = []
    for column in columns:
        if column == "split" and split is not None:
            arrays.append(pa.array([split] * len(batch), pa.string()))
        elif column in batch.schema.names:
            arrays.append(batch[column])
        else:
            raise AtelierError(f"{name!r} has no column {column!r}, though another file of the source has one")
    chosen = pa.RecordBatch.from_arrays(arrays, names=list(columns))
    chosen.validate(full=True)  # damaged offsets would otherwise be followed wherever they lead
    return chosen


def _opened(listing: Listing, name: str) -> pa.RecordBatchStreamReader:
    try:
        return pa.ipc.open_stream(pa.memory_map(str(listing.root / name)))
    except (pa.ArrowException, OSError) as error:
        raise _damaged(name, listing, error) from None


def _damaged(name: str, listing: Listing, error: Exception) -> AtelierError:
    reason = " ".join(str(error).split())
    return AtelierError(f"{name!r} of {listing.title!r} is not a whole Arrow stream: {reason}. Save it again.")


KIND = Kind("arrow", "data sets saved by `datasets`", "state.json with .arrow", _claims, _open)
