"""What the tests of the families of audio share: sounds to learn, and an encoder that tells loud from quiet."""

import math
from typing import Any

import torch

from components.modalities.audio.batch import Waves

RATE, LENGTH = 200, 64


class Loudness:
    """An encoder of sounds whose features are what the first samples are; loud rows are of class 1."""

    def features(self, batch: Any) -> torch.Tensor:
        return batch.samples[:, :32]

    def labels(self, features_BD: torch.Tensor) -> torch.Tensor:
        return (features_BD.abs().mean(dim=1) > 0.1).long()


def tones(count: int) -> Waves:
    """Tones of two pitches; the last of every four rows ends early."""
    time = torch.arange(LENGTH) / RATE
    samples = torch.stack([0.5 * torch.sin(2 * math.pi * (20 + 10 * (i % 2)) * time + i) for i in range(count)])
    lengths = torch.tensor([LENGTH - 20 * (i % 4 == 3) for i in range(count)])
    samples *= torch.arange(LENGTH) < lengths[:, None]
    return Waves(samples, lengths, places=torch.arange(count) * (LENGTH + 1))
