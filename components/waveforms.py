"""Sounds written sample by sample: what the families of audio share beside their networks.

B batch, T samples. A sample is one of 256 classes by mu-law (ITU-T G.711; WaveNet, arXiv:1609.03499, section 2.2).
"""

import math
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from components import contract
from components.contract import Batch, Config, Family
from components.loops.choice import GREEDY
from components.modalities.audio.batch import AudioSpec, Waves

CLASSES = 256
SILENCE = 128  # the class of 0


class Controls(contract.Controls):
    """How long a sound is, and how its samples are chosen."""

    seconds: float = Field(1.0, gt=0, le=60)
    temperature: float = Field(1.0, ge=0, le=2)  # 0 takes the likeliest class each time


C = TypeVar("C", bound=Config)
K = TypeVar("K", bound=Controls)


class SoundFamily(Family[C, K, AudioSpec, Waves]):
    """A family that writes one sample after another, each of a class by mu-law."""

    modality = "audio"

    @torch.inference_mode()
    def sample(self, seeds: Sequence[int], *, controls: Sequence[K], conditions: Batch | None = None) -> Waves:
        """One sound per seed, on the CPU, equal to the byte whoever else is written; each as long as its row says."""
        self._refuse_unpaired(seeds, controls, conditions)
        return self.draw(seeds, controls, conditions)

    def draw(self, seeds: Sequence[int], controls: Sequence[K], conditions: Batch | None) -> Waves:
        lengths = self.lengths(controls)
        uniforms_NT = np.stack(
            [_uniforms(seed, length, max(lengths)) for seed, length in zip(seeds, lengths, strict=True)]
        )
        temperatures_N = np.array([control.temperature or GREEDY for control in controls])
        classes_NT = torch.from_numpy(self.write(uniforms_NT, temperatures_N, controls))
        waves = Waves(decoded(classes_NT.long()), torch.tensor(lengths))
        return Waves(waves.samples * real(waves), waves.lengths)

    def lengths(self, controls: Sequence[K]) -> list[int]:
        """How many samples each sound has."""
        return [max(1, round(control.seconds * self.spec.rate)) for control in controls]

    @abstractmethod
    def write(self, uniforms_NT: np.ndarray, temperatures_N: np.ndarray, controls: Sequence[K]) -> np.ndarray:
        """Classes [N, T], each chosen by its uniform number in [0, 1); of shorter sounds the rest does not count."""


def encoded(samples: Tensor) -> Tensor:
    """The class of each sample in [-1, 1], by mu-law."""
    bent = samples.sign() * torch.log1p((CLASSES - 1) * samples.abs()) / math.log(CLASSES)
    return ((bent + 1) / 2 * (CLASSES - 1) + 0.5).floor().long().clamp(0, CLASSES - 1)


def decoded(classes: Tensor) -> Tensor:
    """The sample that each class stands for; that of `SILENCE` is 0."""
    bent = 2 * classes.float() / (CLASSES - 1) - 1
    samples = bent.sign() * torch.expm1(bent.abs() * math.log(CLASSES)) / (CLASSES - 1)
    return torch.where(classes == SILENCE, 0.0, samples)


def before(classes_BT: Tensor) -> Tensor:
    """What stands before each sample: the row one later, with silence at first."""
    return F.pad(classes_BT[:, :-1], (1, 0), value=SILENCE)


def real(rows: Waves) -> Tensor:
    """1 for each sample [B, T] of a row, 0 behind its end."""
    places_T = torch.arange(rows.samples.shape[1], device=rows.samples.device)
    return (places_T < rows.lengths[:, None]).float()


def array(weights: Any) -> np.ndarray:
    """Weights as a compiled loop takes them."""
    plain: np.ndarray = np.ascontiguousarray(weights.detach().cpu().float().numpy())
    return plain


def _uniforms(seed: int, length: int, filled: int) -> np.ndarray:
    """The numbers that a seed draws for a sound of that length, and 0 behind it."""
    drawn = torch.rand(length, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).numpy()
    return np.pad(drawn, (0, filled - length))
