"""Prefect's HTTP API, asked without an import of Prefect, which costs two seconds."""

import base64
import json
import os
import urllib.request
from http.client import HTTPResponse
from typing import Any

from flows import workspace
from flows.workspace import Workspace


def here(place: Workspace) -> str | None:
    """The API of the server that `atelier up` runs for the workspace; None where none is up."""
    up = ((workspace.servers(place) or {}).get("parts", {}).get("prefect") or {}).get("url")
    return f"{up}/api" if up else None


def post(url: str, content: Any, *, seconds: float) -> HTTPResponse:
    """Its answer to content in JSON; no proxy is asked for what is on this machine.

    Raises `OSError`, `ValueError` or `HTTPException` where it does not answer, or refuses.
    """
    headers = {"Content-Type": "application/json", **_authorization()}
    local = [urllib.request.ProxyHandler({})] if "//127.0.0.1" in url or "//localhost" in url else []
    request = urllib.request.Request(url, data=json.dumps(content).encode(), headers=headers)
    answer: HTTPResponse = urllib.request.build_opener(*local).open(request, timeout=seconds)
    return answer


def _authorization() -> dict[str, str]:
    """As Prefect's own client would send it."""
    if key := os.environ.get("PREFECT_API_KEY"):
        return {"Authorization": f"Bearer {key}"}
    if pair := os.environ.get("PREFECT_API_AUTH_STRING"):
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}
