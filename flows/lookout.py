"""What the worker looks at for the scheduled recipes: versions of their sources, the age of their champions.

What it saw is kept in a file, so that a change while the platform was down is seen when it is up again.
"""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from components.errors import AtelierError
from components.store import write_atomically
from flows import events, runs
from flows.durations import seconds
from flows.schedules import Applied
from flows.workspace import Workspace


def look(place: Workspace, scheduled: Iterable[Applied], *, now: datetime | None = None) -> list[events.Event]:
    """Tell what has changed since the last look; the first look at a source tells nothing."""
    seen, told = _seen(place), list[events.Event]()
    before = json.dumps(seen, sort_keys=True)
    try:
        for one in scheduled:
            if one.paused:
                continue
            if "data.changed" in one.kinds and one.source:
                told += _data(place, one, seen)
            if "champion.aged" in one.kinds:
                told += _age(place, one, seen, now or datetime.now(UTC))
    finally:  # a ledger that cannot be read must not have the same change told at each look
        if json.dumps(seen, sort_keys=True) != before:
            write_atomically(_file(place), (json.dumps(seen, indent=2) + "\n").encode())
    return told


def _data(place: Workspace, one: Applied, seen: dict[str, Any]) -> list[events.Event]:
    """Told first, then kept: a worker killed in between tells it twice, which starts one run."""
    from components import versioning

    try:
        if not versioning.is_tracked(place.project, one.source):
            return []  # to know its version would be to read all of it
        version = versioning.version_of(place.project, one.source)
    except AtelierError:
        return []  # a run would say it
    known = seen.setdefault("data", {}).setdefault(one.model, version)
    if known == version:
        return []
    why = f"{one.source} is now {version[:14]}, it was {known[:14]}"
    facts: dict[str, Any] = {"source": one.source, "version": version, "before": known}
    told = events.tell(place, "data.changed", model=one.model, why=why, facts=facts)
    seen["data"][one.model] = version
    return [told]


def _age(place: Workspace, one: Applied, seen: dict[str, Any], now: datetime) -> list[events.Event]:
    """Told again only once a run has not replaced it for as long again."""
    from components.ledger import Ledger

    limit = str((one.retrain or {})["older_than"])
    champion = Ledger(place.ledger_url).current(one.model).get("champion")
    if champion is None:
        return []
    span = timedelta(seconds=seconds(limit))
    tried = [run.began for run in runs.of(place, one.model, limit=1)]
    times = [champion.created, *tried, *filter(None, [seen.setdefault("aged", {}).get(one.model)])]
    newest = max(datetime.fromisoformat(time.replace("Z", "+00:00")).astimezone(UTC) for time in times)
    if now - newest <= span:
        return []
    why = f"{one.model}@{champion.version} has been champion since {champion.created[:16]}, longer than {limit}"
    facts: dict[str, Any] = {"version": champion.version, "since": champion.created}
    told = events.tell(place, "champion.aged", model=one.model, why=why, facts=facts)
    seen["aged"][one.model] = now.isoformat()
    return [told]


def _seen(place: Workspace) -> dict[str, Any]:
    try:
        return dict(json.loads(_file(place).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _file(place: Workspace) -> Path:
    return place.serving / "watched.json"
