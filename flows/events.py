"""What happened to models, written down for good, and told to Prefect, whose automations start runs for it.

A file of JSON lines for each month, one event a line, is the truth. Prefect is told over HTTP, without an import of it,
as soon as it answers: at least once, under the event's own id, by which it knows what it was told before.
"""

import fcntl
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import JsonValue

from components.store import write_atomically
from flows import prefect_api
from flows.alone import alone
from flows.workspace import Workspace

Kind = Literal[
    "data.changed", "drift.found", "service.drifted", "feedback.low", "champion.aged", "champion.moved",
    "alias.reverted", "run.ended", "run.failed", "dataset.made", "row.excluded",
]  # fmt: skip
KINDS: tuple[str, ...] = get_args(Kind)
LONGEST = 1000  # of a reason, in characters
AT_ONCE = 200  # events in one request
ANSWER_SECONDS = 3.0
BLOCK = 2**16  # bytes read at a time from the end of a file


@dataclass(frozen=True)
class Event:
    """One thing that happened to a model, with its reason in words and its facts; `time` is UTC in ISO format."""

    id: str
    time: str
    kind: Kind
    model: str
    why: str
    facts: Mapping[str, JsonValue] = field(default_factory=dict)


def tell(place: Workspace, kind: Kind, *, model: str, why: str, facts: Mapping[str, JsonValue] | None = None) -> Event:
    """Write an event down, whatever else fails, and tell Prefect where that answers; the worker tells it later else."""
    event = Event(str(uuid.uuid4()), _now(), kind, model, " ".join(why.split())[:LONGEST], dict(facts or {}))
    append(place, [event])
    forward(place)
    return event


def append(place: Workspace, events: Sequence[Event]) -> None:
    """Write events down; they are on the disk when this returns, each whole."""
    for month in dict.fromkeys(event.time[:7] for event in events):
        lines = "".join(json.dumps(asdict(event)) + "\n" for event in events if event.time[:7] == month)
        _write(folder(place) / f"{month}.jsonl", lines.encode())


def since(place: Workspace, time: datetime | None = None, limit: int = 100) -> list[Event]:
    """The newest events, at most `limit` and none before `time`, each once, the newest last."""
    first = "" if time is None else time.astimezone(UTC).isoformat()
    found: dict[str, Event] = {}
    for path in sorted(folder(place).glob("*.jsonl"), reverse=True):
        if path.stem < first[:7]:
            break
        for line in _backwards(path):
            event = _read(line)
            if event is not None and event.time >= first:
                found.setdefault(event.id, event)
            if len(found) == limit:
                return list(found.values())[::-1]
    return list(found.values())[::-1]


def forward(place: Workspace) -> int:
    """Tell Prefect what it was not told yet, and return how many events those were; none where it does not answer.

    One process does so at a time; another that asks meanwhile leaves it to that one.
    """
    url, told = os.environ.get("PREFECT_API_URL") or prefect_api.here(place), 0
    if url is None:
        return 0
    with alone(place, "events") as mine:
        if not mine:
            return 0
        cursor = _cursor(place)
        for path in sorted(folder(place).glob("*.jsonl")):
            for events, end in _batches(path, cursor.get(path.name, 0)):
                if not _sent(url, events):
                    return told
                cursor[path.name] = end
                told += len(events)
                write_atomically(folder(place) / "forwarded.json", json.dumps(cursor).encode())
    return told


def folder(place: Workspace) -> Path:
    """Where the events lie, a file a month."""
    return place.root / "events"


def _write(path: Path, lines: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        size = os.fstat(handle).st_size
        if size and os.pread(handle, 1, size - 1) != b"\n":
            lines = b"\n" + lines  # the end of a line that was cut off, so that this one is not lost with it
        if os.write(handle, lines) != len(lines):
            raise OSError(28, os.strerror(28), str(path))  # ENOSPC: what there was room for is no whole line
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(line: bytes) -> Event | None:
    """The event of a line; None where it was cut off, or is of a later version of the platform."""
    try:
        told = json.loads(line)
        event = Event(**told)
    except (ValueError, TypeError):
        return None
    return event if event.kind in KINDS else None


def _backwards(path: Path) -> Iterator[bytes]:
    """The lines of a file, the last one first, read as far as they are asked for."""
    with path.open("rb") as file:
        left, rest = file.seek(0, os.SEEK_END), b""
        while left:
            step = min(BLOCK, left)
            left -= step
            file.seek(left)
            rest, *lines = (file.read(step) + rest).split(b"\n")
            yield from (line for line in reversed(lines) if line)
        if rest:
            yield rest


def _batches(path: Path, begin: int) -> Iterator[tuple[list[Event], int]]:
    """The whole lines from a place in a file on, some at a time, each time with the place after them."""
    with path.open("rb") as file:
        file.seek(begin)
        events, end = list[Event](), begin
        for line in file:
            if not line.endswith(b"\n"):  # still being written
                break
            end += len(line)
            if (event := _read(line)) is not None:
                events.append(event)
            if len(events) == AT_ONCE:
                yield events, end
                events = []
        if end > begin and events:
            yield events, end


def _cursor(place: Workspace) -> dict[str, int]:
    """How many bytes of each file Prefect was told; none where that is not known: it knows events that it was told."""
    try:
        kept = json.loads((folder(place) / "forwarded.json").read_bytes())
        return {str(name): int(end) for name, end in kept.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def _sent(url: str, events: Sequence[Event]) -> bool:
    told = [_for_prefect(event) for event in events]
    try:
        with prefect_api.post(f"{url.rstrip('/')}/events", told, seconds=ANSWER_SECONDS) as answer:
            return bool(answer.status < 300)
    except (OSError, ValueError, HTTPException):
        return False


def _for_prefect(event: Event) -> dict[str, Any]:
    return {
        "id": event.id,
        "occurred": event.time,
        "event": f"atelier.{event.kind}",
        "resource": {"prefect.resource.id": f"atelier.model.{event.model}", "prefect.resource.name": event.model},
        "payload": {"model": event.model, "kind": event.kind, "why": event.why, "facts": dict(event.facts)},
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
