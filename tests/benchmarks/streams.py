"""Texts streamed by the endpoint: how long the first token takes, and how many come a second, alone and together.

The server is the product's own, with keys, journal and signing, on all cores but the last; the client is on that.
`gpt`, `tiny`, weights as they begin, bytes. Beside it the same decoder without a server, on the client's core.
"""

import json
import os
import tempfile
import threading
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch

from components import families
from components.bundle import EndpointCard, assemble
from components.modalities.text.batch import TextSpec
from components.modalities.text.tokenizers import ByteTokens
from components.store import Store
from serving.release import Served
from tests.benchmarks import serving

CONTEXT, WRITTEN, ROUNDS = 256, 100, 20
CONTROLS = {"prompt": {"default": ""}, "max_tokens": {"default": WRITTEN, "at_least": 1, "at_most": 1000}}
PROMPTS = {"19 bytes": "To be, or not to be", "200 bytes": "To be, or not to be, that is the question. " * 5}


@dataclass(frozen=True)
class Streamed:
    """What a client saw of one stream: seconds to the first piece of text and to the end, and its tokens."""

    first: float
    whole: float
    tokens: int


def main() -> None:
    """Time to the first token, and tokens a second, of 1, 4 and 16 streams at once."""
    os.sched_setaffinity(0, serving.CLIENT)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        shop = serving.Shop(Path(folder))
        version = _version(shop)
        arm = serving._product(shop, "streams", version)
        with serving._running(shop, arm.command, version.model, arm.variables) as server:
            for told, prompt in PROMPTS.items():
                for count in (1, 4, 16):
                    _together(server, prompt[:200], 1)
                    rounds = [_together(server, prompt[:200], count) for _ in range(ROUNDS)]
                    seen = [one for streams in rounds for one in streams]
                    firsts = sorted(one.first * 1e3 for one in seen)
                    rates = [sum(one.tokens for one in made) / max(one.whole for one in made) for made in rounds]
                    print(
                        f"{count} streams, a prompt of {told}: first token after {median(firsts):.1f} ms "
                        f"(95% {firsts[int(0.95 * len(firsts))]:.1f}), {median(rates):,.0f} tokens/s together; "
                        f"the decoder alone {_bare(prompt[:200], count):,.0f}",
                        flush=True,
                    )


def _version(shop: serving.Shop) -> serving.Version:
    """A bundle of text in the Bento store."""
    module, store = families.get("gpt"), Store(shop.root / "texts")
    torch.manual_seed(0)
    with store.writing("weights") as draft:
        module.Model(module.Config(), TextSpec(tokenizer=ByteTokens(), context=CONTEXT)).save(draft.directory)
    card = EndpointCard.model_validate({"model": "plays", "controls": CONTROLS, "latency_ms": 600_000})
    bundle = assemble(draft.artifact, card, store)
    tag = f"plays:{bundle.digest[7:39]}"
    served = Served(digest=bundle.digest, bento_model=tag, trace=serving.TRACE)
    shop.keep([(tag, store.path(bundle))])
    return serving.Version("plays", served, store.path(bundle))


def _together(server: serving.Server, prompt: str, count: int) -> list[Streamed]:
    """So many streams that begin at once."""
    seen: list[Streamed] = []
    threads = [
        threading.Thread(target=lambda seed=seed: seen.append(_stream(server, prompt, seed))) for seed in range(count)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return seen


def _stream(server: serving.Server, prompt: str, seed: int) -> Streamed:
    asked = {
        "model": server.model, "prompt": prompt, "max_tokens": WRITTEN, "seed": seed, "stream": True,
        "stream_options": {"include_usage": True},
    }  # fmt: skip
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {server.key}"}
    url = f"http://127.0.0.1:{server.port}/v1/completions"
    begun, first, tokens = time.perf_counter(), 0.0, 0
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(asked).encode(), headers), timeout=60) as answer:
        for line in answer:
            if not line.startswith(b"data: {"):
                continue
            first = first or time.perf_counter() - begun
            tokens = (json.loads(line[6:]).get("usage") or {}).get("completion_tokens", tokens)
    return Streamed(first, time.perf_counter() - begun, tokens)


def _bare(prompt: str, count: int) -> float:
    """Tokens a second of the decoder itself, with so many texts in writing."""
    module = families.get("gpt")
    torch.manual_seed(0)
    family = module.Model(module.Config(), TextSpec(tokenizer=ByteTokens(), context=CONTEXT)).eval()
    rates: Sequence[float] = []
    for turn in range(5):
        decoder = family.stepper()
        for seed in range(count):
            decoder.admit(turn * count + seed, module.Controls(prompt=prompt, max_tokens=10**4))
        begun, made = time.perf_counter(), 0
        for _ in range(WRITTEN):
            made += len(decoder.step())
        rates = [*rates, made / (time.perf_counter() - begun)]
    return median(rates)
