"""Pictures that show what a recipe's moderation names are held back, or counted, and told."""

import httpx
import openai
import pytest
import torch

from components import sampling
from tests.components.exported import exported, judge
from tests.serving.live import running, until
from tests.serving.shop import Shop, application, close
from tests.serving.test_edits import png
from tests.serving.test_moderation import counted

BLOCK = {"model": "judge.pt2", "block": {"leaning": 0}}


def alike(shop, **served):
    """A version whose weights are those of all others of its family."""
    torch.manual_seed(0)
    return shop.served(gain=3.0, **served)


def half_lean_by(bundle):
    """How much brighter on the left half of what a model makes is."""
    pixels = sampling.load(bundle).sample(range(40)).pixels[:, 0]
    return float((pixels[:, :, :14].mean(dim=(1, 2)) / 2 - pixels[:, :, 14:].mean(dim=(1, 2)) / 2).median())


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    shop = Shop(tmp_path_factory.mktemp("shop"))
    free = alike(shop, model="open")
    exported(shop.root / "judge.pt2", judge(size=28, leaning=half_lean_by(shop.place(free))), size=28)
    made = {
        "open": free,
        "careful": alike(shop, model="careful", moderation={"images": BLOCK}),
        "counting": alike(shop, model="counting", moderation={"images": {**BLOCK, "action": "count"}}),
        "restyle": alike(shop, model="restyle", family="cyclegan", moderation={"images": BLOCK}),
    }
    parts = shop.parts(
        shop.release(**{name: {"champion": "1", "versions": {"1": served}} for name, served in made.items()})
    )
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


def leaning(parts):
    """A seed whose picture the network knows, and one that it does not."""
    endpoint = parts.residents.view.champions["careful"].endpoint
    shown = endpoint.shown_by(endpoint.generate(range(40)))
    assert 0 < sum(map(bool, shown)) < 40
    return shown.index(("leaning",)), shown.index(())


def test_a_picture_that_shows_what_is_blocked_is_held_back_and_told(parts, client, url):
    blocked, fine = leaning(parts)
    with pytest.raises(openai.BadRequestError, match=r"sample 0 of careful shows leaning, and is held back") as refused:
        client.images.generate(model="careful", prompt="", extra_body={"seed": blocked})
    assert refused.value.code == "content_filter"
    until(lambda: counted(url, model="careful", where="answer", kind="leaning", action="block") == 1)
    for model, seed in (("open", blocked), ("careful", fine)):
        assert client.images.generate(model=model, prompt="", extra_body={"seed": seed}).data[0].b64_json
    answer = httpx.post(f"{url}/v1/generate", json={"model": "careful", "seeds": [fine, blocked]})
    assert answer.status_code == 400 and "sample 1" in answer.json()["error"]["message"]


def test_what_is_only_counted_goes_through_and_is_told(parts, client, url):
    blocked, _ = leaning(parts)
    assert client.images.generate(model="counting", prompt="", extra_body={"seed": blocked}).data[0].b64_json
    until(lambda: counted(url, model="counting", where="answer", kind="leaning", action="count") == 1)


def test_a_picture_that_is_given_is_looked_at_before_anything_is_made_of_it(client, url):
    with pytest.raises(openai.BadRequestError, match="the picture shows leaning") as refused:
        client.images.edit(model="restyle", image=("a.png", png(50)), prompt="")
    assert (refused.value.code, refused.value.param) == ("content_policy_violation", "image")
    until(lambda: counted(url, model="restyle", where="request", kind="leaning", action="block") == 1)
