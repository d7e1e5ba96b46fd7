"""The flow that schedules and events start: the line that a person's `atelier run` takes, once for each reason."""

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from prefect import flow
from prefect.client.orchestration import get_client
from prefect.context import FlowRunContext
from prefect.exceptions import Pause
from prefect.states import Completed, Failed, Scheduled
from rich.console import Console

from flows import lateness, runs, schedules, turns, workspace
from flows.runs import Cause, Why
from flows.workspace import Workspace

AGAIN_SECONDS = 20.0  # until a run that found its model's turn taken looks again
SKIPPED = "Skipped"  # the name of the state of a run that had nothing to do


@flow(name="retrain", flow_run_name="{model}", persist_result=False)
def retrain(model: str, recipe: str, why: str = "schedule", detail: str = "", event: str = "") -> Any:
    """Run a recipe, unless this start is not due, or a run has begun since that covers it; the state says what came."""
    place = workspace.find(Path(recipe).parent, Path.cwd())
    context = FlowRunContext.get()
    assert context is not None and context.flow_run is not None, "Prefect runs this"
    mine = context.flow_run
    cause = Cause(cast(Why, schedules.REASONS.get(event, why)), detail, str(mine.id))
    if (done := _done(place, cause)) is not None:
        return done
    due = mine.expected_start_time or datetime.now(UTC)
    one = schedules.applied(place).get(model)
    if event and (covering := runs.covering(place, model, due)) is not None:
        return Completed(name=SKIPPED, message=f"the run {covering.id} ({covering.why}) began after all of its events")
    if mine.auto_scheduled and one is not None and (reason := lateness.superseded(place, one, mine)):
        return Completed(name=SKIPPED, message=reason)
    if turns.taken(place.locks, model):
        if one is not None and (one.schedule or {}).get("overlap") == "skip":
            return Completed(name=SKIPPED, message=f"a run of {model} is on, and its schedule says overlap: skip")
        _later(mine.id, f"a run of {model} is on")
    state = _run(place, model, Path(recipe), cause)
    if any(run.outcome == runs.AWAY for run in runs.of_flow_run(place, str(mine.id))[:1]):
        _later(mine.id, "Prefect was away; it goes on from what it had finished")
    return state


def _run(place: Workspace, model: str, recipe: Path, cause: Cause) -> Any:
    from flows import caching, running

    caching.freeze()
    result = running.run(recipe, (), Console(file=sys.stderr, width=120), cause=cause)
    if result.exit_code == 0:
        return Completed(message=_words(result.summary))
    if not runs.of_flow_run(place, str(cause.flow_run)):
        running.note_unread(place, model, recipe, cause, result)
    return Failed(message=str(result.summary.get("error", "")) or runs.OUTCOMES.get(result.exit_code))


def _done(place: Workspace, cause: Cause) -> Any:
    """The state of a flow run that was put back although it had come to its end; None where it has not."""
    assert cause.flow_run is not None
    ended = [run for run in runs.of_flow_run(place, cause.flow_run) if runs.is_settled(run)]
    if not ended:
        return None
    if ended[0].exit_code == 0:
        return Completed(message="it had passed before its process was killed")
    return Failed(message=f"it had ended before its process was killed: {ended[0].outcome}")


def _later(flow_run: Any, why: str) -> None:
    """Put a flow run back for a while, and end its process: a waiting one holds no place among those that run."""
    state: Any = Scheduled(
        name="Waiting", scheduled_time=datetime.now(UTC) + timedelta(seconds=AGAIN_SECONDS), message=why
    )
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(flow_run, state, force=True)
    raise Pause(why, state=state)


def _words(summary: dict[str, Any]) -> str:
    return f"{summary.get('model')}@{summary.get('version')} is {summary.get('alias') or 'registered'}"
