"""How things stand with every recipe: last run and why, verdict, champion, schedule, drift; disk and events beside.

`atelier status` tells it, and so does the page of the endpoints at /status: the platform's worker writes it into a file
that they only read. Neither Prefect nor MLflow is imported, and what one part cannot tell leaves the others be.
"""

import json
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from components.errors import AtelierError
from components.ledger import Alias, Judged, Ledger, Move
from components.store import write_atomically
from flows import disk, events, known, notices, runs, timetable, workspace
from flows.known import Known
from flows.runs import Run
from flows.timetable import Deployed
from flows.workspace import Workspace

EVENTS = 20
CANDIDATES = 16  # of a model, whose verdicts may be of one run
EVERY_SECONDS, COUNT_SECONDS = 30.0, 600.0
PAGE_SECONDS = 5.0  # for the disk, where nobody waits
COMMAND_SECONDS = 0.5

T = TypeVar("T")


def gather(
    place: Workspace, *, seconds: float = COMMAND_SECONDS, sizes: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Everything as JSON; `troubles` says what could not be told.

    `seconds` are spent on the disk at most, none where its `sizes` are known.
    """
    troubles: dict[str, str] = {}

    def told(topic: str, ask: Callable[[], T], otherwise: T) -> T:
        try:
            return ask()
        except (AtelierError, OSError, sqlite3.Error) as error:
            troubles[topic] = " ".join(str(error).split())
            return otherwise

    ledger = Ledger(place.ledger_url)
    last = told("runs", lambda: runs.last(place), dict[str, Run]())
    recipes = known.recipes(place, {model: run.recipe for model, run in last.items()})
    held = told("ledger", ledger.currents, dict[str, dict[Alias, Move]]())
    judged = told("ledger", lambda: ledger.judged(last=CANDIDATES), dict[str, list[Judged]]())
    due = _by_model(told("schedules", lambda: timetable.read(place), list[Deployed]()), recipes, place)
    return {
        "schema": 1,
        "written": _now(),
        "recipes": [
            _row(place, model, recipes.get(model), last.get(model), judged.get(model, []), held.get(model, {}), due)
            for model in sorted({*recipes, *last, *held})
        ],
        "events": told("events", lambda: _events(place), list[dict[str, Any]]()),
        "notices": told("notices", lambda: notices.standing(place), dict[str, Any]()),
        "disk": disk.used(place, seconds=seconds) if sizes is None else sizes,
        "troubles": troubles,
    }


def write(place: Workspace) -> None:
    """Write it down for the endpoints, with the parts of the platform as they are now: whole, or not at all.

    One that was written just now stays; the disk is counted anew every ten minutes.
    """
    before = _before(place)
    if before.get("at", 0.0) > time.time() - EVERY_SECONDS:
        return
    counted = float(before.get("counted", 0.0))
    sizes = before.get("disk") if counted > time.time() - COUNT_SECONDS else None
    parts = (workspace.servers(place) or {}).get("parts", {})
    kept = ("title", "healthy", "since", "restarts")
    shown = {name: {key: part.get(key) for key in kept} for name, part in parts.items()}
    found = {
        **gather(place, seconds=PAGE_SECONDS, sizes=sizes),
        "parts": shown,
        "at": time.time(),
        "counted": time.time() if sizes is None else counted,
    }
    write_atomically(file(place), json.dumps(found).encode())


def _before(place: Workspace) -> dict[str, Any]:
    try:
        told = json.loads(file(place).read_bytes())
    except (OSError, ValueError):
        return {}
    ours = isinstance(told, dict) and told.get("at", 0.0) <= time.time()  # a clock may have been set back
    return told if ours else {}


def file(place: Workspace) -> Path:
    """Where the endpoints find it."""
    return place.serving / "status.json"


def shown(found: Mapping[str, Any], *, now: datetime | None = None) -> list[RenderableType]:
    """The same for a person."""
    moment = now or datetime.now(UTC)
    lines: list[RenderableType] = []
    if found["recipes"]:
        rows = Table("recipe", "last run", "took", "outcome", "why", "verdict", "champion", "next run", "drift")
        for row in found["recipes"]:
            rows.add_row(row["model"], *_cells(row, moment))
        lines.append(rows)
    sizes = ", ".join(f"{part} {_size(taken)}" for part, taken in found["disk"].items() if taken["bytes"])
    if sizes:
        lines.append(Text(f"disk: {sizes}", "dim"))
    for event in found["events"][-5:]:
        lines.append(Text(f"  {event['time'][:19]}  {event['model']}: {event['kind']}: {event['why']}", "dim"))
    troubles = {**found["troubles"], **found["notices"].get("troubles", {})}
    return lines + [Text(f"{topic}: {words}", "red") for topic, words in troubles.items()]


def _row(
    place: Workspace,
    model: str,
    recipe: Known | None,
    last: Run | None,
    judged: Iterable[Judged],
    held: Mapping[Alias, Move],
    due: Mapping[str, Deployed],
) -> dict[str, Any]:
    champion, challenger = held.get("champion"), held.get("challenger")
    return {
        "model": model,
        "recipe": None if recipe is None else _named(recipe.path, place),
        "last": None if last is None else _run(last),
        "verdict": _verdict(judged, last),
        "champion": None if champion is None else {"version": champion.version, "since": champion.created},
        "challenger": None if challenger is None else challenger.version,
        "schedule": _schedule(recipe, due.get(model)),
        "drift": None if champion is None else _drift(place, model, champion.version),
    }


def _run(run: Run) -> dict[str, Any]:
    kept = ("why", "detail", "began", "ended", "outcome", "exit_code", "seconds")
    return {name: getattr(run, name) for name in kept}


def _verdict(judged: Iterable[Judged], last: Run | None) -> dict[str, Any] | None:
    """The newest verdict: of a run that passed, the one that did, since its candidates have one each."""
    newest = list(judged)
    passed = [one for one in newest if one.passed] if last is not None and last.exit_code == 0 else []
    for one in passed + newest:
        return {"passed": one.passed, "candidate": one.candidate, "created": one.created}
    return None


def _schedule(recipe: Known | None, due: Deployed | None) -> dict[str, Any] | None:
    """What the recipe says of its schedule, and when Prefect will start it; next is null where it is not applied."""
    said = {} if recipe is None else recipe.raw.get("schedule") or {}
    if not isinstance(said, Mapping) or not (said or due):
        return None
    words = f"every {said['every']}" if "every" in said else str(said.get("cron", ""))
    return {
        "said": f"{words} {said.get('timezone', '')}".strip(),
        "owner": said.get("owner"),
        "next": None if due is None else due.next,
        "paused": due is not None and due.paused,
    }


def _drift(place: Workspace, model: str, champion: str) -> dict[str, Any] | None:
    """What monitoring said last of the champion, as `watching.py` writes it; torch would come with an import."""
    try:
        told = json.loads((place.observations / f"model={model}" / "drift.json").read_bytes())
        found = {"time": told["until"], "drifted": told["alarms"], "why": told["outcome"]}
        return found if told["version"] == champion else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _by_model(deployed: Iterable[Deployed], recipes: Mapping[str, Known], place: Workspace) -> dict[str, Deployed]:
    """The deployment that trains each model: it names the recipe among its parameters, or the model by its own name."""
    of_path = {recipe.path.resolve(): model for model, recipe in recipes.items()}
    found: dict[str, Deployed] = {}
    for one in deployed:
        if one.flow not in ("train", "retrain"):
            continue
        named = one.parameters.get("recipe") or one.parameters.get("path")
        model = one.parameters.get("model") or (of_path.get((place.project / str(named)).resolve()) if named else None)
        found[str(model or one.name)] = one
    return found


def _events(place: Workspace) -> list[dict[str, Any]]:
    kept = ("time", "kind", "model", "why")
    return [{name: getattr(event, name) for name in kept} for event in events.since(place, None, EVENTS)]


def _named(path: Path, place: Workspace) -> str:
    return path.relative_to(place.project).as_posix() if path.is_relative_to(place.project) else path.name


def _cells(row: Mapping[str, Any], now: datetime) -> list[RenderableType]:
    last, verdict, champion, schedule = row["last"], row["verdict"], row["champion"], row["schedule"]
    outcome = Text("")
    if last is not None:
        good = last["exit_code"] == 0
        outcome = Text(last["outcome"] or "running", "green" if good else "" if last["outcome"] is None else "red")
    next_run = ""
    if schedule is not None:
        next_run = "paused" if schedule["paused"] else (schedule["next"] or f"{schedule['said']}, not applied")
    return [
        "" if last is None else f"{age(last['began'], now)} ago",
        "" if last is None or last["seconds"] is None else f"{last['seconds']:.0f} s",
        outcome,
        "" if last is None else last["why"],
        "" if verdict is None else Text("passed", "green") if verdict["passed"] else Text("failed", "red"),
        "" if champion is None else f"{champion['version']}, {age(champion['since'], now)}",
        next_run,
        "" if row["drift"] is None else Text("found", "red") if row["drift"]["drifted"] else Text("none", "green"),
    ]


def age(time: str, now: datetime) -> str:
    """How long ago a time in ISO format was, in its largest unit: "3 h"."""
    seconds = max(0.0, (now - _instant(time)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def _size(taken: Mapping[str, Any]) -> str:
    return f"{'' if taken['whole'] else 'over '}{disk.shown(taken['bytes'])}"


def _instant(time: str) -> datetime:
    moment = datetime.fromisoformat(time)
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
