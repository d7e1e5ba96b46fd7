"""Prefect's server as `atelier up` starts it: `python -m flows.prefect_server server start ...`, as `prefect` takes it.

Two libraries are newer here than those that Prefect 3.8 was tried with. Under SQLAlchemy 2.1 its scheduler plans
nothing: it inserts many flow runs at once, with a `state` that is no column of theirs, which 2.1 refuses unless the
class says what becomes of it; Prefect writes the states itself, right after. And FastAPI 0.154 refuses a null where a
default is meant, which Prefect's own command line sends for `limit`, `offset` and `sort`.
"""

import json
from typing import Any

LEFT_OUT = ("limit", "offset", "sort")  # what a null stands for the default of


def let_many_be_planned() -> None:
    """Have the `state` of flow runs that are inserted at once left alone, as SQLAlchemy 2.0 leaves it."""
    from prefect.server.database.orm_models import FlowRun

    hybrid: Any = vars(FlowRun)["state"]
    hybrid.inplace.bulk_dml(_left_alone)


def let_nulls_be_left_out() -> None:
    """Have the server's app take questions as Prefect's own clients put them."""
    from prefect.server.api import server

    make = server.create_app
    server.create_app = lambda *values, **named: Lenient(make(*values, **named))  # type: ignore[assignment]


class Lenient:
    """An ASGI app around another, which is asked without the nulls that stand for defaults."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Read the body of a question whole and pass it on without those nulls; all else as it is."""
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].endswith("/filter"):
            await self.app(scope, receive, send)
            return
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] != "http.request":  # whoever asked is gone
                return
            body, more = body + message.get("body", b""), message.get("more_body", False)
        body = without_nulls(body)
        length = [(b"content-length", str(len(body)).encode())]
        kept = [(name, value) for name, value in scope["headers"] if name.lower() != b"content-length"]
        told = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Any:
            return told.pop() if told else await receive()

        await self.app({**scope, "headers": kept + length}, again, send)


def without_nulls(body: bytes) -> bytes:
    """A question in JSON without the nulls that stand for defaults; what is no such question stays as it is."""
    try:
        asked = json.loads(body)
    except ValueError:
        return body
    if not isinstance(asked, dict) or not any(name in asked and asked[name] is None for name in LEFT_OUT):
        return body
    return json.dumps(
        {name: value for name, value in asked.items() if value is not None or name not in LEFT_OUT}
    ).encode()


def _left_alone(cls: Any, mapping: Any, value: Any) -> None:
    """The state is inserted into its own table."""


if __name__ == "__main__":
    from prefect.cli import app

    let_many_be_planned()
    let_nulls_be_left_out()
    app()
