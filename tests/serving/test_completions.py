"""Text through the official `openai` client, unchanged: whole and streamed, and whatever may go wrong on the way."""

import json
import threading
import time

import httpx
import openai
import pytest
import torch

from components import families, provenance
from components.bundle import EndpointCard, assemble
from components.modalities.text import tokenizers
from components.modalities.text.batch import TextSpec
from components.modalities.text.tokenizers import ByteTokens, CharacterTokens
from serving.release import Served
from tests.serving.live import running, until
from tests.serving.shop import TRACE, Shop, application, close

CONTROLS = {
    "prompt": {"default": ""},
    "max_tokens": {"default": 24, "at_least": 1, "at_most": 400},
    "temperature": {"default": 1.0, "at_least": 0.0, "at_most": 2.0},
    "top_p": {"default": 1.0, "at_least": 0.05, "at_most": 1.0},
    "top_k": {"default": 0, "at_least": 0, "at_most": 256},
    "repetition_penalty": {"default": 1.0, "at_least": 1.0, "at_most": 2.0},
}

LONG = 18  # a seed from which, and from the two after it, `plays` writes 400 tokens


def written(shop, *, model, tokenizer, family="gpt", controls=CONTROLS, minds=False, **card) -> Served:
    """A bundle of a small untrained model of text, which `minds` what it reads where that is asked for."""
    module = families.get(family)
    torch.manual_seed(1)
    sizes = {"layers": 1, "width": 16} | ({"heads": 2} if family == "gpt" else {})
    network = module.Model(module.Config(**sizes), TextSpec(tokenizer=tokenizer, context=32))
    for weights in network.parameters():
        if minds and not weights.any():
            torch.nn.init.normal_(weights, std=0.3)
    with shop.store.writing("weights") as draft:
        network.save(draft.directory)
    given = {"model": model, "controls": controls, "max_samples": 4, "latency_ms": 2000, **card}
    bundle = assemble(draft.artifact, EndpointCard.model_validate(given), shop.store)
    return Served(digest=bundle.digest, bento_model=f"{model}:x", trace=TRACE)


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("shop"))
    signer = provenance.Signer.of(provenance.new_key())
    plays = {"1": written(shop, model="plays", tokenizer=ByteTokens())}
    tunes = {"1": written(shop, model="tunes", tokenizer=CharacterTokens(characters="abc"), family="lstm")}
    reader = {"1": written(shop, model="reader", tokenizer=ByteTokens(), minds=True)}
    words = tokenizers.learn("bpe", ["to be or not to be, that is the question " * 20], vocabulary=300)
    pieces = {"1": written(shop, model="pieces", tokenizer=words)}
    bare = {"1": written(shop, model="bare", tokenizer=ByteTokens(), controls={})}
    names = {
        "plays": plays,
        "tunes": tunes,
        "reader": reader,
        "pieces": pieces,
        "bare": bare,
        "fashion": {"1": shop.served()},
    }
    release = shop.release(**{name: {"champion": "1", "versions": versions} for name, versions in names.items()})
    parts = shop.parts(release, signer=signer, journal=shop.root / "journal.db", places=40)
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


def ask(client, **asked):
    """What the client makes of a request; it wants a prompt whatever is asked."""
    return client.completions.create(**{"prompt": "", **asked})


def test_a_text_is_the_same_for_the_same_seed_and_goes_on_from_its_prompt(client):
    one = ask(client, model="plays", prompt="ROMEO", max_tokens=20, seed=7)
    two = ask(client, model="plays", prompt="ROMEO", max_tokens=20, seed=7)
    assert one.choices[0].text == two.choices[0].text
    assert one.choices[0].text != ask(client, model="plays", prompt="", max_tokens=20, seed=7).choices[0].text
    assert one.object == "text_completion" and one.model == "plays"
    assert (one.usage.prompt_tokens, one.usage.completion_tokens) == (5, 20)
    assert one.choices[0].finish_reason == "length"


def test_a_stream_brings_the_same_text_piece_by_piece_and_ends_with_its_usage(client):
    asked = {"model": "plays", "prompt": "O", "max_tokens": 60, "seed": 3}
    whole = ask(client, **asked).choices[0]
    parts = list(ask(client, **asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(part.choices[0].text for part in parts[:-1]) == whole.text
    assert len(parts) > 10
    assert parts[-2].choices[0].finish_reason == whole.finish_reason
    assert parts[-1].choices == [] and parts[-1].usage.completion_tokens == 60


def test_a_model_of_pieces_of_words_answers_by_the_tokenizer_that_it_came_with(client):
    asked = {"model": "pieces", "prompt": "to be or not to be, é", "max_tokens": 40, "seed": 1}
    whole = ask(client, **asked)
    assert whole.usage.prompt_tokens < 12 and whole.usage.completion_tokens == 40
    assert len(whole.choices[0].text) > 40, "some tokens are more than a byte"
    streamed = "".join(part.choices[0].text for part in ask(client, **asked, stream=True))
    assert streamed == whole.choices[0].text


def test_the_bytes_of_a_stream_end_with_done(url):
    asked = {"model": "tunes", "max_tokens": 3, "stream": True}
    answer = httpx.post(f"{url}/completions", json=asked)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = [line for line in answer.text.split("\n\n") if line]
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: ") for line in lines)


def test_every_text_has_a_manifest_that_is_signed_for_it(client, parts):
    choice = ask(client, model="plays", n=2, max_tokens=8, seed=1).choices[1]
    keys = {parts.signer.key_id: parts.signer.public_pem}
    assert choice.manifest["trace"]["seed"] == choice.seed == 2
    assert provenance.verify(choice.text.encode(), choice.manifest, keys).status == "intact"
    assert provenance.verify(choice.text.encode() + b"!", choice.manifest, keys).status == "altered"
    *_, last = ask(client, model="plays", max_tokens=8, seed=2, stream=True)
    assert last.choices[0].manifest == choice.manifest


def test_several_prompts_and_several_of_each_come_in_order(client):
    made = ask(client, model="plays", prompt=["a", "b"], n=2, max_tokens=5, seed=10)
    assert [choice.index for choice in made.choices] == [0, 1, 2, 3]
    assert [choice.seed for choice in made.choices] == [10, 11, 12, 13]
    alone = ask(client, model="plays", prompt="b", max_tokens=5, seed=13)
    assert made.choices[3].text == alone.choices[0].text


def test_a_text_ends_before_a_stop_string_whole_and_streamed(client):
    text = ask(client, model="plays", max_tokens=200, seed=2).choices[0].text
    stop = text[10:13]
    asked = {"model": "plays", "max_tokens": 200, "seed": 2, "stop": [stop, "never"]}
    whole = ask(client, **asked).choices[0]
    assert whole.text == text[: text.find(stop)] and whole.finish_reason == "stop"
    assert "".join(part.choices[0].text for part in ask(client, **asked, stream=True)) == whole.text


def test_a_stop_string_that_never_comes_changes_nothing(client):
    asked = {"model": "plays", "max_tokens": 50, "seed": 2}
    text = ask(client, **asked).choices[0].text
    last = text[-1]
    assert ask(client, **asked, stop=[f"{last}{last}x", "zz"]).choices[0].text == text


def test_the_route_for_all_controls_makes_the_same_text(client, url):
    text = ask(client, model="plays", prompt="To be", max_tokens=15, seed=4).choices[0].text
    body = {"model": "plays", "seed": 4, "controls": {"prompt": "To be", "max_tokens": 15}}
    answer = httpx.post(f"{url}/generate", json=body)
    assert answer.text == text and answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert "x-manifest" in answer.headers


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1_000_000}, "max_tokens"),
        ({"temperature": 1e9}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"extra_body": {"controls": {"top_k": -1}}}, "top_k"),
        ({"extra_body": {"controls": {"repetition_penalty": 1e9}}}, "repetition_penalty"),
        ({"extra_body": {"seed": -1}}, "seed"),
        ({"top_p": 0}, "top_p"),
        ({"logprobs": 5}, "logprobs"),
        ({"echo": True}, "echo"),
        ({"best_of": 3}, "best_of"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"stop": ["a", "b", "c", "d", "e"]}, "stop"),
        ({"stop": ""}, "stop"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [1, 2, 3]}, "prompt"),
        ({"n": 5}, "between 1 and 4"),
        ({"model": "bare", "max_tokens": 3}, "does not offer max_tokens"),
        ({"model": "bare", "prompt": "a"}, "does not offer prompt"),
        ({"model": "tunes", "prompt": "abx\u0001"}, "'x' (U+0078), '\\x01' (U+0001)"),
        ({"extra_body": {"controls": {"max_tokens": 3}}, "max_tokens": 4}, "max_tokens is given twice"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_its_name(client, asked, told):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, **{"model": "plays", **asked})
    assert told in refused.value.message


def test_temperature_0_takes_the_likeliest_token_whatever_the_seed(client):
    asked = {"model": "reader", "max_tokens": 30, "prompt": "ROMEO"}
    cold = {ask(client, **asked, temperature=0, seed=seed).choices[0].text for seed in range(3)}
    single = ask(client, **asked, seed=9, extra_body={"controls": {"top_k": 1}}).choices[0].text
    assert cold == {single}


def test_a_penalty_on_repetition_keeps_tokens_from_coming_back(client):
    asked = {"model": "reader", "max_tokens": 8, "temperature": 0, "prompt": "aaaa"}
    plain, penalised = (
        ask(client, **asked, extra_body={"controls": {"repetition_penalty": penalty}}).choices[0].text
        for penalty in (1.0, 2.0)
    )
    assert plain != penalised


def test_of_a_prompt_longer_than_the_context_its_end_counts(client):
    """The model looks back on 32 tokens: what stands before them changes nothing, what stands among them does."""

    def goes_on(prompt):
        return ask(client, model="reader", max_tokens=12, seed=6, prompt=prompt).choices[0].text

    question = "To be, or not to be, that is the question"
    assert goes_on("a" * 500 + question) == goes_on("b" * 90 + question)
    assert goes_on("a" * 500 + question) != goes_on("a" * 500 + question.upper()[:-1] + "n")


def test_an_empty_prompt_and_none_begin_a_text(client, url):
    empty = ask(client, model="plays", prompt="", max_tokens=9, seed=3)
    assert empty.usage.prompt_tokens == 0 and empty.choices[0].text
    none = httpx.post(f"{url}/completions", json={"model": "plays", "max_tokens": 9, "seed": 3}).json()
    assert none["choices"][0]["text"] == empty.choices[0].text


def test_hostile_prompts_are_read_or_refused_and_never_break_the_server(client, url):
    for prompt in ("\x00\x07\x1b[31m", "\u202e\ufeff", "e\u0301" * 50, "x" * 50_000):
        assert ask(client, model="plays", prompt=prompt, max_tokens=2).usage.completion_tokens == 2
    lone = httpx.post(
        f"{url}/completions",
        content=b'{"model": "plays", "prompt": "a\\ud800"}',
        headers={"Content-Type": "application/json"},
    )
    assert lone.status_code == 400 and lone.json()["error"]["param"] == "prompt"
    with pytest.raises(openai.APIStatusError) as refused:
        ask(client, model="plays", prompt="x" * 1_000_000)
    assert refused.value.status_code == 413


def test_who_hangs_up_frees_the_slot(client, parts):
    stream = ask(client, model="plays", max_tokens=400, stream=True, seed=LONG)
    next(iter(stream))
    assert parts.batcher._streams
    stream.close()
    until(lambda: not parts.batcher._streams)


def test_who_hangs_up_on_a_whole_text_frees_the_slots_too(url, parts):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{url}/completions", json={"model": "plays", "max_tokens": 400, "n": 3, "seed": LONG}, timeout=0.05)
    until(lambda: not parts.batcher._streams)


def test_a_stream_of_a_server_that_stops_ends_with_the_reason_and_done(url, parts):
    asked = {"model": "plays", "max_tokens": 400, "stream": True, "seed": LONG}
    with httpx.stream("POST", f"{url}/completions", json=asked, timeout=30) as answer:
        lines = answer.iter_lines()
        next(lines)
        with parts.batcher._changed:
            parts.batcher._streams.close()
        events = [line.removeprefix("data: ") for line in lines if line]
    assert events[-1] == "[DONE]" and json.loads(events[-2])["error"]["code"] == "stopping"


def test_a_model_that_fails_in_the_middle_ends_the_stream_with_an_error_and_done(url, parts, monkeypatch):
    from components import sampling

    step, count = sampling.Writing.step, 0

    def failing(self):
        nonlocal count
        count += 1
        if count == 5:
            raise ZeroDivisionError
        return step(self)

    monkeypatch.setattr(sampling.Writing, "step", failing)
    answer = httpx.post(f"{url}/completions", json={"model": "plays", "max_tokens": 50, "stream": True})
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert events[-1] == "[DONE]" and json.loads(events[-2])["error"]["code"] == "failed"
    assert json.loads(events[0])["choices"]
    count = 0
    failed = httpx.post(f"{url}/completions", json={"model": "plays", "max_tokens": 50})
    assert failed.status_code == 500 and "its log tells why" in failed.json()["error"]["message"]
    monkeypatch.undo()
    assert httpx.post(f"{url}/completions", json={"model": "plays"}).status_code == 200


def test_many_at_once_share_steps_and_each_has_its_own_text(client, parts):
    def text(seed):
        return ask(client, model="plays", max_tokens=40, seed=seed).choices[0].text

    alone, found = {seed: text(seed) for seed in range(20)}, {}
    threads = [threading.Thread(target=lambda seed=seed: found.update({seed: text(seed)})) for seed in alone]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == alone


def test_a_queue_that_is_full_says_so(parts, url):
    with httpx.Client(base_url=url, timeout=30) as http:
        answers = []
        body = {"model": "plays", "max_tokens": 400, "n": 4}
        threads = [
            threading.Thread(target=lambda: answers.append(http.post("/completions", json=body))) for _ in range(24)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert {answer.status_code for answer in answers} == {200, 429}
    full = next(answer for answer in answers if answer.status_code == 429)
    assert full.json()["error"]["code"] == "queue_full" and int(full.headers["retry-after"]) >= 1


def test_pictures_are_made_while_texts_are_written(client, url):
    stream = ask(client, model="plays", max_tokens=400, stream=True, temperature=0.5)
    next(iter(stream))
    begun = time.monotonic()
    assert httpx.post(f"{url}/generate", json={"model": "fashion", "seed": 1}).status_code == 200
    assert time.monotonic() - begun < 30
    stream.close()


def test_the_journal_keeps_the_request_without_its_prompt(client, parts):
    answer = client.completions.with_raw_response.create(
        model="plays", prompt="a secret", max_tokens=3, seed=5, stop="another"
    )
    parts.journal.settle()
    kept = b"".join(path.read_bytes() for path in parts.journal.path.parent.glob("journal.db*"))
    assert answer.headers["x-request-id"].encode() in kept
    assert b"a secret" not in kept and b"another" not in kept


def test_how_long_the_first_piece_took_is_measured(client, url):
    def counted():
        text = httpx.get(url.removesuffix("/v1") + "/metrics").text
        lines = [line for line in text.splitlines() if line.startswith("atelier_first_piece_seconds_")]
        return {
            line.split("{")[0].rpartition("_")[2]: float(line.split()[-1]) for line in lines if 'model="tunes"' in line
        }

    before = counted().get("count", 0)
    for chunk in client.completions.create(model="tunes", prompt="ab", max_tokens=8, stream=True):
        assert chunk.id
    until(lambda: counted().get("count", 0) == before + 1)
    assert 0 < counted()["sum"] < 60
