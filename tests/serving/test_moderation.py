"""What is blocked is refused or cut off with its reason, and told; what is counted goes through, and is told too."""

import json

import httpx
import openai
import pytest

from components.errors import AtelierError
from components.modalities.text.tokenizers import ByteTokens, CharacterTokens
from serving import moderation
from serving.settings import Settings
from tests.serving.live import running, until
from tests.serving.shop import Shop, application, close
from tests.serving.test_completions import ask, written

SPACED, BYTES = CharacterTokens(characters=" ab"), ByteTokens()
STRICT = {"profanity": "block", "personal_data": "block"}
LISTED = {"words": ["b", "secret plan"]}
POLICIES = {
    "open": (SPACED, {}), "careful": (SPACED, LISTED), "strict": (BYTES, STRICT), "listed": (BYTES, LISTED),
    "counting": (BYTES, {}),
}  # fmt: skip


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("shop"))
    names = {
        name: {"1": written(shop, model=name, tokenizer=tokenizer, family="lstm", moderation=policy)}
        for name, (tokenizer, policy) in POLICIES.items()
    }
    release = shop.release(**{name: {"champion": "1", "versions": versions} for name, versions in names.items()})
    parts = shop.parts(release)
    yield parts
    close(parts)


@pytest.fixture(scope="module")
def url(parts):
    with running(application(parts)) as url:
        yield url


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def counted(url, **labels):
    """How often /metrics has counted what these labels say."""
    lines = httpx.get(f"{url}/metrics").text.splitlines()
    wanted = [f'{name}="{value}"' for name, value in labels.items()]
    return sum(
        float(line.rpartition(" ")[2])
        for line in lines
        if line.startswith("atelier_moderated_total{") and all(part in line for part in wanted)
    )


def blocking_seed(client):
    """A seed whose text holds the blocked word, whole and not at the very start."""
    for seed in range(200):
        text = ask(client, model="open", max_tokens=60, seed=seed).choices[0].text
        words = text.split(" ")
        if "b" in words[1:-1] and words[0] not in ("", "b"):
            return seed, text
    raise AssertionError("no text of 200 holds the word")


def test_a_text_ends_before_what_is_blocked_whole_and_streamed_and_it_is_told(client, url):
    seed, text = blocking_seed(client)
    before = counted(url, model="careful", where="answer", kind="words", action="block")
    at = f" {text} ".index(" b ")
    whole = ask(client, model="careful", max_tokens=60, seed=seed).choices[0]
    assert (whole.text, whole.finish_reason) == (text[:at], "content_filter")
    pieces = [part.choices[0] for part in ask(client, model="careful", max_tokens=60, seed=seed, stream=True)]
    assert "".join(piece.text for piece in pieces) == text[:at]
    assert pieces[-1].finish_reason == "content_filter"
    until(lambda: counted(url, model="careful", where="answer", kind="words", action="block") == before + 2)


def test_a_sample_of_generate_that_holds_what_is_blocked_is_held_back(client, url):
    seed, _ = blocking_seed(client)
    answer = httpx.post(f"{url}/v1/generate", json={"model": "careful", "seed": seed, "controls": {"max_tokens": 60}})
    assert answer.status_code == 400 and answer.json()["error"]["code"] == "content_filter"
    assert "a word that is blocked here" in answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("model", "prompt", "kind"),
    [
        ("strict", "ab shit b", "profane"), ("strict", "to a@b.ab", "personal data"),
        ("listed", "a Secret  Plan", "blocked"),
    ],
)  # fmt: skip
def test_a_prompt_that_holds_what_is_blocked_is_refused_by_its_kind_alone(client, url, model, prompt, kind):
    with pytest.raises(openai.BadRequestError) as refused:
        ask(client, model=model, prompt=prompt)
    assert refused.value.code == "content_policy_violation" and refused.value.param == "prompt"
    assert kind in refused.value.message and prompt not in refused.value.message
    until(lambda: counted(url, model=model, where="request", action="block") >= 1)


def test_what_is_counted_goes_through_and_is_told(client, url):
    answer = ask(client, model="counting", prompt="shit happens", max_tokens=4).choices[0]
    assert answer.finish_reason in ("length", "stop")
    until(lambda: counted(url, model="counting", where="request", kind="profanity", action="count") == 1)


def test_a_teams_own_words_are_blocked_for_it_and_those_of_all_for_everybody(tmp_path, client, parts, url):
    lists = tmp_path / "lists.json"
    lists.write_text(json.dumps({"*": ["aa ba"], "web": ["b"]}))
    found = moderation.lists(lists)
    assert found == {"*": {"aa ba"}, "web": {"b"}}
    parts.blocked.update(found)
    try:
        with pytest.raises(openai.BadRequestError, match="blocked here"):
            ask(client, model="open", prompt="a aa  ba b")
        ask(client, model="open", prompt="b", max_tokens=2)  # nobody here is of that team
    finally:
        parts.blocked.clear()


@pytest.mark.parametrize("text", ["[1]", '{"web": [1]}', '{"web": [""]}', "{", '{"web": 3}'])
def test_lists_that_cannot_be_read_are_named_with_their_mend(tmp_path, text):
    path = tmp_path / "lists.json"
    path.write_text(text)
    with pytest.raises(AtelierError, match="words by team"):
        moderation.lists(path)


def test_the_environment_names_the_lists(monkeypatch, tmp_path):
    monkeypatch.setenv("ATELIER_BLOCK_LISTS", str(tmp_path / "lists.json"))
    assert Settings.of_environment().block_lists == tmp_path / "lists.json"
    assert moderation.lists(None) == {}
