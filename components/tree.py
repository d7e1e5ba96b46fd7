"""The entries of a folder one after the other, in an order that hangs on their names alone."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

What = Literal["file", "folder", "link", "other"]
# A mark stands after the name and a NUL, which no name holds and which sorts before all else: the order is the names'.
MARKS: dict[bytes, What] = {b"": "file", b"d": "folder", b"l": "link", b"o": "other"}


class Entry(NamedTuple):
    name: str  # relative to the folder, with "/" between its parts
    what: What  # of the entry itself: a link is not followed


def walk(root: Path) -> Iterator[Entry]:
    """Every entry below a folder, sorted by the parts of its name; a folder stands before what is in it.

    Memory is about 60 bytes for each entry of the folders from the root to where the walk is, not of the whole tree.
    An `OSError` comes from the folder that cannot be listed.
    """
    pending = [("", iter(_names(os.fsencode(root))))]
    while pending:
        above, names = pending[-1]
        marked = next(names, None)
        if marked is None:
            pending.pop()
            continue
        name, _, mark = marked.partition(b"\0")
        entry = Entry(above + os.fsdecode(name), MARKS[mark])
        yield entry
        if entry.what == "folder":
            pending.append((f"{entry.name}/", iter(_names(os.fsencode(root / entry.name)))))


def _names(folder: bytes) -> list[bytes]:
    with os.scandir(folder) as entries:
        return sorted(_marked(entry) for entry in entries)


def _marked(entry: "os.DirEntry[bytes]") -> bytes:
    if entry.is_symlink():
        return entry.name + b"\0l"
    if entry.is_dir(follow_symlinks=False):
        return entry.name + b"\0d"
    return entry.name if entry.is_file(follow_symlinks=False) else entry.name + b"\0o"
