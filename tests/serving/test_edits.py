"""Image to image by a real editing model: the form, the JSON, what is refused, and what the trace says."""

import base64
import io

import openai
import pytest
from fastapi.testclient import TestClient
from PIL import Image

from components import provenance, sampling
from components.modalities.image import codec
from serving import generation
from tests.serving.live import running
from tests.serving.shop import Shop, application, close


def png(level=200, size=(28, 28), kind="PNG"):
    stream = io.BytesIO()
    picture = Image.new("L", size, level)
    picture.paste(255 - level, (0, 0, size[0] // 2, size[1] // 3))
    picture.save(stream, kind)
    return stream.getvalue()


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def restyle(shop):
    return shop.served(model="restyle", family="cyclegan")


@pytest.fixture(scope="module")
def parts(shop, restyle):
    release = shop.release(
        fashion={"champion": "1", "versions": {"1": shop.served()}},
        restyle={"champion": "1", "versions": {"1": restyle}},
    )
    parts = shop.parts(release)
    yield parts
    close(parts)


@pytest.fixture(scope="module")
def app(parts):
    return application(parts)


@pytest.fixture(scope="module")
def client(app):
    return TestClient(app)


def expected(shop, restyle, payload, **controls):
    """What the model itself makes of a picture, before it is signed."""
    endpoint = sampling.load(shop.place(restyle))
    return endpoint.generate([0], [controls], endpoint.read(payload))[0]


def edit(client, *images, **fields):
    name = "image" if len(images) == 1 else "image[]"
    return client.post(
        "/v1/images/edits", data={"model": "restyle", **fields}, files=[(name, ("a.png", one)) for one in images]
    )


def drawn(answer):
    assert answer.status_code == 200, answer.text
    return [base64.b64decode(one["b64_json"]) for one in answer.json()["data"]]


def refused(answer):
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    return error["param"], error["code"], error["message"]


def test_a_form_and_json_give_what_the_model_makes_of_the_picture(client, shop, restyle):
    wanted = codec.content(expected(shop, restyle, png()))
    (form,) = drawn(edit(client, png(), seed="7"))
    asked = {"model": "restyle", "seed": 7, "image": base64.b64encode(png()).decode()}
    json = client.post("/v1/generate", json=asked).content
    assert codec.content(form) == codec.content(json) == wanted
    assert form == json, "signed and traced alike"


def test_controls_are_json_text_and_reach_the_model(client, shop, restyle):
    (made,) = drawn(edit(client, png(), controls='{"direction": "degrade"}'))
    assert codec.content(made) == codec.content(expected(shop, restyle, png(), direction="degrade"))
    assert codec.content(made) != codec.content(expected(shop, restyle, png()))


def test_each_of_several_pictures_is_changed_n_times_in_order(client, shop, restyle):
    answer = edit(client, png(10), png(250), n="2", seed="5")
    contents = [codec.content(one) for one in drawn(answer)]
    wanted = [codec.content(expected(shop, restyle, png(level))) for level in (10, 10, 250, 250)]
    assert contents == wanted and wanted[0] != wanted[2]
    assert [one["seed"] for one in answer.json()["data"]] == [5, 6, 7, 8]
    assert refused(edit(client, png(10), png(250), n="3"))[0] == "n"


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
def test_a_picture_of_another_format_and_size_is_fitted(client, kind):
    (made,) = drawn(edit(client, png(size=(300, 200), kind=kind)))
    assert Image.open(io.BytesIO(made)).size == (28, 28)


def test_the_trace_names_what_was_given_as_its_own_manifest_would(client):
    first = client.post("/v1/generate", json={"model": "fashion", "seed": 1}).content
    (second,) = drawn(edit(client, first))
    manifest = provenance.read(first)
    assert provenance.read(second)["trace"]["given"] == manifest["content"]
    (again,) = drawn(edit(client, png(), seed="3"))
    (other,) = drawn(edit(client, png(), seed="3"))
    assert again == other
    assert "given" not in manifest["trace"]


def test_a_model_that_edits_is_refused_without_a_picture_and_told_both_ways(client):
    for answer in (
        client.post("/v1/generate", json={"model": "restyle"}),
        client.post("/v1/images/generations", json={"model": "restyle", "prompt": ""}),
        client.post("/v1/images/edits", data={"model": "restyle"}),
    ):
        param, code, message = refused(answer)
        assert (param, code) == ("image", "image_required")
        assert "/v1/images/edits" in message and "/v1/generate" in message


def test_a_model_that_makes_samples_from_seeds_takes_no_picture(client):
    image = base64.b64encode(png()).decode()
    param, _, message = refused(client.post("/v1/generate", json={"model": "fashion", "image": image}))
    assert param == "image" and "leave it out" in message
    assert refused(edit(client, png(), model="fashion"))[1] == "unsupported_route"


@pytest.mark.parametrize(
    ("files", "fields", "param"),
    [
        ([("image", ("a.png", b"no picture"))], {}, "image"),
        ([("image", ("a.png", png()[:-40]))], {}, "image"),
        ([("image", ("a.png", png()))], {"n": "0"}, "n"),
        ([("image", ("a.png", png()))], {"n": "two"}, "n"),
        ([("image", ("a.png", png()))], {"seed": "-1"}, "seed"),
        ([("image", ("a.png", png()))], {"size": "256x256"}, "size"),
        ([("image", ("a.png", png()))], {"response_format": "url"}, "response_format"),
        ([("image", ("a.png", png()))], {"controls": "{"}, "controls"),
        ([("image", ("a.png", png()))], {"controls": "[1]"}, "controls"),
        ([("image", ("a.png", png()))], {"controls": '{"direction": "sideways"}'}, "controls"),
        ([("image", ("a.png", png()))], {"controls[direction]": "restore"}, "controls"),
        ([("image", ("a.png", png()))], {"strength": "1"}, "strength"),
        ([("image", ("a.png", png())), ("mask", ("b.png", png()))], {}, "mask"),
        ([("image", ("a.png", png()))], {"n": ["1", "2"]}, "n"),
        ([], {"image": "text"}, "image"),
    ],
)
def test_a_form_that_cannot_be_honoured_is_refused_by_its_field(client, files, fields, param):
    answer = client.post("/v1/images/edits", data={"model": "restyle", **fields}, files=files or None)
    assert refused(answer)[0] == param


def test_json_that_is_no_picture_is_refused(client):
    for image in ("?", base64.b64encode(b"no picture").decode()):
        assert refused(client.post("/v1/generate", json={"model": "restyle", "image": image}))[1] == "invalid_image"


def test_a_body_that_is_no_form_is_told_its_type(client):
    assert client.post("/v1/images/edits", json={"model": "restyle"}).status_code == 415


def test_a_retry_under_its_key_is_answered_once(client, parts):
    def ask(**how):
        return client.post(
            "/v1/images/edits", content=body, headers={"Content-Type": "multipart/form-data; boundary=b", **how}
        )

    head = b"--b\r\nContent-Disposition: form-data; name="
    body = head + b'"model"\r\n\r\nrestyle\r\n' + head + b'"image"; filename="a"\r\n\r\n' + png() + b"\r\n--b--\r\n"
    first, again = (ask(**{"Idempotency-Key": "k"}) for _ in range(2))
    assert first.content == again.content and again.headers["Idempotent-Replayed"] == "true"
    assert ask().json()["data"][0]["seed"] != first.json()["data"][0]["seed"]


def test_pictures_beyond_those_that_may_wait_are_refused_and_read_again_later(client):
    body = {"model": "restyle", "seed": 1, "image": base64.b64encode(png()).decode()}
    held = 0
    while generation.UNREAD.acquire(blocking=False):
        held += 1
    answer = client.post("/v1/generate", json=body)
    generation.UNREAD.release(held)
    assert held == 16 and answer.status_code == 429 and answer.headers["Retry-After"] == "1"
    assert [client.post("/v1/generate", json=body).status_code for _ in range(held + 1)] == [200] * (held + 1)


def test_the_card_says_who_edits(client):
    assert {card["id"]: card["edits"] for card in client.get("/v1/models").json()["data"]} == {
        "fashion": False, "restyle": True,
    }  # fmt: skip


@pytest.mark.slow
def test_the_official_client_edits_pictures(app, shop, restyle):
    with running(app) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="none") as client:
        one = client.images.edit(model="restyle", image=png(), prompt="", n=2, size="28x28", response_format="b64_json")
        several = client.images.edit(
            model="restyle", image=[png(10), ("b.png", png(250), "image/png")], prompt="a bag",
            extra_body={"seed": 7, "controls": '{"direction": "degrade"}'},
        )  # fmt: skip
        wanted = [codec.content(expected(shop, restyle, png(level), direction="degrade")) for level in (10, 250)]
        assert [codec.content(base64.b64decode(image.b64_json)) for image in several.data] == wanted
        assert [image.seed for image in several.data] == [7, 8]
        assert len(one.data) == 2 and (one.size, one.model, one.version) == ("28x28", "restyle", "1")
        with pytest.raises(openai.BadRequestError, match="cannot be read"):
            client.images.edit(model="restyle", image=b"no picture", prompt="")
