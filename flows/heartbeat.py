"""Since when the platform's worker has been up without a gap, in a file: a start that is older was missed."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from components.store import write_atomically
from flows.workspace import Workspace

GAP_SECONDS = 60.0  # without a beat, and the platform was down, or its machine asleep


def file(place: Workspace) -> Path:
    """Where the worker says how it is."""
    return place.serving / "worker.json"


def beat(place: Workspace, told: dict[str, Any], *, now: datetime | None = None) -> datetime:
    """Write down that the worker is up, with what else it tells, and return since when it is.

    A worker that is started again at once goes on; a clock that was set back begins no gap.
    """
    now = now or datetime.now(UTC)
    before = read(place)
    since = now
    if before is not None:
        last, alive = (datetime.fromisoformat(before[name]) for name in ("beat", "alive"))
        since = now if now - last > timedelta(seconds=GAP_SECONDS) else alive
    content = {"schema": 1, **told, "beat": now.isoformat(), "alive": since.isoformat()}
    write_atomically(file(place), json.dumps(content, indent=2).encode())
    return since


def alive_since(place: Workspace) -> datetime | None:
    """Since when the worker has been up; None where there never was one."""
    told = read(place)
    return None if told is None else datetime.fromisoformat(told["alive"])


def read(place: Workspace) -> dict[str, Any] | None:
    """What the worker wrote last; None where there is nothing that can be read."""
    try:
        told = json.loads(file(place).read_bytes())
        datetime.fromisoformat(told["beat"]), datetime.fromisoformat(told["alive"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(told)
