"""The routes over real models, in process: what is answered, and what every refusal says."""

import base64
import io
import json
import threading
import time

import anyio
import pytest
from PIL import Image
from starlette.testclient import TestClient

from tests.serving.shop import TRACE, Shop, application, close


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def versions(shop):
    return {"7": shop.served(), "8": shop.served(latent_dim=9)}


@pytest.fixture(scope="module")
def parts(shop, versions):
    parts = shop.parts(
        shop.release(fashion={"champion": "7", "challenger": "8", "versions": versions}, bare={"versions": {}}),
        journal=shop.root / "journal.db",
    )
    yield parts
    close(parts)


@pytest.fixture(scope="module")
def client(parts):
    return TestClient(application(parts))


@pytest.fixture
def loaded(parts):
    return parts.residents.view.champions["fashion"]


def ask(client, **body):
    headers = body.pop("headers", {})
    return client.post("/v1/generate", json={"model": "fashion", **body}, headers=headers)


def refusal(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["X-Request-Id"].startswith("req-")
    error = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def test_one_sample_is_a_picture_that_says_where_it_came_from(client, loaded):
    answer = ask(client, seed=5)
    assert answer.headers["content-type"] == "image/png"
    assert Image.open(io.BytesIO(answer.content)).size == (28, 28)
    told = {name: answer.headers[name] for name in ("X-Model", "X-Model-Version", "X-Model-Digest", "X-Seed")}
    assert told == {
        "X-Model": "fashion", "X-Model-Version": "7", "X-Model-Digest": loaded.served.digest, "X-Seed": "5",
    }  # fmt: skip


def test_same_seed_same_bytes_and_another_seed_others(client):
    first, again, other = (ask(client, seed=seed).content for seed in (5, 5, 6))
    assert first == again != other


def test_several_samples_are_json_and_the_rows_equal_the_single_ones(client, loaded):
    answer = ask(client, seed=5, n=3).json()
    assert answer["version"] == "7" and answer["digest"] == loaded.served.digest
    assert [row["seed"] for row in answer["data"]] == [5, 6, 7]
    alone = ask(client, seed=6).content
    assert base64.b64decode(answer["data"][1]["b64_json"]) == alone


def test_named_seeds_are_kept_in_order(client):
    assert [row["seed"] for row in ask(client, seeds=[9, 2]).json()["data"]] == [9, 2]


def test_a_missing_seed_is_drawn_and_told_so_that_the_sample_can_be_had_again(client):
    answer = ask(client)
    assert ask(client, seed=int(answer.headers["X-Seed"])).content == answer.content
    assert ask(client).headers["X-Seed"] != answer.headers["X-Seed"]


@pytest.mark.parametrize(
    ("format", "accept", "count", "found"),
    [
        ("json", "image/png", 1, "application/json"),
        ("png", "application/json", 1, "image/png"),
        (None, "application/json", 1, "application/json"),
        (None, "text/html, image/png;q=0.8", 1, "image/png"),
        (None, "*/*", 1, "image/png"),
        (None, "*/*", 2, "application/json"),
    ],
)
def test_format_comes_before_accept_and_accept_before_the_count(client, format, accept, count, found):
    answer = ask(client, format=format, n=count, headers={"accept": accept})
    assert answer.headers["content-type"] == found


def test_controls_change_the_sample_and_their_defaults_do_not(client):
    plain = ask(client, seed=1).content
    assert ask(client, seed=1, controls={"truncation": 1.0}).content == plain
    assert ask(client, seed=1, controls={"truncation": 0.3}).content != plain


@pytest.mark.parametrize(
    ("body", "param", "words"),
    [
        ({"controls": {"truncation": 3}}, "controls", ["truncation", "1.5"]),
        ({"controls": {"trunkation": 1}}, "controls", ["'trunkation'", "did you mean 'truncation'"]),
        ({"controls": {"truncation": "much"}}, "controls", ["truncation", "'much'"]),
        ({"controls": {"truncation": None}}, "controls", ["truncation", "None"]),
        ({"controls": {"truncation": [1]}}, "controls", ["truncation", "[1]"]),
        ({"controls": [1]}, "controls", ["[1]"]),
        ({"n": 5}, "n", ["5", "between 1 and 4", "fashion"]),
        ({"n": 0}, "n", ["0", "greater than or equal to 1"]),
        ({"n": "2"}, "n", ["'2'", "integer"]),
        ({"seeds": [1, 2, 3, 4, 5]}, "seeds", ["between 1 and 4"]),
        ({"seeds": []}, "seeds", ["[]"]),
        ({"seeds": [1, 2], "n": 3}, "n", ["3", "2"]),
        ({"seed": 1, "seeds": [1]}, "seeds", ["both"]),
        ({"seed": -1}, "seed", ["-1"]),
        ({"seed": 2**53}, "seed", [str(2**53)]),
        ({"seed": 2**53 - 1, "n": 2}, "seed", ["the last seed"]),
        ({"format": "jpg"}, "format", ["'jpg'", "'png'", "'json'"]),
        ({"format": "png", "n": 2}, "format", ["2 samples", "'json'"]),
        ({"temperature": 1}, "temperature", ["temperature", "no parameter"]),
        ({"model": 3}, "model", ["3", "string"]),
    ],
)
def test_a_mistake_is_named_with_its_value_and_its_mend(client, body, param, words):
    error = refusal(ask(client, **body), 400)
    assert error["param"] == param and error["type"] == "invalid_request_error"
    assert not [word for word in words if word not in error["message"]], error["message"]


def test_an_unknown_model_is_not_found(client):
    error = refusal(ask(client, model="fashio"), 404)
    assert error["code"] == "model_not_found" and "'fashio'" in error["message"] and "fashion" in error["message"]


def test_an_unknown_route_a_wrong_method_and_broken_json_have_the_same_form(client):
    assert "/v1/images" in refusal(client.get("/v1/images"), 404)["message"]
    assert "/nowhere" in refusal(client.post("/nowhere"), 404)["message"]
    assert refusal(client.delete("/v1/generate"), 405)
    broken = client.post("/v1/generate", content=b'{"model":', headers={"content-type": "application/json"})
    assert refusal(broken, 400)["code"] == "invalid_json"
    assert refusal(broken, 400)["message"] == "the body is not JSON: Expecting value"


@pytest.mark.parametrize(
    ("type_", "words"), [("text/plain", "'text/plain'"), ("", "without a type"), ("multipart/form-data", "'multipart")]
)
def test_a_body_of_another_type_is_told_the_header_that_it_needs(client, type_, words):
    answer = client.post(
        "/v1/generate", content=b'{"model": "fashion"}', headers={"content-type": type_} if type_ else {}
    )
    error = refusal(answer, 415)
    assert "Content-Type: application/json" in error["message"] and words in error["message"]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 60000, 400),
        (b"\xff\xfe", 400),
        (b'{"model": "\\ud800"}', 404),
        (b'{"model": "fashion", "seed": NaN}', 400),
        (b'{"model": "fashion", "controls": {"truncation": NaN}}', 400),
        (b'{"model": "fashion", "controls": {"truncation": Infinity}}', 400),
        (b'{"model": "fashion", "seed": 1e400}', 400),
        (b'{"model": "fashion", "controls": {"\\ud800": 1}}', 400),
        (b'{"model": "fashion@\\u0000"}', 404),
        (b"null", 400),
        (b"", 400),
    ],
)
def test_what_no_client_should_send_is_refused_in_the_usual_form(client, body, status):
    refusal(client.post("/v1/generate", content=body, headers={"content-type": "application/json"}), status)


def test_a_long_value_is_not_echoed_whole(client):
    assert len(refusal(ask(client, seed="7" * 5000), 400)["message"]) < 300


def test_a_body_is_counted_as_it_arrives_and_not_read_to_its_end(client):
    """Spoken to in ASGI, since a test client would send the whole body whatever is answered."""
    received, sent = [], []

    async def receive():
        received.append(1)
        return {"type": "http.request", "body": b"x" * 1024, "more_body": True}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]  # no content-length: a stream
    scope = {"type": "http", "method": "POST", "path": "/v1/generate", "headers": headers, "query_string": b""}
    anyio.run(client.app, scope, receive, send)
    assert sent[0]["status"] == 413
    assert len(received) == 65, "the first byte over the limit is the last that is read"


def test_the_largest_body_is_taken_and_one_byte_more_is_not(client):
    body = b'{"model": "fashion"}'
    headers = {"content-type": "application/json"}
    assert client.post("/v1/generate", content=body.ljust(65536), headers=headers).status_code == 200
    larger = client.post("/v1/generate", content=body.ljust(65537), headers=headers)
    assert "65536 bytes" in refusal(larger, 413)["message"]


def held_up(monkeypatch, loaded):
    """Make the model of `loaded` wait for an event, as a slow one would."""
    go, generate = threading.Event(), type(loaded.endpoint).generate

    def wait(*arguments):
        go.wait(10)
        return generate(*arguments)

    monkeypatch.setattr(type(loaded.endpoint), "generate", wait)
    return go


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_a_full_queue_is_told_when_to_come_again(shop, versions, monkeypatch):
    parts = shop.parts(shop.release(fashion={"champion": "7", "versions": versions}), places=2)
    client = TestClient(application(parts))
    go = held_up(monkeypatch, parts.residents.view.champions["fashion"])
    others = [threading.Thread(target=ask, args=(client,), kwargs={"seed": seed}) for seed in range(3)]
    others[0].start()
    until(lambda: parts.batcher._busy_until)
    time.sleep(0.05)
    for other in others[1:]:
        other.start()
    until(lambda: parts.batcher.waiting == 2)
    answer = ask(client, seed=1)
    assert refusal(answer, 429)["code"] == "queue_full" and int(answer.headers["Retry-After"]) >= 1
    go.set()
    for other in others:
        other.join()
    assert ask(client, seed=1).status_code == 200
    close(parts)


def test_a_fault_of_ours_is_a_500_without_its_secrets(client, loaded, monkeypatch):
    monkeypatch.setattr(type(loaded.endpoint), "generate", lambda *_: 1 / 0)
    error = refusal(ask(TestClient(client.app, raise_server_exceptions=False), seed=1), 500)
    assert error["type"] == "server_error" and "division" not in error["message"]


def test_models_lists_controls_limits_and_trace(client, loaded):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list" and listed["release"] == 1
    (card,) = listed["data"]
    assert card["id"] == "fashion" and card["object"] == "model" and card["max_samples"] == 4
    assert card["controls"]["truncation"] == {
        "default": 1.0, "maximum": 1.5, "minimum": 0.3, "title": "Truncation", "type": "number",
    }  # fmt: skip
    assert card["digest"] == loaded.served.digest and card["trace"] == TRACE
    assert card["aliases"] == {"champion": "7", "challenger": "8"} and card["versions"] == ["7", "8"]


def test_a_control_that_is_drawn_is_described_so_and_null_or_left_out_leaves_it_drawn(shop):
    style = {"default": None, "at_least": -2, "at_most": 2}
    served = shop.served(family="infogan", gain=9, controls={"style": style})
    parts = shop.parts(shop.release(fashion={"champion": "1", "versions": {"1": served}}))
    client = TestClient(application(parts))
    (card,) = client.get("/v1/models").json()["data"]
    assert card["controls"]["style"] == {
        "default": None, "maximum": 2, "minimum": -2, "title": "Style", "type": ["number", "null"],
    }  # fmt: skip
    drawn = ask(client, seed=1)
    assert drawn.status_code == 200 and ask(client, seed=1, controls={"style": None}).content == drawn.content
    assert ask(client, seed=1, controls={"style": 2}).content != drawn.content
    assert "style" in refusal(ask(client, seed=1, controls={"style": 3}), 400)["message"]
    close(parts)


def test_a_version_and_an_alias_can_be_named_and_only_what_the_release_names(client, versions):
    for named, version in {
        "fashion@8": "8",
        "fashion@challenger": "8",
        "fashion@7": "7",
        "fashion@champion": "7",
    }.items():
        answer = ask(client, model=named, seed=1)
        assert answer.headers["X-Model-Version"] == version and answer.headers["X-Model"] == "fashion"
        assert answer.headers["X-Model-Digest"] == versions[version].digest
    for named in ("fashion@9", "fashion@previous", "fashion@", "bare@1"):
        if named == "fashion@":
            continue
        assert refusal(ask(client, model=named), 404)["code"] == "model_not_found"
    assert "bare has no champion" in refusal(ask(client, model="bare"), 404)["message"]


def test_one_card_can_be_asked_for(client):
    assert client.get("/v1/models/fashion@8").json()["version"] == "8"
    assert refusal(client.get("/v1/models/nobody"), 404)["code"] == "model_not_found"


def test_a_retry_under_an_idempotency_key_costs_nothing_and_says_the_same(client, parts):
    headers = {"Idempotency-Key": "once"}
    first, again = (ask(client, n=2, headers=headers) for _ in range(2))
    assert first.json() == again.json() and again.headers["Idempotent-Replayed"] == "true"
    assert "Idempotent-Replayed" not in first.headers
    reused = refusal(ask(client, n=3, headers=headers), 422)
    assert reused["code"] == "idempotency_key_reused" and "'once'" in reused["message"]
    assert refusal(ask(client, headers={"Idempotency-Key": "k" * 256}), 400)["code"] == "invalid_idempotency_key"


def test_a_failed_request_is_not_what_a_retry_gets(client):
    headers = {"Idempotency-Key": "failed"}
    for _ in range(2):
        refusal(ask(client, seed=1, controls={"truncation": 9}, headers=headers), 400)
    assert ask(client, seed=1, headers=headers).status_code == 200


def test_two_of_one_key_at_once_are_made_once(client, loaded, monkeypatch):
    go, answers = held_up(monkeypatch, loaded), []
    with client:  # one event loop for both, as in a server
        both = [
            threading.Thread(target=lambda: answers.append(ask(client, headers={"Idempotency-Key": "twice"})))
            for _ in range(2)
        ]
        for one in both:
            one.start()
        time.sleep(0.1)
        go.set()
        for one in both:
            one.join()
    assert answers[0].content == answers[1].content
    assert sum("Idempotent-Replayed" in answer.headers for answer in answers) == 1


def test_requests_that_share_a_batch_get_the_bytes_that_they_would_get_alone(client, loaded, monkeypatch):
    alone = {seed: ask(client, seed=seed, controls={"truncation": 0.3 + seed / 10}).content for seed in range(6)}
    go, together = held_up(monkeypatch, loaded), {}

    def one(seed):
        together[seed] = ask(client, seed=seed, controls={"truncation": 0.3 + seed / 10}).content

    threads = [threading.Thread(target=one, args=(seed,)) for seed in alone]
    for thread in threads:
        thread.start()
    time.sleep(0.2)
    go.set()
    for thread in threads:
        thread.join()
    assert together == alone


def test_a_client_that_hangs_up_while_it_is_queued_frees_its_place(client, parts, loaded, monkeypatch):
    go = held_up(monkeypatch, loaded)
    first = threading.Thread(target=ask, args=(client,), kwargs={"seed": 1})
    first.start()
    until(lambda: parts.batcher._busy_until > 0)
    time.sleep(0.05)
    body, sent = json.dumps({"model": "fashion", "seed": 2}).encode(), []
    coming = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive():
        if coming:
            return coming.pop()
        await anyio.sleep(0.1)
        assert parts.batcher.waiting == 1
        return {"type": "http.disconnect"}

    async def send(message):
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/generate", "headers": headers, "query_string": b""}
    anyio.run(client.app, scope, receive, send)
    assert not sent and parts.batcher.waiting == 0
    go.set()
    first.join()


def test_feedback_is_kept_for_a_sample_that_was_made_and_for_no_other(client, parts):
    asked = ask(client, n=2)
    request = asked.headers["X-Request-Id"]
    body = {"request_id": request, "index": 1, "thumb": "down", "comment": "a bag?"}
    assert client.post("/v1/feedback", json=body).json() == {
        "object": "feedback", "request_id": request, "index": 1, "thumb": "down",
    }  # fmt: skip
    for wrong in ({"index": 2}, {"request_id": "req-" + "0" * 32}):
        assert refusal(client.post("/v1/feedback", json=body | wrong), 404)["code"] == "request_not_found"
    assert refusal(client.post("/v1/feedback", json=body | {"thumb": "sideways"}), 400)["param"] == "thumb"


def test_a_preference_is_kept_between_two_samples_of_one_model_and_no_others(client):
    two, one = ask(client, n=2).headers["X-Request-Id"], ask(client).headers["X-Request-Id"]
    body = {"better": {"request_id": two, "index": 1}, "worse": {"request_id": one, "index": 0}}
    told = client.post("/v1/preferences", json=body).json()
    assert told == {"object": "preference", "model": "fashion", **body}
    for wrong in ({"request_id": two, "index": 2}, {"request_id": "req-" + "0" * 32}):
        assert refusal(client.post("/v1/preferences", json=body | {"worse": wrong}), 404)["code"] == "request_not_found"
    assert (
        refusal(client.post("/v1/preferences", json=body | {"worse": body["better"]}), 400)["code"] == "not_comparable"
    )
    assert refusal(client.post("/v1/preferences", json={"better": body["better"]}), 400)["param"] == "worse"


def test_metrics_count_by_model_and_version(client):
    ask(client, n=3)
    text = client.get("/metrics").text
    assert 'atelier_requests_total{model="fashion",route="/v1/generate",status="200",team="",version="7"}' in text
    assert 'atelier_batch_samples_bucket{le="4.0",model="fashion",version="7"}' in text
    assert "atelier_release_number 1.0" in text


def test_the_playground_lets_nothing_in_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200 and page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]


def test_a_model_that_breaks_is_a_fault_that_is_told_and_the_next_request_is_answered(parts, loaded, monkeypatch):
    client = TestClient(application(parts), raise_server_exceptions=False)

    def leave(*_):
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(type(loaded.endpoint), "generate", leave)
        error = refusal(ask(client, seed=5), 500)
        assert error["type"] == "server_error" and "its log tells why" in error["message"]
    assert ask(client, seed=5).status_code == 200
