"""Samples that are made piece by piece: each has a slot of its model, and all of a model share every step.

The thread that runs the models calls `advance` between two batches, so that pictures and texts take turns. A stream
whose caller hung up frees its slot before the next step.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch comes with it
    from components.moderation import Watch
    from components.sampling import Ending, Endpoint, Writing

LOG = logging.getLogger("atelier.serving")
SMOOTHING = 0.2  # weight of the newest sample in the expected seconds of the next

Name = tuple[str, str]  # a model and its version


class Ended(Exception):
    """A stream that was broken off: the server stops, or its model failed."""


@dataclass(slots=True, eq=False)
class Stream:
    """One sample in making. `tell` hears each piece as it comes, and at last how it ended, or an error."""

    name: Name
    endpoint: "Endpoint"
    seed: int
    controls: Mapping[str, Any]
    tell: "Callable[[str, Ending | Exception | None], None]"
    stops: Sequence[str] = ()  # strings before which it ends
    watch: "Watch | None" = None  # what it may not hold: it ends before that too
    asked: float = field(default_factory=time.monotonic)
    begun: float = 0.0  # when it got its slot
    cancelled: bool = False
    held: str = ""  # what may yet turn out to begin a stop string, or something that is blocked
    blocked: str = ""  # what kind of thing it ended before
    tokens: int = 0

    def take(self, piece: str, ending: "Ending | None") -> "Ending | None":
        """Tell what is sure of one more piece; how the sample ended, if it has."""
        self.tokens += 1
        text = self.held + piece
        found = min((at for stop in self.stops if (at := text.find(stop)) >= 0), default=-1)
        if found >= 0:
            text, ending = text[:found], "stop"
        keep = 0 if ending else self._open(text)
        sure = len(text) - keep
        unwanted = None if self.watch is None else self.watch.blocked(text)
        if unwanted is not None and unwanted.start < sure:
            self.blocked, ending = unwanted.kind, "content_filter"
            sure = unwanted.start
        self.held = text[sure:]
        self.tell(text[:sure], ending)
        return ending

    def _open(self, text: str) -> int:
        """How many characters at the end of a text may begin a stop string, or something that is blocked."""
        sizes = [
            n for stop in self.stops for n in range(min(len(stop) - 1, len(text)), 0, -1) if text.endswith(stop[:n])
        ]
        return max([*sizes, 0 if self.watch is None else len(text) - self.watch.still_open(text)])


@dataclass(slots=True)
class _Desk:
    """A model's slots, who has one, and who waits for one."""

    writing: "Writing"
    waiting: deque[Stream] = field(default_factory=deque)
    streams: dict[int, Stream] = field(default_factory=dict)


class Streams:
    """All streams of all models; every method but `advance` may be called from any thread that holds `lock`."""

    def __init__(self, lock: threading.Condition, observe: Callable[[Name, int, float], None]) -> None:
        self._lock, self._observe = lock, observe
        self._desks: dict[Name, _Desk] = {}
        self._seconds: dict[Name, float] = {}  # what a sample is expected to take

    @property
    def waiting(self) -> int:
        """Streams without a slot."""
        return sum(len(desk.waiting) for desk in self._desks.values())

    def __bool__(self) -> bool:
        return bool(self._desks)

    def expected_wait(self, name: Name) -> float:
        """Seconds until one more stream of that model would get a slot."""
        desk = self._desks.get(name)
        if desk is None or desk.writing.free > len(desk.waiting):
            return 0.0
        rounds = 1 + (len(desk.waiting) - desk.writing.free) // (desk.writing.free + desk.writing.taken)
        return rounds * self._seconds.get(name, 0.0)

    def add(self, stream: Stream) -> None:
        """Let a stream wait for its slot."""
        desk = self._desks.get(stream.name)
        if desk is None:
            writing = stream.endpoint.writing()
            assert writing is not None, "only what is made piece by piece is streamed"
            desk = self._desks[stream.name] = _Desk(writing)
        desk.waiting.append(stream)

    def close(self) -> None:
        """Break off all streams."""
        for desk in self._desks.values():
            for stream in [*desk.waiting, *desk.streams.values()]:
                stream.tell("", Ended("the server is stopping; ask again"))
        self._desks.clear()

    def advance(self) -> None:
        """One step of every model that has streams. A fault of a model ends its own streams alone."""
        for name, desk in list(self._desks.items()):
            started = time.monotonic()
            try:
                with self._lock:
                    self._seat(desk)
                rows = len(desk.streams)
                if rows:
                    self._step(name, desk)
                    self._observe(name, rows, time.monotonic() - started)
            except Exception as error:
                LOG.exception("the streams of %s end with a fault", "@".join(name))
                with self._lock:
                    self._desks.pop(name, None)
                for stream in [*desk.streams.values(), *desk.waiting]:
                    stream.tell("", error)
                continue
            with self._lock:
                if not desk.streams and not desk.waiting:
                    self._desks.pop(name, None)  # its memory goes with it

    def _seat(self, desk: _Desk) -> None:
        """Free the slots of who left, and give those that are free to who waits."""
        for slot in [slot for slot, stream in desk.streams.items() if stream.cancelled]:
            desk.writing.evict(slot)
            del desk.streams[slot]
        while desk.waiting and desk.writing.free:
            stream = desk.waiting.popleft()
            if not stream.cancelled:
                stream.begun = time.monotonic()
                desk.streams[desk.writing.admit(stream.seed, stream.controls)] = stream

    def _step(self, name: Name, desk: _Desk) -> None:
        for slot, piece, ending in desk.writing.step():
            stream = desk.streams[slot]
            ended = stream.take(piece, ending)
            if ended is None:
                continue
            del desk.streams[slot]
            if ending is None:
                desk.writing.evict(slot)  # a stop string ended it, which the model does not know
            took = time.monotonic() - stream.begun
            before = self._seconds.get(name, took)
            self._seconds[name] = before + SMOOTHING * (took - before)
