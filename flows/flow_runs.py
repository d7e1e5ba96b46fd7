"""Prefect's flow runs of deployments, by their state and by when they are expected to start."""

from collections.abc import Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def read(
    client: "SyncPrefectClient",
    deployments: Iterable[UUID],
    *,
    states: Iterable[str] = (),
    after: datetime | None = None,
    before: datetime | None = None,
    order: str = "ID_DESC",
    limit: int = 200,
    offset: int = 0,
) -> list[Any]:
    """Those in one of the states, of any where none is named, and expected between two times; `limit` at most."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterDeploymentId,
        FlowRunFilterExpectedStartTime,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.client.schemas.sorting import FlowRunSort

    wanted = FlowRunFilter(deployment_id=FlowRunFilterDeploymentId(any_=list(deployments)))
    if kinds := [StateType(state) for state in states]:
        wanted.state = FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds))
    if after is not None or before is not None:
        wanted.expected_start_time = FlowRunFilterExpectedStartTime(after_=after, before_=before)
    return list(client.read_flow_runs(flow_run_filter=wanted, sort=FlowRunSort[order], limit=limit, offset=offset))
