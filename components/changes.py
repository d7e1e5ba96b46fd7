"""A change of the data: files join what a `.dvc` pointer names, in one step, and in one commit of the pointer alone.

First the bytes go into DVC's cache, then the pointer is replaced, then it is committed, then the files are placed.
A change that is cut off before the pointer is replaced has not been; after it, the pointer names whole data that the
next run checks out by itself, and a note beside it lets the next change finish the commit.
"""

import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from components import commits, manifest, objects, versioning
from components.errors import AtelierError
from components.process import locked
from components.store import write_atomically


@dataclass(frozen=True)
class Change:
    """Files that join a source, or replace its own, by their names relative to the project; and how git is told."""

    source: str
    files: Mapping[str, Path]  # each with the file that holds its bytes
    message: str | None  # of the commit; None leaves it to the person
    note: Mapping[str, JsonValue]  # what is to follow, for whoever finishes it


@contextmanager
def turn(project: Path, *, say: Callable[[str], None], look_every: float = 0.2) -> Iterator[None]:
    """Hold the right to change a project's data while the block runs; another one says whom it waits for, and waits."""
    place = _folder(project) / "lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("a+") as lock:
        if not locked(lock.fileno()):
            lock.seek(0)
            say(f"another change of the data is on (process {lock.read() or 'unknown'}): waiting, until Ctrl-C")
            while not locked(lock.fileno()):
                time.sleep(look_every)
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def pointer_of(project: Path, source: str) -> versioning.Tracked:
    """The pointer that names a source, or would; an `AtelierError` where none does, or it names a single file."""
    tracked = versioning.tracker(project.resolve(), versioning.locate(project, source))
    if tracked is None:
        raise AtelierError(
            f"no .dvc pointer names {source!r} or a folder above it. Let DVC track it first: `dvc add {source}`, and "
            "commit the pointer."
        )
    if not tracked.md5.endswith(".dir"):
        raise AtelierError(f"{source!r} is a single file to DVC, and nothing can join it. Put it into a folder.")
    return tracked


def apply(project: Path, change: Change) -> str | None:
    """Make the change; the commit, None where it is left to the person. Call `settle` once what follows is done.

    Where git refuses the commit everything is as it was, and an `AtelierError` has its words.
    """
    root = project.resolve()
    names = {name: manifest.md5_of(path) for name, path in change.files.items()}
    objects.add(root, {names[file]: path for file, path in change.files.items()}, {})
    pointer, before = objects.alone(root, lambda: _point(root, change, names))
    made = None
    if change.message is not None:
        try:
            made = commits.commit(root, pointer, change.message)
        except AtelierError as error:
            write_atomically(pointer, before.encode())
            settle(root)
            raise AtelierError(f"{error}. Nothing was changed.") from None
    _place(root, change.files)
    return made


def put(project: Path, source: str, folder: Path, *, say: Callable[[str], None]) -> str:
    """Make the files of a folder those of a source, new or older ones of the same names; its new version.

    The commit is left to the person. The version that was there stays in DVC's cache and in git's history; an
    `AtelierError` where there is work in it that is saved nowhere.
    """
    path = versioning.locate(project, source)
    with turn(project, say=say):
        if cut_off(project) is not None:
            raise AtelierError("an earlier change of the data was cut off. Finish it with `atelier data add` first.")
        if versioning.is_tracked(project, source):
            versioning.pull(project, source)
        elif path.exists():
            raise AtelierError(f"{source!r} is there, and no DVC pointer names it. Move it away, or take another name.")
        files = {f"{source}/{name}": folder / name for name in manifest.entries_of(folder)}
        apply(project, Change(source=source, files=files, message=None, note={}))
        settle(project)
    return versioning.version_of(project, source)


def _point(root: Path, change: Change, names: Mapping[str, str]) -> tuple[Path, str]:
    """Replace the pointer by one that names the files too, with a note of it; the pointer, and what it said before."""
    tracked = pointer_of(root, change.source)
    before = tracked.pointer.read_text(encoding="utf-8")
    below = {(root / name).relative_to(tracked.output).as_posix(): md5 for name, md5 in names.items()}
    entries = {**objects.entries(root, tracked.md5), **below}
    name = manifest.name_of(entries)
    objects.add(root, {}, {name: manifest.content_of(entries)})
    after = objects.pointer_with(before, name=name, size=_size(root, tracked, change.files), files=len(entries))
    told: dict[str, JsonValue] = {
        "pointer": tracked.pointer.relative_to(root).as_posix(), "old": before, "new": after,
        "message": change.message, "head": commits.head(root), "note": dict(change.note),
    }  # fmt: skip
    write_atomically(_note(root), json.dumps(told).encode())
    write_atomically(tracked.pointer, after.encode())
    return tracked.pointer, before


def _size(root: Path, tracked: versioning.Tracked, files: Mapping[str, Path]) -> int | None:
    """The bytes of what the pointer names once the files have joined; None where it did not say them before."""
    before = manifest.pointer_size(tracked.pointer)
    if before is None:
        return None
    replaced = sum((root / name).stat().st_size for name in files if (root / name).is_file())
    return before - replaced + sum(path.stat().st_size for path in files.values())


def _place(root: Path, files: Mapping[str, Path]) -> None:
    """Put the files where they belong; each is there whole or not at all, on the file system of the project."""
    with tempfile.TemporaryDirectory(dir=_folder(root)) as aside:
        for name, path in files.items():
            target, whole = root / name, Path(aside) / "whole"
            shutil.copyfile(path, whole)
            target.parent.mkdir(parents=True, exist_ok=True)
            whole.replace(target)


def cut_off(project: Path) -> dict[str, Any] | None:
    """The note of a change whose pointer was replaced, and which was not settled; None where there is none."""
    try:
        told: dict[str, Any] = json.loads(_note(project.resolve()).read_bytes())
        there = (project.resolve() / told["pointer"]).read_text(encoding="utf-8") == told["new"]
    except (OSError, ValueError, KeyError):
        return None
    return told if there else None


def finish(project: Path) -> dict[str, Any] | None:
    """Commit what a change that was cut off had still to commit, where git stands as it did; its own note.

    None where nothing was cut off. Call while holding the turn, and `settle` once what follows is done.
    """
    root, told = project.resolve(), cut_off(project)
    if told is None:
        settle(root)
        return None
    pointer = root / told["pointer"]
    if told["message"] is not None and commits.head(root) == told["head"]:
        commits.commit(root, pointer, told["message"])
    return dict(told["note"])


def settle(project: Path) -> None:
    """Forget the note of the last change: all that follows from it is done."""
    with suppress(FileNotFoundError):
        _note(project.resolve()).unlink()


def _note(root: Path) -> Path:
    return _folder(root) / "change.json"


def _folder(project: Path) -> Path:
    """Where DVC keeps what is for the moment; git leaves it alone."""
    return project.resolve() / ".dvc" / "tmp" / "atelier"
