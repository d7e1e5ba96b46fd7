"""Metadata beside pictures or recordings, as the Hugging Face Hub has it: `metadata.csv` or `metadata.jsonl`.

Each row names a file relative to its own folder in `file_name`, and says any of `text` (or `transcription`), `label`,
`split`, `id`, and whatever else a recipe's `held_out` may name. Every file has exactly one row: a picture that no row
names is refused, for it is more often a slip than meant.
"""

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np

from components.errors import AtelierError
from components.sources import lines
from components.sources.listing import Listing

NAMES = ("metadata.csv", "metadata.jsonl")
FILE = "file_name"
MEANT = ("file_name", "text", "transcription", "label", "split", "id")
SPOKEN = "transcription"  # another name of `text`


def is_metadata(name: str) -> bool:
    """Whether a file is metadata by its name."""
    return name.rsplit("/", 1)[-1] in NAMES


@dataclass(frozen=True)
class Metadata:
    """The metadata of a source that has some."""

    listing: Listing
    files: tuple[str, ...]
    columns: lines.Columns

    @property
    def text(self) -> str | None:
        """The column with what is said or shown."""
        return next((name for name in ("text", SPOKEN) if name in self.columns.names), None)

    def rows(self) -> Iterator[tuple[str, lines.Line]]:
        """Each row with the relative name of its file, in the order of the metadata."""
        return ((_named(self.listing, line), line) for line in _lines(self.listing, self.files))


def find(listing: Listing, claims: Callable[[str], bool]) -> Metadata | None:
    """The metadata of a source, read once to see that every file has its row and every row its file."""
    _refuse_misspelt(listing)
    files = tuple(entry.name for entry in listing.entries() if entry.what == "file" and is_metadata(entry.name))
    if not files or listing.only is not None:
        return None
    for name in files:
        if name.endswith(".csv") and (other := f"{name.removesuffix('csv')}jsonl") in files:
            raise AtelierError(f"the source {listing.title!r} has both {name!r} and {other!r}: keep one of them.")
    found = Metadata(listing, files, lines.columns(_lines(listing, files)))
    for column in found.columns.names:
        if column not in MEANT and column.lower() in MEANT:
            raise AtelierError(f"{files[0]!r} of {listing.title!r} has a column {column!r}: write it in small letters.")
    _match(found, claims)
    return found


def _refuse_misspelt(listing: Listing) -> None:
    for entry in listing.entries():
        name = entry.name.rsplit("/", 1)[-1]
        if entry.what == "file" and name not in NAMES and name.lower() in NAMES:
            raise AtelierError(
                f"the source {listing.title!r} holds {entry.name!r}: name it {name.lower()!r}, in small letters."
            )


def _lines(listing: Listing, files: tuple[str, ...]) -> Iterator[lines.Line]:
    return (line for name in files for line in lines.read(listing, name))


def _named(listing: Listing, line: lines.Line) -> str:
    given = line.word(FILE)
    if given is None:
        raise AtelierError(f"{line.where} has no {FILE!r}: each row names its file there, relative to {line.file!r}.")
    return listing.resolve(given, beside=line.file, where=line.where)


def _match(found: Metadata, claims: Callable[[str], bool]) -> None:
    """Refuse a file that is named twice, or never. Names are compared by 8-byte digests: millions fit in memory."""
    keys = array("Q")
    for name, _ in found.rows():
        keys.append(_key(name))
    known = np.sort(np.frombuffer(keys, dtype=np.uint64)) if keys else np.empty(0, dtype=np.uint64)
    repeated = known[1:][known[1:] == known[:-1]]
    if len(repeated):
        twice = set(repeated[:1].tolist())
        named = next(line for name, line in found.rows() if _key(name) in twice)
        raise AtelierError(
            f"{named.where} names {named.values[FILE]!r}, which another row names too: keep one of them."
        )
    for name in filter(claims, found.listing.files()):
        place = int(np.searchsorted(known, key := np.uint64(_key(name))))
        if place == len(known) or known[place] != key:
            raise AtelierError(
                f"no row of {', '.join(found.files)} in {found.listing.title!r} names {name!r}. Add one, which need "
                f"not say more than its {FILE!r}, or remove the file."
            )


def _key(name: str) -> int:
    return int.from_bytes(blake2b(name.encode(), digest_size=8).digest())
