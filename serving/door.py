"""The first and the last to see a request: it is named, its caller is known before anything is read, it is noted."""

import time
from typing import Any

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import errors
from serving.errors import Gone, Refusal
from serving.journal import Entry
from serving.keys import EVERYONE
from serving.parts import Parts

OPEN = ("/", "/livez", "/readyz", "/healthz", "/v1/signing-key", "/v1/openapi.json")  # need no key: they tell nothing
QUIET = ("/livez", "/readyz", "/healthz", "/metrics")  # asked for all the time, and not noted
GONE = 499  # as nginx notes a client that hung up


class Door:
    """ASGI middleware. It puts `id` and `caller` into the request's state; routes may put a `note` there.

    `note` holds what an `Entry` says of the model. The service puts the `Parts` into the state of the app.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, status = time.monotonic(), 500
        parts: Parts = scope["app"].state.parts
        state: dict[str, Any] = scope.setdefault("state", {})
        state |= {"id": errors.new_id(), "caller": EVERYONE, "note": {}}

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            if scope["path"] not in OPEN:
                state["caller"] = parts.keys.caller(Headers(scope=scope).get("authorization"))
            await self.app(scope, receive, noted)
        except Refusal as refusal:
            await errors.answer(refusal, state["id"])(scope, receive, noted)
        except Gone:
            status = GONE
        finally:
            if scope["path"] not in QUIET:
                entry = Entry(
                    id=state["id"], route=_route(scope), status=status, team=state["caller"].team,
                    seconds=time.monotonic() - started, **state["note"],
                )  # fmt: skip
                parts.journal.note(entry)
                parts.metrics.request(entry)


def _route(scope: Scope) -> str:
    """The route that answered, not the path, which is a caller's to invent."""
    route = scope.get("route")
    return getattr(route, "path", "") or "none"
