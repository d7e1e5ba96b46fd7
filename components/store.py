"""Content-addressed outputs of the stages: written aside, synced, then renamed into place."""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from components.errors import AtelierError
from components.records import Artifact
from components.tree import walk

YOUNG_SECONDS = 60.0


@dataclass
class Draft:
    """A folder being filled; `artifact` is known once the `with` block has ended well."""

    directory: Path
    _artifact: Artifact | None = field(default=None, repr=False)

    @property
    def artifact(self) -> Artifact:
        assert self._artifact is not None, "the artifact is known only after the block that writes it"
        return self._artifact


@dataclass(frozen=True)
class Store:
    """Folders named by kind and digest under one root; a folder is there whole or not at all."""

    root: Path

    def path(self, artifact: Artifact) -> Path:
        """Where the bytes lie; an `AtelierError` where they do not."""
        path = self._place(artifact)
        if not path.is_dir():
            raise AtelierError(
                f"the {artifact.kind} {artifact.digest} is not in the store {self.root}: it was cleaned away. "
                "Run the recipe again to make it, or `atelier restore` to bring a registered version back."
            )
        return path

    def holds(self, artifact: Artifact) -> bool:
        """Whether the bytes are there and still match their digest."""
        path = self._place(artifact)
        return path.is_dir() and digest_of(path) == artifact.digest

    @contextmanager
    def writing(self, kind: str) -> Iterator[Draft]:
        """A fresh folder to fill. It enters the store, by its digest, when the block ends well."""
        with aside(self.root, prefix=f"{kind}-") as folder:
            draft = Draft(folder)
            yield draft
            draft._artifact = self._admit(kind, draft.directory)

    def _admit(self, kind: str, directory: Path) -> Artifact:
        artifact = Artifact(kind=kind, digest=digest_of(directory))
        place = self._place(artifact)
        if self.holds(artifact):
            return artifact
        for path in directory.rglob("*"):
            if path.is_file():
                _sync(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        directory.chmod(0o755)
        try:
            directory.rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if self.holds(artifact):  # another writer of the same bytes was first
                return artifact
            with aside(self.root) as folder:
                place.rename(folder / "changed")  # it was not what its name says
                directory.rename(place)
        _sync(place.parent)
        return artifact

    def _place(self, artifact: Artifact) -> Path:
        return self.root / artifact.kind / artifact.digest.removeprefix("sha256:")


@contextmanager
def aside(root: Path, *, prefix: str = "") -> Iterator[Path]:
    """A temporary folder `root/aside/...` on the same file system, locked while its writer lives."""
    (root / "aside").mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=root / "aside"))
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def sweep(root: Path) -> None:
    """Remove what writers that were killed have left in `root/aside`."""
    for folder in (root / "aside").glob("*"):
        with suppress(OSError):
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if time.time() - folder.stat().st_ctime > YOUNG_SECONDS:  # a fresh one may not be locked yet
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(handle)


def digest_of(directory: Path) -> str:
    """`sha256:` over the relative names of a folder's files and the sha256 of each, as a JSON list sorted by parts."""
    hashed, between = hashlib.sha256(b"["), ""
    for entry in walk(directory):
        if entry.what == "file" or entry.what == "link" and (directory / entry.name).is_file():
            hashed.update(f"{between}{json.dumps([entry.name, file_sha256(directory / entry.name)])}".encode())
            between = ", "
    hashed.update(b"]")
    return f"sha256:{hashed.hexdigest()}"


def file_sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes, *, mode: int = 0o666) -> None:
    """Replace a file whole or not at all, whatever happens in between and however many write it at once.

    `mode` is that of a new file before the umask: `0o600` for what only its owner may read, at any moment.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    aside.unlink(missing_ok=True)  # a killed process of the same number left it
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as stream:  # noqa: PTH123 - a mode
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
