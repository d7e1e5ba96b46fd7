"""The routes over a real model, in process: what is answered, and what every refusal says."""

import base64
import io
from concurrent.futures import Future

import anyio
import pytest
from PIL import Image
from starlette.testclient import TestClient

from components import families, sampling
from components.bundle import EndpointCard, assemble
from components.modalities.image.batch import ImageSpec
from components.store import Store
from serving import routes
from serving.release import Served
from serving.worker import Worker

CONTROLS = {"truncation": {"default": 1.0, "at_least": 0.3, "at_most": 1.5}}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    store = Store(tmp_path_factory.mktemp("store"))
    family = families.get("vae")
    with store.writing("weights") as draft:
        family.Model(family.Config(width=4, hidden=8), ImageSpec(channels=1, size=28)).save(draft.directory)
    card = EndpointCard.model_validate({"model": "fashion", "controls": CONTROLS, "max_samples": 4})
    bundle = assemble(draft.artifact, card, store)
    endpoint = sampling.load(store.path(bundle), digest=bundle.digest)
    served = Served(version="7", digest=bundle.digest, bento_model="fashion:x", trace={"data": "md5:abc"})
    return routes.Loaded(served, endpoint, since=1)


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


@pytest.fixture
def client(loaded, worker):
    app = routes.application()
    app.state.models, app.state.worker = {"fashion": loaded}, worker
    return TestClient(app)


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
    assert refusal(client.delete("/v1/generate"), 405)
    broken = client.post("/v1/generate", content=b'{"model":', headers={"content-type": "application/json"})
    assert refusal(broken, 400)["code"] == "invalid_json"
    assert refusal(client.post("/v1/generate"), 400)["message"] == "the body is missing"


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


def test_a_full_queue_is_told_when_to_come_again(loaded):
    worker, held = Worker(places=1), Future()
    app = routes.application()
    app.state.models, app.state.worker = {"fashion": loaded}, worker
    blocked = worker.submit(held.result)
    answer = ask(TestClient(app), seed=1)
    assert refusal(answer, 429)["code"] == "queue_full" and answer.headers["Retry-After"] == "1"
    held.set_result(None)
    blocked.result(5)
    assert ask(TestClient(app), seed=1).status_code == 200
    worker.close()


def test_a_fault_of_ours_is_a_500_without_its_secrets(client, loaded, monkeypatch):
    monkeypatch.setattr(type(loaded.endpoint), "generate", lambda *_: 1 / 0)
    client = TestClient(client.app, raise_server_exceptions=False)
    error = refusal(ask(client, seed=1), 500)
    assert error["type"] == "server_error" and "division" not in error["message"]


def test_models_lists_controls_limits_and_trace(client, loaded):
    listed = client.get("/v1/models").json()
    assert listed["object"] == "list"
    (card,) = listed["data"]
    assert card["id"] == "fashion" and card["object"] == "model" and card["max_samples"] == 4
    assert card["controls"]["truncation"] == {
        "default": 1.0, "maximum": 1.5, "minimum": 0.3, "title": "Truncation", "type": "number",
    }  # fmt: skip
    assert card["digest"] == loaded.served.digest and card["trace"] == {"data": "md5:abc"}
