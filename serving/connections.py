"""How long a connection may take to say what it wants, and how much: what uvicorn itself leaves without a bound.

A browser that opens a connection and says nothing, a caller that dribbles its headers and one that never ends them all
hold memory and a file descriptor; none of them holds either for long here.
"""

import asyncio

from bentoml._internal.server.http import traffic
from httptools import HttpParserError
from starlette.types import ASGIApp
from uvicorn import config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES = 32768  # of the request line and the headers
HEAD_SECONDS = 10.0
LARGE = b'{"error": {"message": "the headers are larger than %d bytes; send smaller ones", ' % HEAD_BYTES + (
    b'"type": "invalid_request_error", "param": null, "code": "headers_too_large"}}'
)


class Connection(HttpToolsProtocol):
    """uvicorn's own, which closes a connection whose request line and headers are not whole in time, or too large."""

    _clock: asyncio.TimerHandle | None = None  # while a head is awaited
    _in_head = False
    _head = 0  # bytes of it so far

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_clock()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._clock is None and (self.cycle is None or self.cycle.response_complete):
            self._await_head()  # whatever comes after an answer is the next head, or a body that nobody reads
        before = self._in_head
        super().data_received(data)
        if before and self._in_head:  # the piece in which it began may hold much of what was before it
            self._head += len(data)
            if self._head > HEAD_BYTES and not self.transport.is_closing():
                self.send_400_response("")

    def on_message_begin(self) -> None:
        self._in_head, self._head = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        if self._weight() > HEAD_BYTES:  # it came in few pieces
            raise HttpParserError
        self._in_head = False
        self._stop_clock()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Say what is wrong with a head: that it is too large, or no HTTP."""
        if not self._in_head or max(self._head, self._weight()) <= HEAD_BYTES:
            super().send_400_response(msg)
            return
        length = str(len(LARGE)).encode()
        self.transport.write(
            b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\ncontent-length: "
            + length + b"\r\nconnection: close\r\n\r\n" + LARGE
        )  # fmt: skip
        self.transport.close()

    def _weight(self) -> int:
        return len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)

    def _await_head(self) -> None:
        self._clock = self.loop.call_later(HEAD_SECONDS, self.timeout_keep_alive_handler)

    def _stop_clock(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None


def bound() -> None:
    """Make every uvicorn server of this process bound its connections so; BentoML lets nobody choose the protocol.

    BentoML's own limit on a request is taken out: its timer outlives the request and holds a kilobyte for as long as
    the limit, and it runs each request as a task more. What waits here is bounded by the queues instead.
    """
    config.HTTP_PROTOCOLS["auto"] = f"{__name__}:{Connection.__name__}"
    traffic.TimeoutMiddleware = _unlimited


def _unlimited(app: ASGIApp, timeout: float) -> ASGIApp:
    return app
