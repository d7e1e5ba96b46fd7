"""What was asked and what people thought of it: one line of JSON in the log and one row in a database for each request.

A thread of its own writes both, some requests at a time, so that no request waits for a disk. Prompts and other text
of callers are left out unless the operator asks for them.
"""

import json
import logging
import queue
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

LOG = logging.getLogger("atelier.serving")
KEEP_SECONDS = 90 * 86400.0  # a request can be traced for this long
PRUNE_SECONDS = 3600.0
MOST_WAITING = 50_000  # requests; where a disk hangs, what is past them is not written down
GATHER_SECONDS = 0.2  # requests of this time are written together
TABLES = """
CREATE TABLE IF NOT EXISTS requests (id TEXT PRIMARY KEY, time REAL NOT NULL, team TEXT NOT NULL, model TEXT NOT NULL,
  version TEXT NOT NULL, digest TEXT NOT NULL, seeds TEXT NOT NULL, controls TEXT NOT NULL, route TEXT NOT NULL,
  samples INTEGER NOT NULL, status INTEGER NOT NULL);
CREATE INDEX IF NOT EXISTS requests_time ON requests (time);
CREATE TABLE IF NOT EXISTS feedback (request TEXT NOT NULL, "index" INTEGER NOT NULL, thumb TEXT NOT NULL, comment TEXT,
  team TEXT NOT NULL, time REAL NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS feedback_sample ON feedback (request, "index");
CREATE TABLE IF NOT EXISTS preferences (pair TEXT PRIMARY KEY, better TEXT NOT NULL, better_index INTEGER NOT NULL,
  worse TEXT NOT NULL, worse_index INTEGER NOT NULL, team TEXT NOT NULL, time REAL NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Entry:
    """A request as it is remembered; `seconds` from its first byte to its answer, `queued` of them in the queue."""

    id: str
    route: str
    status: int
    team: str
    seconds: float
    model: str = ""
    version: str = ""
    digest: str = ""
    seeds: Sequence[int] = ()
    controls: Mapping[str, Any] = field(default_factory=dict)
    chosen: Sequence[str] = ()  # controls whose words the recipe offers: no caller wrote them
    queued: float = 0.0
    first: float = 0.0  # seconds in the queue and until the first piece, where samples are made piece by piece
    moderated: Sequence[tuple[str, str, str]] = ()  # where, what, and what was done about it
    time: float = field(default_factory=time.time)

    @property
    def samples(self) -> int:
        return len(self.seeds)


class Unknown(Exception):
    """Feedback about a request, or a sample of it, that the journal does not hold for this team."""


class Unlike(Exception):
    """A preference between samples that are none to choose from: of two models, or one sample twice."""


class Journal:
    """The log, and the database at `path` where there is one."""

    def __init__(
        self,
        path: Path | None,
        *,
        texts: bool = False,
        failed: Callable[[], None] = lambda: None,
        log: TextIO | None = None,
    ) -> None:
        self.path, self._texts, self._failed = path, texts, failed
        self._log = log or sys.stderr
        self._entries: queue.SimpleQueue[Entry | threading.Event | None] = queue.SimpleQueue()
        self._awaited = threading.Event()  # somebody waits for what was noted
        self._base: sqlite3.Connection | None = None  # of the thread alone
        self._pruned = 0.0
        self._trouble = False  # told once, until it is over
        self._judging = threading.Lock()  # a flood of thumbs waits here, instead of fighting for the disk
        self._thread = threading.Thread(target=self._work, name="journal", daemon=True)
        self._thread.start()

    def note(self, entry: Entry) -> None:
        """Write the entry down soon."""
        if self._entries.qsize() < MOST_WAITING:
            self._entries.put(entry)
        else:
            self._failed()

    def settle(self, seconds: float = 5.0) -> None:
        """Wait until what was noted so far is written."""
        written = threading.Event()
        self._entries.put(written)
        self._awaited.set()
        written.wait(seconds)

    def feedback(self, request: str, index: int, thumb: str, comment: str | None, *, team: str) -> None:
        """Keep what someone thought of one sample, safely on disk; the newest about a sample counts.

        `Unknown` where that request had no such sample, or was another team's; `OSError` where nothing can be written.
        """
        with self._judged() as base:
            _model_of(base, request, index, team)
            row = (request, index, thumb, comment, team, time.time())
            base.execute("INSERT OR REPLACE INTO feedback VALUES (?, ?, ?, ?, ?, ?)", row)

    def preference(self, better: tuple[str, int], worse: tuple[str, int], *, team: str) -> str:
        """Keep which of two samples someone found better, as `feedback` does; the newest about a pair counts.

        The model that made both is returned; `Unlike` where there is none.
        """
        with self._judged() as base:
            model, other = (_model_of(base, *sample, team) for sample in (better, worse))
            if model != other or better == worse:
                raise Unlike
            pair = " ".join(f"{request}:{index}" for request, index in sorted((better, worse)))
            row = (pair, *better, *worse, team, time.time())
            base.execute("INSERT OR REPLACE INTO preferences VALUES (?, ?, ?, ?, ?, ?, ?)", row)
        return model

    @contextmanager
    def _judged(self) -> Iterator[sqlite3.Connection]:
        """The database, with all in it that was noted so far, to write a judgement to."""
        if self.path is None:
            raise Unknown
        self.settle()
        try:
            with self._judging, closing(_open(self.path)) as base, base:
                base.execute("PRAGMA synchronous=FULL")
                yield base
        except sqlite3.Error as error:
            raise OSError(f"the journal {self.path} cannot be written: {error}") from error

    def close(self) -> None:
        """Write what is left, and end."""
        self._entries.put(None)
        self._awaited.set()
        self._thread.join(10)

    def _work(self) -> None:
        ending = False
        while not ending:
            taken = [self._entries.get()]
            self._awaited.wait(GATHER_SECONDS)  # not for the next entry: to be woken by each costs every request
            self._awaited.clear()
            taken += [self._entries.get() for _ in range(self._entries.qsize())]
            ending = None in taken
            entries = [entry for entry in taken if isinstance(entry, Entry)]
            self._guarded(self._tell, entries)
            self._guarded(self._keep, [entry for entry in entries if entry.samples])
            for waiting in taken:
                if isinstance(waiting, threading.Event):
                    waiting.set()
        if self._base is not None:
            self._base.close()

    def _guarded(self, write: Callable[[Sequence[Entry]], None], entries: Sequence[Entry]) -> None:
        """Write; a fault of ours costs the request that it is about, and not the others, nor this thread."""
        try:
            write(entries)
        except Exception:
            if len(entries) > 1:
                for entry in entries:
                    self._guarded(write, [entry])
                return
            LOG.exception("request %s could not be written down", ", ".join(entry.id for entry in entries))
            self._failed()

    def _tell(self, entries: Sequence[Entry]) -> None:
        try:
            self._log.write("".join(json.dumps(self._line(entry)) + "\n" for entry in entries))
            self._log.flush()
        except (OSError, ValueError):  # a full disk, or closed
            self._failed()

    def _line(self, entry: Entry) -> dict[str, Any]:
        line = asdict(entry) | {"samples": entry.samples, "controls": self._told(entry)}
        line |= {name: round(line[name], 5) for name in ("seconds", "queued")} | {"first": round(entry.first, 5) or ""}
        del line["chosen"]
        return {"event": "request", **{name: value for name, value in line.items() if value not in ("", (), {})}}

    def _told(self, entry: Entry) -> dict[str, Any]:
        """The controls without what callers wrote, unless that is asked for."""
        return {
            name: value
            for name, value in entry.controls.items()
            if self._texts or name in entry.chosen or not isinstance(value, str)
        }

    def _keep(self, entries: Sequence[Entry]) -> None:
        if self.path is None or not entries:
            return
        rows = [
            (
                e.id, e.time, e.team, e.model, e.version, e.digest, json.dumps(list(e.seeds)),
                json.dumps(self._told(e)), e.route, e.samples, e.status,
            )
            for e in entries
        ]  # fmt: skip
        try:
            self._base = self._base or _open(self.path)
            with self._base as base:
                base.executemany("INSERT OR REPLACE INTO requests VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
                if time.time() - self._pruned > PRUNE_SECONDS:
                    self._pruned = time.time()
                    for table in ("requests", "feedback", "preferences"):
                        base.execute(f"DELETE FROM {table} WHERE time < ?", (time.time() - KEEP_SECONDS,))
            self._trouble = False
        except (sqlite3.Error, OSError) as error:
            if self._base is not None:
                self._base.close()
            self._base = None  # the disk may have room again next time
            if not self._trouble:
                LOG.error("requests are not written to the journal %s for now: %s", self.path, error)
            self._trouble = True
            self._failed()


def _model_of(base: sqlite3.Connection, request: str, index: int, team: str) -> str:
    """The model that made a sample; `Unknown` where that request had no such one, or was another team's."""
    asked = base.execute("SELECT team, samples, model FROM requests WHERE id = ?", (request,)).fetchone()
    if asked is None or asked[0] != team or index >= asked[1]:
        raise Unknown
    model: str = asked[2]
    return model


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    base = sqlite3.connect(path, timeout=10)
    base.execute("PRAGMA journal_mode=WAL")
    base.execute("PRAGMA synchronous=NORMAL")
    base.executescript(TABLES)
    return base
