"""Folders in which each file is a row: what pictures and recordings have in common.

The id is the relative name. Metadata with columns for them say labels and splits; else folders do: those at the top
are splits where they are called `train`, `held_out`, `test`, `val` or `validation`; those below, or at the top, are
classes. A folder without sub-folders has no classes.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from components.errors import AtelierError
from components.sources import folders, metadata
from components.sources.contract import Kind, Table, gather
from components.sources.listing import Listing


def kind(name: str, holds: str, suffixes: Sequence[str], *, modality: str, at_most: int) -> Kind:
    """A kind of source whose files bear one of the suffixes, in any case, and have at most so many bytes."""

    def claims(file: str) -> bool:
        return file.lower().endswith(tuple(suffixes))

    def opened(listing: Listing, _: str) -> Table:
        said = metadata.find(listing, claims)
        layout = folders.layout(listing)
        if said is None:
            return _Bare(listing, layout, claims, holds, at_most).table()
        return _Described(listing, layout, said, claims, holds, at_most).table()

    return Kind(name, holds, ", ".join(suffixes), claims, opened, modality)


@dataclass(frozen=True)
class _Bare:
    """A folder without metadata."""

    listing: Listing
    layout: folders.Layout
    claims: Callable[[str], bool]
    holds: str
    at_most: int

    def table(self) -> Table:
        classes = folders.classes(self.listing, self.layout, self.claims, self.holds)
        said = {"label": bool(classes), "split": self.layout.splits}
        names = ("id", "payload", *(name for name, there in said.items() if there))
        return Table(names, self._read, payload="payload", classes=classes)

    def _read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        schema = pa.schema([(name, pa.binary() if name == "payload" else pa.string()) for name in columns])
        return gather((self._row(name, columns) for name in filter(self.claims, self.listing.files())), schema)

    def _row(self, name: str, columns: Sequence[str]) -> Mapping[str, Any]:
        row: dict[str, Any] = {"id": name, "label": self.layout.label(name), "split": self.layout.split(name)}
        if "payload" in columns:
            row["payload"] = self.listing.content(name, at_most=self.at_most)
        return row


@dataclass(frozen=True)
class _Described:
    """A folder with metadata."""

    listing: Listing
    layout: folders.Layout
    said: metadata.Metadata
    claims: Callable[[str], bool]
    holds: str
    at_most: int

    def table(self) -> Table:
        names = dict.fromkeys(["id", "payload", *self.said.columns.names])
        names.update(dict.fromkeys(["text"] if self.said.text else []))
        names.update(dict.fromkeys(["split"] if self.layout.splits else []))
        classes = () if self._labelled else self._classes()
        names.update(dict.fromkeys(["label"] if classes else []))
        return Table(tuple(names), self._read, payload="payload", classes=classes)

    def _classes(self) -> tuple[str, ...]:
        """The classes that folders give, where they give one to every file; folders may be there for order only."""
        try:
            return folders.classes(self.listing, self.layout, self.claims, self.holds)
        except AtelierError:
            return ()

    @property
    def _labelled(self) -> bool:
        """Whether the metadata say the labels; else folders do, as without metadata."""
        return "label" in self.said.columns.names

    def _read(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        types = {"payload": pa.binary(), "label": self.said.columns.label_type() if self._labelled else pa.string()}
        schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
        return gather((self._row(name, line, columns) for name, line in self.said.rows()), schema)

    def _row(self, name: str, line: Any, columns: Sequence[str]) -> Mapping[str, Any]:
        row: dict[str, Any] = {column: line.word(column) for column in columns if column != "payload"}
        if "payload" in columns:
            row["payload"] = self.listing.content(name, at_most=self.at_most)
        if "id" in columns:
            row["id"] = row["id"] or name
        if "label" in columns:
            row["label"] = self.said.columns.label(line) if self._labelled else self.layout.label(name)
        if "text" in columns and self.said.text:
            row["text"] = line.word(self.said.text)
        if "split" in columns:
            row["split"] = row["split"] or self.layout.split(name)
        return row
