"""What the folders of a source say of the files in them: the split at the top, and below it the class."""

from collections.abc import Callable
from dataclasses import dataclass

from components.errors import AtelierError
from components.sources.contract import MOST_CLASSES
from components.sources.listing import Listing

SPLITS = ("train", "held_out", "test", "val", "validation")


@dataclass(frozen=True)
class Layout:
    """Whether the folders at the top are splits; the classes are the folders below them, or those at the top."""

    splits: bool

    def split(self, name: str) -> str | None:
        return name.split("/", 1)[0] if self.splits else None

    def label(self, name: str) -> str | None:
        """The class of a file: the first folder on its way, after that of the split; deeper ones say nothing."""
        parts = name.split("/")[1 if self.splits else 0 :]
        return parts[0] if len(parts) > 1 else None


def layout(listing: Listing) -> Layout:
    """Folders at the top are splits where all bear such names; an `AtelierError` where `train` has others beside it."""
    tops = sorted(_tops(listing))
    named = [top for top in tops if top in SPLITS]
    if len(named) == len(tops):
        return Layout(splits=bool(named))
    if train := next((top for top in tops if top.lower() == "train"), None):
        odd = next(top for top in tops if top not in SPLITS)
        raise AtelierError(
            f"the source {listing.title!r} has a folder {train!r}, which names a split, and {odd!r}, which does not. "
            f"Splits are named {', '.join(SPLITS)}, in small letters; classes are folders below them. Rename or move "
            "it, or hide what is no data with a dot before its name."
        )
    return Layout(splits=False)


def _tops(listing: Listing) -> list[str]:
    if listing.only is not None:
        return []
    with_dot = (entry for entry in listing.root.iterdir() if not entry.name.startswith("."))
    return [entry.name for entry in with_dot if entry.is_dir() and not entry.is_symlink()]


def classes(listing: Listing, layout: Layout, claims: Callable[[str], bool], holds: str) -> tuple[str, ...]:
    """The classes that folders give to the files of a kind; an `AtelierError` where that is not plain."""
    filled: dict[str, None] = {}  # folders of classes that hold such a file
    empty: dict[str, None] = {}
    labels: set[str] = set()
    flat: str | None = None
    depth = 2 if layout.splits else 1
    for entry in listing.entries():
        parts = entry.name.split("/")
        folder = "/".join(parts[:depth])
        if entry.what == "folder":
            if len(parts) == depth and folder not in filled:
                empty[folder] = None
        elif claims(entry.name):
            label = layout.label(entry.name)
            if label is None:
                flat = flat or entry.name
                continue
            empty.pop(folder, None)
            filled[folder] = None
            labels.add(label)
        if len(filled) + len(empty) > MOST_CLASSES:
            raise AtelierError(
                f"the source {listing.title!r} has more than {MOST_CLASSES:,} folders of classes: put the files into "
                "one folder, or say their labels in a metadata file."
            )
    if empty and labels:
        raise AtelierError(
            f"the folder {next(iter(empty))!r} of the source {listing.title!r} is that of a class, but holds no "
            f"{holds}. Put some in, or remove it."
        )
    if flat is not None and labels:
        raise AtelierError(
            f"the source {listing.title!r} has folders of classes ({min(labels)!r}), but {flat!r} lies in none. "
            "Move it into one; or say the labels in a metadata file."
        )
    return tuple(sorted(labels))
