"""What voices sound like to an embedding that a package brings: resemblyzer (GE2E, arXiv:1710.10467), if installed.

N sounds, D features.
"""

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.modalities.audio.batch import Waves
from components.modalities.audio.shards import resampled

RATE = 16_000  # of the embedding
LOUD = 0.03  # to which root mean square every sound is brought: resemblyzer's -30 dB of full scale
LACKING = "it needs the package resemblyzer, which is not installed: pip install resemblyzer"


def installed() -> bool:
    return find_spec("resemblyzer") is not None


def features(sounds: Waves, rate: int) -> Tensor:
    """Each sound [N, D], of length 1; one without any level counts as the noise that it is."""
    encoder, rows = _encoder(), []
    for samples, length in zip(sounds.samples.double().numpy(), sounds.lengths.tolist(), strict=True):
        level = resampled(samples[:length], rate, RATE)
        level = level * LOUD / max(float(np.sqrt(np.mean(level**2))), 1e-6)
        rows.append(torch.from_numpy(encoder.embed_utterance(level.astype(np.float32))))
    return torch.stack(rows)


@lru_cache(maxsize=1)
def _encoder() -> Any:
    from resemblyzer import VoiceEncoder

    return VoiceEncoder("cpu", verbose=False)
