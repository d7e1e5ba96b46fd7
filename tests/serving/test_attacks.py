"""Callers who mean harm, or behave as if they did, against a real server: what they get, and what others notice."""

import hashlib
import json
import os
import select
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

import httpx
import pytest

from serving import connections
from serving.batching import Batcher
from serving.limits import BodyLimit
from serving.residents import Residents
from tests.serving.live import SECONDS, connect, held_up, running, until
from tests.serving.shop import Shop, application, close

pytestmark = pytest.mark.slow
TOKENS = {team: f"atl_0000000{number}_" + team[0] * 43 for number, team in enumerate(("shop", "lab", "one"))}
SECRET = "a red bag for Ms Nightingale"
ROOT = Path(__file__).resolve().parents[2]


def write_keys(path, *, revoked=()):
    keys = [
        {
            "id": token[4:12], "team": team, "sha256": hashlib.sha256(token.encode()).hexdigest(),
            "models": ["fashion"] if team == "one" else ["*"], "created": "2026-11-22",
            "revoked": "2026-11-22" if team in revoked else None,
        }
        for team, token in TOKENS.items()
    ]  # fmt: skip
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps({"schema": 1, "keys": keys}))
    aside.replace(path)


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def release(shop):
    fashion, shoes = {"1": shop.served(), "2": shop.served(latent_dim=9)}, {"1": shop.served(model="shoes")}
    return shop.release(
        fashion={"champion": "1", "versions": fashion}, shoes={"champion": "1", "versions": shoes}
    )  # fmt: skip


@pytest.fixture(scope="module")
def parts(shop, release):
    """Of a server without keys."""
    parts = shop.parts(release, journal=shop.root / "journal.db")
    yield parts
    close(parts)


@pytest.fixture(scope="module")
def url(parts):
    with running(application(parts), http=connections.Connection) as url:
        yield url


@pytest.fixture(scope="module")
def guarded(shop, release):
    """The parts of a server with keys, and its address."""
    write_keys(shop.root / "keys.json")
    parts = shop.parts(release, keys=shop.root / "keys.json", journal=shop.root / "guarded.db")
    with running(application(parts), http=connections.Connection) as url:
        yield parts, url
    close(parts)


@pytest.fixture
def client(url):
    with httpx.Client(base_url=url, timeout=SECONDS) as client:
        yield client


@pytest.fixture
def team(guarded):
    """A client with the key of a team."""
    made = []

    def client(name):
        headers = {"Authorization": f"Bearer {TOKENS[name]}"} if name else {}
        made.append(httpx.Client(base_url=guarded[1], timeout=SECONDS, headers=headers))
        return made[-1]

    yield client
    for one in made:
        one.close()


def draw(client, **body):
    return client.post("/v1/generate", json={"model": "fashion", "seed": 1, **body})


def quantile(client, count, *, percent):
    """The seconds that so many of 100 requests stay under."""
    took = []
    for seed in range(count):
        started = time.monotonic()
        assert draw(client, seed=seed).status_code == 200
        took.append(time.monotonic() - started)
    return statistics.quantiles(took, n=100)[percent - 1]


def batches(parts):
    """How often a model has run."""
    lines = parts.metrics.text().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("atelier_batch_samples_count"))


def answered(connection):
    """All that a connection says until the server closes it, or says no more."""
    told = b""
    with suppress(ConnectionError, TimeoutError):
        while piece := connection.recv(65536):
            told += piece
    return told


def poured(connection, piece, *, most):
    """Bytes that could be sent of an endless stream before the server closed the connection."""
    sent = 0
    with suppress(ConnectionError, TimeoutError):
        while sent < most:
            sent += connection.send(piece)
    return sent


POST = b"POST /v1/generate HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


def test_500_slow_connections_hold_nobody_up_and_are_closed_when_their_time_is_up(url, client, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 4.0)
    before = quantile(client, 150, percent=99)
    kinds = (b"", b"GET /v1/models HTTP/1.1\r\nhost: loc", POST + b'content-length: 99\r\n\r\n{"mod', b"\r\n")
    slow = [connect(url) for _ in range(500)]
    for number, connection in enumerate(slow):
        connection.sendall(kinds[number % len(kinds)])
    during = quantile(client, 150, percent=99)
    print(f"p99 before {before * 1e3:.1f} ms, with 500 slow connections {during * 1e3:.1f} ms")
    assert during < 3 * before + 0.05
    for number, connection in enumerate(slow):
        connection.settimeout(6)
        if number % len(kinds) != 2:  # a body has its own time, and an answer: see `limits.py`
            assert connection.recv(1) == b""
        connection.close()


def test_a_dribbled_head_does_not_keep_a_connection_open(url, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with connect(url) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        started = time.monotonic()
        with suppress(ConnectionError):
            for letter in b"GET /" * 200:
                connection.sendall(bytes([letter]))
                time.sleep(0.01)
        assert time.monotonic() - started < 1.5


def test_a_dribbled_body_is_told_that_its_time_is_up_and_then_left(parts, monkeypatch):
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    app = application(parts)
    (limit,) = [middleware for middleware in app.user_middleware if middleware.cls is BodyLimit]
    limit.kwargs["seconds"] = 0.3
    with running(app, http=connections.Connection) as url, connect(url) as connection:
        connection.sendall(POST + b"content-length: 60000\r\n\r\n")
        until(lambda: not connection.send(b" ") or select.select([connection], [], [], 0.01)[0], 2)
        assert connection.recv(12) == b"HTTP/1.1 408"
        started = time.monotonic()
        with suppress(ConnectionError):
            for _ in range(300):
                connection.sendall(b" ")
                time.sleep(0.01)
        assert time.monotonic() - started < 2


@pytest.mark.parametrize(
    "start",
    [
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: ",
        b"GET / HTTP/1.1\r\nhost: localhost\r\nx: y\r\n",
        b"GET /",
        b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 10_000 + b"\r\n",
    ],
)
def test_endless_headers_are_refused_before_they_fill_the_memory(url, client, start):
    with connect(url) as connection:
        connection.settimeout(2)
        connection.sendall(start)
        piece = b"x: y\r\n" * 5000 if start.endswith(b"y\r\n") else b"y" * 30_000
        assert poured(connection, piece, most=2**26) < 2**24
        told = answered(connection)
        assert not told or told.startswith((b"HTTP/1.1 431", b"HTTP/1.1 400"))
    assert draw(client).status_code == 200


def test_too_large_headers_are_told_so(url):
    with connect(url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 33_000 + b"\r\n\r\n")
        told = answered(connection)
    assert told.startswith(b"HTTP/1.1 431") and json.loads(told.partition(b"\r\n\r\n")[2])["error"]["code"]
    assert httpx.get(f"{url}/v1/models", headers={"x": "y" * 30_000}).status_code == 200


@pytest.mark.parametrize("declared", [b"content-length: 10000000000", b"transfer-encoding: chunked"])
def test_a_body_over_the_limit_ends_at_the_limit_whatever_it_declares(url, declared):
    with connect(url) as connection:
        connection.sendall(POST + declared + b"\r\n\r\n")
        piece = b"1000\r\n" + b" " * 4096 + b"\r\n" if b"chunked" in declared else b" " * 4096
        connection.sendall(piece * 20)
        assert connection.recv(12) == b"HTTP/1.1 413"


def test_what_could_be_read_as_two_requests_is_none(url):
    both = b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
    both += b"GET /metrics HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with connect(url) as connection:
        connection.sendall(POST + both)
        told = answered(connection)
    assert told.startswith(b"HTTP/1.1 400") and told.count(b"HTTP/1.1") == 1


DEEP = [b"[" * depth + b"]" * depth for depth in (100, 300, 900, 960, 1500, 30_000)]


@pytest.mark.parametrize("value", [*DEEP, b'"\\ud800"', b"9" * 4000, b"9" * 5000, b"1e400", b"NaN", b'{"\\ud800": 1}'])
@pytest.mark.parametrize("key", [None, "retry"])
def test_strange_json_is_refused_in_the_usual_form_with_and_without_a_key_for_retries(client, value, key):
    headers = {"content-type": "application/json"} | ({"idempotency-key": key} if key else {})
    for body in (
        b'{"model": "fashion", "controls": {"truncation": %b}}' % value,
        b'{"model": "fashion", "n": %b}' % value,
        b'{"model": "fashion", "controls": %b}' % value,
    ):
        answer = client.post("/v1/generate", content=body, headers=headers)
        assert answer.status_code == 400 and len(answer.json()["error"]["message"]) <= 1000, answer.text


def test_a_client_that_hangs_up_in_the_queue_gives_its_place_back_and_no_model_runs_for_it(url, parts, monkeypatch):
    endpoint = parts.residents.view.champions["fashion"].endpoint
    held = held_up(monkeypatch, endpoint)
    ran, generate = [], type(endpoint).generate

    def noting(self, seeds, *others):
        ran.extend(seeds)
        return generate(self, seeds, *others)

    monkeypatch.setattr(type(endpoint), "generate", noting)
    with ThreadPoolExecutor(1) as others, httpx.Client(base_url=url, timeout=SECONDS) as client:
        first = others.submit(draw, client, seed=1)
        assert held.entered.wait(SECONDS)
        body = b'{"model": "fashion", "seeds": [777, 778]}'
        leaving = [connect(url) for _ in range(20)]
        for connection in leaving:
            connection.sendall(POST + b"content-length: %d\r\n\r\n" % len(body) + body)
        until(lambda: parts.batcher.waiting == 40)
        for connection in leaving:
            connection.close()
        until(lambda: parts.batcher.waiting == 0)
        held.go.set()
        assert first.result(SECONDS).status_code == 200
        assert draw(client, seed=2).status_code == 200
    assert ran == [1, 2]


def test_who_has_no_key_is_refused_before_anything_is_read_or_queued(guarded, team):
    parts, url = guarded
    ran = batches(parts)
    for name, path in [("", "/v1/models"), ("", "/v1/generate"), ("", "/metrics"), ("", "/nowhere")]:
        answer = team(name).get(path)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "no_api_key"
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for given in (
        f"Basic {TOKENS['shop']}",
        TOKENS["shop"],
        f"Bearer {TOKENS['shop']}x",
        "Bearer \xe9".encode("latin-1"),
    ):
        answer = httpx.post(f"{url}/v1/generate", json={"model": "fashion"}, headers={"Authorization": given})
        assert answer.status_code == 401
    with connect(url) as connection:
        connection.sendall(POST + b"content-length: 60000\r\n\r\n")  # and not one byte of it
        assert connection.recv(12) == b"HTTP/1.1 401"
    assert batches(parts) == ran and parts.batcher.waiting == 0
    assert team("").get("/v1/signing-key").status_code == 404, "what tells nothing is open"


def test_a_key_counts_for_its_models_alone_wherever_they_could_be_seen(guarded, team):
    parts, _ = guarded
    one, ran = team("one"), batches(parts)
    assert [card["id"] for card in one.get("/v1/models").json()["data"]] == ["fashion"]
    for answer in (
        one.get("/v1/models/shoes"), one.get("/v1/models/nobody"), draw(one, model="shoes@1"), one.get("/metrics"),
        one.post("/v1/images/generations", json={"model": "shoes", "prompt": ""}),
        one.post("/v1/completions", json={"model": "shoes"}),
        one.post("/v1/images/edits", data={"model": "shoes"}),
    ):  # fmt: skip
        assert answer.status_code == 403
    assert "shoes" not in draw(one, model="fashion@9").text and batches(parts) == ran
    assert draw(one).status_code == draw(team("shop"), model="shoes").status_code == 200
    assert team("lab").get("/metrics").status_code == 200


def test_a_revoked_key_stops_counting_on_the_same_connection(guarded, team):
    parts, _ = guarded
    client = team("shop")
    assert draw(client).status_code == 200
    ran = batches(parts)
    try:
        write_keys(parts.keys._path, revoked=["shop"])
        assert draw(client).json()["error"]["code"] == "revoked_api_key"
        parts.keys._path.write_text("{")
        assert draw(client).json()["error"]["code"] == draw(team("lab")).json()["error"]["code"] == "invalid_api_key"
        parts.keys._path.unlink()
        assert draw(team("lab")).status_code == draw(team("")).status_code == 401
    finally:
        write_keys(parts.keys._path)
    assert batches(parts) == ran
    assert draw(client).status_code == 200


def test_many_requests_of_one_idempotency_key_are_one_and_another_teams_are_its_own(guarded, team):
    parts, _ = guarded
    headers, ran = {"Idempotency-Key": "one"}, batches(parts)
    shop, lab = team("shop"), team("lab")

    def ask(client):
        return client.post("/v1/generate", json={"model": "fashion"}, headers=headers)

    with ThreadPoolExecutor(8) as askers:
        answers = list(askers.map(ask, [shop] * 8))
    assert len({answer.content for answer in answers}) == 1 and batches(parts) == ran + 1
    other = ask(lab)
    assert other.content != answers[0].content and "Idempotent-Replayed" not in other.headers


def test_a_key_for_other_models_gets_no_answer_that_another_of_its_team_kept(guarded, team):
    parts, _ = guarded
    headers, body = {"Idempotency-Key": "kept"}, {"model": "shoes"}
    assert team("shop").post("/v1/generate", json=body, headers=headers).status_code == 200
    kept = parts.keys._path.read_text()
    try:
        held = json.loads(kept)
        held["keys"][0] |= {"models": ["fashion"]}
        parts.keys._path.write_text(json.dumps(held))
        assert team("shop").post("/v1/generate", json=body, headers=headers).status_code == 422
    finally:
        parts.keys._path.write_text(kept)


def test_feedback_on_what_another_team_asked_for_is_as_unknown_as_what_nobody_did(team):
    asked = draw(team("shop")).headers["X-Request-Id"]
    theirs, nobodys = (
        team("lab").post("/v1/feedback", json={"request_id": named, "thumb": "up"})
        for named in (asked, f"req-{'0' * 32}")
    )
    assert theirs.status_code == nobodys.status_code == 404
    assert theirs.json()["error"]["message"].replace(asked, "") == nobodys.json()["error"]["message"].replace(
        f"req-{'0' * 32}", ""
    )
    assert team("shop").post("/v1/feedback", json={"request_id": asked, "thumb": "up"}).status_code == 200


def test_what_another_team_asked_for_is_no_choice_either(team):
    theirs, own = (draw(team(name)).headers["X-Request-Id"] for name in ("shop", "lab"))
    for better, worse in ((theirs, own), (own, theirs)):
        body = {"better": {"request_id": better}, "worse": {"request_id": worse}}
        assert team("lab").post("/v1/preferences", json=body).json()["error"]["code"] == "request_not_found"


@pytest.mark.parametrize(
    "headers",
    [
        {"host": "evil.example"},
        {"host": "evil.example:3000", "origin": "http://evil.example:3000"},
        {"host": "localhost.evil.example"},
        {"host": "[::1"},
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://localhost:1"},
    ],
)
def test_a_page_of_another_site_can_neither_ask_nor_read(client, parts, headers):
    ran = batches(parts)
    body = {"model": "fashion"}
    for answer in (
        client.post("/v1/generate", json=body, headers=headers),
        client.post("/v1/images/generations", json=body | {"prompt": ""}, headers=headers),
        client.post("/v1/feedback", json={"request_id": f"req-{'0' * 32}", "thumb": "up"}, headers=headers),
        client.post("/v1/images/edits", data=body, headers=headers),
        client.get("/v1/models", headers=headers),
        client.get("/metrics", headers=headers),
        client.get("/", headers=headers),
    ):
        assert answer.status_code == 403 and answer.json()["error"]["code"] == "elsewhere", answer.text
    assert batches(parts) == ran


def test_what_a_page_may_send_without_asking_first_is_no_request(client, url):
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", None):
        headers = {"content-type": kind} if kind else {}
        assert client.post("/v1/generate", content=b'{"model": "fashion"}', headers=headers).status_code == 415
    asked = {"origin": "https://evil.example", "access-control-request-method": "POST"}
    for answer in (client.options("/v1/generate", headers=asked), client.get("/v1/models"), draw(client)):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    own = {"origin": url}
    assert client.post("/v1/generate", json={"model": "fashion"}, headers=own).status_code == 200, "the playground"
    port = url.rpartition(":")[2]
    for host in (f"localhost:{port}", f"[::1]:{port}", f"127.0.0.1:{port}"):
        assert client.get("/v1/models", headers={"host": host}).status_code == 200


def test_with_keys_any_name_of_the_server_will_do(team):
    headers = {"host": "models.example", "origin": "https://shop.example"}
    assert team("shop").get("/v1/models", headers=headers).status_code == 200


def test_no_name_that_a_caller_makes_up_becomes_a_header(client):
    split = "x\r\nX-Model: evil\r\n\r\n<script>"
    for answer in (
        draw(client, model=split),
        draw(client, model=f"fashion@{split}"),
        draw(client, format=split),
        client.get("/v1/models/x%0d%0aX-Model:%20evil"),
        client.post("/v1/x%0d%0aX-Model:%20evil"),
        client.post("/v1/generate", json={"model": "fashion", "n": 2}, headers={"idempotency-key": b"\xff" * 300}),
    ):
        assert 400 <= answer.status_code < 500
        assert "x-model" not in answer.headers and answer.headers["content-type"] == "application/json"


def test_no_text_of_a_caller_is_in_the_log_or_the_journal(client, parts, caplog, capfd):
    client.post("/v1/images/generations", json={"model": "fashion", "prompt": SECRET, "user": SECRET})
    client.post("/v1/generate", json={"model": SECRET}, headers={"idempotency-key": SECRET, "user-agent": SECRET})
    draw(client, controls={SECRET: 1})
    draw(client, controls={"truncation": SECRET})
    client.post("/v1/completions", json={"model": "fashion", "prompt": SECRET})
    client.post("/v1/images/edits", data={"model": SECRET}, files={"image": (SECRET, b"1")})
    client.get(f"/{SECRET}?prompt={SECRET}")
    client.post("/v1/generate", content=SECRET.encode(), headers={"content-type": "application/json"})
    parts.journal.settle()
    with closing(sqlite3.connect(parts.journal.path)) as base:
        kept = "\n".join(base.iterdump())
    told = parts.journal._log.getvalue() + caplog.text + "".join(capfd.readouterr())
    assert "/v1/images/generations" in kept and "/v1/images/generations" in told
    for word in ("Nightingale", "red bag"):
        assert word not in kept and word not in told and word not in parts.metrics.text().decode()


def test_what_callers_make_up_does_not_multiply_the_figures(client, parts):
    def flood(start):
        for number in range(start, start + 60):
            client.get(f"/nowhere/{number}")
            client.request(f"M{number}", "/v1/models")
            client.get(f"/v1/models/m{number}")
            draw(client, model=f"fashion@{number + 1000}")
            client.post(f"/v1/generate?x={number}", json={"model": f"m{number}"})
        parts.journal.settle()
        return len(parts.metrics.text().splitlines())

    assert flood(0) == flood(60)


def test_a_flood_of_thumbs_holds_nobody_up_and_takes_no_room(url, client, parts):
    before = quantile(client, 60, percent=90)
    drawn = draw(client, n=2).headers["X-Request-Id"]
    ending = threading.Event()

    def flood():
        with httpx.Client(base_url=url, timeout=SECONDS) as own:
            kept = 0
            while not ending.is_set():
                body = {"request_id": drawn, "index": kept % 2, "thumb": "up", "comment": "x" * 2000}
                kept += own.post("/v1/feedback", json=body).status_code == 200
            return kept

    with ThreadPoolExecutor(8) as flooders:
        floods = [flooders.submit(flood) for _ in range(8)]
        try:
            during = quantile(client, 60, percent=90)
        finally:
            ending.set()
        kept = sum(one.result() for one in floods)
    print(f"p90 before {before * 1e3:.1f} ms, in a flood of {kept} thumbs {during * 1e3:.1f} ms")
    assert kept > 20 and during < 1
    with closing(sqlite3.connect(parts.journal.path)) as base:
        assert base.execute("SELECT count(*) FROM feedback WHERE request = ?", (drawn,)).fetchone() == (2,)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    place = tmp_path / "small"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_fails_feedback_but_no_request(shop, release, small_disk):
    parts = shop.parts(release, journal=small_disk / "journal.db")
    with running(application(parts)) as url, httpx.Client(base_url=url, timeout=SECONDS) as client:
        drawn = draw(client).headers["X-Request-Id"]
        parts.journal.settle()
        with suppress(OSError):
            (small_disk / "ballast").write_bytes(b"x" * 2**20)
        assert {draw(client, seed=seed).status_code for seed in range(200)} == {200}
        thumb = {"request_id": drawn, "thumb": "up", "comment": "x" * 2000}
        refused = [client.post("/v1/feedback", json=thumb | {"comment": "x" * size}) for size in (1000, 2000)][-1]
        assert refused.status_code == 503 and int(refused.headers["Retry-After"]) >= 1, refused.text
        (small_disk / "ballast").unlink()
        again = draw(client).headers["X-Request-Id"]
        assert client.post("/v1/feedback", json={"request_id": again, "thumb": "up"}).status_code == 200
    close(parts)


def test_a_new_champion_is_taken_in_though_the_queue_is_full(shop, release, monkeypatch):
    parts = shop.parts(release, places=1)
    endpoint = parts.residents.view.champions["fashion"].endpoint
    held = held_up(monkeypatch, endpoint)
    jobs = [parts.batcher.submit(("fashion", "1"), endpoint, [0], endpoint.checked({}))]
    assert held.entered.wait(SECONDS)
    jobs.append(parts.batcher.submit(("fashion", "1"), endpoint, [1], endpoint.checked({})))
    coming = parts.residents.fetch("fashion", "2")
    held.go.set()
    assert coming.result(SECONDS).version == "2" and [job.done.result(SECONDS) for job in jobs]
    close(parts)


def test_a_version_that_its_store_has_lost_is_unavailable_and_no_fault(shop, release):
    import bentoml

    parts = shop.parts(release)
    batcher = Batcher()
    residents = Residents(batcher, lambda served: Path(bentoml.models.get(f"nobody-{os.getpid()}:x").path))
    residents.install(release)
    app = application(parts)
    app.state.parts = type(parts)(**{**vars(parts), "residents": residents, "batcher": batcher})
    with running(app) as url:
        for named in ("fashion", "fashion@2"):
            answer = httpx.get(f"{url}/v1/models/{named}")
            assert answer.status_code == 503 and answer.json()["error"]["code"] == "model_not_loaded"
    residents.close()
    batcher.close()
    close(parts)


@pytest.fixture
def served(tmp_path):
    """Start BentoML's own server with our service, and no model: the address, and its process."""
    running_now = []

    def start(host="127.0.0.1", **environment):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "bentoml", "serve", "serving.service:Generator"]
        settings = {"ATELIER_RELEASE": str(tmp_path / "release.json"), "BENTOML_HOME": str(tmp_path / "bentoml")}
        log = (tmp_path / "log").open("w")
        process = subprocess.Popen(
            [*command, "--host", host, "--port", str(port)], cwd=ROOT, env=os.environ | settings | environment,
            stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        running_now.append(process)
        return f"http://127.0.0.1:{port}", process

    yield start
    for process in running_now:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ready(url):
    with suppress(httpx.TransportError):
        return httpx.get(f"{url}/readyz").status_code == 200
    return False


def test_bentomls_server_bounds_its_connections_too(served):
    url, _ = served()
    until(lambda: ready(url), 60)
    slow = [connect(url) for _ in range(500)]
    for connection in slow:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nhost: loc")
    started = time.monotonic()
    assert httpx.get(f"{url}/v1/models").json() == {"object": "list", "data": [], "release": 0}
    assert time.monotonic() - started < 2
    with connect(url) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 33_000)
        connection.sendall(b"y" * 33_000)
        assert connection.recv(12) == b"HTTP/1.1 431"
    assert httpx.get(f"{url}/v1/models", headers={"host": "evil.example"}).status_code == 403
    for connection in slow:
        connection.close()
