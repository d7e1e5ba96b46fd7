"""The first and the last to see a request: it is named, its caller is known before anything is read, it is noted."""

import time
from functools import lru_cache
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving import errors
from serving.errors import Gone, Refusal
from serving.journal import Entry
from serving.keys import EVERYONE
from serving.parts import Parts

OPEN = (
    "/",
    "/status",
    "/livez",
    "/readyz",
    "/healthz",
    "/v1/signing-key",
    "/v1/openapi.json",
)  # need no key: they tell nothing
QUIET = ("/livez", "/readyz", "/healthz", "/metrics")  # asked for all the time, and not noted
GONE = 499  # as nginx notes a client that hung up
ELSEWHERE = (
    "this server has no API keys, so it answers nobody but this machine, and this request came {}. Ask it at "
    "http://127.0.0.1, or let whoever runs it make keys with `atelier keys make`."
)


class Door:
    """ASGI middleware. It puts `id` and `caller` into the request's state; routes may put a `note` and `seen` there.

    `note` holds what an `Entry` says of the model, `seen` shows what it made. The service puts the `Parts` into the
    state of the app.
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
        state |= {"id": errors.new_id(), "caller": EVERYONE, "note": {}, "seen": None}

        async def noted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status, given = message["status"], message["headers"]
                if not any(name == b"x-request-id" for name, _ in given):
                    message["headers"] = [*given, (b"x-request-id", state["id"].encode())]
            await send(message)

        try:
            headers = Headers(scope=scope)
            if scope["path"] not in OPEN:
                state["caller"] = parts.keys.caller(headers.get("authorization"))
            if not parts.keys.required:
                _refuse_elsewhere(scope, headers)
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
                parts.observations.note(entry, state["seen"])


def _refuse_elsewhere(scope: Scope, headers: Headers) -> None:
    """Without keys, a page of another site that is open in someone's browser here may neither ask nor read.

    It could ask with a request that needs no consent of ours, or under a name of its own that it lets point here.
    """
    why = _elsewhere((scope.get("server") or ("",))[0], headers.get("host", ""), headers.get("origin"))
    if why is not None:
        raise Refusal(ELSEWHERE.format(why), status=403, code="elsewhere")


@lru_cache(1024)
def _elsewhere(server: str, host: str, origin: str | None) -> str | None:
    """How a request to the address `server` shows that it is another site's; None for all others."""
    if not _is_address(server) or not ip_address(server).is_loopback:
        return None  # an address of others is open by a decision of its own
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        name = "?"
    if name and name != "localhost" and not name.endswith(".localhost") and not _is_address(name):
        return f"for the host {host[:60]!r}"
    if origin is not None and origin.partition("://")[2] != host:
        return f"from a page of {origin[:60]!r}"
    return None


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _route(scope: Scope) -> str:
    """The route that answered, not the path, which is a caller's to invent."""
    route = scope.get("route")
    return getattr(route, "path", "") or "none"
