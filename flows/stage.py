"""How a stage becomes a Prefect task: cached by what it was asked and what it reaches, timed, and shown."""

import inspect
import time
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import prefect
from prefect.client.schemas.objects import State

from components.errors import AtelierError
from components.store import Store
from flows import caching, console
from flows.workspace import Workspace

P = ParamSpec("P")
R = TypeVar("R")


def stage(
    label: str,
    *,
    asked: Callable[..., Any] | None = None,
    reaches: Callable[..., Sequence[str]] | None = None,
    renew: Callable[..., Any] = lambda result, **arguments: result,
    settle: Callable[..., None] = lambda result, **arguments: None,
    note: Callable[[Any], str] = lambda result: "",
    retries: int = 0,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a Prefect task of a function that has an argument `workspace`.

    `label` may name its arguments, as in "train {name}". With `asked` and `reaches`, functions of the same arguments,
    the task is skipped where its key is known and all its bytes are still there; without them it always runs. `renew`
    puts the run's own inputs into a kept result that repeats those of the run that made it; `settle` is called once the
    result is on record, and may be called again.
    """

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        signature, source = inspect.signature(function), inspect.getsource(function)

        def key(context: Any, given: dict[str, Any]) -> str:
            assert asked is not None and reaches is not None
            return caching.key(function.__name__, [source, asked(**given)], reaches(**given))

        task = prefect.task(
            name=function.__name__,
            cache_key_fn=None if asked is None else key,
            persist_result=asked is not None,
            result_serializer="json",
            retries=retries,
            retry_delay_seconds=2,
            retry_condition_fn=_worth_retrying,
        )(_timed(function))

        def call(*values: P.args, **named: P.kwargs) -> R:
            arguments = signature.bind(*values, **named).arguments
            with console.board().stage(label.format(**arguments)) as shown:
                shown.skipped = True
                result = task(**arguments)
                if shown.skipped and not caching.whole(result, store_of(arguments["workspace"])):
                    result = task.with_options(refresh_cache=True)(**arguments)
                result = renew(result, **arguments)
                settle(result, **arguments)
                shown.note = note(result)
            return cast(R, result)

        return call

    return wrap


def store_of(workspace: Workspace) -> Store:
    """The store of a workspace."""
    return Store(workspace.store)


def _timed(function: Callable[..., R]) -> Callable[..., R]:
    """Tell the stage on show that it runs, and for how long."""

    @wraps(function)
    def body(*values: Any, **named: Any) -> R:
        shown = console.current()
        shown.skipped = False
        begun = time.monotonic()
        try:
            return function(*values, **named)
        finally:
            shown.own_seconds += time.monotonic() - begun

    return body


def _worth_retrying(task: Any, run: Any, state: State[Any]) -> bool:
    """A person's mistake stays one however often it is tried; a lock or a full queue may pass."""
    return not isinstance(state.result(raise_on_failure=False), AtelierError)
