"""When Prefect will start which deployment next, from its database or its HTTP API: importing it costs two seconds."""

import json
import os
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote

from components.errors import AtelierError
from flows import prefect_api
from flows.workspace import Workspace

SECONDS = 3.0
AT_ONCE = 200  # what Prefect's API tells in one answer
ROUNDS = 20
DEPLOYED = """
SELECT deployment.name, flow.name, deployment.parameters, deployment.paused, deployment.id,
  (SELECT min(run.next_scheduled_start_time) FROM flow_run AS run
   WHERE run.deployment_id = deployment.id AND run.state_type = 'SCHEDULED' AND run.auto_scheduled)
FROM deployment JOIN flow ON flow.id = deployment.flow_id
"""


@dataclass(frozen=True)
class Deployed:
    """A deployment and its next run, in UTC; none where nothing is scheduled, or it is paused."""

    name: str
    flow: str
    parameters: Mapping[str, Any]
    paused: bool
    next: str | None


def read(place: Workspace) -> list[Deployed]:
    """Every deployment; an `AtelierError` where Prefect can neither be read nor asked."""
    own = os.environ.get("PREFECT_API_URL")
    path = place.prefect / "prefect.db"
    try:
        if own and own.rstrip("/") != prefect_api.here(place):  # whose database lies in the workspace
            return _asked(own.rstrip("/"))
        if not path.is_file():
            return []
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True, timeout=SECONDS)) as base:
            return [
                Deployed(name, flow, json.loads(parameters or "{}"), bool(paused), _utc(due))
                for name, flow, parameters, paused, _, due in base.execute(DEPLOYED)
            ]
    except (OSError, ValueError, LookupError, TypeError, sqlite3.Error, HTTPException) as error:
        raise AtelierError(f"Prefect cannot be read: {' '.join(str(error).split())}") from error


def _asked(api: str) -> list[Deployed]:
    deployments: list[dict[str, Any]] = []
    while len(page := _post(f"{api}/deployments/filter", {"offset": len(deployments), "limit": AT_ONCE})) == AT_ONCE:
        deployments += page
    deployments += page
    flows = {flow["id"]: flow["name"] for flow in _post(f"{api}/flows/filter", {"limit": AT_ONCE})}
    due: dict[str, str] = {}
    for _ in range(ROUNDS):  # one that runs every minute may fill an answer alone
        left = [deployment["id"] for deployment in deployments if deployment["id"] not in due]
        question = {
            "deployments": {"id": {"any_": left}},
            "flow_runs": {"state": {"type": {"any_": ["SCHEDULED"]}}},
            "sort": "NEXT_SCHEDULED_START_TIME_ASC",
            "limit": AT_ONCE,
        }
        runs = _post(f"{api}/flow_runs/filter", question) if left else []
        for run in runs:
            if run.get("auto_scheduled") and run.get("next_scheduled_start_time"):
                due.setdefault(run["deployment_id"], run["next_scheduled_start_time"])
        if len(runs) < AT_ONCE:
            break
    return [
        Deployed(one["name"], flows.get(one["flow_id"], ""), one.get("parameters") or {}, bool(one.get("paused")),
                 _utc(due.get(one["id"])))
        for one in deployments
    ]  # fmt: skip


def _post(url: str, question: Mapping[str, Any]) -> list[dict[str, Any]]:
    with prefect_api.post(url, question, seconds=SECONDS) as answer:
        found: list[dict[str, Any]] = json.load(answer)
    return found


def _utc(time: str | None) -> str | None:
    """Prefect's own two ways to write a time, as one."""
    return None if time is None else f"{time.replace(' ', 'T')[:19]}Z"
