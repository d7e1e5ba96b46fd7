"""When a stage may be skipped: its key covers what it was asked, what it read, and the code that would answer.

key = stage name + its part of the recipe + digests of its inputs + source of the modules it reaches and the data files
beside them + versions of the libraries they use, and of Python.
"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from pydantic import BaseModel

from components.closure import closure
from components.records import Artifact, fingerprint
from components.store import Store


def key(stage: str, asked: Any, reaches: Sequence[str]) -> str:
    """The cache key of a stage: `asked` is any JSON value or record, `reaches` the modules that do its work."""
    parts = {"stage": stage, "asked": _plain(asked), **_code(tuple(reaches))}
    return f"{stage}-{fingerprint(parts).removeprefix('sha256:')}"


def whole(value: Any, store: Store) -> bool:
    """Whether every artifact that a record names is in the store, byte for byte."""
    return all(store.holds(artifact) for artifact in _artifacts(value))


@cache
def _code(reaches: tuple[str, ...]) -> dict[str, dict[str, str]]:
    reached = closure(reaches)
    libraries = {"python": f"{sys.version_info.major}.{sys.version_info.minor}", **reached.versions()}
    return {"source": {**reached.digests(), **reached.data()}, "libraries": libraries}


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {name: _plain(entry) for name, entry in value.items()}
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
