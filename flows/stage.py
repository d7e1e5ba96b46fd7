"""How a stage becomes a Prefect task: cached by what it was asked and what it reaches, timed, and shown."""

import hashlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, wraps
from typing import Any, ParamSpec, TypeVar, cast, get_type_hints

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
    """Make a Prefect task of a function that has the argument `workspace`, and `recipe` where it is cached.

    `label` may name its arguments, as in "train {name}". With `asked` and `reaches`, functions of the same arguments,
    the task is skipped where its key is known and all its bytes are still there; without them it always runs. `renew`
    puts the run's own inputs into a kept result that repeats those of the run that made it; `settle` is called once the
    result is on record, and may be called again. `known` tells what a stage that always runs would answer, if it can
    be told without running it.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        made = _Stage(label, function, asked, reaches, renew, settle, known, note, retries)
        signature = inspect.signature(function)

        def call(*values: P.args, **named: P.kwargs) -> R:
            arguments = dict(signature.bind(*values, **named).arguments)
            plan = explaining.plan()
            return cast(R, made.run(arguments) if plan is None else made.planned(arguments, plan))

        return call

    return wrap


@dataclass(frozen=True)
class _Stage:
    """What `stage` was given, and what it does with it."""

    label: str
    function: Callable[..., Any]
    asked: Callable[..., Mapping[str, Any]] | None
    reaches: Callable[..., Sequence[str]] | None
    renew: Callable[..., Any]
    settle: Callable[..., None]
    known: Callable[..., Any]
    note: Callable[[Any], str]
    retries: int

    def run(self, arguments: dict[str, Any]) -> Any:
        """The result: kept, where the key is known and every byte is there, else of the function."""
        place: Workspace = arguments["workspace"]
        title, key = self.label.format(**arguments), self.key(arguments)
        with console.board().stage(title) as shown:
            if key is not None:
                results.drop_damaged(place, key.name, self._kind)
            shown.skipped = True
            result = self._task(**arguments)
            if shown.skipped and not caching.whole(result, store_of(place)):
                result = self._task.with_options(refresh_cache=True)(**arguments)
            if key is not None:
                caching.remember(place.keys / arguments["recipe"].model, title, key)
            result = self.renew(result, **arguments)
            self.settle(result, **arguments)
            shown.note = self.note(result)
        return result

    def planned(self, arguments: dict[str, Any], plan: explaining.Plan) -> Any:
        """The kept result, or `Unknown`; the plan is told what a run would do."""
        title = self.label.format(**arguments)
        if waits := explaining.missing(arguments.values()):
            plan.says(title, "waits" if self.asked else "always", f"needs {', '.join(waits)}")
            return explaining.Unknown(title)
        key = self.key(arguments)
        if key is None:
            plan.says(title, "always")
            result = self.known(**arguments)
            return explaining.Unknown(title) if result is None else result
        place: Workspace = arguments["workspace"]
        kept = results.read(place, key.name, self._kind)
        if kept is not results.NONE and caching.whole(kept, store_of(place)):
            plan.says(title, "cached")
            return self.renew(kept, **arguments)
        before = caching.remembered(place.keys / arguments["recipe"].model, title)
        lost = "its result is no longer here" if kept is results.NONE else "the bytes it made are gone or changed"
        plan.says(title, "runs", *(explaining.changes(before, key) or (lost,)))
        return explaining.Unknown(title)

    def key(self, arguments: Mapping[str, Any]) -> caching.Key | None:
        """The key, with the function's own text among the sources; None for a stage that always runs."""
        if self.asked is None or self.reaches is None:
            return None
        made = caching.key(self.function.__name__, self.asked(**arguments), self.reaches(**arguments))
        source = hashlib.sha256(inspect.getsource(self.function).encode()).hexdigest()
        itself = f"{self.function.__module__}:{self.function.__name__}"
        return caching.Key(made.stage, {**made.parts, "source": {**made.parts["source"], itself: source}})

    @cached_property
    def _kind(self) -> Any:
        """The type of the result."""
        return get_type_hints(self.function)["return"]

    @cached_property
    def _task(self) -> "prefect.Task[..., Any]":
        return prefect.task(
            name=self.function.__name__,
            cache_key_fn=None if self.asked is None else self._key_for_prefect,
            persist_result=self.asked is not None,
            result_serializer="json",
            retries=self.retries,
            retry_delay_seconds=2,
            retry_condition_fn=_worth_retrying,
        )(self._body())

    def _key_for_prefect(self, context: Any, arguments: dict[str, Any]) -> str:
        key = self.key(arguments)
        assert key is not None, "only a cached stage is asked for its key"
        return key.name

    def _body(self) -> Callable[..., Any]:
        """The function, which tells the stage on show that it runs and what it costs."""
        signature = inspect.signature(self.function)

        @wraps(self.function)
        def body(*values: Any, **named: Any) -> Any:
            shown = console.current()
            shown.skipped = False
            meter = Meter()
            meter.start()
            try:
                result = self.function(*values, **named)
                if self.reaches is not None:
                    caching.refuse_changed(self.reaches(**signature.bind(*values, **named).arguments))
                return result
            finally:
                meter.stop()
                shown.cost(meter)

        return body


def step(function: Callable[P, R]) -> Callable[P, R]:
    """A statement of a flow that is no task: in a plan it waits for what it needs."""

    @wraps(function)
    def call(*values: P.args, **named: P.kwargs) -> R:
        plan = explaining.plan()
        if plan is None:
            return function(*values, **named)
        if waits := explaining.missing([*values, *named.values()]):
            return cast(R, explaining.Unknown(waits[0]))
        try:
            return function(*values, **named)
        except AtelierError as error:  # where the run would end
            plan.says(function.__name__, "stops", str(error))
            return cast(R, explaining.Unknown(function.__name__))

    return call


def store_of(workspace: Workspace) -> Store:
    """The store of a workspace."""
    return Store(workspace.store)


def _worth_retrying(task: Any, run: Any, state: State[Any]) -> bool:
    """A person's mistake stays one however often it is tried; a lock or a full queue may pass."""
    return not isinstance(state.result(raise_on_failure=False), AtelierError)
