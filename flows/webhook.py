"""The controller's door on loopback: MLflow's webhooks, subscribed to, checked and counted, and `/healthz`.

A webhook says only that something may have changed: it carries a signature, and still nothing that it says is used.
"""

import base64
import hashlib
import hmac
import json
import os
import secrets
import socket
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from components import display
from components.aliases import without_password
from components.errors import AtelierError
from components.store import write_atomically
from flows.workspace import Workspace

STALE_SECONDS = 300
LARGEST = 65_536  # bytes of a body; MLflow's have a few hundred
REMEMBERED = 4096  # delivery ids
PATIENCE = 5.0  # seconds for a request to arrive whole
CALLERS = 32  # at once; MLflow sends with ten threads
SUBSCRIBE_SECONDS = 60.0  # how often MLflow is asked whether the webhook is still there
AGAIN_SECONDS = 2.0  # the same where it refused


class Refused(Exception):
    """A webhook that is not taken, with the status that says so."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Inbox:
    """Judges deliveries; it may be asked by many threads at once. `counts` says what became of them."""

    def __init__(self, secret: str, *, clock: Callable[[], float] = time.time) -> None:
        self.counts = {"accepted": 0, "duplicate": 0, "refused": 0}
        self._secret = secret.encode()
        self._clock = clock
        self._seen: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, headers: "Mapping[str, str] | Message", body: bytes) -> bool:
        """Whether a delivery is a new one; raises `Refused` for one that is forged, altered or stale."""
        try:
            delivery, at = self._checked(headers, body)
        except Refused:
            with self._lock:
                self.counts["refused"] += 1
            raise
        with self._lock:
            while self._seen and (len(self._seen) >= REMEMBERED or self._oldest() < self._clock() - STALE_SECONDS):
                self._seen.popitem(last=False)
            new = delivery not in self._seen
            self._seen.setdefault(delivery, at)
            self.counts["accepted" if new else "duplicate"] += 1
        return new

    def refuse(self, status: int, why: str) -> Refused:
        """The refusal of what is not even read, counted."""
        with self._lock:
            self.counts["refused"] += 1
        return Refused(status, why)

    def _checked(self, headers: "Mapping[str, str] | Message", body: bytes) -> tuple[str, float]:
        names = ("X-MLflow-Delivery-Id", "X-MLflow-Timestamp", "X-MLflow-Signature")
        delivery, timestamp, signature = (headers.get(name) or "" for name in names)
        signed = f"{delivery}.{timestamp}.".encode() + body
        expected = b"v1," + base64.b64encode(hmac.digest(self._secret, signed, hashlib.sha256))
        if not delivery or not hmac.compare_digest(expected, signature.encode()):
            raise Refused(401, "the signature does not match")
        at = float(timestamp) if timestamp.isascii() and timestamp.isdigit() else 0.0
        if abs(self._clock() - at) > STALE_SECONDS:
            raise Refused(401, "the delivery is stale: its timestamp is not within five minutes of now")
        return delivery, at

    def _oldest(self) -> float:
        return next(iter(self._seen.values()))


def secret(place: Workspace, name: str) -> str:
    """The secret of that name, 32 random bytes in base64: made on first use, readable by its owner alone."""
    place.secrets.mkdir(parents=True, exist_ok=True, mode=0o700)
    path = place.secrets / name
    if not path.exists():
        # Written whole before it has its name: an empty one would let anyone sign.
        mine = path.with_name(f".{name}.{secrets.token_hex(4)}")
        write_atomically(mine, base64.urlsafe_b64encode(os.urandom(32)), mode=0o600)
        with suppress(FileExistsError):  # another process was first
            os.link(mine, path)
        mine.unlink()
    return path.read_text().strip()


def subscribe(
    place: Workspace, server: str, port: int, *, note: Callable[[str | None], None], stop: threading.Event
) -> None:
    """See to it, in a thread of its own until `stop`, that an MLflow server sends its webhooks to that port.

    `note` is told each time why it does not, or None.
    """
    name = f"atelier-{hashlib.sha256(str(place.root).encode()).hexdigest()[:12]}"
    url, shared = f"http://127.0.0.1:{port}/", secret(place, "webhook.secret")

    def keep() -> None:
        while not stop.is_set():
            trouble = None
            try:
                display.subscribe(server, name=name, url=url, secret=shared)
            except (AtelierError, OSError) as error:
                trouble = f"no webhook of {without_password(server)} yet: {error}"
            note(trouble)
            stop.wait(SUBSCRIBE_SECONDS if trouble is None else AGAIN_SECONDS)

    threading.Thread(target=keep, name="subscription", daemon=True).start()


class Receiver(ThreadingHTTPServer):
    """Listens on 127.0.0.1 and calls `wake` for every new delivery; use it as a context."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(
        self, port: int, inbox: Inbox, *, wake: Callable[[], None], health: Callable[[], dict[str, Any]]
    ) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.inbox, self.wake, self.health = inbox, wake, health
        self.free = threading.Semaphore(CALLERS)
        self._thread = threading.Thread(target=self.serve_forever, args=(0.1,), name="webhooks", daemon=True)

    def __enter__(self) -> "Receiver":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self.free.acquire(blocking=False):  # polling finds what is turned away here
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A caller that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Receiver
    timeout = PATIENCE
    server_version, sys_version = "atelier", ""

    def setup(self) -> None:
        super().setup()
        self._clock = threading.Timer(PATIENCE, self._hang_up)  # `timeout` is of each piece alone
        self._clock.daemon = True
        self._clock.start()

    def finish(self) -> None:
        self._clock.cancel()
        super().finish()

    def do_POST(self) -> None:
        try:
            new = self.server.inbox.take(self.headers, self._body())
        except Refused as refusal:
            self._answer(refusal.status, {"error": str(refusal)})
            return
        if new:
            self.server.wake()
        self._answer(200, {"new": new})

    def do_GET(self) -> None:
        if self.path == "/healthz":
            content = self.server.health()
            self._answer(200 if content["well"] else 503, content)
        else:
            self._answer(404, {"error": "there are /healthz and the webhooks' POST / only"})

    def log_message(self, format: str, *args: Any) -> None:
        """The counts say enough."""

    def _hang_up(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length") or ""
        if not (length.isascii() and length.isdigit()):
            raise self.server.inbox.refuse(411, "a webhook says how long it is")
        if int(length) > LARGEST:
            raise self.server.inbox.refuse(413, f"a webhook has at most {LARGEST} bytes")
        return self.rfile.read(int(length))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.close_connection = True
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
