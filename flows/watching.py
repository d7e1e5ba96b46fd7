"""What a monitor does for one model, without Prefect: references found or made, a window compared, and what follows."""

import json
import re
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from components import drift_page, monitoring
from components.drift import Drift
from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.monitoring import Side
from components.observed import Observed
from components.recipe import Duration, Monitor, Recipe, load, seconds
from components.records import Artifact
from components.store import Store, write_atomically
from flows import champions, events
from flows.workspace import Workspace

PAGE = "drift.html"
MENDED = ("controls.", "outputs.", "bundle.")  # drift that a run may mend; slow or failed answers it does not
FOUND = "drift.json"  # beside the observations: the endpoints show it at /metrics


@dataclass(frozen=True)
class Watched:
    """What a monitor found, and where its page is."""

    drift: Drift
    page: Path
    told: tuple[str, ...]  # kinds of the events that followed

    def as_dict(self) -> dict[str, Any]:
        """The form of `atelier monitor --json`."""
        return {**_as_dict(self.drift), "page": str(self.page), "events": list(self.told)}


@dataclass
class _Memory:
    """What is kept of a version from one monitor to the next: its references, and what was told of it."""

    path: Path
    told: dict[str, Any]

    @classmethod
    def of(cls, path: Path) -> "_Memory":
        try:
            return cls(path, json.loads(path.read_bytes()))
        except (OSError, ValueError):
            return cls(path, {"schema": 1})

    def reference(self, name: str, store: Store) -> Side | None:
        """A reference that is still in the store."""
        digest = self.told.get(name)
        artifact = Artifact(kind="reference", digest=digest) if digest else None
        return monitoring.kept(artifact, store)[0] if artifact is not None and store.holds(artifact) else None

    def keep(self, **told: Any) -> None:
        self.told |= told
        write_atomically(self.path, (json.dumps(self.told, indent=2) + "\n").encode())


def by_hand(place: Workspace, model: str, *, window: str | None = None) -> Watched:
    """The same as the flow does, of a model by its name; the recipe that names it says how, or the defaults do."""
    try:
        TypeAdapter(Duration).validate_python(window or "24h")
    except ValidationError as error:
        raise AtelierError(f"--window: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    recipe = _recipe(place, model)
    settings = None if recipe is None else recipe.monitor
    return watch(model, place, settings=settings, feedback_below=feedback_bound(recipe), window=window)


def _recipe(place: Workspace, model: str) -> Recipe | None:
    """The recipe of a model among those in flows/recipes; None where none names it."""
    named = re.compile(rf"^model:\s*[\"']?{re.escape(model)}[\"']?\s*(#.*)?$", re.M)
    for path in sorted((place.project / "flows" / "recipes").glob("*.yaml")):
        if named.search(path.read_text(encoding="utf-8")):
            return load(path)
    return None


def watch(
    model: str,
    place: Workspace,
    *,
    settings: Monitor | None = None,
    feedback_below: float | None = None,
    window: str | None = None,
    now: datetime | None = None,
) -> Watched:
    """Compare the window until now of a model's champion with how it began; tell by a page, a file and events.

    `window` is looked at instead of the recipe's, which the first window has all the same.
    """
    settings, now = settings or Monitor(), now or datetime.now(UTC)
    ledger, store = Ledger(place.ledger_url), Store(place.store)
    champion = ledger.current(model).get("champion")
    if champion is None:
        raise AtelierError(
            f"{model} has no champion, so there is nothing to monitor. `atelier ls` shows what there is."
        )
    version = next(known for known in ledger.versions(model) if known.version == champion.version)
    promoted = datetime.fromisoformat(champion.created)
    memory = _Memory.of(place.monitoring / model / f"{version.version}.json")
    if memory.told.get("bundle") != version.bundle:
        memory.told = {"schema": 1, "bundle": version.bundle}

    def observed(since: datetime, until: datetime) -> Observed:
        return Observed(place.observations, model, version.version, since, until)

    bundle = _drawn(memory, version, place, store)
    mix = _first_window(memory, observed(promoted, now), settings, store)
    begun = datetime.fromisoformat(memory.told["first_window"][1]) if mix is not None else promoted
    since = max(begun, now - timedelta(seconds=settings.seconds if window is None else seconds(window)))
    seen = observed(since, now)
    groups = {name: group for side in (mix, bundle) if side is not None for name, group in side.groups.items()}
    counted = monitoring.counted_in(seen, groups, slow_above=mix.slow_above if mix is not None else float("inf"))
    columns, rates, feedback = monitoring.compare(
        counted, mix=mix, bundle=bundle, thumbs=_thumbs(place, version, since, now), settings=settings,
        feedback_below=feedback_below,
    )  # fmt: skip
    drift = Drift(
        model=model, version=version.version, bundle=version.bundle, since=_told(since), until=_told(now),
        requests=counted.rows, looked_at=counted.looked_at,
        first_window=memory.told["first_window"] if mix is not None else None,
        references={name: memory.told[name] for name in ("drawn", "mix") if memory.told.get(name)},
        drift_above=settings.drift_above, columns=columns, rates=rates, feedback=feedback,
        false_alarms=memory.told.get("false_alarms"), unreadable=seen.unreadable,
    )  # fmt: skip
    page = place.reports / model / PAGE
    write_atomically(page, drift_page.page(drift).encode())
    write_atomically(place.observations / f"model={model}" / FOUND, json.dumps(_as_dict(drift), indent=2).encode())
    return Watched(drift, page, _follow(drift, memory, place, settings, now))


def _drawn(memory: _Memory, version: Version, place: Workspace, store: Store) -> Side | None:
    """What the bundle draws, drawn once; None of one that edits."""
    known = memory.reference("drawn", store)
    if known is None and memory.told.get("drawn", "") is not None:
        bundle = champions.brought_back(version, place)
        known = monitoring.drawn(store.path(bundle), digest=bundle.digest)
        about = {"model": version.model, "bundle": version.bundle, "of": "drawn"}
        memory.keep(drawn=monitoring.keep(known, about, store).digest if known is not None else None)
    return known


def _first_window(memory: _Memory, since_promoted: Observed, settings: Monitor, store: Store) -> Side | None:
    """The requests of the version's first window, as a reference once it is over and there were enough."""
    known = memory.reference("mix", store)
    if known is not None or (first := since_promoted.first) is None:
        return known
    over = first + timedelta(seconds=settings.seconds)
    seen = Observed(since_promoted.folder, since_promoted.model, since_promoted.version, first, over)
    if over > since_promoted.until or since_promoted.count < settings.at_least:
        return None
    if seen.count < settings.at_least:
        over, seen = since_promoted.until, since_promoted
    side = monitoring.first_window(seen)
    about = {"model": seen.model, "version": seen.version, "since": _told(first), "until": _told(over), "of": "mix"}
    memory.keep(
        mix=monitoring.keep(side, about, store).digest, first_window=(_told(first), _told(over)),
        false_alarms=monitoring.resampled(side, settings),
    )  # fmt: skip
    return side


def _thumbs(place: Workspace, version: Version, since: datetime, until: datetime) -> tuple[int, int]:
    """How many thumbs samples of a version got in a window, up and down."""
    path = place.serving / "journal.db"
    if not path.is_file():
        return 0, 0
    query = (
        "SELECT thumb, count(*) FROM feedback JOIN requests ON requests.id = feedback.request "
        "WHERE model = ? AND version = ? AND feedback.time >= ? AND feedback.time < ? GROUP BY thumb"
    )
    try:
        with closing(sqlite3.connect(path, timeout=10)) as base:
            asked = (version.model, version.version, since.timestamp(), until.timestamp())
            counts = dict(base.execute(query, asked).fetchall())
    except sqlite3.Error as error:
        raise AtelierError(
            f"the journal {path} cannot be read: {error}. Check that it is the endpoints' own."
        ) from None
    return counts.get("up", 0), counts.get("down", 0)


def _follow(drift: Drift, memory: _Memory, place: Workspace, settings: Monitor, now: datetime) -> tuple[str, ...]:
    """Tell of what drifted and of low feedback; the same again only once a window has passed.

    Drift of the service alone, which no training mends, is an event of its own kind: it starts no run.
    """
    kinds: list[tuple[events.Kind, list[str], str, dict[str, JsonValue]]] = []
    if drift.drifted:
        moved: dict[str, JsonValue] = {
            one.name: round(one.shift, 4) for one in drift.columns if one.standing == "drifted"
        }
        moved |= {one.name: round(one.now, 4) for one in drift.rates if one.standing == "drifted"}
        kind: events.Kind = "drift.found" if any(name.startswith(MENDED) for name in moved) else "service.drifted"
        kinds.append((kind, list(drift.drifted), drift.outcome, {"moved": moved}))
    told = drift.feedback
    if told.standing == "drifted":
        why = f"{told.share:.0%} of {told.up + told.down} thumbs are up, where {told.bound:.0%} are asked for"
        kinds.append(("feedback.low", ["feedback"], why, {"up": told.up, "down": told.down, "bound": told.bound}))
    sent = []
    for kind, what, why, facts in kinds:
        before = memory.told.get("told", {}).get(kind)
        again = before and (now - datetime.fromisoformat(before["at"])).total_seconds() < settings.seconds
        if again and before["what"] == what:
            continue
        about: dict[str, JsonValue] = {
            "version": drift.version,
            "since": drift.since,
            "until": drift.until,
            "requests": drift.requests,
        }
        events.tell(place, kind, model=drift.model, why=why, facts=about | facts)
        memory.keep(told={**memory.told.get("told", {}), kind: {"what": what, "at": _told(now)}})
        sent.append(kind)
    return tuple(sent)


def _as_dict(drift: Drift) -> dict[str, Any]:
    """What was found, and what it comes to, for whoever reads it without our code."""
    found = drift.model_dump(mode="json")
    return {"schema": 1, **found, "drifted": drift.drifted, "alarms": drift.alarms, "outcome": drift.outcome}


def feedback_bound(recipe: Recipe | None) -> float | None:
    """The share of thumbs that must be up, where the recipe names one."""
    return None if recipe is None or recipe.retrain is None else recipe.retrain.feedback_below


def rows(drift: Drift) -> list[dict[str, str]]:
    """What was compared, a row each, in words."""
    found = []
    for one in drift.columns:
        median = one.quantiles.get("0.5")
        sides = [f"{value:.4g}" for value in median] if median else [f"{one.before:,} rows", f"{one.now:,} rows"]
        between = f"{one.shift:.3f}, {one.low:.3f} to {one.high:.3f}"
        found.append((one.name, *sides, between, f"{drift.drift_above:g}", one.standing))
    for rate in drift.rates:
        rise = f"{max(0.0, rate.rise):.2%}"
        found.append((rate.name, f"{rate.before:.2%}", f"{rate.now:.2%}", rise, f"{rate.bound:.2%}", rate.standing))
    told = drift.feedback
    if told.share is not None:
        bound = "" if told.bound is None else f"{told.bound:.0%}"
        found.append(("thumbs up", "", f"{told.share:.0%} of {told.up + told.down}", "", bound, told.standing))
    return [dict(zip(("what", "before", "now", "moved", "bound", "standing"), row, strict=True)) for row in found]


def shown(found: Watched) -> RenderableType:
    """The same for a person."""
    drift = found.drift
    style = "bold red" if drift.alarms else "green" if drift.judged else "yellow"
    lines: list[RenderableType] = [Text(f"{drift.model}@{drift.version}: {drift.outcome}", style)]
    lines.append(Text(f"{drift.requests:,} requests from {drift.since} to {drift.until}", "dim"))
    told = Table("", "before", "now", "moved", "bound", "")
    for row in rows(drift):
        if row["standing"] != "told" or row["what"] == "thumbs up":
            told.add_row(*list(row.values())[:-1], Text(row["standing"], _style(row["standing"])))
    return Group(*lines, told, Text(str(found.page), "dim"))


def _style(standing: str) -> str:
    return {"drifted": "bold red", "steady": "green"}.get(standing, "dim")


def _told(time: datetime) -> str:
    return time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
