"""The files of a source, checked: nothing lies outside its folder, names can be written down."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from components import tree
from components.errors import AtelierError

CARD = "README.md"
# What lies beside the data in most datasets, by the name before the suffix and in any case.
ASIDE = {"readme", "license", "licence", "copying", "notice", "citation", "authors", "changelog", "requirements"}
ASIDE_SUFFIXES = {"", "txt", "md", "rst"}


@dataclass(frozen=True)
class Listing:
    """The files of a source: of a folder, or `only` one file of it.

    Links that leave the folder are refused unless `verified`: then DVC has compared every byte with its manifest (it
    may keep its files as links into its cache). A link to a folder inside is not followed: its files are read where
    they lie.
    """

    root: Path
    title: str  # as the recipe names it
    only: str | None = None
    verified: bool = False
    within: frozenset[str] | None = None  # these files alone, where some are named

    def entries(self) -> Iterator[tree.Entry]:
        """Files and folders but hidden ones, in order; links to files count as files."""
        if self.only is not None:
            yield tree.Entry(self.only, "file")
            return
        try:
            for entry in tree.walk(self.root):
                self._check_name(entry.name)
                what = self._followed(entry)
                if what is None or any(part.startswith(".") for part in entry.name.split("/")):
                    continue
                if self.within is None or entry.name in self._within:
                    yield tree.Entry(entry.name, what)
        except OSError as error:
            raise unreadable(self.title, error) from None

    def files(self) -> Iterator[str]:
        """The relative names of the files in order, without hidden ones and what is no data, such as a licence."""
        return (entry.name for entry in self.entries() if entry.what == "file" and not is_aside(entry.name))

    def content(self, name: str, *, at_most: int) -> bytes:
        """The bytes of a file; one of more than `at_most` is refused before it is read."""
        try:
            with (self.root / name).open("rb") as stream:
                size = os.fstat(stream.fileno()).st_size
                if size > at_most:
                    raise AtelierError(
                        f"{name!r} of the source {self.title!r} has {size:,} bytes, more than the {at_most:,} that one "
                        "row may have: cut it up, or remove it."
                    )
                return stream.read(at_most)
        except OSError as error:
            raise unreadable(self.title, error, name) from None

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        try:
            return (self.root / name).stat().st_size
        except OSError as error:
            raise unreadable(self.title, error, name) from None

    def resolve(self, given: str, *, beside: str, where: str) -> str:
        """The name of the file that a row of the file `beside` names; an `AtelierError` begins with `where`."""
        path = PurePosixPath(given)
        if not given or "\0" in given or path.is_absolute() or ".." in path.parts or "://" in given:
            raise AtelierError(f"{where}: {given!r} is not a path to a file inside the folder, relative to {beside!r}.")
        if self.only is not None:
            raise AtelierError(
                f"{where} names the file {given!r}, but the source is the single file {self.title!r}, so what it names "
                "would have no version. Name the folder as the source."
            )
        name = (PurePosixPath(beside).parent / path).as_posix()
        real = os.path.realpath(self.root / name)
        if not self.verified and not real.startswith(f"{self._real}/"):
            raise AtelierError(f"{where}: {given!r} leads out of the folder. Copy the file into it.")
        if not os.path.isfile(real):  # noqa: PTH113 - a name that is too long is not there either, which Path raises at
            raise AtelierError(f"{where} names {given[:300]!r}, which is not there. Add the file, or remove the row.")
        return name

    @cached_property
    def _real(self) -> str:
        return os.path.realpath(self.root)

    @cached_property
    def _within(self) -> frozenset[str]:
        """The files that are named, and the folders that lead to them."""
        named = self.within or frozenset()
        return named | {str(above) for name in named for above in PurePosixPath(name).parents}

    def _check_name(self, name: str) -> None:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise AtelierError(f"the name of {name!r} in {self.title!r} is not UTF-8: rename it.") from None

    def _followed(self, entry: tree.Entry) -> tree.What | None:
        """What an entry is once a link is followed; None for a link to a folder."""
        if entry.what == "other":
            raise AtelierError(f"{entry.name!r} in {self.title!r} is neither a file nor a folder: remove it.")
        if entry.what != "link":
            return entry.what
        real = os.path.realpath(self.root / entry.name)
        if not self.verified and not real.startswith(f"{self._real}/") and real != self._real:
            raise AtelierError(
                f"{entry.name!r} in {self.title!r} is a link out of the folder, so what it leads to has no version and "
                "may be anything. Copy what it should be into the folder, or remove the link."
            )
        if not Path(real).exists():
            raise AtelierError(f"{entry.name!r} in {self.title!r} is a link to nothing: mend or remove it.")
        return None if Path(real).is_dir() else "file"


def is_aside(name: str) -> bool:
    """Whether a file is no data by its name: a licence, a card."""
    stem, _, suffix = name.rsplit("/", 1)[-1].lower().partition(".")
    return suffix in ASIDE_SUFFIXES and stem in ASIDE


def unreadable(title: str, error: OSError, name: str | None = None) -> AtelierError:
    """The answer to a file that cannot be read, or is gone."""
    named = name or (os.fsdecode(error.filename) if error.filename else "a file")
    reason = error.strerror or type(error).__name__
    mend = "It vanished while the source was read" if isinstance(error, FileNotFoundError) else "Mend its permissions"
    return AtelierError(f"{named!r} of the source {title!r} cannot be read: {reason}. {mend}; then try again.")
