"""The door to dvc: the raw data that `.dvc` pointers name, and an archive of artifacts with its own remote.

What is there and what it should be is read through `manifest.py`, so that a run with nothing to move never pays for
the import of dvc; moving bytes goes through dvc's own code.
"""

import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from components import commits, manifest, objects, process
from components.errors import AtelierError
from components.objects import WAIT_SECONDS, sentence, usual, with_dvc
from components.records import Artifact, Pointer
from components.sources.listing import unreadable
from components.sources.urls import is_url
from components.spelling import unknown
from components.store import Store, digest_of, file_sha256, write_atomically

if TYPE_CHECKING:
    from dvc.repo import Repo

LOOKED_AT = 100  # commits, from the newest on, that an earlier version is looked for in
ARCHIVE_CONFIG = """\
[core]
    no_scm = true
    analytics = false
    remote = archive
['remote "archive"']
    url = "{url}"
"""


@dataclass(frozen=True)
class Tracked:
    """A source that a `.dvc` pointer names: the pointer's own output, and the source's place below it."""

    pointer: Path
    output: Path
    md5: str
    below: str  # "" for the output itself


def locate(project: Path, source: str) -> Path:
    """The absolute path of a source named relative to the project; an `AtelierError` where it leaves the project."""
    name, root = PurePosixPath(source), project.resolve()
    path = root / name
    inside = path != root and path.resolve().is_relative_to(root)
    if "://" in source or name.is_absolute() or ".." in name.parts or not inside:
        raise AtelierError(
            f"the source {source!r} is not a path inside the project {project}. Name it relative to the project, "
            "without `..` and links that leave it. What lies elsewhere has a URL, as `file:///...`, or "
            "comes in with `dvc import-url URL data/NAME`."
        )
    return path


def version_of(project: Path, source: str) -> str:
    """DVC's digest of a source alone, `md5:<hash>.dir` (a file: `md5:<hash>`); `sha256:` of what DVC does not track.

    It is what `dvc add` of the source by itself would write, so a change beside the source does not change it.
    """
    path = locate(project, source)
    if (entries := _wanted(project, path)) is not None:
        return f"md5:{manifest.name_of(entries)}"
    try:
        if path.is_dir():
            return digest_of(path)
        if path.is_file():
            return f"sha256:{file_sha256(path)}"
    except OSError as error:
        raise unreadable(source, error) from None
    raise AtelierError(f"the source {source!r} does not exist in {project}: {_nearest(project, path)}")


def is_tracked(project: Path, source: str) -> bool:
    """Whether a `.dvc` pointer names the source's files, so that `pull` compares each with a digest."""
    return _wanted(project, locate(project, source)) is not None


def is_known_here(project: Path, source: str) -> bool:
    """Whether the version of a source can be told without a DVC remote."""
    root = project.resolve()
    tracked = tracker(root, locate(project, source))
    return tracked is None or not tracked.md5.endswith(".dir") or usual(root, tracked.md5).is_file()


def is_here(project: Path, source: str) -> bool:
    """Whether the files of a source are here as its `.dvc` pointer names them, so that `pull` has nothing to do."""
    path = locate(project, source)
    wanted = _wanted(project, path)
    return wanted is None or manifest.entries_of(path) == wanted


def commit_of(project: Path, source: str = "data") -> str | None:
    """The git commit whose pointer names the source, `-dirty` where the pointer differs from it; else None."""
    tracked = tracker(project.resolve(), locate(project, source))
    commit = commits.git(project, "rev-parse", "--verify", "HEAD")
    if tracked is None or commit is None:
        return None
    changed = commits.git(project, "status", "--porcelain", "--", str(tracked.pointer))
    return f"{commit}-dirty" if changed else commit


def entries(project: Path, source: str) -> dict[str, str]:
    """The md5 of each file of a source as its `.dvc` pointer names it; empty where none names any."""
    return _wanted(project, locate(project, source)) or {}


def pull(project: Path, source: str, *, wait_seconds: float = WAIT_SECONDS) -> None:
    """Bring a source that DVC tracks to what its pointer names; nothing is fetched where it is so already.

    Work that is saved nowhere is never overwritten: an `AtelierError` names it. Untracked sources are left alone.
    DVC has one writer at a time; the wait for its lock is bounded.
    """
    path = locate(project, source)
    wanted = _wanted(project, path)
    if wanted is None or manifest.entries_of(path) == wanted:
        return
    with_dvc(project, lambda repo: _check_out(repo, source, path, wanted), wait_seconds)
    if manifest.entries_of(path) != wanted:
        raise AtelierError(
            f"after `dvc pull` {source!r} is still not what its .dvc pointer names: the remote or .dvc/cache holds "
            "damaged bytes. Remove .dvc/cache and the source, then try again; if it stays so, the remote is damaged."
        )


@dataclass(frozen=True)
class Archive:
    """A DVC repository without SCM that keeps artifacts in a remote of its own: any process may keep at any time.

    Bytes go from the store to the remote with no copy between; `<kind>/<digest>.dvc` under `root` are pointers for
    `dvc` itself. The remote is `root/remote` unless `url` (any URL of DVC) or `.dvc/config` says otherwise.
    """

    root: Path
    url: str | None = None
    wait_seconds: float = WAIT_SECONDS

    def keep(self, artifact: Artifact, path: Path) -> Pointer:
        """Put an artifact's folder into the remote; keeping it again changes nothing.

        An `AtelierError` says that the folder is not the artifact, or what refused it.
        """
        if not path.is_dir() or digest_of(path) != artifact.digest:
            raise AtelierError(f"{path} is not the {artifact.kind} {artifact.digest}: its bytes are gone or changed.")
        with self._one_writer(), self._repository() as repo:
            name, size, files = _upload(path, repo)
            bare = artifact.digest.removeprefix("sha256:")
            text = manifest.pointer_text(name, size=size, files=files, path=bare)
            write_atomically(self.root / artifact.kind / f"{bare}.dvc", text.encode())
        return Pointer(kind=artifact.kind, digest=artifact.digest, dvc=f"md5:{name}")

    def keep_source(
        self, project: Path, source: str, *, version: str, store: Store | None = None, kind: str = "data"
    ) -> Pointer:
        """Keep the raw files of a source as they were ingested; an `AtelierError` where they are no longer to be had.

        Those of a URL are taken from the store, where they were fetched to. Where the data went on meanwhile, those of
        an earlier commit are taken from DVC's cache.
        """
        if is_url(source):
            assert store is not None, "what was fetched lies in a store"
            fetched = Artifact(kind="source", digest=version)
            return self.keep(Artifact(kind=kind, digest=version), store.path(fetched))
        if (found := version_of(project, source)) != version:
            earlier = _earlier(project, source, version)
            if earlier is not None and not objects.fetch(project, set(earlier.values())):
                return self._keep_earlier(project, earlier, kind)
            raise AtelierError(
                f"the source {source!r} changed while the run was on it: it is {found} now, but {version} was read. "
                "Run the recipe again."
            )
        with tempfile.TemporaryDirectory() as aside:
            path = locate(project, source)
            if path.is_file():  # DVC keeps folders here, so a single file goes in one of its own
                path = Path(shutil.copy(path, aside)).parent
            kept = self.keep(Artifact(kind=kind, digest=digest_of(path)), path)
        if version.endswith(".dir") and kept.dvc != version:
            raise AtelierError(
                f"the files of {source!r} are no longer what its .dvc pointer names ({kept.dvc} instead of {version}). "
                "Bring them back with `dvc checkout`, or `dvc add` the change, and run the recipe again."
            )
        return kept

    def _keep_earlier(self, project: Path, earlier: Mapping[str, str], kind: str) -> Pointer:
        """Keep files that DVC's cache holds."""
        self.root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self.root) as aside:
            objects.place(project, earlier, Path(aside))
            return self.keep(Artifact(kind=kind, digest=digest_of(Path(aside))), Path(aside))

    def manifest(self, pointer: Pointer) -> dict[str, str]:
        """The md5 of each file of a kept folder, without bringing any."""
        name = pointer.dvc.removeprefix("md5:")
        with self._repository() as repo:
            remote = repo.cloud.get_remote_odb()
            return manifest.parse(remote.fs.cat_file(remote.oid_to_path(name)), name)

    def drop(self, pointers: Sequence[Path]) -> None:
        """Remove what those pointer files name from the remote, but for what any other pointer names too.

        The objects go first, a folder's manifest after them and its pointer last: one that was cut off is done again.
        An `AtelierError` where a pointer that stays cannot be read: nothing is removed then.
        """
        going = set(pointers)
        with self._one_writer(), self._repository() as repo:
            remote = repo.cloud.get_remote_odb()
            needed = set[str]()
            for pointer in sorted(self.root.glob("*/*.dvc")):
                if pointer not in going:
                    name = manifest.pointer_md5(pointer)
                    needed |= {name, *_named(remote, name, lost=False)}
            for pointer in sorted(going):
                if not pointer.is_file():
                    continue
                name = manifest.pointer_md5(pointer)
                for md5 in sorted({*_named(remote, name, lost=True)} - needed):
                    _remove(remote, md5)
                if name not in needed:
                    _remove(remote, name)
                pointer.unlink()

    def bring(self, pointer: Pointer, to: Path) -> None:
        """The folder back from the remote, whole and verified or not at all; `to` must be absent, empty or equal."""
        if to.is_dir() and digest_of(to) == pointer.digest:
            return
        if to.exists() and (not to.is_dir() or any(to.iterdir())):
            raise AtelierError(f"{to} holds something other than the {pointer.kind} to restore; move it away first.")
        to.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{to.name}-", dir=to.parent))
        try:
            with self._repository() as repo:
                _download(repo, pointer, aside)
            if digest_of(aside) != pointer.digest:
                raise AtelierError(
                    f"the {pointer.kind} {pointer.digest} in the archive {self._where()} is damaged: its bytes no "
                    "longer match its digest. Nothing was restored; bring the remote back from its own backup."
                )
            aside.chmod(0o755)
            aside.replace(to)
        finally:
            shutil.rmtree(aside, ignore_errors=True)

    @contextmanager
    def _repository(self) -> "Iterator[Repo]":
        """DVC's view of the archive, which is made where it is not there yet."""
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        config = self.root / ".dvc" / "config"
        if not config.is_file():
            write_atomically(config, ARCHIVE_CONFIG.format(url=self.url or "../remote").encode())
        settings = {"remote": {"archive": {"url": self.url}}} if self.url else {}
        try:
            with Repo(str(self.root), config=settings) as repo:
                yield repo
        except (DvcException, OSError) as error:
            raise AtelierError(f"the archive {self._where()} does not answer: {sentence(error)}") from None

    @contextmanager
    def _one_writer(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / "lock").open("w") as handle:
            deadline = time.monotonic() + self.wait_seconds
            while not process.locked(handle.fileno()):
                if time.monotonic() > deadline:
                    raise AtelierError(
                        f"another process has been writing to the archive {self.root} for {self.wait_seconds:g} s. "
                        "Try again when it has ended."
                    )
                time.sleep(0.05)
            yield

    def _where(self) -> str:
        return self.url or str(self.root)


def _upload(path: Path, repo: "Repo") -> tuple[str, int, int]:
    """DVC's name of the folder, its bytes and its number of files, once all of it is in the remote."""
    from dvc_data.hashfile.build import build
    from dvc_data.hashfile.transfer import transfer

    remote = repo.cloud.get_remote_odb()
    staging, meta, tree = build(remote, str(path), repo.fs, "md5")
    failed = transfer(staging, remote, {tree.hash_info}, shallow=False).failed
    if failed:
        raise OSError(f"{len(failed)} objects could not be written")
    return str(tree.oid), meta.size or 0, meta.nfiles or 0


def _download(repo: "Repo", pointer: Pointer, to: Path) -> None:
    remote = repo.cloud.get_remote_odb()
    name = pointer.dvc.removeprefix("md5:")
    try:
        content = remote.fs.cat_file(remote.oid_to_path(name))
        for relative, md5 in manifest.parse(content, name).items():
            target = to / relative
            if not target.resolve().is_relative_to(to.resolve()):
                raise AtelierError(f"the archive's manifest {name} names a path outside its folder: {relative!r}")
            target.parent.mkdir(parents=True, exist_ok=True)
            remote.fs.get_file(remote.oid_to_path(md5), str(target))
    except FileNotFoundError as error:
        raise AtelierError(
            f"the archive does not hold the {pointer.kind} {pointer.digest} whole ({sentence(error)}). Nothing was "
            "restored; bring the remote back from its own backup, or run the recipe again at the version's commit."
        ) from None


def _named(remote: Any, name: str, *, lost: bool) -> list[str]:
    """The objects that a manifest in the remote names; none where it is gone and may be `lost`."""
    if not name.endswith(".dir"):
        return []
    try:
        return list(manifest.parse(remote.fs.cat_file(remote.oid_to_path(name)), name).values())
    except FileNotFoundError:
        if lost:
            return []
        raise AtelierError(
            f"the archive lost the manifest {name} of something that is kept, so that nothing can be removed safely. "
            "Bring the remote back from its own backup."
        ) from None


def _remove(remote: Any, name: str) -> None:
    with suppress(FileNotFoundError):
        remote.fs.rm_file(remote.oid_to_path(name))


def unused_cache(project: Path, *, remove: bool, wait_seconds: float = WAIT_SECONDS) -> dict[str, int]:
    """Objects of DVC's cache of the project, with their bytes, that no pointer names now and the remote holds.

    With `remove` they go. What no remote holds stays, whoever names it: it may be the only copy.
    """

    def look(repo: "Repo") -> dict[str, int]:
        cache, remote = repo.cache.local, repo.cloud.get_remote_odb()
        used = set[str]()
        for pointer in sorted(project.resolve().rglob("*.dvc")):
            if pointer.is_file() and ".atelier" not in pointer.parts:
                name = manifest.pointer_md5(pointer)
                held = cache if cache.exists(name) else remote
                used |= {name, *_named(held, name, lost=False)}
        spare = {name for name in cache.all() if name not in used}
        found = {name: cache.fs.size(cache.oid_to_path(name)) for name in remote.list_oids_exists(spare)}
        if remove:
            for name in found:
                cache.delete(name)
        return found

    return with_dvc(project, look, wait_seconds)


def _check_out(repo: "Repo", source: str, path: Path, wanted: Mapping[str, str]) -> None:
    """Let DVC fetch and place the source, once it is certain that this overwrites no work saved nowhere."""
    cache = repo.cache.local
    unsaved = [n for n, md5 in manifest.entries_of(path).items() if wanted.get(n) != md5 and not cache.exists(md5)]
    if unsaved:
        shown = ", ".join(sorted(unsaved)[:3]) + (" ..." if len(unsaved) > 3 else "")
        raise AtelierError(
            f"{source!r} differs from what its .dvc pointer names, and DVC has no copy of {shown or source}. "
            f"Run `dvc commit` to make the change a new version, or move it away to get the pointer's version back."
        )
    if len(repo.config["remote"]) > 1:  # DVC itself asks the default one alone
        objects.gather(repo, {md5 for md5 in wanted.values() if not cache.exists(md5)})
    repo.pull(targets=[str(path)])


def _wanted(project: Path, path: Path) -> dict[str, str] | None:
    """The md5 of each file of a source by its name below it ("" for a source that is one file); None if untracked."""
    root = project.resolve()
    tracked = tracker(root, path)
    if tracked is None:
        return None
    if not tracked.md5.endswith(".dir"):
        return {"": tracked.md5} if not tracked.below else None
    entries = objects.entries(root, tracked.md5)
    if tracked.below in entries:
        return {"": entries[tracked.below]}
    return _below(entries, tracked.below) or None


def _below(entries: Mapping[str, str], folder: str) -> dict[str, str]:
    """The entries below a folder, by their names there."""
    prefix = f"{folder}/" if folder else ""
    return {name.removeprefix(prefix): md5 for name, md5 in entries.items() if name.startswith(prefix)}


def tracker(root: Path, path: Path) -> Tracked | None:
    """The pointer that names a path: `PATH.dvc` beside it, or beside the nearest folder above it."""
    for output in (path, *path.parents):
        if output == root:
            return None
        pointer = output.with_name(f"{output.name}.dvc")
        if pointer.is_file():
            below = path.relative_to(output).as_posix()
            return Tracked(pointer, output, manifest.pointer_md5(pointer), "" if below == "." else below)
    return None


def _earlier(project: Path, source: str, version: str) -> dict[str, str] | None:
    """The files of an earlier version of a source, by the commits of its pointer; None where none of them had it."""
    root = project.resolve()
    tracked = tracker(root, locate(project, source))
    if tracked is None or not version.endswith(".dir"):
        return None
    for commit in commits.log(root, tracked.pointer, limit=LOOKED_AT):
        text = commits.text_at(root, commit.sha, tracked.pointer)
        if text is None or not (name := manifest.pointer_md5(tracked.pointer, text)).endswith(".dir"):
            continue
        found = _below(objects.entries(root, name), tracked.below)
        if f"md5:{manifest.name_of(found)}" == version:
            return found
    return None


def _nearest(project: Path, path: Path) -> str:
    """What lies beside a path that is not there, in the workspace or in a manifest."""
    root, beside = project.resolve(), path.parent
    names = {entry.name for entry in beside.iterdir()} if beside.is_dir() else set()
    names |= {name.split("/")[0] for name in (_wanted(root, beside) or {}) if name} if beside != root else set()
    if not names:
        return f"nothing lies in {beside.relative_to(root).as_posix()!r}"
    return unknown("name", path.name, (name for name in names if not name.startswith(".")))
