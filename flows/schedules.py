"""Recipes' schedules and triggers as Prefect's deployments and automations; what was applied, in `schedules.json`.

Prefect's database keeps them through a restart of everything. The file tells the worker, and whoever must not import
Prefect, what is scheduled.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from rich.console import RenderableType
from rich.table import Table

from components.errors import AtelierError
from components.records import fingerprint
from components.spelling import unknown
from components.store import write_atomically
from flows import flow_runs
from flows.durations import seconds
from flows.workspace import Workspace

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

    from components.recipe import Recipe

RETRAIN, MONITOR = "retrain", "monitor"  # the flows that are deployed, each under the name of the model
ANCHOR = datetime(2020, 1, 1, tzinfo=UTC)  # what intervals are counted from
VERSION = 1  # of what a deployment is made of; another one makes all of them anew
REASONS = {
    "data.changed": "data", "drift.found": "drift", "feedback.low": "feedback", "champion.aged": "age",
    "champion.moved": "upstream", "row.excluded": "removal",
}  # fmt: skip


@dataclass(frozen=True)
class Applied:
    """What is scheduled of one recipe."""

    model: str
    recipe: str  # its file
    source: str  # of its data; empty where that is a URL, which is not watched
    schedule: dict[str, Any] | None
    retrain: dict[str, Any] | None
    upstream: tuple[str, ...]  # models whose new champion starts a run
    since: str  # events before that start nothing
    deployments: dict[str, str] = field(default_factory=dict)  # their ids by the name of the flow
    automations: dict[str, str] = field(default_factory=dict)
    paused: bool = False

    @property
    def kinds(self) -> frozenset[str]:
        """The kinds of event of the model itself that start a run."""
        wanted = self.retrain or {}
        asked = {
            "data.changed": wanted.get("data"), "drift.found": wanted.get("drift"),
            "feedback.low": wanted.get("feedback_below") is not None, "row.excluded": wanted.get("removal"),
            "champion.aged": wanted.get("older_than") is not None,
        }  # fmt: skip
        return frozenset(kind for kind, wants in asked.items() if wants)

    @property
    def wait(self) -> float:
        """Seconds within which all events make one run."""
        return seconds((self.retrain or {}).get("wait", "30s"))


def applied(place: Workspace) -> dict[str, Applied]:
    """What is scheduled, by model; read from the file alone."""
    try:
        kept = json.loads(file(place).read_bytes())["recipes"]
        return {name: Applied(**{**one, "upstream": tuple(one["upstream"])}) for name, one in kept.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise AtelierError(
            f"{file(place)} is damaged ({error}). Move it away and run `atelier schedule apply`: it is written anew."
        ) from None


def file(place: Workspace) -> Path:
    """Where it is written down what is scheduled."""
    return place.root / "schedules.json"


def apply(place: Workspace, paths: Sequence[Path]) -> dict[str, Any]:
    """Make Prefect's deployments what the recipes say, and return which were made, kept and removed.

    What is as it should be stays untouched, so that no start is lost. A recipe that no longer asks for anything, or
    whose file is gone, is removed.
    """
    from components import recipe as recipes

    before = applied(place)
    wanted: dict[str, tuple[Path, Recipe]] = {}
    for path in paths:
        recipe = recipes.load(path)
        if recipe.model in wanted and asks(recipe) and asks(wanted[recipe.model][1]):
            raise AtelierError(
                f"{path} and {wanted[recipe.model][0]} are both recipes of {recipe.model}, and a model has one "
                "schedule. Name the one that is meant, as in `atelier schedule apply RECIPE`."
            )
        if recipe.model not in wanted or asks(recipe):
            wanted[recipe.model] = (path, recipe)
    asking = {model: pair for model, pair in wanted.items() if asks(pair[1])}
    gone = [
        model for model, one in before.items()
        if model not in asking and (model in wanted or not Path(one.recipe).is_file())
    ]  # fmt: skip
    told: dict[str, list[str]] = {"made": [], "kept": [], "removed": []}
    staying = {model: one.upstream for model, one in before.items() if model not in gone}
    _refuse_circles(staying | {model: _upstream(recipe) for model, (_, recipe) in asking.items()})
    if asking or gone:
        with _client() as client:
            for model, (path, recipe) in sorted(asking.items()):
                one, made = _deploy(client, place, path, recipe, before.get(model))
                before[model] = one
                told["made" if made else "kept"].append(model)
                _write(place, before)
            for model in gone:
                _remove(client, before.pop(model))
                told["removed"].append(model)
                _write(place, before)
    return {"schema": 1, **told}


def _refuse_circles(upstream: Mapping[str, Sequence[str]]) -> None:
    """Raise an `AtelierError` where models come after each other in a circle: each champion would start the next."""
    try:
        TopologicalSorter(upstream).prepare()
    except CycleError as error:
        raise AtelierError(
            f"each new champion would start the next run in a circle, without an end: {' -> '.join(error.args[1])}. "
            "A model comes after those that `retrain: {after: [...]}` names, and, where there is a `retrain:`, those "
            "at whose `@champion` its candidates begin. Take one of them out; nothing was applied."
        ) from None


def asks(recipe: "Recipe") -> bool:
    """Whether a recipe asks for anything that runs by itself."""
    return recipe.schedule is not None or recipe.retrain is not None or _monitor(recipe) is not None


def listed(place: Workspace) -> dict[str, Any]:
    """What is scheduled, with the next start of each where Prefect tells it; as `atelier schedule list --json`."""
    known = applied(place)
    following: Mapping[str, str] = {}
    if known:
        with _client() as client:
            following = _next(client, known.values())
    rows = [{**asdict(one), "next": following.get(model)} for model, one in sorted(known.items())]
    return {"schema": 1, "schedules": rows}


def table(found: dict[str, Any]) -> RenderableType:
    """The same for a person."""
    if not found["schedules"]:
        return "Nothing is scheduled: give a recipe a `schedule:`, and run atelier schedule apply"
    rows = Table("model", "when", "next start, UTC", "also on", "catch up", "overlap", "owner")
    for one in found["schedules"]:
        schedule = one["schedule"] or {}
        when = schedule.get("cron") or (f"every {schedule['every']}" if schedule.get("every") else "")
        zone = f" {schedule['timezone']}" if when and schedule["timezone"] != "UTC" else ""
        also = [REASONS[kind] for kind in sorted(Applied(**{k: v for k, v in one.items() if k != "next"}).kinds)]
        also += [f"{model}'s champion" for model in one["upstream"]]
        following = "paused" if one["paused"] else (one["next"] or "")[:16]
        rows.add_row(
            one["model"], when + zone, following, ", ".join(also), schedule.get("catch_up", ""),
            schedule.get("overlap", ""), schedule.get("owner") or "",
        )  # fmt: skip
    return rows


def pause(place: Workspace, model: str, *, paused: bool) -> Applied:
    """Stop the starts of a model, by the clock and by events, or let them go on."""
    known = applied(place)
    one = _known(known, model)
    with _client() as client:
        for deployment in one.deployments.values():
            client.set_deployment_paused_state(UUID(deployment), paused)
        for automation in one.automations.values():
            (client.pause_automation if paused else client.resume_automation)(UUID(automation))
    # What happened meanwhile starts nothing afterwards.
    known[model] = replace(one, paused=paused, since=one.since if paused else _now())
    _write(place, known)
    return known[model]


def remove(place: Workspace, model: str) -> None:
    """Take the schedule and the triggers of a model out of Prefect; its recipe stays as it is."""
    known = applied(place)
    one = _known(known, model)
    with _client() as client:
        _remove(client, one)
    del known[model]
    _write(place, known)


def run(place: Workspace, model: str, *, detail: str = "") -> str:
    """Have the worker run a scheduled model now, and return Prefect's id of the run."""
    with _client() as client:
        made = client.create_flow_run_from_deployment(
            UUID(_known(applied(place), model).deployments[RETRAIN]),
            parameters={"why": "by hand", "detail": detail or "atelier schedule run"},
        )
    return str(made.id)


def _known(known: Mapping[str, Applied], model: str) -> Applied:
    if model not in known:
        raise AtelierError(
            unknown("scheduled model", model, known) if known else "nothing is scheduled yet: `atelier schedule apply`"
        )
    return known[model]


def _deploy(
    client: "SyncPrefectClient", place: Workspace, path: Path, recipe: "Recipe", before: Applied | None
) -> tuple[Applied, bool]:
    """One recipe's deployments and automations; whether anything was to be made."""
    from components.sources.urls import is_url

    schedule, retrain = recipe.schedule, recipe.retrain
    one = Applied(
        model=recipe.model, recipe=str(path.resolve()), source="" if is_url(recipe.data.source) else recipe.data.source,
        schedule=schedule.model_dump(mode="json") if schedule else None,
        retrain=retrain.model_dump(mode="json") if retrain else None,
        upstream=_upstream(recipe), since=before.since if before else _now(), paused=before.paused if before else False,
    )  # fmt: skip
    monitor = _monitor(recipe)
    asked = {
        name: value for name, value in asdict(one).items() if name in ("recipe", "schedule", "retrain", "upstream")
    }
    version = fingerprint([VERSION, asked, monitor])[7:19]
    if before is not None and _standing(client, before, version):
        return replace(one, deployments=before.deployments, automations=before.automations), False
    parameters = {"model": one.model, "recipe": one.recipe}
    owner = [f"owner:{schedule.owner}"] if schedule and schedule.owner else []
    deployments = {RETRAIN: _deployment(client, RETRAIN, one, version, _times(schedule), parameters, owner)}
    if monitor is not None:
        asked_of = {"path": one.recipe}
        deployments[MONITOR] = _deployment(client, MONITOR, one, version, _every(monitor), asked_of, owner)
    for name in (before.automations if before else {}).values():
        _gone(lambda name=name: client.delete_automation(UUID(name)))
    automations = {
        name: str(client.create_automation(automation))
        for name, automation in _automations(one, deployments[RETRAIN]).items()
    }
    for name, deployment in (before.deployments if before else {}).items():
        if name not in deployments:
            _gone(lambda deployment=deployment: client.delete_deployment(UUID(deployment)))
    return replace(one, deployments=deployments, automations=automations), True


def _deployment(
    client: "SyncPrefectClient",
    flow: str,
    one: Applied,
    version: str,
    times: list[Any],
    parameters: dict[str, Any],
    tags: list[str],
) -> str:
    made = client.create_deployment(
        flow_id=client.create_flow_from_name(flow),
        name=one.model,
        version=version,
        schedules=times,
        parameters=parameters,
        description=f"{flow} {one.model} by {one.recipe}",
        tags=["atelier", *tags],
        path=None,
        entrypoint=f"flows.{flow}.{flow}",
        enforce_parameter_schema=False,
    )
    return str(made)


def _standing(client: "SyncPrefectClient", before: Applied, version: str) -> bool:
    """Whether Prefect holds all that was made, as it was made."""
    from prefect.exceptions import ObjectNotFound

    try:
        found = [client.read_deployment(UUID(deployment)) for deployment in before.deployments.values()]
    except ObjectNotFound:
        return False
    automations = [client.read_automation(UUID(automation)) for automation in before.automations.values()]
    return all(deployment.version == version for deployment in found) and None not in automations


def _times(schedule: Any) -> list[Any]:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import CronSchedule

    if schedule is None:
        return []
    if schedule.cron is None:
        return _every(schedule.every, zone=schedule.timezone)
    return [DeploymentScheduleCreate(schedule=CronSchedule(cron=schedule.cron, timezone=schedule.timezone))]


def _every(duration: str, *, zone: str = "UTC") -> list[Any]:
    from prefect.client.schemas.actions import DeploymentScheduleCreate
    from prefect.client.schemas.schedules import IntervalSchedule

    interval = timedelta(seconds=seconds(duration))
    return [DeploymentScheduleCreate(schedule=IntervalSchedule(interval=interval, anchor_date=ANCHOR, timezone=zone))]


def _automations(one: Applied, deployment: str) -> dict[str, Any]:
    """What Prefect watches for: the first event fires, the run waits until later ones have come, which fire nothing."""
    from prefect.events.actions import RunDeployment
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture

    def automation(name: str, kinds: Iterable[str], models: Sequence[str]) -> AutomationCore:
        within = timedelta(seconds=one.wait)
        return AutomationCore(
            name=f"atelier: {name} {one.model}",
            description=f"starts a run of {one.model}; `atelier schedule apply` made it",
            trigger=EventTrigger(
                expect={f"atelier.{kind}" for kind in kinds},
                match={"prefect.resource.id": [f"atelier.model.{model}" for model in models]},
                posture=Posture.Reactive,
                threshold=1,
                within=within,
            ),
            actions=[
                RunDeployment(
                    source="selected",
                    deployment_id=UUID(deployment),
                    parameters={
                        "model": one.model,
                        "recipe": one.recipe,
                        "event": {"__prefect_kind": "jinja", "template": "{{ event.payload.kind }}"},
                        "detail": {"__prefect_kind": "jinja", "template": "{{ event.payload.why }}"},
                    },
                    schedule_after=within,
                )
            ],
        )

    found = {}
    if one.kinds:
        found["own"] = automation("events of", one.kinds, [one.model])
    if one.upstream:
        found["upstream"] = automation("models before", ["champion.moved"], one.upstream)
    return found


def _remove(client: "SyncPrefectClient", one: Applied) -> None:
    for automation in one.automations.values():
        _gone(lambda automation=automation: client.delete_automation(UUID(automation)))
    for deployment in one.deployments.values():
        _gone(lambda deployment=deployment: client.delete_deployment(UUID(deployment)))


def _gone(delete: Any) -> None:
    """What somebody has deleted already is gone as well."""
    from prefect.exceptions import ObjectNotFound

    try:
        delete()
    except ObjectNotFound:
        return


def _next(client: "SyncPrefectClient", known: Iterable[Applied]) -> dict[str, str]:
    """The next start of each model."""
    models = {UUID(one.deployments[RETRAIN]): one.model for one in known if RETRAIN in one.deployments}
    found: dict[str, str] = {}
    page: list[Any] = [None]
    offset = 0
    while page and len(found) < len(models):
        page = flow_runs.read(client, models, states=["SCHEDULED"], order="EXPECTED_START_TIME_ASC", offset=offset)
        offset += len(page)
        for flow_run in page:
            at = flow_run.expected_start_time
            if flow_run.deployment_id in models and at is not None:
                found.setdefault(models[flow_run.deployment_id], at.astimezone(UTC).isoformat())
    return found


@contextmanager
def _client() -> Iterator["SyncPrefectClient"]:
    """Prefect, be it a server or the embedded API; an `AtelierError` where it does not answer or refuses."""
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.exceptions import PrefectException

    try:
        with get_client(sync_client=True) as client:
            yield client
    except (PrefectException, httpx.HTTPError, RuntimeError) as error:
        raise AtelierError(
            f"Prefect does not take it: {' '.join(str(error).split())[:400]}. `atelier status` tells whether it runs; "
            "what was applied until then stays, and the same command goes on."
        ) from error


def _monitor(recipe: "Recipe") -> str | None:
    """How often the recipe's monitor looks, if it has one."""
    monitor = getattr(recipe, "monitor", None)
    return None if monitor is None else str(monitor.every)


def _upstream(recipe: "Recipe") -> tuple[str, ...]:
    """The models whose new champion starts a run."""
    return tuple(dict.fromkeys([*recipe.retrain.after, *_begun_from(recipe)])) if recipe.retrain else ()


def _begun_from(recipe: "Recipe") -> list[str]:
    """The models from whose champions candidates go on."""
    names = [c.init.partition("@") for c in recipe.candidates.values() if c.init is not None]
    return [model for model, _, alias in names if alias == "champion" and model != recipe.model]


def _write(place: Workspace, known: Mapping[str, Applied]) -> None:
    told = {"schema": 1, "recipes": {model: asdict(one) for model, one in sorted(known.items())}}
    write_atomically(file(place), (json.dumps(told, indent=2) + "\n").encode())


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="microseconds")
