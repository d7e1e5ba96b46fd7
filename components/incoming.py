"""Files that are to join a source: copied aside, looked at beside what is there, and let in or kept in quarantine.

They are judged as a run would judge them: the source with them is ingested and validated by the recipe's own suite.
"""

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from components import exclusions, ingestion, manifest, suite, validation, versioning, workers
from components.data_card import Card
from components.errors import AtelierError, DataRejected
from components.recipe import Data, Recipe
from components.records import Dataset
from components.store import Store, file_sha256, write_atomically
from components.tree import walk

FACTS = ("id", "label", "split", "digest", "content_digest", "duplicate", "rejected")
NONE = np.empty(0, np.uint64)
Rejected = tuple[str, str, str]  # a row: its id, the sha256 of its bytes, and why


@dataclass(frozen=True)
class Offer:
    """Files for a source by their names below it, copied aside; `same` are those that are there byte for byte."""

    source: str
    files: Mapping[str, Path]
    same: tuple[str, ...] = ()


@dataclass(frozen=True)
class Looked:
    """What came of looking at an offer beside what is there.

    `rejected` has for each file the reasons of its rows; `problems` are those of the source as a whole with them.
    """

    rejected: Mapping[str, Sequence[str]]
    problems: Sequence[str]
    before: Card
    after: Card
    docs: Path  # the page of the checks


def gather(paths: Sequence[Path], *, to: str, source: str, project: Path, aside: Path) -> Offer:
    """Copy files and folders aside, as what they would be below a source; `to` is a folder of it.

    A folder's files keep their places below it. An `AtelierError` names what cannot join: what lies in the source
    already, links, hidden names, or a name that is there with other bytes.
    """
    folder = versioning.locate(project, source)
    below = PurePosixPath(to)
    if below.is_absolute() or ".." in below.parts or any(part.startswith(".") for part in below.parts):
        raise AtelierError(f"--to {to!r} is no folder below the source {source!r}: name it relative to that.")
    files: dict[str, Path] = {}
    same = []
    for path, name in _named(paths, folder):
        name = (below / name).as_posix()
        _refuse_unfit(name)
        copy = aside / name
        if name in files and file_sha256(path) != file_sha256(files[name]):
            raise AtelierError(f"two of the files would both be {name!r} in {source!r}. Give one of them another name.")
        there = folder / name
        if there.is_file():
            if manifest.md5_of(there) != manifest.md5_of(path):
                raise AtelierError(
                    f"{name!r} is in {source!r} already, with other bytes, and nothing is overwritten. Give the new "
                    "file another name, or put it into a folder of its own with --to."
                )
            same.append(name)
            continue
        if there.is_dir():
            raise AtelierError(f"{name!r} is a folder in {source!r}: give the file another name.")
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, copy)
        files[name] = copy
    return Offer(source, dict(sorted(files.items())), tuple(sorted(same)))


def _named(paths: Sequence[Path], folder: Path) -> Iterator[tuple[Path, str]]:
    """Each file with its name: its own, or its place below the folder that was given."""
    for path in paths:
        if path.resolve() == folder or folder in path.resolve().parents:
            raise AtelierError(
                f"{path} lies in the source already, where nothing has looked at it. Move it elsewhere, and name it "
                "there."
            )
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            told = "is a link" if path.is_symlink() else "is not there" if not path.exists() else "is no file"
            raise AtelierError(f"{path} {told}. Name files, or folders of files.")
        if path.is_file():
            yield path, path.name
            continue
        for entry in walk(path):
            if any(part.startswith(".") for part in entry.name.split("/")):
                continue
            if entry.what in ("link", "other"):
                raise AtelierError(f"{path / entry.name} is no file but a {entry.what}. Copy what it should be there.")
            if entry.what == "file":
                yield path / entry.name, entry.name


def _refuse_unfit(name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise AtelierError(f"the name {name!r} is not UTF-8: rename the file.") from None
    if any(part.startswith(".") for part in name.split("/")):
        raise AtelierError(f"{name!r} is a hidden name, which no source reads: rename the file.")


def look(offer: Offer, recipe: Recipe, *, project: Path, store: Store, aside: Path) -> Looked:
    """Ingest and validate the source with the offered files in it; nothing of the project is changed."""
    data = recipe.data.model_copy(update={"source": offer.source, "more": ()})
    there = _there(project, offer.source)
    old = _keys(ingestion.stream(data, modality=recipe.modality, project=project, store=store)) if there else NONE
    with _view(offer, project, aside) as view:
        try:
            dataset = ingestion.ingest(data, modality=recipe.modality, project=view, store=store)
        except AtelierError as error:
            raise DataRejected(f"the files cannot join {offer.source!r}: {error}") from None
        validated, problems = validation.examine(
            dataset, recipe.validation, modality=recipe.modality, reject_at_most=recipe.data.reject_at_most, store=store
        )
        owners = _Owners(offer, recipe, data, view, store)
        rejected: dict[str, list[str]] = {}
        blocked = _excluded(data, recipe, view, store, old, dataset)
        before, after, failing = _counted(store.path(validated.facts) / "facts.parquet", old, recipe, dataset)
        for name, digest, reason in [*blocked, *failing]:
            for file in owners.of(name, digest):
                rejected.setdefault(file, []).append(f"{name} {reason}" if name != file else reason)
    size = sum((project / offer.source / name).stat().st_size for name in there)
    more = sum(path.stat().st_size for path in offer.files.values())
    left_out = sum(dataset.excluded.values())
    of_files = {"files": len(there), "bytes": size, "excluded": left_out - len(blocked)}
    with_files = {"files": len(there) + len(offer.files), "bytes": size + more, "excluded": left_out}
    return Looked(
        rejected=dict(sorted(rejected.items())),
        problems=problems if not there else _fresh(problems, data, recipe, project, store),
        before=before.model_copy(update=of_files),
        after=after.model_copy(update=with_files),
        docs=store.path(validated.docs) / "index.html",
    )


def _there(project: Path, source: str) -> list[str]:
    folder = versioning.locate(project, source)
    return [entry.name for entry in walk(folder) if entry.what != "folder"] if folder.is_dir() else []


@contextmanager
def _view(offer: Offer, project: Path, aside: Path) -> Iterator[Path]:
    """A project that holds the source with the offered files in it, and the exclusions; its files are shared."""
    with tempfile.TemporaryDirectory(dir=aside, prefix="view-") as folder:
        view = Path(folder).resolve()
        for source in (offer.source, exclusions.FOLDER):
            for name in _there(project, source):
                _share(project / source / name, view / source / name)
        for name, path in offer.files.items():
            _share(path, view / offer.source / name)
        yield view


def _share(path: Path, to: Path) -> None:
    """The same file under another name, or a copy where file systems differ."""
    to.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(path.resolve(), to)
    except OSError:
        shutil.copyfile(path, to)


def _keys(batches: Iterable[pa.RecordBatch]) -> NDArray[np.uint64]:
    """What tells rows apart, sorted: 8 bytes of each id and payload."""
    parts = [
        _key(name, hashlib.sha256(payload).hexdigest())
        for batch in batches
        for name, payload in zip(batch["id"].to_pylist(), batch["payload"].to_pylist(), strict=True)
    ]
    return np.sort(np.array(parts, np.uint64))


def _key(name: str, digest: str) -> int:
    return int.from_bytes(hashlib.blake2b(f"{digest} {name}".encode(), digest_size=8).digest())


def _among(key: int, known: NDArray[np.uint64]) -> bool:
    place = int(np.searchsorted(known, np.uint64(key)))
    return place < len(known) and int(known[place]) == key


def _excluded(
    data: Data, recipe: Recipe, view: Path, store: Store, old: NDArray[np.uint64], dataset: Dataset
) -> list[Rejected]:
    """The new rows that are excluded."""
    if not dataset.excluded:
        return []
    asked = exclusions.options(exclusions.holding(view, data.source), recipe.modality)
    found = []
    batches = ingestion.stream(data, modality=recipe.modality, project=view, store=store)
    for batch in workers.mapped(exclusions.judge, batches, options=asked):
        left_out = batch.filter(batch[exclusions.WHY.name].is_valid())
        for row in left_out.select(["id", "payload", exclusions.WHY.name]).to_pylist():
            digest = hashlib.sha256(row["payload"]).hexdigest()
            if not _among(_key(row["id"], digest), old):
                found.append((row["id"], digest, f"is excluded: {row[exclusions.WHY.name]}"))
    return found


def _counted(
    facts: Path, old: NDArray[np.uint64], recipe: Recipe, dataset: Dataset
) -> tuple[Card, Card, list[Rejected]]:
    """The rows without the new ones and with them, and those of the new that fail.

    Of two that are the same the new one fails, whichever comes first in the order of names.
    """
    fresh = [row for row in _told(facts) if not _among(_key(row["id"], row["digest"]), old)]
    contents = {row["content_digest"] for row in fresh} - {None}
    before, twins = _Count(), {}
    for row in _told(facts):
        if not _among(_key(row["id"], row["digest"]), old):
            continue
        place = (row["content_digest"], row["split"])
        if place[0] in contents and place not in twins and (row["rejected"] is None or row["duplicate"]):
            twins[place] = row["id"]
            row = row | {"duplicate": False, "rejected": None}  # but for the new one it would be the first
        before.add(row)
    after, failing = before.copy(), []
    asked = suite.asked(recipe.validation, modality=recipe.modality, classes=len(dataset.classes))
    for row in fresh:
        by_itself = row["rejected"] is not None and not row["duplicate"]
        reason = row["rejected"] if by_itself else _repeated(row, twins, asked) or row["rejected"]
        after.add(row | {"rejected": reason, "duplicate": row["duplicate"] or bool(reason and not row["rejected"])})
        if reason:
            failing.append((row["id"], row["digest"], reason))
    return before.card(dataset.classes), after.card(dataset.classes), failing


def _repeated(row: Mapping[str, Any], twins: Mapping[tuple[str, str], str], asked: Collection[str]) -> str | None:
    """Why a new row that is there already fails, where the suite asks for that."""
    same = {side: name for (content, side), name in twins.items() if content == row["content_digest"]}
    if "duplicate" in asked and row["split"] in same:
        return f"is the same as {same[row['split']]}, which is there already"
    others = {side: name for side, name in same.items() if side != row["split"]}
    if "leaks" in asked and others:
        side, name = next(iter(others.items()))
        return f"is the same as {name}, which is there on the side {side}"
    return None


def _told(facts: Path) -> Iterator[dict[str, Any]]:
    with pq.ParquetFile(facts) as file:
        for batch in file.iter_batches(columns=list(FACTS)):
            yield from batch.to_pylist()


@dataclass
class _Count:
    """Rows, as they are counted."""

    sides: Counter[str] = field(default_factory=Counter)
    labels: Counter[int] = field(default_factory=Counter)
    duplicates: int = 0
    quarantine: int = 0

    def add(self, row: Mapping[str, Any]) -> None:
        self.duplicates += bool(row["duplicate"])
        if row["rejected"] is not None:
            self.quarantine += 1
            return
        self.sides[str(row["split"])] += 1
        if row["label"] is not None:
            self.labels[row["label"]] += 1

    def copy(self) -> "_Count":
        return _Count(self.sides.copy(), self.labels.copy(), self.duplicates, self.quarantine)

    def card(self, classes: Sequence[str]) -> Card:
        return Card(
            rows=self.sides.total(),
            sides=dict(sorted(self.sides.items())),
            classes={name: self.labels[index] for index, name in enumerate(classes)},
            duplicates=self.duplicates,
            quarantine=self.quarantine,
        )


class _Owners:
    """Which of the offered files hold a row."""

    def __init__(self, offer: Offer, recipe: Recipe, data: Data, view: Path, store: Store) -> None:
        self._offer, self._recipe, self._data, self._view, self._store = offer, recipe, data, view, store
        self._by_bytes: dict[str, list[str]] = {}
        for name, path in offer.files.items():
            self._by_bytes.setdefault(file_sha256(path), []).append(name)

    def of(self, row: str, digest: str) -> Sequence[str]:
        """The file that is the row, or holds it; all of them where that cannot be told."""
        if files := self._by_bytes.get(digest):
            return [row] if row in files else files
        if cut := [name for name in self._offer.files if row.startswith(f"{name}:")]:
            return [max(cut, key=len)]
        return [name for name, keys in self._held.items() if _among(_key(row, digest), keys)] or list(self._offer.files)

    @cached_property
    def _held(self) -> dict[str, NDArray[np.uint64]]:
        """The rows of each file that holds several."""
        held = {}
        for name in self._offer.files:
            batches = ingestion.stream(
                self._data, modality=self._recipe.modality, project=self._view, store=self._store, files=[name]
            )
            with suppress(AtelierError):  # no data by itself, such as a card
                held[name] = _keys(batches)
        return held


def _fresh(problems: Sequence[str], data: Data, recipe: Recipe, project: Path, store: Store) -> list[str]:
    """Those of the problems that the source has not had without the files."""
    if not problems:
        return []
    try:
        dataset = ingestion.ingest(data, modality=recipe.modality, project=project, store=store)
    except AtelierError:  # it is none without them
        return list(problems)
    _, before = validation.examine(
        dataset, recipe.validation, modality=recipe.modality, reject_at_most=recipe.data.reject_at_most, store=store
    )
    known = {_kind(problem) for problem in before}
    return [problem for problem in problems if _kind(problem) not in known]


def _kind(problem: str) -> str:
    """A problem without what it counts."""
    return re.sub(r"[\d.,%]+", "", problem.partition(" (")[0])


def keep(rejected: Mapping[str, Sequence[str]], offer: Offer, folder: Path) -> None:
    """Put rejected files into quarantine, with `reasons.json` beside them."""
    for name in rejected:
        target = folder / "files" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(offer.files[name], target)
    told = {"source": offer.source, "rejected": {name: list(reasons) for name, reasons in rejected.items()}}
    write_atomically(folder / "reasons.json", json.dumps(told, indent=2).encode())
