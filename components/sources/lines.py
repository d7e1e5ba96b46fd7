"""Rows of JSON Lines and CSV files as a stream; each mistake is named with its file and line."""

import csv
import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, cast

import pyarrow as pa

from components.errors import AtelierError
from components.sources.listing import Listing, unreadable

LONGEST = 96 * 2**20  # bytes of a line: room for a picture of 64 MiB in base64


@dataclass(frozen=True)
class Line:
    """One row as it stands in its file."""

    file: str
    number: int  # of the line in the file where the row ends, from 1
    title: str  # of the source
    values: Mapping[str, Any]

    @property
    def where(self) -> str:
        return f"{self.file!r} of {self.title!r}, line {self.number}"

    def word(self, column: str) -> str | None:
        """A value as text: words as they are, whole numbers in digits, null and nothing as None."""
        value = self.values.get(column)
        if value is None or value == "":
            return None
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise AtelierError(f"{self.where}: {column!r} must be text or a whole number, not {_shown(value)}.")
        try:
            word = str(value)
            word.encode()
        except ValueError:  # half a pair of surrogates, or thousands of digits
            raise AtelierError(f"{self.where}: {column!r} cannot be written as UTF-8 text.") from None
        return word


def read(listing: Listing, name: str) -> Iterator[Line]:
    """The rows of a .jsonl, .jsonl.gz or .csv file."""
    texts = _decoded(listing, name)
    rows = _csv(listing, name, texts) if name.lower().endswith(".csv") else _json(listing, name, texts)
    return (Line(name, number, listing.title, values) for number, values in rows)


def _json(listing: Listing, name: str, texts: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, text in enumerate(texts, start=1):
        if text.isspace():
            continue
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise AtelierError(f"{name!r} of {listing.title!r}, line {number} is not valid JSON: {error}.") from None
        if not isinstance(values, dict):
            raise AtelierError(
                f'{name!r} of {listing.title!r}, line {number} must be an object as in {{"text": ...}}, not '
                f"{_shown(values)}."
            )
        yield number, values


def _csv(listing: Listing, name: str, texts: Iterator[str]) -> Iterator[tuple[int, dict[str, Any]]]:
    reader = csv.reader(texts, strict=True)
    head: list[str] | None = None
    try:
        for cells in reader:
            if not cells:
                continue
            if head is None:
                head = [cell.strip() for cell in cells]
                if len(set(head)) != len(head):
                    raise AtelierError(f"the header of {name!r} of {listing.title!r} names a column twice.")
                continue
            if len(cells) != len(head):
                raise AtelierError(
                    f"{name!r} of {listing.title!r}, line {reader.line_num} has {len(cells)} cells, but the header has "
                    f"{len(head)}. Put text that holds a comma in double quotes."
                )
            yield reader.line_num, dict(zip(head, cells, strict=True))
    except csv.Error as error:
        raise AtelierError(
            f"{name!r} of {listing.title!r}, line {reader.line_num} is not valid CSV: {error}."
        ) from None


def _decoded(listing: Listing, name: str) -> Iterator[str]:
    """Lines with their ends; a mark at the start of the file is dropped."""
    path = listing.root / name
    number = 0
    try:
        with path.open("rb") as raw, cast(BinaryIO, gzip.open(raw) if name.lower().endswith(".gz") else raw) as stream:
            while line := stream.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    raise AtelierError(
                        f"{name!r} of {listing.title!r}, line {number} has more than {LONGEST:,} bytes: a row is one "
                        "line, and may not be longer."
                    )
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise AtelierError(
            f"{name!r} of {listing.title!r}, line {number} is not UTF-8: byte {error.start + 1} of the line is "
            f"0x{error.object[error.start]:02x}. Convert the file, as with `iconv -t UTF-8`."
        ) from None
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise AtelierError(
            f"{name!r} of {listing.title!r} is not a whole gzip file: {error}. Put it there again."
        ) from None
    except OSError as error:
        raise unreadable(listing.title, error, name) from None


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


@dataclass(frozen=True)
class Columns:
    """The columns of all rows of some files, and whether every label is a whole number."""

    names: tuple[str, ...]
    whole_labels: bool

    def label_type(self) -> pa.DataType:
        return pa.int64() if self.whole_labels else pa.string()

    def label(self, line: Line) -> int | str | None:
        word = line.word("label")
        return int(word) if word is not None and self.whole_labels else word


def columns(lines: Iterator[Line]) -> Columns:
    """Read everything once, so that no column is missed and a broken line is told before a row is written."""
    names: dict[str, None] = {}
    whole, labelled = True, False
    for line in lines:
        names.update(dict.fromkeys(line.values))
        label = line.values.get("label")
        if label is not None and label != "":
            labelled = True
            whole = whole and isinstance(label, int) and abs(label) < 2**63
    return Columns(tuple(names), whole and labelled)
