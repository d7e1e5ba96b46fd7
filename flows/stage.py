"""How a stage becomes a Prefect task: cached by what it was asked and what it reaches, timed, and shown."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import prefect
from prefect.client.schemas.objects import State

from components.errors import AtelierError
from components.store import Store
from flows import caching, console, explaining, results
from flows.cost import Meter
from flows.workspace import Workspace

P = ParamSpec("P")
R = TypeVar("R")


def stage(
    label: str,
    *,
    asked: Callable[..., Mapping[str, Any]] | None = None,
    reaches: Callable[..., Sequence[str]] | None = None,
    renew: Callable[..., Any] = lambda result, **arguments: result,
    settle: Callable[..., None] = lambda result, **arguments: None,
    known: Callable[..., Any] = lambda **arguments: None,
    note: Callable[[Any], str] = lambda result: "",
    retries: int = 0,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a Prefect task of a function that has the arguments `recipe` and `workspace`.

    `label` may name its arguments, as in "train {name}". With `asked` and `reaches`, functions of the same arguments,
    the task is skipped where its key is known and all its bytes are still there; without them it always runs. `renew`
    puts the run's own inputs into a kept result that repeats those of the run that made it; `settle` is called once the
    result is on record, and may be called again. `known` tells what a stage that always runs would answer, if it can
    be told without running it.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        signature, source = inspect.signature(function), inspect.getsource(function)
        itself = f"{function.__module__}:{function.__name__}", hashlib.sha256(source.encode()).hexdigest()

        def key(given: Mapping[str, Any]) -> caching.Key | None:
            if asked is None or reaches is None:
                return None
            made = caching.key(function.__name__, asked(**given), reaches(**given))
            return caching.Key(made.stage, {**made.parts, "source": dict([*made.parts["source"].items(), itself])})

        def checked(*values: Any, **named: Any) -> R:
            result = function(*values, **named)
            if reaches is not None:
                caching.refuse_changed(reaches(**signature.bind(*values, **named).arguments))
            return result

        task = prefect.task(
            name=function.__name__,
            cache_key_fn=None if asked is None else lambda context, given: cast(caching.Key, key(given)).name,
            persist_result=asked is not None,
            result_serializer="json",
            retries=retries,
            retry_delay_seconds=2,
            retry_condition_fn=_worth_retrying,
        )(_timed(wraps(function)(checked)))

        def run(arguments: dict[str, Any]) -> R:
            place: Workspace = arguments["workspace"]
            title = label.format(**arguments)
            with console.board().stage(title) as shown:
                if (made := key(arguments)) is not None:
                    results.drop_damaged(place, made.name)
                shown.skipped = True
                result = task(**arguments)
                if shown.skipped and not caching.whole(result, store_of(place)):
                    result = task.with_options(refresh_cache=True)(**arguments)
                if made is not None:
                    caching.remember(place.keys / arguments["recipe"].model, title, made)
                result = renew(result, **arguments)
                settle(result, **arguments)
                shown.note = note(result)
            return cast(R, result)

        def plan(arguments: dict[str, Any], plan: explaining.Plan) -> Any:
            title = label.format(**arguments)
            if waits := explaining.missing(arguments.values()):
                plan.says(title, "waits" if asked else "always", f"needs {', '.join(waits)}")
                return explaining.Unknown(title)
            if (made := key(arguments)) is None:
                plan.says(title, "always")
                result = known(**arguments)
                return explaining.Unknown(title) if result is None else result
            place: Workspace = arguments["workspace"]
            kept = results.read(place, made.name)
            if kept is not results.NONE and caching.whole(kept, store_of(place)):
                plan.says(title, "cached")
                return renew(kept, **arguments)
            before = caching.remembered(place.keys / arguments["recipe"].model, title)
            lost = "its result is no longer here" if kept is results.NONE else "the bytes it made are gone or changed"
            plan.says(title, "runs", *(explaining.changes(before, made) or (lost,)))
            return explaining.Unknown(title)

        def call(*values: P.args, **named: P.kwargs) -> R:
            arguments = dict(signature.bind(*values, **named).arguments)
            made = explaining.plan()
            return run(arguments) if made is None else cast(R, plan(arguments, made))

        return call

    return wrap


def step(function: Callable[P, R]) -> Callable[P, R]:
    """A statement of a flow that is no task: in a plan it waits for what it needs."""

    @wraps(function)
    def call(*values: P.args, **named: P.kwargs) -> R:
        if explaining.plan() is not None and (waits := explaining.missing([*values, *named.values()])):
            return cast(R, explaining.Unknown(waits[0]))
        return function(*values, **named)

    return call


def store_of(workspace: Workspace) -> Store:
    """The store of a workspace."""
    return Store(workspace.store)


def _timed(function: Callable[..., R]) -> Callable[..., R]:
    """Tell the stage on show that it runs, and what it costs."""

    @wraps(function)
    def body(*values: Any, **named: Any) -> R:
        shown = console.current()
        shown.skipped = False
        meter = Meter()
        meter.start()
        try:
            return function(*values, **named)
        finally:
            meter.stop()
            shown.own_seconds += meter.seconds
            shown.joules = meter.joules
            shown.peak_memory = max(shown.peak_memory or 0, meter.peak_memory or 0) or None

    return body


def _worth_retrying(task: Any, run: Any, state: State[Any]) -> bool:
    """A person's mistake stays one however often it is tried; a lock or a full queue may pass."""
    return not isinstance(state.result(raise_on_failure=False), AtelierError)
