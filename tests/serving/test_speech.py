"""Sound through the official `openai` client, unchanged: a WAV that says itself where it comes from."""

import io
import json
import wave

import httpx
import openai
import pytest
import torch

from components import families, provenance
from components.bundle import EndpointCard, assemble
from components.modalities.audio.batch import AudioSpec
from serving.release import Served
from tests.serving.live import running
from tests.serving.shop import TRACE, Shop, application, close

CONTROLS = {
    "seconds": {"default": 0.05, "at_least": 0.01, "at_most": 0.5},
    "temperature": {"default": 1.0, "at_least": 0.0, "at_most": 1.5},
}


VOICED = {"text": {"default": ""}, "label": {"default": "any"}}


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("shop"))

    def served(model, spec, config, controls):
        module = families.get("wavenet")
        torch.manual_seed(0)
        network = module.Model(module.Config(stacks=1, layers=3, width=4, skipped=4, **config), spec)
        with shop.store.writing("weights") as draft:
            network.save(draft.directory)
        card = EndpointCard.model_validate({"model": model, "controls": controls, "max_samples": 4})
        return Served(digest=assemble(draft.artifact, card, shop.store).digest, bento_model=f"{model}:x", trace=TRACE)

    several = AudioSpec(rate=8000, length=800, text=16, characters="abc ", classes=("alto", "bass"))
    models = {
        "prompts": {"1": served("prompts", AudioSpec(rate=8000, length=800), {}, CONTROLS)},
        "choir": {"1": served("choir", several, {"speaks": True, "conditional": True}, CONTROLS | VOICED)},
        "fashion": {"1": shop.served()},
    }
    release = shop.release(**{name: {"champion": "1", "versions": versions} for name, versions in models.items()})
    parts = shop.parts(release, signer=provenance.Signer.of(provenance.new_key()))
    yield parts
    close(parts)


@pytest.fixture(scope="module")
def url(parts):
    with running(application(parts)) as url:
        yield f"{url}/v1"


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def spoken(client, **asked):
    return client.audio.speech.create(**{"model": "prompts", "input": "", "voice": "default", **asked})


def test_a_sound_is_a_wav_that_is_the_same_for_the_same_seed(client):
    one = spoken(client, extra_body={"seed": 7, "controls": {"seconds": 0.1}})
    with wave.open(io.BytesIO(one.content)) as file:
        assert (file.getnchannels(), file.getframerate(), file.getnframes()) == (1, 8000, 800)
    assert one.response.headers["content-type"] == "audio/wav" and one.response.headers["x-seed"] == "7"
    assert spoken(client, extra_body={"seed": 7, "controls": {"seconds": 0.1}}).content == one.content
    assert spoken(client, extra_body={"seed": 8, "controls": {"seconds": 0.1}}).content != one.content


def test_the_trace_travels_inside_and_is_signed_for_the_sound(client, parts):
    sound = spoken(client, extra_body={"seed": 3}).content
    manifest, keys = provenance.read(sound), {parts.signer.key_id: parts.signer.public_pem}
    assert manifest["trace"]["model"] == "prompts" and manifest["trace"]["seed"] == 3
    assert provenance.verify(sound, manifest, keys).status == "intact"
    altered = bytearray(sound)
    altered[60] ^= 1
    assert provenance.verify(bytes(altered), manifest, keys).status == "altered"


def test_the_route_for_all_controls_makes_the_same_sound(client, url):
    sound = spoken(client, extra_body={"seed": 4}).content
    answer = httpx.post(f"{url}/generate", json={"model": "prompts", "seed": 4})
    assert answer.content == sound and answer.headers["content-type"] == "audio/wav"


def test_a_voice_is_a_class_and_the_input_what_it_says(client, url):
    def sung(voice, text):
        return spoken(client, model="choir", voice=voice, input=text, extra_body={"seed": 5}).content

    sounds = {sung(voice, text) for voice in ("default", "alto", "bass") for text in ("abc", "cab")}
    assert len(sounds) == 6
    controls = {"label": "bass", "text": "cab"}
    answer = httpx.post(f"{url}/generate", json={"model": "choir", "seed": 5, "controls": controls})
    assert answer.content == sung("bass", "cab")
    with pytest.raises(openai.BadRequestError, match="tenor"):
        sung("tenor", "abc")
    with pytest.raises(openai.BadRequestError, match="'x'"):
        sung("alto", "abcx")


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"input": "hello"}, "speaks no text that it is given"),
        ({"voice": "alloy"}, "voice"),
        ({"response_format": "mp3"}, "response_format"),
        ({"speed": 2.0}, "speed"),
        ({"extra_body": {"controls": {"seconds": 1e9}}}, "seconds"),
        ({"extra_body": {"controls": {"seconds": 0}}}, "seconds"),
        ({"extra_body": {"controls": {"temperature": -1}}}, "temperature"),
        ({"extra_body": {"controls": {"temperature": 1e9}}}, "temperature"),
        ({"model": "fashion"}, "makes image"),
        ({"model": "choir", "input": "abc " * 5}, "20 bytes, and this model speaks at most 16"),
        ({"model": "choir", "input": "abd\x07e"}, "3 characters that the model has never heard spoken: 'd' (U+0064)"),
        ({"model": "choir", "input": "c\x00b"}, "'\\x00' (U+0000)"),
        ({"model": "choir", "input": "a" * 5000}, "at most 4096"),
        ({"model": "choir", "input": None}, "input"),
        ({"model": "choir", "voice": "x" * 300}, "voice"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(client, asked, told):
    with pytest.raises(openai.BadRequestError) as refused:
        spoken(client, **asked)
    assert told in refused.value.message


def test_hostile_texts_are_spoken_or_refused_and_never_break_the_server(client, url):
    def sent(body):
        return httpx.post(f"{url}/audio/speech", content=body, headers={"Content-Type": "application/json"})

    lone = sent(b'{"model": "choir", "input": "a\\ud800"}')
    assert lone.status_code == 400 and lone.json()["error"]["param"] == "input"
    assert sent(json.dumps({"model": "choir", "input": "a" * 10**6}).encode()).status_code == 413
    assert sent(b'{"model": "choir"}').json()["error"]["message"] == "input is missing"
    assert sent(b'{"model": "choir", "input": "a", "controls": {"temperature": NaN}}').status_code == 400
    for text in ("", " ", "c", "ABC"):
        sound = spoken(client, model="choir", input=text, extra_body={"controls": {"seconds": 0.02}})
        with wave.open(io.BytesIO(sound.content)) as file:
            assert 80 <= file.getnframes() <= 160


def test_temperature_0_takes_the_likeliest_sample_whatever_the_seed(client):
    def cold(seed):
        return spoken(client, extra_body={"seed": seed, "controls": {"temperature": 0, "seconds": 0.05}}).content

    with wave.open(io.BytesIO(cold(1))) as one, wave.open(io.BytesIO(cold(2))) as other:
        assert one.readframes(400) == other.readframes(400)
