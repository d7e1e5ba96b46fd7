"""JSON Lines: one object a line, whose payload is its `text`, or a file that it names, or `bytes` in base64.

A path stands in the column of the modality's name, in `file_name`, `file` or `path`, relative to the JSON Lines file's
own folder. For another modality than text, `text` is what is said of the payload. Any other column may be the split.
"""

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from components.errors import AtelierError
from components.sources import lines
from components.sources.contract import Kind, Table, gather
from components.sources.lines import Columns, Line
from components.sources.listing import Listing

PATHS = ("file_name", "file", "path")
INLINE, BASE64 = "text", "bytes"
AT_MOST = 64 * 2**20  # bytes of a file that a row names


def _claims(name: str) -> bool:
    return name.lower().endswith((".jsonl", ".jsonl.gz"))


@dataclass(frozen=True)
class _Rows:
    listing: Listing
    columns: Columns
    holder: str  # the column that holds, or names, the payload

    def read(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        types = {"payload": pa.binary(), "label": self.columns.label_type()}
        schema = pa.schema([(name, types.get(name, pa.string())) for name in names])
        return gather((self._row(line, names) for line in _lines(self.listing)), schema)

    def _row(self, line: Line, names: Sequence[str]) -> dict[str, Any]:
        row: dict[str, Any] = {name: line.word(name) for name in names if name not in ("payload", "label")}
        if "label" in names:
            row["label"] = self.columns.label(line)
        if "payload" in names:
            row["payload"] = self._payload(line)
        return row

    def _payload(self, line: Line) -> bytes:
        """The bytes of a row; none where it says null, for the checks to reject."""
        given = line.word(self.holder)
        if given is None:
            return b""
        if self.holder == INLINE:
            return given.encode()
        if self.holder == BASE64:
            try:
                return base64.b64decode(given, validate=True)
            except binascii.Error as error:
                raise AtelierError(f"{line.where}: {BASE64!r} is not base64: {error}.") from None
        name = self.listing.resolve(given, beside=line.file, where=line.where)
        return self.listing.content(name, at_most=AT_MOST)


def _open(listing: Listing, modality: str) -> Table:
    columns = lines.columns(_lines(listing))
    wanted = (INLINE,) if modality == INLINE else (modality, *PATHS, BASE64)
    holder = next((name for name in wanted if name in columns.names), None)
    if holder is None:
        raise AtelierError(
            f"no line of {listing.title!r} says where the {modality} of its row is: name it "
            f"{' or '.join(map(repr, wanted))}; there are: {', '.join(columns.names) or 'no rows'}."
        )
    names = dict.fromkeys(["payload", *columns.names])
    names.pop(holder)
    return Table(tuple(names), _Rows(listing, columns, holder).read, payload="payload")


def _lines(listing: Listing) -> Iterator[Line]:
    return (line for name in listing.files() if _claims(name) for line in lines.read(listing, name))


KIND = Kind("jsonl", "JSON Lines", ".jsonl, .jsonl.gz", _claims, _open)
