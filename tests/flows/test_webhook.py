"""Webhooks of MLflow wake the controller once each, if they are signed and fresh; it subscribes to them by itself."""

import base64
import hashlib
import hmac
import http.client
import socket
import threading
import time
from pathlib import Path

import pytest

from flows import webhook
from flows.webhook import Inbox, Receiver, Refused
from flows.workspace import Workspace


def delivery(secret: str, *, at: float, name: str = "d-1", body: bytes = b'{"entity":"x"}') -> dict[str, str]:
    stamp = str(int(at))
    signature = hmac.new(secret.encode(), f"{name}.{stamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "X-MLflow-Delivery-Id": name,
        "X-MLflow-Timestamp": stamp,
        "X-MLflow-Signature": "v1," + base64.b64encode(signature).decode(),
    }


BODY = b'{"entity":"x"}'


def test_a_signed_delivery_is_new_once() -> None:
    inbox = Inbox("s3cret", clock=lambda: 1000.0)
    headers = delivery("s3cret", at=1000)
    assert [inbox.take(headers, BODY), inbox.take(headers, BODY)] == [True, False]
    assert inbox.counts == {"accepted": 1, "duplicate": 1, "refused": 0}


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"X-MLflow-Signature": "v1," + base64.b64encode(b"0" * 32).decode()}, 401),
        ({"X-MLflow-Signature": ""}, 401),
        ({"X-MLflow-Signature": "é"}, 401),
        ({"X-MLflow-Delivery-Id": "another"}, 401),
        ({"X-MLflow-Timestamp": "1001"}, 401),
        (delivery("s3cret", at=1000 - 301), 401),
        (delivery("s3cret", at=1000 + 301), 401),
        (delivery("wrong", at=1000), 401),
    ],
)
def test_a_forged_altered_or_stale_delivery_is_refused(change: dict[str, str], status: int) -> None:
    inbox = Inbox("s3cret", clock=lambda: 1000.0)
    with pytest.raises(Refused) as refusal:
        inbox.take({**delivery("s3cret", at=1000), **change}, BODY)
    assert refusal.value.status == status and inbox.counts["refused"] == 1


def test_an_altered_body_is_refused() -> None:
    with pytest.raises(Refused):
        Inbox("s3cret", clock=lambda: 1000.0).take(delivery("s3cret", at=1000), BODY + b" ")


def test_the_memory_of_deliveries_is_bounded() -> None:
    inbox = Inbox("s3cret", clock=lambda: 1000.0)
    for number in range(webhook.REMEMBERED + 10):
        assert inbox.take(delivery("s3cret", at=1000, name=f"d-{number}"), BODY)
    assert len(inbox._seen) <= webhook.REMEMBERED


def send(port: int, headers: dict[str, str], body: bytes) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    connection.request("POST", "/", body, headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_only_what_is_new_and_signed_wakes_the_controller(tmp_path: Path) -> None:
    secret, woken = webhook.secret(Workspace(tmp_path, tmp_path), "webhook.secret"), []
    inbox = Inbox(secret)
    with Receiver(0, inbox, wake=lambda: woken.append(1), health=dict) as receiver:
        port = receiver.server_port
        good = delivery(secret, at=time.time())
        assert [send(port, good, BODY), send(port, good, BODY)] == [200, 200] and woken == [1]
        assert send(port, delivery("wrong", at=time.time()), BODY) == 401
        assert send(port, {**good, "Content-Length": str(webhook.LARGEST + 1)}, b"") == 413
        assert send(port, {**good, "Content-Length": "-5"}, b"") == 411
        assert woken == [1] and inbox.counts == {"accepted": 1, "duplicate": 1, "refused": 3}


def test_a_caller_that_dribbles_holds_the_door_for_a_moment_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook, "PATIENCE", 0.5)
    with (
        Receiver(0, Inbox("secret"), wake=lambda: None, health=dict) as receiver,
        socket.create_connection(("127.0.0.1", receiver.server_port)) as caller,
    ):
        caller.settimeout(0.05)
        ended, until = False, time.monotonic() + 5
        while not ended and time.monotonic() < until:  # each piece comes in time, and the whole never
            try:
                caller.sendall(b"x")
                ended = caller.recv(1) == b""
            except TimeoutError:
                continue
            except ConnectionError:
                ended = True
        assert ended


def test_the_secret_is_its_owners_alone_and_stays(tmp_path: Path) -> None:
    place = Workspace(tmp_path, tmp_path)
    first = webhook.secret(place, "webhook.secret")
    assert webhook.secret(place, "webhook.secret") == first and len(base64.urlsafe_b64decode(first)) == 32
    assert (place.secrets / "webhook.secret").stat().st_mode & 0o777 == 0o600
    assert place.secrets.stat().st_mode & 0o777 == 0o700


def test_an_mlflow_that_refuses_is_asked_again_and_the_reason_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "AGAIN_SECONDS", 0.01)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    troubles, twice, stop = list[str | None](), threading.Event(), threading.Event()

    def note(trouble: str | None) -> None:
        troubles.append(trouble)
        if len(troubles) > 1:
            stop.set()
            twice.set()

    webhook.subscribe(Workspace(tmp_path, tmp_path), "http://ana:hunter2@127.0.0.1:9", 1, note=note, stop=stop)
    assert twice.wait(30)
    assert all(told and told.startswith("no webhook of http://***@127.0.0.1:9 yet") for told in troubles)
