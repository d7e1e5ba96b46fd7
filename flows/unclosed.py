"""Flow runs whose process was killed: Prefect would show them as running for ever, so the model's next run closes them.

The ids of a run's flows are noted in a file of the workspace while it lasts. No tags: tasks would inherit them, and ask
the API for a concurrency slot each.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any
from uuid import UUID

_notes: ContextVar[Path | None] = ContextVar("notes", default=None)


@contextmanager
def noting(locks: Path, model: str) -> Iterator[None]:
    """Note every flow run that begins in this block, until the block ends; call it in the model's own turn."""
    token = _notes.set(_file(locks, model))
    try:
        yield
    finally:
        _notes.reset(token)
        _file(locks, model).unlink(missing_ok=True)


def note(flow: Any, flow_run: Any, state: Any) -> None:
    """A flow's `on_running` hook: put its run on the list."""
    if (notes := _notes.get()) is not None:
        with notes.open("a") as file:
            file.write(f"{flow_run.id}\n")


def close(locks: Path, model: str) -> list[str]:
    """Mark as crashed what a killed run of the model has left open; the ids of what was."""
    notes, closed = _file(locks, model), list[str]()
    if not notes.is_file():
        return closed
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterParentFlowRunId
    from prefect.client.schemas.sorting import FlowRunSort
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Crashed

    with get_client(sync_client=True) as client:
        for line in notes.read_text(errors="replace").split():
            try:
                noted = client.read_flow_run(UUID(line))
            except (ValueError, ObjectNotFound):  # a line cut off, or another API than the one that it ran under
                continue
            within = FlowRunFilter(parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[noted.id]))
            inner = client.read_flow_runs(flow_run_filter=within, sort=FlowRunSort.ID_DESC, limit=200)  # it needs both
            for run in [*inner, noted]:  # one that was killed as it began is not noted itself
                if run.state is not None and not run.state.is_final():
                    client.set_flow_run_state(run.id, Crashed(message="its process was killed"), force=True)
                    closed.append(str(run.id))
    notes.unlink()
    return closed


def _file(locks: Path, model: str) -> Path:
    return locks / f"{model}.flows"
