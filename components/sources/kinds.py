"""The table of the kinds, and which of them a source is."""

from collections.abc import Mapping
from pathlib import PurePosixPath

from components.errors import AtelierError
from components.sources import arrow, audio, idx, images, jsonl, metadata, parquet, text
from components.sources.contract import Kind
from components.sources.listing import Listing
from components.spelling import unknown

KINDS: Mapping[str, Kind] = {
    module.KIND.name: module.KIND for module in (parquet, arrow, jsonl, images, audio, idx, text)
}
MEDIA = ("images", "audio")  # whose files the rows of JSON Lines may name
SHOWN = 10


def choose(listing: Listing, named: str | None = None) -> Kind:
    """The kind of a source by what it holds, or the one named by the recipe.

    An `AtelierError` where it holds nothing known, not what the recipe says, or several kinds and none is named.
    """
    if named is not None and named not in KINDS:
        raise AtelierError(f"data.kind: {unknown('kind of source', named, KINDS)}")
    first, strange = _survey(listing)
    if named in first:
        return KINDS[named]
    known = ", ".join(f"{name} ({kind.suffixes})" for name, kind in KINDS.items())
    if not first and not strange:
        raise AtelierError(f"the source {listing.title!r} holds no files. Put data into it: {known}.")
    if named is not None:
        there = " and ".join(KINDS[name].holds for name in first) or ", ".join(strange)
        raise AtelierError(
            f"data.kind says that {listing.title!r} holds {KINDS[named].holds} ({KINDS[named].suffixes}), but it "
            f"holds {there}."
        )
    if not first:
        raise AtelierError(f"the source {listing.title!r} is of no known kind: {', '.join(strange)}; known: {known}")
    if "jsonl" in first:
        first = {name: file for name, file in first.items() if name not in MEDIA}
    if len(first) > 1:
        (one, here), (other, there), *_ = first.items()
        raise AtelierError(
            f"the source {listing.title!r} holds {KINDS[one].holds} ({here!r}) and {KINDS[other].holds} ({there!r}): "
            f"move one of them elsewhere, or say in the recipe which to read, as in `data: {{kind: {one}}}`."
        )
    return KINDS[next(iter(first))]


def _survey(listing: Listing) -> tuple[dict[str, str], list[str]]:
    """The first file of each kind that there is, and some of the suffixes of no kind."""
    first: dict[str, str] = {}
    strange: set[str] = set()
    described = None
    for file in listing.files():
        if metadata.is_metadata(file):
            described = described or file
        elif (kind := next((name for name, kind in KINDS.items() if kind.claims(file)), None)) is not None:
            first.setdefault(kind, file)
        elif len(strange) < SHOWN:
            strange.add(PurePosixPath(file).suffix or "no suffix")
    if described is not None and not first:  # metadata of nothing: rows of their own, where they may be
        if KINDS["jsonl"].claims(described):
            return {"jsonl": described}, []
        strange.add(PurePosixPath(described).suffix)
    return first, sorted(strange)
