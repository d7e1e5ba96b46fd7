"""What becomes of late starts: by the schedule's rule `catch_up` each is made, or gives way to a later one."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from flows import flow_runs, heartbeat
from flows.schedules import RETRAIN, Applied
from flows.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from prefect.client.orchestration import SyncPrefectClient

GRACE_SECONDS = 60.0  # later than that, a start is late
MOST = 100  # starts that are made up for


def verdict(
    rule: str, due: datetime, *, now: datetime, others: "Iterable[datetime]", alive: datetime | None
) -> str | None:
    """Why a start that was due is not made, or None where it is.

    `others` are the starts of the same schedule, made or not, and `alive` is since when the platform has been up.
    A start that only waited for another run of its model was not missed.
    """
    late = (now - due).total_seconds()
    if rule == "all" or late <= GRACE_SECONDS:
        return None
    missed = alive is None or due < alive
    if rule == "none":
        return f"it was due at {_shown(due)}, while the platform was down, and catch_up is none" if missed else None
    newest = max((other for other in others if due < other <= now), default=None)
    return None if newest is None else f"it was due at {_shown(due)}, and the start of {_shown(newest)} makes up for it"


def superseded(place: Workspace, one: Applied, flow_run: Any) -> str | None:
    """The same for a flow run of Prefect's that a schedule made."""
    rule, due, now = (one.schedule or {}).get("catch_up", "one"), flow_run.expected_start_time, datetime.now(UTC)
    if due is None:
        return None
    late = (now - due).total_seconds() > GRACE_SECONDS
    others = starts(flow_run.deployment_id, after=due, before=now) if rule == "one" and late else []
    return verdict(rule, due, now=now, others=others, alive=heartbeat.alive_since(place))


def starts(deployment: Any, *, after: datetime, before: datetime) -> "Sequence[datetime]":
    """When a deployment's schedule had starts between two times, whatever became of them."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        found = flow_runs.read(
            client, [deployment], after=after, before=before, order="EXPECTED_START_TIME_DESC", limit=20
        )
    return [run.expected_start_time for run in found if run.auto_scheduled and run.expected_start_time is not None]


def unplanned(client: "SyncPrefectClient", one: Applied, *, now: datetime) -> list[datetime]:
    """The starts up to now that Prefect never planned, as it was down for longer than it plans ahead; the last `MOST`.

    They are counted from the last start that it did plan.
    """
    deployment = client.read_deployment(UUID(one.deployments[RETRAIN]))
    known = starts(deployment.id, after=datetime.fromisoformat(one.since), before=now + timedelta(days=400))
    if not deployment.schedules or not known or max(known) > now:
        return []
    found = asyncio.run(_dates(deployment.schedules[0].schedule, max(known) + timedelta(seconds=1), now))
    return found[-MOST:]


async def _dates(schedule: Any, begin: datetime, until: datetime) -> list[datetime]:
    """As Prefect's own server counts them, daylight saving included."""
    from prefect.server.schemas import schedules as counted

    kind = getattr(counted, type(schedule).__name__)
    same = kind.model_validate(schedule.model_dump())
    found: list[datetime] = []
    while len(page := await same.get_dates(n=1000, start=begin, end=until)) > 0:
        found = [*found, *page][-MOST:]
        begin = page[-1] + timedelta(seconds=1)
    return found


def plan(client: "SyncPrefectClient", one: Applied, due: datetime) -> None:
    """Have the run of a start made; asked twice, it is one run, and it is the one that Prefect would have planned."""
    from prefect.states import Scheduled

    deployment = client.read_deployment(UUID(one.deployments[RETRAIN]))
    client.create_flow_run_from_deployment(
        deployment.id,
        state=Scheduled(scheduled_time=due, message="missed, and made up for"),
        idempotency_key=f"scheduled {deployment.id} {deployment.schedules[0].id} {due}",
    )


def _shown(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
