"""How DVC 3 names and lays out bytes: written and read here without dvc, whose import takes 0.5 to 1.3 s.

A file is named by its md5. A folder is named by the md5 of its manifest, which is JSON of the sorted
`{"md5", "relpath"}` of its files, with `.dir` at the end. Entries here are `{relative path: md5}`; those of a single
file are `{"": md5}`. Source: DVC's user guide, "Project structure: internal files".
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import yaml

from components.errors import AtelierError
from components.store import write_atomically

OBJECTS = Path("files/md5")  # where a cache or a remote keeps its objects


def place_of(name: str) -> Path:
    """Where an object lies in a cache or a remote."""
    return OBJECTS / name[:2] / name[2:]


def entries_of(path: Path) -> dict[str, str]:
    """The md5 of each file below a path; empty where nothing is there."""
    if path.is_file():
        return {"": md5_of(path)}
    return {f.relative_to(path).as_posix(): md5_of(f) for f in sorted(path.rglob("*")) if f.is_file()}


def md5_of(path: Path) -> str:
    """DVC's name of a file."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "md5").hexdigest()


def name_of(entries: Mapping[str, str]) -> str:
    """DVC's name of a file or of a folder with these entries."""
    return entries[""] if "" in entries else f"{hashlib.md5(content_of(entries)).hexdigest()}.dir"


def content_of(entries: Mapping[str, str]) -> bytes:
    """The manifest of a folder with these entries, byte for byte as DVC writes it."""
    listing = [{"md5": entries[name], "relpath": name} for name in sorted(entries)]
    return json.dumps(listing, sort_keys=True).encode()


def parse(content: bytes, name: str) -> dict[str, str]:
    """The entries of the manifest of that name; an `AtelierError` where its bytes are not the ones it was named by."""
    if f"{hashlib.md5(content).hexdigest()}.dir" != name:
        raise AtelierError(
            f"the manifest {name} is damaged: its bytes do not match its name. Remove {place_of(name)} from the "
            "cache or the remote that holds it, and bring it from another copy."
        )
    return {entry["relpath"]: entry["md5"] for entry in json.loads(content)}


def pointer_text(name: str, *, size: int, files: int, path: str) -> str:
    """What a `.dvc` file says of one folder beside it; `size` in bytes."""
    out = {"md5": name, "size": size, "nfiles": files, "hash": "md5", "path": path}
    return yaml.safe_dump({"outs": [out]}, sort_keys=False)


def pointer_md5(pointer: Path, text: str | None = None) -> str:
    """The name that a `.dvc` file gives its one output; an `AtelierError` where it gives none.

    `text` is what the file said elsewhere, as in another commit.
    """
    try:
        (out,) = yaml.safe_load(pointer.read_text(encoding="utf-8") if text is None else text)["outs"]
        if out["hash"] != "md5":
            raise ValueError(out["hash"])
        return str(out["md5"])
    except (yaml.YAMLError, KeyError, TypeError, ValueError):
        raise AtelierError(
            f"{pointer} does not name the md5 of one output as DVC 3 writes it. Write it again with "
            f"`dvc add {pointer.stem}`, or mend it with `dvc cache migrate --dvc-files` if DVC 2 wrote it."
        ) from None


def pointer_size(pointer: Path) -> int | None:
    """The bytes that a `.dvc` file says its output has; None where it does not say."""
    (out,) = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"]
    return int(out["size"]) if "size" in out else None


def pack(directory: Path, remote: Path) -> str:
    """Write a folder's files as the objects of a local DVC remote; the pointer file's text, byte for byte the same.

    Objects of the remote that the folder does not hold are removed.
    """
    entries = entries_of(directory)
    contents = {entries[name]: (directory / name).read_bytes() for name in entries}
    contents[name_of(entries)] = content_of(entries)
    shutil.rmtree(remote / OBJECTS, ignore_errors=True)
    for md5, content in contents.items():
        write_atomically(remote / place_of(md5), content)
    size = sum((directory / name).stat().st_size for name in entries)
    return pointer_text(name_of(entries), size=size, files=len(entries), path=directory.name)
