"""A shop of tiny models, and Chromium."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from playwright.sync_api import Browser, sync_playwright

from components.controls import PublicControl
from components.modalities.audio.batch import AudioSpec
from components.modalities.text.batch import TextSpec
from components.modalities.text.tokenizers import ByteTokens
from serving.parts import Parts
from tests.browser.stage import CHROMIUM, RATE, Lines, Tones, Watched, put, serve
from tests.serving.shop import Shop, close


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="module")
def versions(shop: Shop) -> dict[str, Any]:
    torch.manual_seed(0)
    return {version: shop.served(max_samples=8) for version in "123"}


@pytest.fixture(scope="module")
def parts(shop: Shop, versions: dict[str, Any]) -> Iterator[Parts]:
    """One model of three versions, with a journal."""
    fashion = {"champion": "1", "challenger": "2", "versions": versions}
    made = shop.parts(shop.release(fashion=fashion), journal=shop.root / "journal.db")
    yield made
    close(made)


@pytest.fixture(scope="module")
def url(parts: Parts) -> Iterator[str]:
    with serve(parts) as address:
        yield address


@pytest.fixture(scope="module")
def gallery(shop: Shop, versions: dict[str, Any]) -> Iterator[str]:
    """A server of four models: pictures, sounds, texts, and pictures made from others."""
    held = {"champion": "1", "versions": {"1": versions["1"]}}
    restyle = {"champion": "1", "versions": {"1": shop.served(model="restyle", family="cyclegan")}}
    release = shop.release(fashion=held, tones=held, lines=held, restyle=restyle)
    parts = shop.parts(release, journal=shop.root / "gallery.db")
    public = {
        "pitch": PublicControl(default=440, at_least=100, at_most=1000),
        "loudness": PublicControl(default=0.8, at_least=0.1, at_most=1.0),
        "fade": PublicControl(default=False),
        "shape": PublicControl(default="sine", choices=("sine", "square")),
        "eighths": PublicControl(default=None, at_least=1, at_most=8),  # of a second
    }
    put(parts, "tones", Tones(), AudioSpec(rate=RATE, length=RATE), public)
    put(parts, "lines", Lines(), TextSpec(tokenizer=ByteTokens(), context=8), {})
    with serve(parts) as address:
        yield address
    close(parts)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def watched(browser: Browser) -> Iterator[Watched]:
    held = Watched(browser)
    yield held
    held.context.close()
