"""Sources that lie elsewhere: anything that fsspec reaches is brought into the store once, and read there.

`https://host/rows.parquet`, `s3://bucket/folder`, `zip://::file:///place/pictures.zip`: a URL is listed at each run
(names, sizes, and what the server says to tell versions apart), and fetched again only when the listing has changed.
A listing that tells no versions apart, as of a server that sends neither ETag nor Last-Modified, is worth nothing: such
a URL is fetched at each run. Its version is the digest of the bytes. Passwords, keys and queries in a URL are used and
never written down.
"""

import errno
import hashlib
import json
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from components.errors import AtelierError
from components.records import Artifact
from components.sources.urls import scrubbed, shown
from components.spelling import unknown
from components.store import Store, write_atomically

# What file systems call that which changes with the bytes.
VALIDATORS = ("ETag", "etag", "e_tag", "md5", "md5Hash", "Content-MD5", "CRC", "checksum", "content_hash", "mtime",
              "LastModified", "last_modified", "Last-Modified", "updated", "modified", "created")  # fmt: skip
TRIES, PAUSE = 3, 1.0  # of a connection that breaks, and seconds before the second
OURS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG}  # what is wrong on this side


T = TypeVar("T")


@dataclass(frozen=True)
class _File:
    name: str  # relative to the source
    path: str  # as the file system names it
    size: int | None
    said: tuple[str, ...]  # its validators


def fetch(url: str, store: Store) -> Artifact:
    """The files of a URL as an artifact of kind "source"; nothing is moved where its listing is that of the last time.

    Without validators in its listing it is fetched at every call. Files are copied as streams, and each must have the
    size of the listing. An `AtelierError` says what is wrong.
    """
    return _patiently(url, lambda: _fetched(url, store))


def moved_on(url: str, fetched: Artifact, store: Store) -> bool:
    """Whether the listing of a URL is no longer the one with which an artifact was fetched; no file is moved.

    False where the listing has nothing that tells versions apart. An `AtelierError` where it cannot be had.
    """
    listing = _patiently(url, lambda: _fingerprint(_files(*_open(url), url)))
    return listing is not None and _remembered(_memo(url, store), listing) != fetched


def _memo(url: str, store: Store) -> Path:
    """Where the last listing of a URL is kept: of the whole URL, whose query may choose the bytes."""
    return store.root / "listings" / f"{hashlib.sha256(url.encode()).hexdigest()}.json"


def _patiently(url: str, ask: Callable[[], T]) -> T:
    """The answer of a file system, asked again where a connection breaks."""
    for attempt in range(1, TRIES + 1):
        try:
            return ask()
        except AtelierError:
            raise
        except OSError as error:
            if error.errno in OURS:
                raise
            if attempt == TRIES or isinstance(error, FileNotFoundError | PermissionError):
                raise _refused(url, error) from None
            time.sleep(PAUSE * attempt)
        except Exception as error:  # noqa: BLE001 - each file system has errors of its own
            raise _refused(url, error) from None
    raise AssertionError("the last try returns or raises")


def _fetched(url: str, store: Store) -> Artifact:
    memo = _memo(url, store)
    system, root = _open(url)
    listing = _fingerprint(_files(system, root, url))
    if listing is not None and (known := _remembered(memo, listing)) is not None and store.holds(known):
        return known
    with store.writing("source") as draft:
        for file in _files(system, root, url):
            _copy(system, file, draft.directory / file.name, url)
    if listing is not None:
        told = {"source": shown(url), "listing": listing, "digest": draft.artifact.digest}
        write_atomically(memo, json.dumps(told).encode())
    return draft.artifact


def _open(url: str) -> tuple[Any, str]:
    """The file system of a URL, listing afresh, and the path in it."""
    import fsspec
    from fsspec.core import url_to_fs
    from fsspec.registry import known_implementations

    for protocol in (part.partition("://")[0] for part in url.split("::") if "://" in part):
        if protocol not in fsspec.available_protocols():
            raise AtelierError(
                f"the source {shown(url)!r}: {unknown('protocol', protocol, fsspec.available_protocols())}"
            )
        try:
            fsspec.get_filesystem_class(protocol)
        except ImportError as error:
            package = known_implementations[protocol]["class"].split(".")[0]
            wanted = package if package != "fsspec" else _wanted(error)
            raise AtelierError(
                f"the source {shown(url)!r} needs the package {wanted!r} for {protocol}://, which is not installed: "
                f"`pip install {wanted}`, then try again."
            ) from None
    system, root = url_to_fs(url, use_listings_cache=False, skip_instance_cache=True)
    return system, root


def _wanted(error: ImportError) -> str:
    """The package that one of fsspec's own file systems lacks."""
    cause = error.__cause__ or error.__context__
    return (getattr(cause, "name", None) or getattr(error, "name", None) or "fsspec").split(".")[0]


def _files(system: Any, root: str, url: str) -> Iterator[_File]:
    """The files of a URL in order; a folder is listed at a time."""
    there = {"type": "directory"} if root.endswith("/") or not root else system.info(root)
    if there["type"] == "file":
        yield _described(system, _plain(root).rpartition("/")[2], root, there, url)
        return
    start = root.rstrip("/") or root
    for files in _walk(system, start):
        for path in sorted(files):
            yield _described(system, _within(path, start).lstrip("/"), path, files[path], url)


def _within(path: str, start: str) -> str:
    return _plain(path)[len(_plain(start)) :] if "://" in path else path.removeprefix(start)


def _plain(path: str) -> str:
    """A path, or the end of one, as the name of a file: servers of web pages quote it."""
    return unquote(urlsplit(path).path) if "://" in path else path


def _walk(system: Any, start: str) -> Iterator[dict[str, Any]]:
    """The files of one folder after the other, from the root on, by their whole path."""
    pending = [start]
    while pending:
        folder = pending.pop()
        within = f"{folder.rstrip('/')}/" if folder else ""
        # A page of links may also lead up, or to itself in another order.
        entries = {e["name"].rstrip("/"): e for e in system.ls(folder, detail=True)}
        inside = {name: e for name, e in entries.items() if name.startswith(within) and name != folder.rstrip("/")}
        inside = {name: e for name, e in inside.items() if "://" not in name or not re.search("[?#]", name)}
        pending += sorted((name for name, entry in inside.items() if entry["type"] == "directory"), reverse=True)
        yield {name: entry for name, entry in inside.items() if entry["type"] != "directory"}


def _described(system: Any, name: str, path: str, info: dict[str, Any], url: str) -> _File:
    if info.get("islink"):
        raise AtelierError(
            f"the source {shown(url)!r} holds the link {name!r}, so what it leads to may lie anywhere. Copy what it "
            "should be into the folder, or remove the link."
        )
    if not name or "\0" in name or ".." in PurePosixPath(name).parts or name[0] == "/" or info["type"] != "file":
        raise AtelierError(f"the source {shown(url)!r} holds {name!r}, which is no name of a file inside it.")
    if info.get("size") is None:
        info = {**info, **system.info(path)}
    said = tuple(f"{key}={info[key]}" for key in VALIDATORS if info.get(key) is not None)
    return _File(name, path, info.get("size"), said)


def _fingerprint(files: Iterator[_File]) -> str | None:
    """What a listing says, in short; None where nothing in it would tell one version of a file from another."""
    hashed, count, certain = hashlib.sha256(), 0, True
    for file in files:
        hashed.update(json.dumps([file.name, file.size, *file.said]).encode())
        count, certain = count + 1, certain and bool(file.said)
    return f"{count}:{hashed.hexdigest()}" if certain else None


def _remembered(memo: Path, listing: str) -> Artifact | None:
    try:
        known = json.loads(memo.read_bytes())
        return Artifact(kind="source", digest=known["digest"]) if known["listing"] == listing else None
    except (OSError, ValueError, KeyError, TypeError):  # not there, or from another time: fetch
        return None


def _copy(system: Any, file: _File, to: Path, url: str) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    system.get_file(file.path, str(to))
    size = to.stat().st_size
    if file.size is not None and size != file.size:
        raise OSError(f"{file.name!r} came with {size:,} of its {file.size:,} bytes")


def _refused(url: str, error: Exception) -> AtelierError:
    told = error.__cause__ or error
    reason = scrubbed(" ".join(str(told).split()) or "no reason given", url)
    return AtelierError(
        f"the source {shown(url)!r} cannot be fetched ({type(told).__name__}: {reason}). Check the URL, the network, "
        "and the credentials in the environment that its driver reads."
    )
