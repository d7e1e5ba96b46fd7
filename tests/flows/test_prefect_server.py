"""Prefect's server is asked as its own clients ask, and what is no question of theirs reaches it as it is."""

import asyncio
import json
from typing import Any

from flows.prefect_server import Lenient, without_nulls


def asked(path: str, body: bytes, *, method: str = "POST") -> tuple[Any, int]:
    """What the app behind is asked, and the length that it is told."""
    seen: list[tuple[Any, int]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        length = int(dict(scope["headers"])[b"content-length"])
        seen.append(((await receive())["body"], length))

    pieces = [body[:5], body[5:]] if path.endswith("/filter") else [body]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces)}

    headers = [(b"content-length", str(len(body)).encode()), (b"x-kept", b"1")]
    scope = {"type": "http", "method": method, "path": path, "headers": headers}
    asyncio.run(Lenient(app)(scope, receive, None))
    return seen[0]


def test_a_null_that_stands_for_a_default_is_left_out_and_any_other_stays() -> None:
    body = json.dumps({"limit": None, "offset": 3, "sort": None, "flows": None}).encode()
    found, length = asked("/api/flows/filter", body)
    assert json.loads(found) == {"offset": 3, "flows": None} and length == len(found)
    for other in (b"", b"no json", b"[null]", b'{"limit": 5}'):
        assert without_nulls(other) == other


def test_what_is_no_question_is_passed_on_untouched() -> None:
    body = b'{"limit": null}'
    assert asked("/api/deployments/", body) == (body, len(body))
