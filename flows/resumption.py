"""Flow runs whose process is gone: each is put back to be gone on with, exactly once a death, or is closed.

A flow run's process, and whatever that started, carries its id in its environment, so whether anything still works on
it is read from the system. A run that is gone on with finds what it had finished in its caches and checkpoints.
"""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows import flow_runs, leash

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

MARK = "PREFECT__FLOW_RUN_ID"  # Prefect's own, in the environment of what runs a flow run
RESUMED = "Resumed"  # the name of the state of a flow run that was put back
MOST = 3  # resumptions of one flow run
STATES = ("PENDING", "RUNNING", "CANCELLING", "CRASHED")  # of what some process should work on, or finish
SURE_SECONDS = 5.0  # that it must seem dead: what just ended is still being told to Prefect


class Resumption:
    """Looks for dead flow runs of some deployments; keep one, as it remembers what it saw at the last look."""

    def __init__(self) -> None:
        self._suspects: dict[UUID, tuple[str, float]] = {}

    def look(self, client: "SyncPrefectClient", deployments: Iterable[UUID]) -> list[tuple[Any, bool]]:
        """Put back or close what has been dead for long enough; each with whether it is gone on with."""
        done, seen = [], dict[UUID, tuple[str, float]]()
        for flow_run in flow_runs.read(client, deployments, states=STATES):
            state = flow_run.state
            if state is None or alive(flow_run.id):
                continue
            # A later state is another story: it must seem dead anew.
            known = self._suspects.get(flow_run.id)
            since = known[1] if known and known[0] == str(state.id) else time.monotonic()
            if time.monotonic() - since >= SURE_SECONDS and (what := _end(client, flow_run)) is not None:
                done.append((flow_run, what))
            else:
                seen[flow_run.id] = (str(state.id), since)
        self._suspects = seen
        return done


def alive(flow_run: UUID) -> bool:
    """Whether any process works on a flow run."""
    return bool(leash.marked(str(flow_run), name=MARK))


def _end(client: "SyncPrefectClient", flow_run: Any) -> bool | None:
    """Put a dead flow run back, True, or close it, False; None where it has gone on since it was read."""
    from prefect.states import Cancelled, Failed, Scheduled

    now = client.read_flow_run(flow_run.id).state
    if now is None or now.id != flow_run.state.id or alive(flow_run.id):
        return None
    if now.is_cancelling():
        client.set_flow_run_state(flow_run.id, Cancelled(message="its process is gone"), force=True)
        return False
    before = sum(state.name == RESUMED for state in client.read_flow_run_states(flow_run.id))
    if before >= MOST:
        message = f"its process was gone {before + 1} times; logs/worker.log and logs/atelier.log say more"
        client.set_flow_run_state(flow_run.id, Failed(message=message), force=True)
        return False
    state: Any = Scheduled(name=RESUMED, message="its process was gone: it goes on from what it had finished")
    client.set_flow_run_state(flow_run.id, state, force=True)
    return True
