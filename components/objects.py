"""DVC's objects by their names: in its cache here, and in its remotes. Beside `versioning` the door to dvc."""

import os
import shutil
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from components import commits, manifest
from components.errors import AtelierError

if TYPE_CHECKING:
    from dvc.repo import Repo

WAIT_SECONDS = 300.0

T = TypeVar("T")


@dataclass(frozen=True)
class Remote:
    """A remote of a project; `inside` is one that lies among what git keeps, and is only read."""

    name: str
    url: str
    default: bool
    inside: bool


def with_dvc(project: Path, action: "Callable[[Repo], T]", wait_seconds: float = WAIT_SECONDS) -> T:
    """The answer of DVC's own code, with bounded waiting for its lock: it has one writer at a time."""
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo

    deadline = time.monotonic() + wait_seconds
    while True:
        try:
            # Without SCM: data must come to a copy that is not a git clone too, and .gitignore stays as it is.
            with Repo(str(project.resolve()), config={"core": {"no_scm": True}}) as repo:
                return action(repo)
        except LockError:
            if time.monotonic() > deadline:
                raise AtelierError(
                    f"another DVC process has held the lock of {project} for {wait_seconds:g} s. "
                    "Try again when it has ended."
                ) from None
        except DvcException as error:
            raise AtelierError(
                f"DVC cannot bring the data of {project}: {sentence(error)}. Check the remote with `dvc remote list`."
            ) from None


def usual(project: Path, name: str) -> Path:
    """Where DVC's cache keeps an object unless its configuration says otherwise."""
    return project / ".dvc" / "cache" / manifest.place_of(name)


def entries(project: Path, name: str) -> dict[str, str]:
    """The manifest of that name, from the cache or the first remote that has it, which the cache then keeps.

    An `AtelierError` where none has it.
    """
    root = project.resolve()
    if (place := usual(root, name)).is_file():
        return manifest.parse(place.read_bytes(), name)
    return manifest.parse(with_dvc(root, lambda repo: _content(repo, name)), name)


def _content(repo: "Repo", name: str) -> bytes:
    cache = repo.cache.local
    if not cache.exists(name):
        gather(repo, {name})
    try:
        with cache.fs.open(cache.oid_to_path(name), "rb") as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        raise AtelierError(
            f"no DVC remote holds the manifest {name} that a pointer names. Check `dvc remote list`, or `atelier data "
            "push` from where the data was added."
        ) from None


def absent(project: Path, names: Collection[str]) -> set[str]:
    """Which of these objects DVC's cache here does not hold."""
    root = project.resolve()
    gone = {name for name in names if not usual(root, name).is_file()}
    if not gone:
        return gone
    return with_dvc(root, lambda repo: {name for name in gone if not repo.cache.local.exists(name)})


def fetch(project: Path, names: Collection[str]) -> set[str]:
    """Bring objects into the cache from whichever remote has them, the default one first; those that none has."""
    gone = absent(project, names)
    return with_dvc(project, lambda repo: gather(repo, gone)) if gone else gone


def gather(repo: "Repo", names: Collection[str]) -> set[str]:
    """Bring objects into the cache; the names that no remote has, an `AtelierError` where one does not answer."""
    gone, silent = set(names), None
    for remote in _in_order(repo):
        if not gone:
            return gone
        try:
            with _remote(repo, remote) as store:
                gone -= _moved(store, repo.cache.local, gone, verify=True)
        except AtelierError as error:
            silent = error
    if gone and silent is not None:
        raise silent
    return gone


def _in_order(repo: "Repo") -> list[str]:
    """The names of the remotes, the default one first."""
    default = repo.config["core"].get("remote")
    return sorted(repo.config["remote"], key=lambda name: (name != default, name))


@contextmanager
def _remote(repo: "Repo", name: str | None) -> Iterator[Any]:
    """The objects of a remote; whatever its driver raises becomes an `AtelierError` that names it."""
    from dvc.exceptions import DvcException

    try:
        yield repo.cloud.get_remote_odb(name)
    except (DvcException, OSError) as error:
        raise AtelierError(f"the DVC remote {name!r} does not answer: {sentence(error)}") from None


def _moved(source: Any, target: Any, names: Collection[str], *, verify: bool = False) -> set[str]:
    """Copy those of the objects that the source has, and tell which the target holds then."""
    from dvc_data.hashfile.hash_info import HashInfo
    from dvc_data.hashfile.transfer import transfer

    there = set(source.oids_exist(list(names)))
    failed = transfer(source, target, {HashInfo("md5", name) for name in there}, verify=verify).failed
    return there - {info.value for info in failed}


def add(project: Path, files: Mapping[str, Path], more: Mapping[str, bytes]) -> None:
    """Keep files, and bytes, in the cache under their names; what is there already stays."""

    def keep(repo: "Repo") -> None:
        from dvc.fs import LocalFileSystem

        cache, local = repo.cache.local, LocalFileSystem()
        for name, path in files.items():
            cache.add(str(path), local, name)
            _sync(Path(cache.oid_to_path(name)))
        for name, content in more.items():
            if not cache.exists(name):
                cache.add_bytes(name, content)
                cache.protect(cache.oid_to_path(name))

    with_dvc(project, keep)


def alone(project: Path, action: Callable[[], T]) -> T:
    """The answer of an action while DVC's own lock is held, so that no other one writes a pointer meanwhile."""

    def act(repo: "Repo") -> T:
        with repo.lock:
            return action()

    return with_dvc(project, act)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def place(project: Path, entries: Mapping[str, str], folder: Path) -> None:
    """Put files that the cache holds into a folder, by their names; they are the cache's own where that can be."""

    def put(repo: "Repo") -> None:
        for name, md5 in entries.items():
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            kept = Path(repo.cache.local.oid_to_path(md5))
            try:
                os.link(kept, target)
            except OSError:
                shutil.copyfile(kept, target)

    with_dvc(project, put)


def remotes(project: Path) -> list[Remote]:
    """The remotes of a project, the default one first."""

    def ask(repo: "Repo") -> list[Remote]:
        default = repo.config["core"].get("remote")
        told = []
        for name in _in_order(repo):
            url = str(repo.config["remote"][name]["url"])
            told.append(Remote(name, url, name == default, _inside(project.resolve(), url)))
        return told

    return with_dvc(project, ask)


def _inside(root: Path, url: str) -> bool:
    if "://" in url:
        return False
    path = (root / ".dvc" / url).resolve()
    return path.is_relative_to(root) and not commits.ignored(root, path)


def unpushed(project: Path, names: Collection[str], remote: str) -> set[str]:
    """Which of these objects a remote lacks."""

    def ask(repo: "Repo") -> set[str]:
        with _remote(repo, remote) as store:
            return set(names) - set(store.oids_exist(list(names)))

    return with_dvc(project, ask)


def push(project: Path, names: Collection[str], remote: str) -> int:
    """Bring objects into a remote, manifests last; how many it lacked. An `AtelierError` where some did not come."""

    def bring(repo: "Repo") -> int:
        with _remote(repo, remote) as store:
            lacking = set(names) - set(store.oids_exist(list(names)))
            files = {name for name in lacking if not name.endswith(".dir")}
            came = _moved(repo.cache.local, store, files)
            if files - came:
                raise AtelierError(f"{len(files - came)} objects did not come into the DVC remote {remote!r}.")
            return len(_moved(repo.cache.local, store, lacking - files) | came)

    return with_dvc(project, bring)


def pointer_with(text: str, *, name: str, size: int | None, files: int) -> str:
    """The text of a `.dvc` file of one folder with another name for it; whatever else it says stays, comments too."""
    from dvc.utils.serialize import dumps_yaml, parse_yaml_for_update

    told = parse_yaml_for_update(text, "pointer")
    (out,) = told["outs"]
    out["md5"], out["nfiles"] = name, files
    if size is None:
        out.pop("size", None)
    else:
        out["size"] = size
    written: str = dumps_yaml(told)
    return written


def sentence(error: Exception) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split()) or type(error).__name__
