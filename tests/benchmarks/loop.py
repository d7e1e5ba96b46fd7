"""What the training loop costs: its rate beside a bare loop over the same model and the same rows."""

import os
import statistics
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import torch

from components import families, loading
from components.contract import Family
from components.modalities.image.batch import Images, ImageSpec
from components.recipe import Train
from components.training import Loop

ROUNDS, STEPS, SIZE, ROWS = 20, 40, 64, 2048
LONG = 4000  # the steps of the run that the stretches are part of: its losses are read every 20
SPEC = ImageSpec(channels=1, size=28)
CONFIGS: dict[str, dict[str, Any]] = {"vae": {"width": 16}, "dcgan": {"width": 16}}


class Noise:
    """Rows of noise in memory: what is compared does not depend on what they show."""

    def __init__(self) -> None:
        self._pixels = torch.rand(ROWS, 1, 28, 28, generator=torch.Generator().manual_seed(0)) * 2 - 1

    def __len__(self) -> int:
        return ROWS

    def batch(self, index: torch.Tensor) -> Images:
        return Images(self._pixels[index])


def main() -> None:
    """Rows a second of the loop over those of a bare loop, taken in turn: 0.97 or more is the goal."""
    for name in CONFIGS:
        ours, bare = _loop(name), _bare(name)
        ratios, rates = [], []
        ours(), bare()
        for turn in range(ROUNDS):
            first, second = (ours, bare) if turn % 2 else (bare, ours)  # whoever comes second finds warmer caches
            times = {first: _timed(first), second: _timed(second)}
            quick, plain = times[ours], times[bare]
            ratios.append(plain / quick)
            rates.append(STEPS * SIZE / quick)
        low, *_, high = sorted(ratios)
        rate = statistics.median(rates)
        print(f"{name}: {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f}), {rate:,.0f} rows/s", flush=True)


def _build(name: str) -> Family[Any, Any, Any, Any]:
    torch.manual_seed(0)
    module = families.get(name)
    return module.Model(module.Config.model_validate(CONFIGS[name]), SPEC)


def _loop(name: str) -> Callable[[], None]:
    """The real loop, a stretch of `STEPS` of a long run at a time, with its seeding, readings and curves."""
    loop = Loop(_build(name), Train(steps=LONG, batch_size=SIZE))
    rows = Noise()

    def stretch() -> None:
        loop.run(lambda start: islice(loading.batches(rows, size=SIZE, seed=0, start=start), STEPS))

    return stretch


def _bare(name: str) -> Callable[[], None]:
    """The shortest loop that trains the same model: no seeds, no readings, no freezing of what a phase leaves alone."""
    family = _build(name).train()
    optimizers, phases = family.optimizers(), family.phases()
    generator = torch.Generator().manual_seed(0)
    stream = loading.batches(Noise(), size=SIZE, seed=0, start=0)

    def stretch() -> None:
        for step, batch in enumerate(islice(stream, STEPS)):
            for phase in phases:
                loss = family.loss(phase.name, batch, step=step, generator=generator)
                optimizers[phase.optimizer].zero_grad()
                loss.total.backward()
                optimizers[phase.optimizer].step()
            family.after_step(step)

    return stretch


def _timed(stretch: Callable[[], None]) -> float:
    begun = time.perf_counter()
    stretch()
    return time.perf_counter() - begun
