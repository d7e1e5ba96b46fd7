"""The one thread that runs the models: torch is never entered twice at once, and the event loop never waits for it."""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

PLACES = 32  # requests waiting or running: at some 10 ms each, a caller that gets in is answered within a second


class Busy(Exception):
    """Every place is taken; the caller may come again later."""


class Worker:
    """Runs one piece of work at a time, in the order of asking."""

    def __init__(self, *, places: int = PLACES) -> None:
        self._places = threading.BoundedSemaphore(places)
        self._thread = ThreadPoolExecutor(1, "model", initializer=_settle)

    def submit(self, work: Callable[[], T]) -> "Future[T]":
        """The outcome of `work`, later; `Busy` at once where every place is taken. Cancelled work never runs."""
        if not self._places.acquire(blocking=False):
            raise Busy
        future = self._thread.submit(work)
        future.add_done_callback(lambda _: self._places.release())
        return future

    def close(self) -> None:
        """Let the running work end, and drop what waits."""
        self._thread.shutdown(cancel_futures=True)


def _settle() -> None:
    """Give torch every core but one, which stays with the event loop."""
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - 1))
