"""The log of runs, `.atelier/runs.db`: which recipe ran when, why, and what it came to; read without vendors."""

import os
import sqlite3
import time
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from components.errors import AtelierError
from components.process import born
from flows.workspace import Workspace

Why = Literal["by hand", "schedule", "data", "drift", "feedback", "age", "upstream", "removal"]
OUTCOMES = {
    0: "passed", 1: "internal error", 2: "bad input", 3: "data rejected", 4: "gates failed", 130: "stopped"
}  # fmt: skip
AWAY = "Prefect was away"  # the outcome of a run whose server was gone for longer than its client waits
KILLED = "killed"  # the outcome of a run whose process is gone without a word
SCHEMA = 1
WAIT_SECONDS = 30.0  # for another process that writes
# `number` gives the order: a clock may be set back. `started` is when a run took its turn and began to read its data.
TABLES = """
CREATE TABLE IF NOT EXISTS runs (number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, model TEXT NOT NULL,
  recipe TEXT NOT NULL, why TEXT NOT NULL, detail TEXT NOT NULL, began TEXT NOT NULL, started TEXT, ended TEXT,
  outcome TEXT, exit_code INTEGER, seconds REAL, flow_run TEXT, pid INTEGER NOT NULL, born INTEGER,
  clock REAL NOT NULL);
CREATE INDEX IF NOT EXISTS runs_model ON runs (model, number);
CREATE INDEX IF NOT EXISTS runs_open ON runs (number) WHERE ended IS NULL;
CREATE INDEX IF NOT EXISTS runs_flow_run ON runs (flow_run) WHERE flow_run IS NOT NULL;
"""
FIELDS = "id, model, recipe, why, detail, began, ended, outcome, exit_code, seconds, flow_run, started"


@dataclass(frozen=True)
class Cause:
    """Why a run is made: the kind of reason, more about it in words, and Prefect's flow run that makes it."""

    why: Why = "by hand"
    detail: str = ""
    flow_run: str | None = None


_cause: ContextVar[Cause | None] = ContextVar("cause", default=None)


@dataclass(frozen=True)
class Run:
    """One run of a recipe; what ended has an outcome. Times are UTC in ISO format."""

    id: str
    model: str
    recipe: str
    why: Why
    detail: str
    began: str
    ended: str | None = None
    outcome: str | None = None
    exit_code: int | None = None
    seconds: float | None = None
    flow_run: str | None = None
    started: str | None = None  # when it took its turn: from then on it reads what is there


def begin(place: Workspace, *, model: str, recipe: str, why: Why, detail: str = "", flow_run: str | None = None) -> str:
    """Put a run of this process on the log, and return its id."""
    run, pid = uuid.uuid4().hex, os.getpid()
    row = (run, model, recipe, why, detail, _now(), flow_run, pid, born(pid), time.monotonic())
    with _writing(place) as base:
        base.execute(
            "INSERT INTO runs (id, model, recipe, why, detail, began, flow_run, pid, born, clock) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row,
        )
    return run


def start(place: Workspace, run: str) -> None:
    """Note that a run has its turn now: what happened before is in what it reads."""
    with _writing(place) as base:
        base.execute("UPDATE runs SET started = ? WHERE id = ?", (_now(), run))


def end(place: Workspace, run: str, *, exit_code: int, outcome: str | None = None) -> None:
    """Note what a run came to, in the words of its exit code unless given; one that has ended stays as it is."""
    words = outcome or OUTCOMES.get(exit_code, OUTCOMES[1])
    with _writing(place) as base:
        base.execute(
            "UPDATE runs SET ended = ?, exit_code = ?, outcome = ?, seconds = max(0, ? - clock) "
            "WHERE id = ? AND ended IS NULL",
            (_now(), exit_code, words, time.monotonic(), run),
        )


def bury(place: Workspace) -> list[Run]:
    """Note of each run whose process is gone that it was killed, and return those runs."""
    open_runs = "SELECT id, pid, born FROM runs WHERE ended IS NULL"
    gone = [run for run, pid, since in _rows(place, open_runs) if since is None or born(pid) != since]
    for run in gone:
        end(place, run, exit_code=137, outcome=KILLED)
    return [Run(*row) for run in gone for row in _rows(place, f"SELECT {FIELDS} FROM runs WHERE id = ?", run)]


def last(place: Workspace) -> dict[str, Run]:
    """The newest run of each model."""
    newest = f"SELECT {FIELDS} FROM runs WHERE number IN (SELECT max(number) FROM runs GROUP BY model)"
    return {run.model: run for run in (Run(*row) for row in _rows(place, newest))}


def of(place: Workspace, model: str, limit: int = 20) -> list[Run]:
    """The newest runs of a model, the newest first."""
    query = f"SELECT {FIELDS} FROM runs WHERE model = ? ORDER BY number DESC LIMIT ?"
    return [Run(*row) for row in _rows(place, query, model, limit)]


def of_flow_run(place: Workspace, flow_run: str) -> list[Run]:
    """The runs that one flow run of Prefect's has made, the newest first: more than one where it was resumed."""
    query = f"SELECT {FIELDS} FROM runs WHERE flow_run = ? ORDER BY number DESC"
    return [Run(*row) for row in _rows(place, query, flow_run)]


def covering(place: Workspace, model: str, due: datetime) -> Run | None:
    """A run of the model that took its turn after a time, on or ended: what had happened by then is in what it read.

    One that was killed or stopped covers nothing, as it may not have come so far.
    """
    query = f"SELECT {FIELDS} FROM runs WHERE model = ? AND started >= ? ORDER BY number DESC LIMIT 50"
    found = (Run(*row) for row in _rows(place, query, model, due.astimezone(UTC).isoformat(timespec="microseconds")))
    return next((run for run in found if run.ended is None or is_settled(run)), None)


def is_settled(run: Run) -> bool:
    """Whether a run came to an end of its own: one that was killed or stopped, or lost its server, is gone on with."""
    return run.ended is not None and run.outcome not in (KILLED, AWAY, OUTCOMES[130])


@contextmanager
def caused(cause: Cause) -> Iterator[None]:
    """What is registered and tracked in the block says why."""
    token = _cause.set(cause)
    try:
        yield
    finally:
        _cause.reset(token)


def cause() -> Cause:
    """Why the run that is on is made."""
    return _cause.get() or Cause()


def file(place: Workspace) -> Path:
    """Where the log lies."""
    return place.root / "runs.db"


@contextmanager
def _writing(place: Workspace) -> Iterator[sqlite3.Connection]:
    with _told(place), closing(sqlite3.connect(file(place), timeout=WAIT_SECONDS)) as base:
        if base.execute("PRAGMA user_version").fetchone()[0] < SCHEMA:
            base.execute("PRAGMA journal_mode = WAL")
            base.executescript(f"{TABLES} PRAGMA user_version = {SCHEMA};")
        with base:
            yield base


def _rows(place: Workspace, query: str, *values: Any) -> list[Any]:
    """What a query finds; nothing where there is no log yet."""
    if not file(place).is_file():
        return []
    with _told(place), closing(sqlite3.connect(file(place), timeout=WAIT_SECONDS)) as base:
        try:
            return base.execute(query, values).fetchall()
        except sqlite3.OperationalError as error:
            if "no such table" in str(error):  # it is being made just now
                return []
            raise


@contextmanager
def _told(place: Workspace) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise AtelierError(
            f"the log of runs {file(place)} cannot be used ({error}). Where it is damaged, move it away with the files "
            "runs.db-shm and runs.db-wal beside it, and run the same command: a new one is made. No model is lost."
        ) from error


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
