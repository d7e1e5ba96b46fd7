"""The official `openai` client, unchanged, against a real server: what it gets, what it raises, when it asks again."""

import asyncio
import base64
import hashlib
import io
import json
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import openai
import pytest
from PIL import Image

from tests.serving.live import SECONDS, held_up, running, until
from tests.serving.shop import Shop, application, close

pytestmark = pytest.mark.slow
TOKENS = {"all": "atl_00000001_" + "a" * 43, "one": "atl_00000002_" + "b" * 43}


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def parts(shop):
    versions, others = {"1": shop.served(), "2": shop.served(latent_dim=9)}, {"1": shop.served(model="shoes")}
    keys = [
        {
            "id": f"{number:08x}", "team": team, "sha256": hashlib.sha256(TOKENS[team].encode()).hexdigest(),
            "models": models, "created": datetime.now(UTC).isoformat(), "revoked": None,
        }
        for number, (team, models) in enumerate({"all": ["*"], "one": ["fashion"]}.items())
    ]  # fmt: skip
    (shop.root / "keys.json").write_text(json.dumps({"schema": 1, "keys": keys}))
    release = shop.release(
        fashion={"champion": "1", "challenger": "2", "versions": versions}, shoes={"champion": "1", "versions": others}
    )
    parts = shop.parts(release, keys=shop.root / "keys.json", places=4)
    yield parts
    close(parts)


@pytest.fixture(scope="module")
def url(parts):
    with running(application(parts)) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url, api_key=TOKENS["all"]) as client:
        yield client


def opened(image):
    return Image.open(io.BytesIO(base64.b64decode(image.b64_json)))


def test_models_are_listed_and_one_is_retrieved(client):
    listed = {model.id: model for model in client.models.list()}
    assert sorted(listed) == ["fashion", "shoes"]
    assert listed["fashion"].object == "model" and listed["fashion"].owned_by == "atelier"
    assert client.models.retrieve("fashion").model_dump() == listed["fashion"].model_dump()
    assert client.models.retrieve("fashion@challenger").version == "2"


def test_pictures_come_in_the_number_and_size_that_was_asked_for(client):
    made = client.images.generate(model="fashion", prompt="a bag", n=2, size="28x28")
    assert [opened(image).size for image in made.data] == [(28, 28)] * 2
    assert (made.output_format, made.size, made.version) == ("png", "28x28", "1")
    assert made.data[0].b64_json != made.data[1].b64_json
    assert client.images.generate(model="fashion", prompt="").data[0].revised_prompt == ""


def test_seed_and_controls_go_into_the_extra_body(client):
    def drawn(**extra):
        return client.images.generate(model="fashion", prompt="", extra_body=extra).data[0]

    assert drawn(seed=5).b64_json == drawn(seed=5, controls={}).b64_json != drawn(seed=6).b64_json
    assert drawn(seed=5, controls={"truncation": 0.3}).b64_json != drawn(seed=5).b64_json
    assert drawn(seed=5).seed == 5


def test_the_lines_of_the_readme_run_as_they_are(url, capsys):
    (lines,) = re.findall(r"```python\n(from openai import .*?)```", Path("README.md").read_text(), re.S)
    for written, meant in [("http://localhost:3000/v1", url), ("any, while the server has no keys", TOKENS["all"])]:
        assert written in lines
        lines = lines.replace(written, meant)
    exec(lines, {})
    assert "sha256:" in capsys.readouterr().out


def test_what_an_answer_came_from_is_in_its_headers(client):
    raw = client.images.with_raw_response.generate(model="fashion@2", prompt="", extra_body={"seed": 5})
    assert raw.headers["X-Model-Version"] == "2" and raw.headers["X-Seed"] == "5"
    assert raw.request_id == raw.headers["X-Request-Id"] == raw.parse().id


def test_the_async_client_shares_batches_with_itself(url):
    async def several():
        async with openai.AsyncOpenAI(base_url=url, api_key=TOKENS["all"], max_retries=8) as client:
            asked = [client.images.generate(model="fashion", prompt="", extra_body={"seed": seed}) for seed in range(4)]
            return [made.data[0].seed for made in await asyncio.gather(*asked)]

    assert asyncio.run(several()) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("ask", "error", "code"),
    [
        (lambda c: c.images.generate(model="nobody", prompt=""), openai.NotFoundError, "model_not_found"),
        (lambda c: c.images.generate(model="fashion@7", prompt=""), openai.NotFoundError, "model_not_found"),
        (lambda c: c.models.retrieve("nobody"), openai.NotFoundError, "model_not_found"),
        (lambda c: c.images.generate(model="fashion", prompt="", size="256x256"), openai.BadRequestError, None),
        (lambda c: c.images.generate(model="fashion", prompt="", n=9), openai.BadRequestError, None),
        (lambda c: c.images.generate(model="fashion", prompt="", stream=True), openai.BadRequestError, None),
        (lambda c: c.images.generate(model="fashion", prompt="", response_format="url"), openai.BadRequestError, None),
        (lambda c: c.chat.completions.create(model="fashion", messages=[]), openai.NotFoundError, None),
        (lambda c: c.completions.create(model="fashion", prompt="To be"), openai.BadRequestError, "wrong_modality"),
        (
            lambda c: c.audio.speech.create(model="fashion", input="hello", voice="alloy"),
            openai.BadRequestError,
            "wrong_modality",
        ),
        (
            lambda c: c.images.edit(model="fashion", image=b"no picture", prompt=""),
            openai.BadRequestError,
            "unsupported_route",
        ),
        (
            lambda c: c.images.edit(model="fashion", image=[b"one", b"two"], prompt=""),
            openai.BadRequestError,
            "unsupported_route",
        ),
    ],
)  # fmt: skip
def test_a_refusal_is_raised_as_the_exception_of_its_kind(client, ask, error, code):
    with pytest.raises(error) as raised:
        ask(client)
    assert raised.value.code == code and raised.value.body["message"] in raised.value.message
    assert raised.value.request_id.startswith("req-")


def test_a_key_that_is_none_and_a_key_for_another_model_are_told_apart(url):
    with pytest.raises(openai.AuthenticationError) as none:
        openai.OpenAI(base_url=url, api_key="sk-anything").models.list()
    assert none.value.code == "invalid_api_key" and "atelier keys make" in none.value.message
    limited = openai.OpenAI(base_url=url, api_key=TOKENS["one"])
    assert [model.id for model in limited.models.list()] == ["fashion"]
    assert limited.images.generate(model="fashion", prompt="").data
    for named in ("shoes", "nobody"):  # that a model exists is told to those alone whom it is for
        with pytest.raises(openai.PermissionDeniedError) as refused:
            limited.images.generate(model=named, prompt="")
        assert refused.value.code == "model_forbidden" and "fashion" in refused.value.message


@pytest.fixture
def full(parts, client, monkeypatch):
    """A queue without a free place; setting the event lets the model go on."""
    held = held_up(monkeypatch, parts.residents.view.champions["fashion"].endpoint)
    askers = [
        threading.Thread(target=client.images.generate, kwargs={"model": "fashion", "prompt": "", "n": n})
        for n in (1, 4)
    ]
    askers[0].start()
    assert held.entered.wait(SECONDS)
    askers[1].start()
    until(lambda: parts.batcher.waiting == 4)
    yield held.go
    held.go.set()
    for asker in askers:
        asker.join()


def test_a_full_queue_is_a_rate_limit_with_the_time_to_come_again(full, url):
    with pytest.raises(openai.RateLimitError) as refused:
        openai.OpenAI(base_url=url, api_key=TOKENS["all"], max_retries=0).images.generate(model="fashion", prompt="")
    assert refused.value.code == "queue_full" and int(refused.value.response.headers["Retry-After"]) >= 1


def test_the_clients_own_retries_succeed_when_the_queue_is_full_for_a_moment(full, client):
    threading.Timer(0.3, full.set).start()
    raw = client.images.with_raw_response.generate(model="fashion", prompt="")
    assert raw.retries_taken >= 1 and raw.parse().data
