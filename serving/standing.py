"""How things stand with every recipe, for the page at /status: the platform's worker writes a file, this reads it."""

import asyncio
import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request, Response
from pydantic import BaseModel

from serving.errors import Refusal
from serving.generation import parts_of
from serving.openapi import ANSWER, READ, refusals, success

PAGE = Path(__file__).with_name("status.html")


class Standing(BaseModel):
    """Recipes with their last run, verdict, champion, schedule and drift; a key for some models sees those alone.

    `age_seconds` is how long ago it was written down. Disk, parts, notices and troubles are for keys of all models.
    """

    model_config = ANSWER

    written: str
    age_seconds: float
    recipes: list[dict[str, Any]]
    events: list[dict[str, Any]]
    disk: dict[str, Any]
    parts: dict[str, Any]
    notices: dict[str, Any]
    troubles: dict[str, Any]


def add(app: FastAPI, page: Callable[[Path], Any]) -> None:
    """Add the page and what it shows; `page` answers with a file as the playground's is answered."""

    async def status_page(request: Request) -> Response:
        answer: Response = await page(PAGE)
        return answer

    app.add_api_route("/status", status_page, methods=["GET"], include_in_schema=False)
    app.add_api_route(
        "/v1/status", status, methods=["GET"], response_model=Standing,
        responses=success("How things stand with every recipe") | refusals(*READ, 404),
    )  # fmt: skip


async def status(request: Request) -> Response:
    """What the platform's worker wrote down last, as far as the caller's key goes."""
    path, caller = parts_of(request).standing, request.state.caller
    if path is None:
        raise _none("this server is not part of a platform: `atelier up` runs one")
    try:
        told = json.loads(await asyncio.to_thread(path.read_bytes))
        age = (datetime.now(UTC) - datetime.fromisoformat(told["written"])).total_seconds()
    except FileNotFoundError:
        raise _none("the platform's worker has not written anything down yet; ask again in a minute") from None
    except (ValueError, KeyError, TypeError):
        raise _none("what the platform's worker wrote down cannot be read; its log says more") from None
    whole = "*" in caller.models
    seen = {name: [row for row in told.get(name, []) if caller.may(row["model"])] for name in ("recipes", "events")}
    rest = {name: told.get(name, {}) if whole else {} for name in ("disk", "parts", "notices", "troubles")}
    body = Standing(written=told["written"], age_seconds=round(max(0.0, age), 1), **seen, **rest)
    return Response(body.model_dump_json(), media_type="application/json")


def _none(why: str) -> Refusal:
    return Refusal(why, status=404, code="no_status")
