"""One run at a time per model in a workspace: a second one says whom it waits for, and waits."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.process import locked

TIDY = "@tidy.lock"  # no model has an @ in its name


@contextmanager
def turn(locks: Path, model: str, *, say: Callable[[str], None], look_every: float = 0.5) -> Iterator[None]:
    """Hold the turn of a model while the block runs; the operating system gives it back however the holder ends."""
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / f"{model}.lock").open("a+") as lock:
        if not locked(lock.fileno()):
            say(f"another run of {model} is on ({_holder(lock)}): waiting for it to end, until Ctrl-C")
            while not locked(lock.fileno()):
                time.sleep(look_every)
        lock.seek(0)
        lock.truncate()
        json.dump({"pid": os.getpid(), "host": os.uname().nodename, "since": datetime.now(UTC).isoformat()}, lock)
        lock.flush()
        with using(locks):
            yield


@contextmanager
def using(locks: Path) -> Iterator[None]:
    """Have what the store, the Bento store and the archive hold stay there while the block works with it.

    Any number may at once; a tidying that has begun is waited for.
    """
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / TIDY).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_SH)
        yield


def taken(locks: Path, model: str) -> bool:
    """Whether a run of the model is on now."""
    locks.mkdir(parents=True, exist_ok=True)
    with (locks / f"{model}.lock").open("a") as lock:
        return not locked(lock.fileno())


@contextmanager
def tidying(locks: Path, *, wait_seconds: float, look_every: float = 0.2) -> Iterator[bool]:
    """Whether nobody uses any of that, for as long as the block runs: waited for within bounds."""
    locks.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + wait_seconds
    with (locks / TIDY).open("a") as lock:
        mine = locked(lock.fileno())
        while not mine and time.monotonic() < until:
            time.sleep(look_every)
            mine = locked(lock.fileno())
        yield mine


def _holder(lock: Any) -> str:
    lock.seek(0)
    try:
        held = json.load(lock)
        return f"process {held['pid']} on {held['host']}, since {held['since'][:19]} UTC"
    except (ValueError, KeyError):  # it is only just taking its turn
        return "it has only just begun"
