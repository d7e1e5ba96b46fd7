"""What listeners would think of speech, foretold by DNSMOS (arXiv:2110.01763), which speechmos brings, if installed."""

from importlib.util import find_spec

import numpy as np

from components.modalities.audio.batch import Waves
from components.modalities.audio.shards import resampled

RATE = 16_000  # that it hears
HEARD_AT_MOST = 64  # sounds: each takes a tenth of a second
PACKAGES = ("speechmos", "onnxruntime", "librosa")
LACKING = f"it needs packages that are not installed: pip install {' '.join(PACKAGES)}"


def installed() -> bool:
    return all(map(find_spec, PACKAGES))


def mean_opinion(sounds: Waves, rate: int) -> float:
    """The mean opinion score of speech as a whole, 1 to 5, a mean over the first 64 sounds."""
    from speechmos import dnsmos

    scores = []
    first = sounds.rows(slice(HEARD_AT_MOST))
    for samples, length in zip(first.samples.double().numpy(), first.lengths.tolist(), strict=True):
        heard = resampled(samples[:length], rate, RATE).clip(-1, 1)
        scores.append(float(dnsmos.run(heard.astype(np.float32), RATE)["ovrl_mos"]))
    return float(np.mean(scores))
