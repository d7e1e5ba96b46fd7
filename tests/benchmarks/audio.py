"""Sounds: how fast `wavenet` and `samplernn` write them on one thread, beside loops that keep nothing or interpreted.

Weights are fresh ones of the default config at 8 kHz, which cost what trained ones do. A rate is that of one call after
the first, which compiles or loads what was compiled; `times real time` is how many seconds of sound a second makes.
"""

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch

from components import families
from components.loops import convolved, tiered
from components.modalities.audio.batch import AudioSpec
from components.waveforms import SILENCE

RATE, ROUNDS, STREAMS = 8000, 5, 64


def main() -> None:
    """Samples a second of one stream and of 64, beside an uncached loop, an eager cached one and numpy."""
    torch.set_num_threads(1)
    for name, loops in (("wavenet", convolved), ("samplernn", tiered)):
        module = families.get(name)
        torch.manual_seed(0)
        family = module.Model(module.Config(), AudioSpec(rate=RATE, length=4096)).eval()
        one = _rates(family, module, streams=1, seconds=2.0)
        many = _rates(family, module, streams=STREAMS, seconds=0.25)
        written, loops._write = loops._write, loops._by_numpy
        by_numpy = _rates(family, module, streams=1, seconds=0.1)
        loops._write = written
        print(
            f"{name}: one stream {_told(one)}, {median(one) / RATE:.1f} times real time; {STREAMS} together "
            f"{_told(many)}, {median(many) / median(one):.1f} times one; without numba {_told(by_numpy)}",
            flush=True,
        )
        if name == "wavenet":
            uncached, eager = _uncached(family), _eager(family)
            print(
                f"wavenet: {median(one) / median(uncached):,.0f} times an uncached loop ({_told(uncached)}), "
                f"{median(one) / median(eager):,.0f} times an eager cached one ({_told(eager)})",
                flush=True,
            )


def _told(rates: list[float]) -> str:
    return f"{median(rates):,.0f} samples/s ({min(rates):,.0f} to {max(rates):,.0f})"


def _timed(work: Callable[[], int]) -> list[float]:
    work()
    rates = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        rates.append(work() / (time.perf_counter() - begun))
    return rates


def _rates(family: Any, module: Any, *, streams: int, seconds: float) -> list[float]:
    controls = [module.Controls(seconds=seconds)] * streams
    return _timed(lambda: int(family.sample(range(streams), controls=controls).lengths.sum()))


@torch.inference_mode()
def _uncached(family: Any) -> list[float]:
    """All that a sample sees goes through the network anew for each."""
    network, generator = family.average, torch.Generator().manual_seed(0)

    def work() -> int:
        classes = torch.full((1, network.reach), SILENCE)
        for _ in range(20):
            logits = network(classes[:, -network.reach :])[0, :, -1]
            chosen = torch.multinomial(logits.softmax(dim=0), 1, generator=generator)
            classes = torch.cat([classes, chosen[None]], dim=1)
        return 20

    return _timed(work)


@torch.inference_mode()
def _eager(family: Any) -> list[float]:
    """The same rings as the compiled loop's, by torch operations."""
    network, generator = family.average, torch.Generator().manual_seed(0)
    past, now = ([gate.weight[:, :, at] for gate in network.gates] for at in (0, 1))
    outs = [out.weight[:, :, 0] for out in network.outs]

    def work() -> int:
        rings = [torch.zeros(dilation, network.width) for dilation in network.dilations]
        latest = torch.tensor(SILENCE)
        for at in range(200):
            hidden, skips = network.embedding(latest), torch.zeros(outs[0].shape[0] - network.width)
            for layer, ring in enumerate(rings):
                seen = ring[at % len(ring)]
                gates = past[layer] @ seen + now[layer] @ hidden + network.gates[layer].bias
                ring[at % len(ring)] = hidden
                filtered, opened = gates.chunk(2)
                out = outs[layer] @ (filtered.tanh() * opened.sigmoid()) + network.outs[layer].bias
                hidden, skips = hidden + out[: network.width], skips + out[network.width :]
            logits = network.head(skips[None, :, None])[0, :, 0]
            latest = torch.multinomial(logits.softmax(dim=0), 1, generator=generator)[0]
        return 200

    return _timed(work)
