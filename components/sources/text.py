"""Text files, cut into blocks of 512 to 4,096 bytes (2,300 in the mean): each block is a row.

Where a block ends hangs on what stands there, not on its place, so that a change in a text moves the blocks near it
only. Of the ends of paragraphs between 512 and 4,096 bytes on, that one is taken whose last 64 bytes have the smallest
checksum; where there is none, of the ends of lines, then of words, then of characters. Two cuttings of the same text
that begin apart soon choose the same end, and agree from there on. Nothing is decoded: bytes that are not UTF-8 become
rows too, for the checks to reject with their place. The blocks of a file, joined, are the file.
"""

import hashlib
import re
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from components.sources import folders
from components.sources.contract import Kind, Table, gather
from components.sources.listing import Listing, unreadable
from components.sources.repeats import Repeats

LEAST, MOST = 512, 4096  # bytes of a block, but for the last of a file
CONTEXT = 64  # bytes before an end that decide about it
READ = 2**20
# Ends of paragraphs, lines, words, and characters of UTF-8, each with all the white space that follows.
ENDS = (rb"\n[ \t\r]*\n\s*", rb"\n\s*", rb"\s+", rb"[\x00-\xff](?=[^\x80-\xbf])")
PATTERNS = tuple(re.compile(end) for end in ENDS)
COLUMNS = {"id": pa.string(), "payload": pa.binary(), "file": pa.string(), "split": pa.string()}


def cut(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The blocks of a text that comes in chunks of any size."""
    held, start = b"", 0
    for chunk in chunks:
        held, start = held[start:] + chunk, 0
        while len(held) - start > 2 * MOST:  # so that what follows an end is at hand
            end = _end(held, start)
            yield held[start:end]
            start = end
    while len(held) - start > MOST:
        end = _end(held, start)
        yield held[start:end]
        start = end
    if start < len(held):
        yield held[start:]


def _end(held: bytes, start: int) -> int:
    """Where the block from `start` on ends; there are more than `MOST` bytes."""
    for pattern in PATTERNS:
        found = (match.end() for match in pattern.finditer(held, start + LEAST - 1, start + MOST))
        ends = [end for end in found if end < start + MOST]
        if ends:
            return min(ends, key=lambda end: zlib.crc32(held[end - CONTEXT : end]))
    return start + MOST


def _claims(name: str) -> bool:
    return name.lower().endswith((".txt", ".md"))


def _open(listing: Listing, modality: str) -> Table:
    layout = folders.layout(listing)
    columns = tuple(name for name in COLUMNS if name != "split" or layout.splits)
    return Table(columns, lambda wanted: _read(listing, layout, wanted), payload="payload", blocks=True)


def _read(listing: Listing, layout: folders.Layout, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    repeats = Repeats()
    for batch in gather(_rows(listing, layout), pa.schema(list(COLUMNS.items()))):
        names = batch["id"].to_pylist()
        ids = pa.array(repeats.named(names, [hashlib.sha256(name.encode()).digest() for name in names]), pa.string())
        yield batch.set_column(0, "id", ids).select(list(columns))


def _rows(listing: Listing, layout: folders.Layout) -> Iterator[dict[str, Any]]:
    for name in listing.files():
        if _claims(name):
            for block in cut(_chunks(listing, name)):
                bare = f"{name}:{hashlib.sha256(block).hexdigest()[:16]}"
                yield {"id": bare, "payload": block, "file": name, "split": layout.split(name)}


def _chunks(listing: Listing, name: str) -> Iterator[bytes]:
    try:
        with (listing.root / name).open("rb") as stream:
            while chunk := stream.read(READ):
                yield chunk
    except OSError as error:
        raise unreadable(listing.title, error, name) from None


KIND = Kind("text", "text files", ".txt, .md", _claims, _open, modality="text")
