"""A real uvicorn server in a thread, on a free port, over the application of a shop; and raw sockets to speak to it."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from fastapi import FastAPI

SECONDS = 10.0


@contextmanager
def running(app: FastAPI, **options) -> Iterator[str]:
    """The address of a server that answers with `app` until the block ends; the port is the system's choice."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False, lifespan="off", **options))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="server", daemon=True)
    thread.start()
    until(lambda: server.started)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = server.force_exit = True
        thread.join(SECONDS)
        listening.close()
        assert not thread.is_alive()


def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait for a condition; an assertion fails where it does not come true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.005)


def connect(url: str) -> socket.socket:
    """A bare connection to the server at `url`."""
    host, port = url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=SECONDS)


@dataclass(frozen=True)
class Held:
    """A model that waits: `entered` is set once it has begun, and it goes on when `go` is."""

    entered: threading.Event = field(default_factory=threading.Event)
    go: threading.Event = field(default_factory=threading.Event)


def held_up(monkeypatch, endpoint) -> Held:
    """Make every model wait for an event, as slow ones would."""
    held, generate = Held(), type(endpoint).generate

    def wait(*arguments):
        held.entered.set()
        held.go.wait(SECONDS)
        return generate(*arguments)

    monkeypatch.setattr(type(endpoint), "generate", wait)
    return held
