"""One run of a recipe as the command line makes it: the stages as they happen, then what came of them."""

import json
import logging
import os
import signal
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from components.errors import AtelierError, GateFailed, missing_package
from components.store import sweep, write_atomically
from flows import console as consoles
from flows import events, explaining, leash, runs, summary, turns, unclosed, workspace
from flows.runs import Cause
from flows.workspace import Workspace

if TYPE_CHECKING:
    from components.recipe import Recipe

STOPPED = 130
BY_HAND = Cause()


@dataclass(frozen=True)
class Result:
    """What a run came to: its summary as JSON, and the exit code of the mistake that ended it, where one did."""

    summary: dict[str, Any]
    exit_code: int = 0


def run(
    path: Path, settings: tuple[str, ...], console: Console, *, debug: bool = False, cause: Cause = BY_HAND
) -> Result:
    """Run one recipe and show it; what ends it is told and returned, so that the next recipe still runs.

    Each run is on the workspace's log with its cause, from the moment its recipe is read.
    """
    begun, board = time.monotonic(), consoles.Board(console)
    result = _told(path, settings, board, begun, cause, debug=debug)
    _keep_record(path, result, cause)
    return result


def _told(
    path: Path, settings: tuple[str, ...], board: consoles.Board, begun: float, cause: Cause, *, debug: bool
) -> Result:
    try:
        return _run(path, settings, board, begun, cause, debug=debug)
    except AtelierError as error:
        told, code = error, error.exit_code
    except ModuleNotFoundError as error:
        told = missing_package(error)
        code = told.exit_code
    except Exception as error:  # noqa: BLE001 - anything else is ours: it is said so, and the next recipe still runs
        if _interrupted(error):
            raise KeyboardInterrupt from None
        told, code = _internal(error), 1
    complaints = Console(stderr=True)
    if debug:
        complaints.print(Text("".join(traceback.format_exception(told.__cause__ or told))), soft_wrap=True)
    complaints.print(Text.assemble((f"{path}: ", "bold red"), str(told)), soft_wrap=True)
    failed = {"recipe": str(path), "error": str(told), "exit_code": code}
    if isinstance(told, GateFailed):
        failed["verdicts"] = [verdict.model_dump(mode="json") for verdict in told.verdicts]
    return Result({**failed, **summary.pace(board, time.monotonic() - begun)}, code)


def _keep_record(path: Path, result: Result, cause: Cause) -> None:
    """What the run came to and what each stage cost, in the workspace, one file per run."""
    with suppress(AtelierError, OSError):  # without a workspace, or room in it, that is what the run has told
        name = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{path.stem}-{os.getpid()}.json"
        place = workspace.find(path.parent, Path.cwd())
        record = {**result.summary, "why": cause.why, "detail": cause.detail}
        write_atomically(place.records / name, json.dumps(record, indent=2).encode())


def explain(path: Path, settings: tuple[str, ...], *, debug: bool = False) -> explaining.Plan:
    """What `run` would do, without doing it."""
    place = workspace.find(path.parent, Path.cwd())
    workspace.enter(place, debug=debug)
    from components import recipe as recipes

    recipe = recipes.load(path, settings)
    from flows.train import line

    with explaining.planning() as plan:
        line(recipe, place)
    return plan


def _run(
    path: Path, settings: tuple[str, ...], board: consoles.Board, begun: float, cause: Cause, *, debug: bool
) -> Result:
    place = workspace.find(path.parent, Path.cwd())
    # Before the recipe, which imports torch: threads are settled by then.
    workspace.enter(place, debug=debug, patient=True)
    from components import recipe as recipes

    recipe = recipes.load(path, settings)  # refused before anything starts
    workspace.refuse_full(place)
    with _logged(place, recipe.model, path, cause) as logged:
        return _line(path, recipe, place, board, begun, logged)


def note_unread(place: Workspace, model: str, path: Path, cause: Cause, result: Result) -> None:
    """Put a run on the log that failed before its recipe could be read: it is seen, told of, and covers its events."""
    run = runs.begin(place, model=model, recipe=str(path), why=cause.why, detail=cause.detail, flow_run=cause.flow_run)
    runs.start(place, run)
    outcome = runs.OUTCOMES.get(result.exit_code, runs.OUTCOMES[1])
    _end(place, run, model, cause, result.exit_code, outcome, str(result.summary.get("error", "")))


@contextmanager
def _logged(place: Workspace, model: str, path: Path, cause: Cause) -> Iterator[str]:
    """Have the run of this block on the log, and tell what it came to; whatever ends it goes on its way."""
    run = runs.begin(place, model=model, recipe=str(path), why=cause.why, detail=cause.detail, flow_run=cause.flow_run)
    try:
        with runs.caused(cause):
            yield run
    except BaseException as error:
        code = _exit_code(error)
        outcome = runs.AWAY if code == 1 and _lost(error) else runs.OUTCOMES.get(code, runs.OUTCOMES[1])
        _end(place, run, model, cause, code, outcome, " ".join(str(error).split()))
        raise
    _end(place, run, model, cause, 0, runs.OUTCOMES[0], "")


def _end(place: Workspace, run: str, model: str, cause: Cause, code: int, outcome: str, words: str) -> None:
    with suppress(AtelierError, OSError):  # a full disk must not hide what the run came to
        runs.end(place, run, exit_code=code, outcome=outcome)
        events.tell(
            place, "run.failed" if code else "run.ended", model=model, why=words or outcome,
            facts={"run": run, "cause": cause.why, "exit_code": code, "outcome": outcome},
        )  # fmt: skip


def _exit_code(error: BaseException) -> int:
    if isinstance(error, AtelierError):
        return error.exit_code
    if isinstance(error, ModuleNotFoundError):
        return AtelierError.exit_code
    return STOPPED if _interrupted(error) else 1


def _line(path: Path, recipe: "Recipe", place: Workspace, board: consoles.Board, begun: float, logged: str) -> Result:
    page = place.reports / recipe.model / summary.PAGE
    board.console.print(f"[bold]{recipe.model}[/bold]  {path}", highlight=False)
    try:
        with board.stage("start Prefect"):
            from flows.train import train

            workspace.keep_log(place)
            leash.tie()
            workspace.refuse_damaged(place)
            start_api()
        turn = turns.turn(place.locks, recipe.model, say=board.say)
        with turn, consoles.showing(board):
            runs.start(place, logged)
            unclosed.close(place.locks, recipe.model)
            sweep(place.store)
            sweep(place.bentos)
            with unclosed.noting(place.locks, recipe.model):
                outcome = train(str(path), recipe)
        seconds = time.monotonic() - begun
        winner = next(v.candidate for v in outcome.verdicts if v.bundle == outcome.registered.bundle)
        summary.publish_sample(outcome.package, place)
    except GateFailed as error:
        board.console.print(summary.candidates(error.verdicts, winner=None))
        board.console.print(f"the candidates side by side: {page}", highlight=False, soft_wrap=True)
        raise
    except AtelierError as error:
        if error.__cause__ is not None:  # of a vendor's, such as a database that cannot be written
            workspace.refuse_full(place, because=error)
        raise
    except Exception as error:
        if isinstance(error, OSError) and error.errno in workspace.REFUSALS:
            raise workspace.refused(error, place) from error
        workspace.refuse_full(place, because=error)  # each vendor has an error of its own for a full disk
        raise
    board.console.print(summary.candidates(outcome.verdicts, winner=winner))
    board.console.print(summary.closing(outcome, place, page, board, seconds), highlight=False, soft_wrap=True)
    return Result(summary.as_json(path, outcome, board, seconds))


def start_api() -> None:
    """Start the embedded Prefect API, or find the one of PREFECT_API_URL.

    Ctrl-C in a terminal reaches every process there. The API must outlive it to take down how the run ended, so it is
    started with that signal blocked, which child processes inherit; it is stopped by another one.
    """
    from prefect.client.orchestration import get_client

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        get_client(sync_client=True)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def _interrupted(error: BaseException | None) -> bool:
    """Whether Ctrl-C or SIGTERM is behind an error: Prefect's engine answers either by one of its own."""
    return error is not None and (
        isinstance(error, KeyboardInterrupt)
        or type(error).__name__ == "TerminationSignal"
        or _interrupted(error.__context__)
    )


def _lost(error: BaseException | None) -> bool:
    """Whether a server that does not answer is behind an error; by its name, as httpx is Prefect's to import."""
    return error is not None and (
        any(kind.__module__.startswith("httpx") and kind.__name__ == "TransportError" for kind in type(error).__mro__)
        or _lost(error.__cause__)
        or _lost(error.__context__)
    )


def _internal(error: Exception) -> AtelierError:
    """A fault of ours as one paragraph, its traceback in the log."""
    logging.getLogger("atelier").error("a run ended by an internal error", exc_info=error)
    paragraph = " ".join(str(error).split())
    told = AtelierError(
        f"internal error: {type(error).__name__}: {paragraph}. What was finished is kept. The log of the workspace, "
        "logs/atelier.log, has the traceback; `atelier --debug run` shows it here."
    )
    told.__cause__ = error
    return told
