"""What a request may weigh, and how long its body may take to come."""

import asyncio
import time

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

BODY_SECONDS = 20.0  # for the whole body: a caller that dribbles holds a connection, and no more than that


class BodyLimit:
    """ASGI middleware that counts a body as it arrives, whatever its headers claim.

    At the first byte over `most` the request ends with 413, and with 408 where the body is not whole in time; nothing
    more of it is read. `larger` names the paths that take more.
    """

    def __init__(self, app: ASGIApp, *, most: int, larger: dict[str, int], seconds: float = BODY_SECONDS) -> None:
        self.app, self.most, self.larger, self.seconds = app, most, larger, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            receive = self._counted(receive, self.larger.get(scope["path"], self.most))
        await self.app(scope, receive, send)

    def _counted(self, receive: Receive, most: int) -> Receive:
        count, whole, until = 0, False, time.monotonic() + self.seconds

        async def counted() -> Message:
            nonlocal count, whole
            if whole:  # what comes now is that the client has gone
                return await receive()
            try:
                async with asyncio.timeout(until - time.monotonic()):
                    message = await receive()
            except TimeoutError:
                raise HTTPException(
                    408, f"the body did not arrive within {self.seconds:g} s; send it at once"
                ) from None
            count += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if count > most:
                raise HTTPException(413, f"the body is larger than {most} bytes; send a smaller one")
            return message

        return counted
