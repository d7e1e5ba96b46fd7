"""What was asked and what came of it, in numbers, for the monitor: a row of Parquet for each request of a model.

`model=NAME/date=YYYY-MM-DD/part-*.parquet` under one folder. Every request that names a version has its row. What its
output is like is looked at for some, at most 25 a second and 2% of the time: for one sample of each, by lot among all
that came meanwhile. Contents are never kept, nor text of callers unless the operator asks for it.

A thread of its own looks and writes, and alone imports pyarrow, with the first part that it writes. A part is written
aside and renamed, whole each time, until it is full or an hour old. Where the disk refuses, rows wait in bounded
memory; the oldest parts go by age and by size.
"""

import logging
import os
import queue
import random
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # torch comes with one of them
    from components.sampling import Endpoint
    from serving.journal import Entry

LOG = logging.getLogger("atelier.serving")
MOST_WAITING = 20_000  # requests between two looks; what is past them has no row
MOST_BYTES_WAITING = 32 * 2**20  # of samples between two looks; what is past them is not looked at
LOOK_SECONDS = 1.0
LOOKED_AT = 25  # samples of a look
LOOKING_SECONDS = 0.02  # of a look: the models and the event loop share the interpreter with it
WRITE_SECONDS = 60.0
PART_ROWS = 50_000
PART_SECONDS = 3600.0
TABLE_ROWS = 4096  # rows that become a table: Python's own take ten times the memory
MOST_HELD = 200_000  # rows in memory while the disk refuses
TRIM_SECONDS = 600.0
KEEP_DAYS = 90
MOST_BYTES = 2**30
FIXED = (
    "id", "time", "version", "team", "route", "status", "seconds", "queued", "first", "count", "flagged", "blocked",
    "plain",
)  # fmt: skip


@dataclass(slots=True)
class Seen:
    """What a route shows of a request: the endpoint that answers, and one encoded sample, where there is one."""

    endpoint: "Endpoint"
    sample: bytes = b""


@dataclass(slots=True)
class _Part:
    """A part that still grows: its rows as tables, of which the first `written` are in its file, and the newest."""

    path: Path
    since: float = field(default_factory=time.monotonic)
    tables: list[Any] = field(default_factory=list)
    written: int = 0
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def count(self) -> int:
        return len(self.rows) + sum(len(table) for table in self.tables)

    @property
    def held(self) -> int:
        """Rows that no file has."""
        return len(self.rows) + sum(len(table) for table in self.tables[self.written :])

    def condense(self) -> None:
        """Make a table of the newest rows."""
        if self.rows:
            self.tables.append(_table(self.rows))
            self.rows.clear()


class Observations:
    """Rows for the monitor, written under `folder`; nothing is done where there is none.

    `failed` and `dropped` count what could not be written, and what was let go of.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        texts: bool = False,
        most_bytes: int = MOST_BYTES,
        failed: Callable[[], None] = lambda: None,
        dropped: Callable[[str, int], None] = lambda what, count: None,
        write_seconds: float = WRITE_SECONDS,
    ) -> None:
        self.folder, self._texts, self._most_bytes = folder, texts, most_bytes
        self._failed, self._dropped, self._write_seconds = failed, dropped, write_seconds
        self._waiting: queue.SimpleQueue[tuple[Entry, Seen | None] | threading.Event | None] = queue.SimpleQueue()
        self._came = self._gone = 0  # bytes of samples: one thread counts each, so that neither needs a lock
        self._parts: dict[tuple[str, str], _Part] = {}
        self._defaults: dict[tuple[str, str], dict[str, Any]] = {}  # the controls that hold where none is named
        self._written = self._trimmed = time.monotonic()
        self._trouble = False  # told once, until it is over
        self._lots = random.Random()
        self._awaited = threading.Event()
        self._thread: threading.Thread | None = None
        if folder is not None:
            self._thread = threading.Thread(target=self._work, name="observations", daemon=True)
            self._thread.start()

    def note(self, entry: "Entry", seen: Seen | None) -> None:
        """Write a request of a model down soon, and look at the sample that is shown of it, if it is drawn."""
        if self._thread is None or not entry.model:
            return
        if self._waiting.qsize() >= MOST_WAITING:
            self._dropped("requests", 1)
            return
        if seen is not None and seen.sample:
            if self._came - self._gone + len(seen.sample) > MOST_BYTES_WAITING:
                seen.sample = b""
            self._came += len(seen.sample)
        self._waiting.put((entry, seen))

    def settle(self, seconds: float = 10.0) -> None:
        """Wait until what was noted so far is written."""
        if self._thread is not None:
            written = threading.Event()
            self._waiting.put(written)
            self._awaited.set()
            written.wait(seconds)

    def close(self) -> None:
        """Write what is left, and end."""
        if self._thread is not None:
            self._waiting.put(None)
            self._awaited.set()
            self._thread.join(10)

    def _work(self) -> None:
        ending = False
        while not ending:
            taken = self._taken()
            ending = None in taken
            asked = [one for one in taken if isinstance(one, threading.Event)]
            try:
                self._look([one for one in taken if isinstance(one, tuple)])
                if ending or asked or time.monotonic() - self._written >= self._write_seconds:
                    self._write()
                if time.monotonic() - self._trimmed >= TRIM_SECONDS:
                    self._trim()
            except Exception:
                LOG.exception("the thread that writes observations goes on after a fault")
                self._failed()
            for one in asked:
                one.set()

    def _taken(self) -> list[Any]:
        """What came in a while; the first is waited for, and the others are not what wakes us."""
        left = max(0.1, self._write_seconds - (time.monotonic() - self._written))
        with suppress(queue.Empty):
            taken = [self._waiting.get(timeout=left)]
            self._awaited.wait(LOOK_SECONDS)
            self._awaited.clear()
            return taken + [self._waiting.get() for _ in range(self._waiting.qsize())]
        return []

    def _look(self, taken: Sequence[tuple["Entry", Seen | None]]) -> None:
        """A row for each; those whose sample is looked at are drawn by lot."""
        shown = [place for place, (_, seen) in enumerate(taken) if seen is not None and seen.sample]
        drawn = self._lots.sample(shown, min(LOOKED_AT, len(shown)))
        until, outputs = time.monotonic() + LOOKING_SECONDS, dict[int, dict[str, float]]()
        for place in drawn:
            if time.monotonic() > until:
                break
            outputs[place] = self._outputs(*taken[place])
        self._gone += sum(len(seen.sample) for _, seen in taken if seen is not None)
        for place, (entry, seen) in enumerate(taken):
            row = _row(entry) | self._asked(entry, seen) | outputs.get(place, {})
            part = self._part(entry.model, f"{row['time']:%Y-%m-%d}")
            part.rows.append(row)
            if len(part.rows) >= TABLE_ROWS:
                part.condense()

    def _outputs(self, entry: "Entry", seen: Seen | None) -> dict[str, float]:
        assert seen is not None, "what is drawn has a sample"
        try:
            return {f"output.{name}": value for name, value in seen.endpoint.features(seen.sample).items()}
        except Exception:
            LOG.exception("the sample of request %s could not be looked at", entry.id)
            self._failed()
            return {}

    def _asked(self, entry: "Entry", seen: Seen | None) -> dict[str, Any]:
        """The controls: numbers, choices, and of a caller's text how long it is."""
        if seen is None:
            return {}
        known = (entry.model, entry.digest)
        if known not in self._defaults:
            self._defaults[known] = seen.endpoint.checked({})
        row: dict[str, Any] = {"plain": dict(entry.controls) == self._defaults[known]}
        for name, value in entry.controls.items():
            control = seen.endpoint.card.controls.get(name)
            if control is None or value is None:
                continue
            if isinstance(value, bool) or isinstance(value, str) and control.choices is not None:
                row[f"choice.{name}"] = str(value)
            elif isinstance(value, str):
                row[f"control.{name}.length"] = float(len(value))
                row |= {f"text.{name}": value} if self._texts else {}
            else:
                row[f"control.{name}"] = float(value)
        return row

    def _part(self, model: str, date: str) -> _Part:
        """The part that takes rows of a model and a day."""
        assert self.folder is not None
        part = self._parts.get((model, date))
        if part is None:
            name = f"part-{datetime.now(UTC):%H%M%S%f}-{secrets.token_hex(4)}.parquet"
            part = self._parts[model, date] = _Part(self.folder / f"model={model}" / f"date={date}" / name)
        return part

    def _write(self) -> None:
        """Write every part that has new rows; one that is full or old ends with that."""
        self._written = time.monotonic()
        for key, part in list(self._parts.items()):
            try:
                part.condense()
                if part.held:
                    _renew(part)
                self._trouble = False
                if part.count >= PART_ROWS or time.monotonic() - part.since > PART_SECONDS:
                    del self._parts[key]
            except (OSError, ImportError) as error:
                if not self._trouble:
                    LOG.error("observations are not written to %s for now: %s", self.folder, error)
                self._trouble = True
                self._failed()
        self._bound_memory()

    def _bound_memory(self) -> None:
        """Let go of the oldest rows where the disk refuses for long."""
        excess = sum(part.held for part in self._parts.values()) - MOST_HELD
        for part in sorted(self._parts.values(), key=lambda part: part.since):
            while excess > 0 and len(part.tables) > part.written:
                gone = len(part.tables.pop(part.written))
                excess -= gone
                self._dropped("requests", gone)

    def _trim(self) -> None:
        """Remove parts that are too old, and the oldest of all models together beyond the bytes allowed."""
        assert self.folder is not None
        self._trimmed = time.monotonic()
        growing = {part.path for part in self._parts.values()}
        last = f"date={datetime.now(UTC) - timedelta(days=KEEP_DAYS):%Y-%m-%d}"
        found = sorted(_files(self.folder), key=lambda path: (path.parent.name, path.name))
        sizes = {path: _size(path) for path in found}
        excess = sum(sizes.values()) - self._most_bytes
        gone = 0
        for path in found:
            if path in growing or path.parent.name >= last and excess <= 0:
                continue
            with suppress(OSError):
                path.unlink()
                excess -= sizes[path]
                gone += 1
            with suppress(OSError):  # others are left in it
                path.parent.rmdir()
        if gone:
            LOG.warning("%d of the oldest files of observations in %s made room", gone, self.folder)
            self._dropped("files", gone)


def _row(entry: "Entry") -> dict[str, Any]:
    values = (
        entry.id, datetime.fromtimestamp(entry.time, UTC), entry.version, entry.team, entry.route, entry.status,
        entry.seconds, entry.queued, entry.first or None, entry.samples, len(entry.moderated),
        sum(action == "block" for _, _, action in entry.moderated), None,
    )  # fmt: skip
    return dict(zip(FIXED, values, strict=True))


def _renew(part: _Part) -> None:
    """Write a part anew, with the rows that came since."""
    import pyarrow as pa
    from pyarrow import parquet

    whole = pa.concat_tables(part.tables, promote_options="default")
    part.path.parent.mkdir(parents=True, exist_ok=True)
    aside = part.path.with_name(f".{part.path.name}.aside")
    try:
        with aside.open("wb") as stream:
            parquet.write_table(whole, stream, compression="zstd")
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(part.path)
    finally:
        aside.unlink(missing_ok=True)
    part.written = len(part.tables)


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    """The rows as columns, each of the type that its name says; what a row lacks is null."""
    import pyarrow as pa

    kinds = {
        "time": pa.timestamp("us", tz="UTC"), "status": pa.int16(), "count": pa.int32(), "flagged": pa.int32(),
        "blocked": pa.int32(), "seconds": pa.float64(), "queued": pa.float64(), "first": pa.float64(),
        "plain": pa.bool_(), "control": pa.float64(), "output": pa.float32(),
    }  # fmt: skip
    names = dict.fromkeys([*FIXED, *(name for row in rows for name in row)])
    columns = {
        name: pa.array([row.get(name) for row in rows], kinds.get(name.partition(".")[0], pa.string()))
        for name in names
    }
    return pa.table(columns)


def _files(folder: Path) -> Iterator[Path]:
    return folder.glob("model=*/date=*/part-*.parquet")


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0
