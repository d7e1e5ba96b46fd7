"""/v1/openapi.json is complete and true: schemathesis asks what it allows and forbids, and compares every answer.

A key is asked for, and the names of real models stand in for most of those that it makes up, so that half of what it
asks reaches the models.
"""

import base64
import hashlib
import json
import re
from collections import Counter

import pytest
import schemathesis
from fastapi.testclient import TestClient
from schemathesis.engine import events, from_schema

from components import modalities
from components.modalities.image import codec
from serving import openapi
from tests.serving.shop import Shop, application, close

PICTURE = codec.example({"channels": 1, "size": 28})
TOKEN = "atl_00000001_" + "a" * 43
MODELS = ("fashion", "fashion@1", "fashion@champion", "fashion@3", "restyle", "restyle@1")
OWN = {
    "n",
    "seed",
    "seeds",
    "controls",
    "format",
    "size",
    "model",
    "image",
    "worse",
}  # a model's own limits


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("shop"))
    digest = hashlib.sha256(TOKEN.encode()).hexdigest()
    key = {"id": "00000001", "team": "shop", "sha256": digest, "models": ["*"], "created": "2026-11-22"}
    (shop.root / "keys.json").write_text(json.dumps({"schema": 1, "keys": [key]}))
    release = shop.release(
        fashion={"champion": "1", "versions": {"1": shop.served(), "3": shop.served(latent_dim=9)}},
        restyle={"champion": "1", "versions": {"1": shop.served(model="restyle", family="cyclegan")}},
    )
    parts = shop.parts(release, keys=shop.root / "keys.json", journal=shop.root / "journal.db")
    yield parts
    close(parts)


@pytest.fixture(scope="module")
def app(parts):
    return application(parts)


@pytest.fixture(scope="module")
def client(app):
    return TestClient(app, headers={"Authorization": f"Bearer {TOKEN}"})


@pytest.fixture(scope="module")
def document(client):
    return client.get("/v1/openapi.json").json()


def loaded(app, client, *, examples):
    """The schema as schemathesis reads it, and what it is to send."""
    drawn = client.post("/v1/generate", json={"model": "fashion"}).headers["X-Request-Id"]
    config = schemathesis.Config()
    schema = schemathesis.openapi.from_asgi("/v1/openapi.json", app, config=config)
    schema.config.headers = {"Authorization": f"Bearer {TOKEN}"}
    schema.config.generation.max_examples = examples
    schema.config.generation.with_security_parameters = False
    schema.config.generation.database = "none"
    schema.config.checks.positive_data_acceptance.expected_statuses += ["400", "422"]  # `by_a_model_alone` judges them
    schema.config.checks.negative_data_rejection.expected_statuses += ["413"]  # what is too large is refused as such

    @schema.hook
    def map_body(context, body):
        if not isinstance(body, dict):
            return body
        if isinstance(asked := body.get("model"), str) and asked and len(asked) % 4:
            body = body | {"model": MODELS[len(asked) % len(MODELS)]}
        if isinstance(image := body.get("image"), bytes):  # of a form
            body = body | ({"image": PICTURE, "model": "restyle"} if len(image) % 3 else {})
        elif isinstance(image, str) and len(image) % 3:
            body = body | {"image": base64.b64encode(PICTURE).decode()}
        if re.fullmatch("req-.*[02468ace]", str(body.get("request_id"))):
            body = body | {"request_id": drawn}
        for side in ("better", "worse"):
            judged = body.get(side)
            if isinstance(judged, dict) and re.fullmatch("req-.*[02468ace]", str(judged.get("request_id"))):
                body = body | {side: judged | {"request_id": drawn}}
        return body

    @schema.hook
    def map_path_parameters(context, path_parameters):
        asked = path_parameters.get("named") if path_parameters else None
        return (
            {"named": MODELS[len(asked) % len(MODELS)]}
            if isinstance(asked, str) and len(asked) % 2
            else path_parameters
        )

    return schema


@schemathesis.check
def by_a_model_alone(ctx, response, case):
    """What fits the schema is refused only for what the model itself says in its card, or for a key used before."""
    if case.meta is None or not case.meta.generation.mode.is_positive or response.status_code not in (400, 422):
        return
    error = json.loads(response.content)["error"]
    assert error["param"] in OWN or error["code"] == "idempotency_key_reused", error


def asked(schema):
    """Everything that schemathesis asks: how often, with which statuses, and what was wrong, each kind once."""
    statuses, wrong, operations = Counter(), {}, Counter()
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError | events.FatalError):
            raise getattr(event, "value", None) or event.exception
        if not isinstance(event, events.ScenarioFinished | events.FuzzScenarioFinished):
            continue
        recorder = event.recorder
        for made in recorder.interactions.values():
            statuses[made.response.status_code] += 1
        operations.update(node.value.operation.label for node in recorder.cases.values())
        for checks in recorder.checks.values():
            for check in checks:
                if check.failure_info is not None:
                    told = f"{check.failure_info.failure.message}\n{check.failure_info.code_sample}"
                    wrong.setdefault((recorder.label, check.name), told)
    return statuses, operations, wrong


def judge(app, client, *, examples, least):
    statuses, operations, wrong = asked(loaded(app, client, examples=examples))
    print(f"{statuses.total()} cases, by status: {dict(statuses)}")
    assert not wrong, "\n\n".join(f"{name}: {told}" for name, told in wrong.items())
    assert statuses.total() >= least and not [status for status in statuses if status >= 500]
    assert {200, 400, 401, 404, 405, 415} <= set(statuses) and statuses[200] > statuses.total() / 50
    assert len(operations) == 12


@pytest.mark.slow
def test_500_cases_are_answered_as_the_description_says(app, client):
    judge(app, client, examples=20, least=500)


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_10000_cases_are_answered_as_the_description_says(app, client):
    judge(app, client, examples=2400, least=10_000)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["status", "body", "header", "crash"])
def test_the_check_sees_a_planted_fault(parts, client, fault):
    """An answer that is not as described: each kind is found."""
    app = application(parts)
    route = next(route for route in app.routes if getattr(route, "path", "") == "/v1/models")
    inner = route.app

    async def faulty(scope, receive, send):
        async def changed(message):
            if message["type"] == "http.response.start":
                if fault == "status":
                    message["status"] = 418
                if fault == "header":
                    message["headers"].append((b"x-request-id", b"7"))
            elif fault == "body":
                message["body"] = message["body"].replace(b'"object"', b'"objekt"')
            await send(message)

        if fault == "crash":
            raise ZeroDivisionError
        await inner(scope, receive, changed)

    route.app = faulty
    schema = loaded(app, client, examples=2).include(path="/v1/models")
    if fault == "crash":  # in process it is the error itself that comes out
        with pytest.raises(ZeroDivisionError):
            asked(schema)
    else:
        assert asked(schema)[2]


def test_every_route_is_described_with_words_statuses_headers_and_examples(app, document):
    routes = {route.path for route in app.routes if getattr(route, "methods", None)} - {"/", "/status", "/{rest:path}"}
    assert set(document["paths"]) == routes - {"/v1/openapi.json"}
    operations = {path: next(iter(told.values())) for path, told in document["paths"].items()}
    assert len({told["operationId"] for told in operations.values()}) == len(operations)
    for path, told in operations.items():
        assert told["description"] and told["summary"], path
        for status, answer in told["responses"].items():
            assert answer["description"] not in ("", "Successful Response"), (path, status)
            assert answer["headers"]["X-Request-Id"]["required"], (path, status)
            assert int(status) < 400 or "Refused" in json.dumps(answer["content"]), (path, status)
    assert "Retry-After" in operations["/v1/generate"]["responses"]["429"]["headers"]
    assert {"multipart/form-data"} <= set(operations["/v1/images/edits"]["requestBody"]["content"])
    assert set(document["components"]["schemas"]["Fault"]["properties"]) == {"message", "type", "param", "code"}
    numbers = document["components"]["schemas"]["Generate"]["properties"]["seed"]["anyOf"][0]
    assert numbers == {"type": "integer", "minimum": 0, "maximum": 2**53 - 1}


def test_its_examples_are_answered(client, document):
    asked = document["components"]["schemas"]
    for path, schema in {"/v1/generate": "Generate", "/v1/images/generations": "ImageRequest"}.items():
        (example,) = asked[schema]["examples"]
        assert client.post(path, json=example).status_code == 200


def test_the_description_asks_for_a_key_where_the_server_does(document, client, tmp_path):
    assert document["components"]["securitySchemes"]["Bearer"]["scheme"] == "bearer"
    assert document["security"] == [{"Bearer": []}]
    assert document["paths"]["/v1/signing-key"]["get"]["security"] == []
    shop = Shop(tmp_path)
    parts = shop.parts(shop.release())
    assert TestClient(application(parts)).get("/v1/openapi.json").json()["security"] == []
    close(parts)


def test_the_media_types_of_samples_are_those_of_the_modalities():
    types = {modalities.part(name, "codec").MEDIA_TYPE.partition(";")[0] for name in ("image", "audio", "text")}
    assert types == set(openapi.MEDIA)
