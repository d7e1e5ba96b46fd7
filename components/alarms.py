"""Alarms of a training run: losses that leave their own scale, and samples that lose their variety.

N generated rows, M real rows, D features.
"""

import time
from bisect import insort
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from components import fidelity, loading
from components.contract import Batch, Controls, Family, Spec

# A healthy GAN's losses have no fixed scale: they start near 0 and wander. The median of all healthy readings follows
# that and no single spike moves it (its breakdown point is one half: Rousseeuw and Croux, 1993); losses below 1 count
# as 1, and a spike that comes back, as they do (arXiv:2504.02507), is no divergence. A false stop costs a run and a
# late one minutes, since what diverges goes on to: the bound is far off.
BEYOND = 1000.0  # times that median
PATIENCE = 3  # readings on end

AnyFamily = Family[Any, Any, Any, Any]

ROWS = 256  # of the fixed sample, real and generated
GRACE = 0.25  # of a run's steps, in which a generator has no variety yet to lose
LOOKS_ON_END = 2
ENTROPY_AT_LEAST = 0.5  # of what the real rows have: of ten classes alike, three are less
RECALL_AT_LEAST = 2 / ROWS  # of the real rows; slow learners have three of a hundred after a minute
SHARE_OF_TIME = 0.05  # that looking may take of a run


@dataclass
class Scale:
    """The size that one phase's losses have had so far, and how many readings on end lie far beyond it."""

    healthy: list[float] = field(default_factory=list)  # the largest part of each reading, in order of size
    beyond: int = 0
    latest: tuple[str, float] = ("", 0.0)  # that part's name, and its value

    def take(self, losses: Mapping[str, float]) -> None:
        """One more reading: beyond the scale, or part of it. Small parts beside a large one may grow as they like."""
        name = max(losses, key=lambda part: abs(losses[part]))
        self.latest, size = (name, losses[name]), abs(losses[name])
        if self.healthy and size > self.limit:
            self.beyond += 1
        else:
            self.beyond = 0
            insort(self.healthy, size)

    @property
    def limit(self) -> float:
        return BEYOND * max(1.0, self.healthy[len(self.healthy) // 2])


@dataclass
class Divergence:
    """The scales of a run's losses, by phase."""

    scales: dict[str, Scale] = field(default_factory=dict)

    @classmethod
    def of(cls, curves: Mapping[str, list[tuple[int, float, float]]]) -> Self:
        """As it was when these curves (`phase/part`: step, time, value) had been read."""
        readings: dict[int, dict[str, float]] = {}
        for name, curve in curves.items():
            for step, _, value in curve:
                readings.setdefault(step, {})[name] = value
        watch = cls()
        for step in sorted(readings):
            watch.take(readings[step])
        return watch

    def take(self, losses: Mapping[str, float]) -> None:
        """The losses of one reading, by `phase/part`."""
        for phase in {name.split("/")[0] for name in losses}:
            own = {name: value for name, value in losses.items() if name.split("/")[0] == phase}
            self.scales.setdefault(phase, Scale()).take(own)

    def found(self, *, patience: int) -> str | None:
        """What has been far beyond its scale for so many readings on end, as a clause."""
        for scale in self.scales.values():
            if scale.beyond >= patience:
                name, value = scale.latest
                return f"{name} is {value:.3g}, more than {BEYOND:g} times its usual size ({scale.limit / BEYOND:.3g}),"
        return None


class Encoder(Protocol):
    """A frozen feature space with a classifier on it, of any modality."""

    def features(self, batch: Any) -> Tensor: ...

    def labels(self, features_BD: Tensor) -> Tensor: ...


@dataclass
class Variety:
    """A fixed small sample of a model in training, held against as many real rows from time to time."""

    encoder: Encoder
    classes: int
    real_MD: Tensor
    controls: Controls
    given: Batch | None  # what each row of the sample is made from, where the family edits
    poor: int = 0  # looks on end without variety
    spent: float = 0.0  # seconds of looking
    cost: float = 0.0  # seconds of the last look; of the first, as a first forward pass foretells it

    @classmethod
    def of(cls, split: loading.Split, encoder: Encoder, *, classes: int, controls: Controls, spec: Spec) -> Self:
        """Watch against `ROWS` training rows, always the same."""
        order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
        rows = split.batch(order[:ROWS])
        return cls(encoder, classes, encoder.features(rows), controls, spec.given(rows))

    def due(self, family: AnyFamily, step: int, steps: int, seconds: float) -> bool:
        """Whether to look now: not at a young model, and not where looking would take too much of the run's time."""
        if step < GRACE * steps:
            return False
        if not self.cost:  # a sampler of many steps may take as long for a look as the whole run
            rows = min(family.rows, len(self.real_MD))
            began = time.monotonic()
            self._draw(family, rows)
            passed = time.monotonic() - began
            self.spent, self.cost = self.spent + passed, passed * len(self.real_MD) / rows
        return self.spent + self.cost <= SHARE_OF_TIME * seconds

    def look(self, family: AnyFamily) -> Mapping[str, float]:
        """The sample's recall and label entropy; the model is left in training mode, every generator where it was."""
        began = time.monotonic()
        measured = self.measure(self.encoder.features(self._draw(family, len(self.real_MD))))
        self.poor = self.poor + 1 if self._is_poor(measured) else 0
        self.cost = time.monotonic() - began
        self.spent += self.cost
        return measured

    def _draw(self, family: AnyFamily, count: int) -> Batch:
        """The first rows of the fixed sample, on the CPU."""
        seeds = [loading.seed_of(0, "variety", row) for row in range(count)]
        device = next(family.parameters()).device
        given = None if self.given is None else self.given.rows(slice(count)).to(device)
        family.eval()
        drawn: Batch = family.sample(seeds, controls=[self.controls] * count, conditions=given)
        family.train()
        return drawn.to(torch.device("cpu"))

    def measure(self, features_ND: Tensor) -> dict[str, float]:
        """Shares in [0, 1]: `recall` of the real rows, and `label_entropy`, 1 where classes are equal."""
        return {
            "recall": fidelity.neighbourhoods(features_ND, self.real_MD)["recall"],
            "label_entropy": fidelity.entropy_share(self.encoder.labels(features_ND), self.classes),
        }

    def _is_poor(self, measured: Mapping[str, float]) -> bool:
        real = fidelity.entropy_share(self.encoder.labels(self.real_MD), self.classes)
        return measured["recall"] < RECALL_AT_LEAST or measured["label_entropy"] < ENTROPY_AT_LEAST * real
