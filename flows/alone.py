"""What one process of a workspace does at a time: the operating system gives its lock back however the holder ends."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from components.errors import AtelierError
from components.process import locked
from flows.workspace import Workspace


@contextmanager
def alone(place: Workspace, what: str) -> Iterator[bool]:
    """Whether no other process does what is named, for as long as the block runs."""
    with _lock(place, what) as lock:
        yield locked(lock.fileno())


@contextmanager
def only(place: Workspace, part: str) -> Iterator[None]:
    """Be the one process that is a part of the platform; an `AtelierError` where the workspace has it already."""
    with _lock(place, part) as lock:
        if not locked(lock.fileno()):
            lock.seek(0)
            raise AtelierError(
                f"the workspace {place.root} has a {part} already, process {lock.read().strip()}. One is enough; stop "
                "that one first, or leave it to `atelier up`."
            )
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _lock(place: Workspace, what: str) -> TextIO:
    place.locks.mkdir(parents=True, exist_ok=True)
    return (place.locks / f"@{what}.lock").open("a+")  # no model has an @ in its name
