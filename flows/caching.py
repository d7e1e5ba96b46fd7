"""When a stage may be skipped: its key covers what it was asked, what it read, and the code that would answer.

key = stage name + its part of the recipe + digests of its inputs + source of the modules it reaches and the data files
beside them + versions of the libraries they use, and of Python.
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from components import closure as closures
from components.closure import closure
from components.errors import AtelierError
from components.records import Artifact, fingerprint
from components.store import Store, file_sha256, write_atomically


@dataclass(frozen=True)
class Key:
    """What a result hangs on: `asked` by name, `source` and `libraries` by what they are at this moment."""

    stage: str
    parts: dict[str, Any]

    @property
    def name(self) -> str:
        """The key as Prefect takes it, and the name of the result's file."""
        return f"{self.stage}-{fingerprint({'stage': self.stage, **self.parts}).removeprefix('sha256:')}"


def key(stage: str, asked: Mapping[str, Any], reaches: Sequence[str]) -> Key:
    """The key of a stage: `asked` holds JSON values and records by name, `reaches` the modules that do its work."""
    return Key(stage, {"asked": plain(asked), **_code(tuple(reaches))})


def whole(value: Any, store: Store) -> bool:
    """Whether every artifact that a record names is in the store, byte for byte."""
    return all(store.holds(artifact) for artifact in _artifacts(value))


_sources: dict[str, str] = {}


def freeze() -> None:
    """Take the code as it is now for the code of this run: call before the modules that do the work are imported."""
    _sources.clear()
    for path in closures.sources():
        with suppress(FileNotFoundError):  # an editor saves by replacing
            _sources[path.relative_to(closures.ROOT).as_posix()] = file_sha256(path)


def refuse_changed(reaches: Sequence[str]) -> None:
    """Raise an `AtelierError` where code that a result hangs on is no longer what the key says."""
    frozen = _code(tuple(reaches))["source"]
    if changed := sorted(name for name, digest in frozen.items() if _digest(name) != digest):
        raise AtelierError(
            f"{changed[0]} changed while the run was on, so that what was just made is neither of the old code nor of "
            "the new. It was not kept: run the same command again."
        )


def _digest(name: str) -> str:
    path = closures.ROOT / name
    return file_sha256(path) if path.is_file() else "gone"


@cache
def _code(reaches: tuple[str, ...]) -> dict[str, dict[str, str]]:
    reached = closure(reaches)
    source = {name: _sources.get(name, digest) for name, digest in {**reached.digests(), **reached.data()}.items()}
    libraries = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", **reached.versions()}
    return {"source": source, "libraries": libraries}


def remember(keys: Path, label: str, made: Key) -> None:
    """Note the key under which a stage was last done, for `atelier explain`."""
    note = {"name": made.name, **made.parts}
    if remembered(keys, label) != note:
        write_atomically(_note(keys, label), json.dumps(note).encode())


def remembered(keys: Path, label: str) -> dict[str, Any] | None:
    """The key under which a stage was last done; None where it never was."""
    try:
        note = json.loads(_note(keys, label).read_bytes())
    except (OSError, ValueError):
        return None
    return note if isinstance(note, dict) else None


def _note(keys: Path, label: str) -> Path:
    return keys / f"{label.replace(' ', '-')}.json"


def plain(value: Any) -> Any:
    """Any mix of records and collections as JSON values."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, Mapping):
        return {name: plain(entry) for name, entry in value.items()}
    return value


def _artifacts(value: Any) -> Iterator[Artifact]:
    if isinstance(value, Artifact):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _artifacts(getattr(value, name))
    elif isinstance(value, Mapping):
        yield from _artifacts(list(value.values()))
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from _artifacts(entry)
