"""What the tests of pages stand on: a real server, a watched page, and models of other modalities than pictures."""

import dataclasses
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import uvicorn
from playwright.sync_api import Browser, Page, expect

from components import controls, modalities
from components.controls import PublicControl
from components.modalities.audio.batch import Waves
from components.modalities.text.batch import Tokens
from components.modalities.text.tokenizers import ByteTokens
from serving.parts import Parts
from tests.serving.shop import application

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
NEEDS_CHROMIUM = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the page with; install `chromium`"),
]
RATE = 8000


@contextmanager
def serve(parts: Parts) -> Iterator[str]:
    """The address at which the real application answers."""
    server = uvicorn.Server(uvicorn.Config(application(parts), port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join(10)


class Watched:
    """A page, and all that it asked for, said and was refused."""

    def __init__(self, browser: Browser, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.said: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.said.append(f"{message.type}: {message.text}"))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))

    def open(self, url: str) -> Page:
        self.page.goto(url)
        return self.page


def generate(page: Page, **fields: str) -> None:
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    page.click("#generate")
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")


class Tones:
    """A sampler of sounds: a tone of the pitch and shape that are asked for, as long as is asked or its seed says."""

    modality = "audio"
    edits = False
    alike = ()

    def refuse(self, controls: Any) -> None:
        pass

    def sample(self, seeds: list[int], *, controls: list[Any], conditions: None = None) -> Waves:
        time_T = torch.arange(RATE) / RATE
        rows = [torch.sin(2 * torch.pi * asked.pitch * time_T) * asked.loudness for asked in controls]
        shaped = [
            row.sign() * 0.5 if asked.shape == "square" else row for row, asked in zip(rows, controls, strict=True)
        ]
        eighths = [
            4 + seed % 4 if asked.eighths is None else int(asked.eighths)
            for seed, asked in zip(seeds, controls, strict=True)
        ]
        lengths = torch.tensor(eighths) * RATE // 8
        faded = [row * (1 - time_T) if asked.fade else row for row, asked in zip(shaped, controls, strict=True)]
        return Waves(samples=torch.stack(faded), lengths=lengths)


class Lines:
    """A sampler of texts: one line that names its seed, written a byte at a time."""

    modality = "text"
    edits = False
    alike = ()

    def refuse(self, controls: Any) -> None:
        pass

    def sample(self, seeds: list[int], *, controls: list[Any], conditions: None = None) -> Tokens:
        return Tokens(tokens=torch.tensor([list(self.line(seed)) for seed in seeds]))

    def line(self, seed: int) -> bytes:
        return f"Seed {seed:04} & <b>sons</b>:\n  café".encode()

    def stepper(self) -> "Slots":
        return Slots(self)


class Slots:
    """Lines that are being written, four at most."""

    def __init__(self, lines: Lines) -> None:
        self._lines, self._left = lines, dict[int, list[int]]()

    @property
    def free(self) -> int:
        return 4 - len(self._left)

    def admit(self, seed: int, controls: Any) -> int:
        slot = next(slot for slot in range(4) if slot not in self._left)
        self._left[slot] = [*self._lines.line(seed), ByteTokens().end]
        return slot

    def evict(self, slot: int) -> None:
        del self._left[slot]

    def step(self) -> list[tuple[int, int, bool]]:
        told = [(slot, left.pop(0), not left) for slot, left in self._left.items()]
        for slot, _, last in told:
            if last:
                del self._left[slot]
        return told


def put(parts: Parts, name: str, sampler: Any, spec: Any, public: dict[str, PublicControl]) -> None:
    """Let `name` be answered by a sampler of another modality than the pictures that its bundle holds."""
    held = parts.residents.view.champions[name]
    codec, form = modalities.part(sampler.modality, "codec"), controls.schema(public)
    endpoint = dataclasses.replace(
        held.endpoint, modality=sampler.modality, media_type=codec.MEDIA_TYPE, controls=form, spec=spec,
        _sampler=sampler, _family_controls=form, _codec=codec,
        card=held.endpoint.card.model_copy(update={"controls": public}),
    )  # fmt: skip
    champions = {**parts.residents.view.champions, name: dataclasses.replace(held, endpoint=endpoint)}
    parts.residents.view = dataclasses.replace(parts.residents.view, champions=champions)
