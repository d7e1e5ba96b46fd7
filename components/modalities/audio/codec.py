"""How sounds travel: WAV, one channel of 16 bits."""

import io
import wave
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from components.modalities.audio.batch import AudioSpec, Waves

MEDIA_TYPE = "audio/wav"
SUFFIX = ".wav"


def encode(waves: "Waves", spec: "AudioSpec") -> list[bytes]:
    """One WAV per row, as long as the row says; values outside [-1, 1] are clipped."""
    lengths = waves.lengths.tolist()
    return [_wav(row[:length], spec.rate) for row, length in zip(to_whole(waves.samples), lengths, strict=True)]


def judge(payload: bytes, spec: Mapping[str, Any]) -> None:
    """Refuse, by a `ValueError` or one of `wave`'s own, what is no sound as a model of `spec` makes."""
    with wave.open(io.BytesIO(payload)) as file:
        form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
        frames = file.getnframes()
        heard = len(file.readframes(frames))
    if form != (1, 2, spec["rate"]):
        raise ValueError(f"it has channels, bytes a sample and rate {form} instead of {(1, 2, spec['rate'])}")
    if not 0 < heard == 2 * frames:
        raise ValueError(f"it has {heard // 2} samples and says {frames}")


def to_whole(samples: "Tensor") -> np.ndarray:
    """Samples in [-1, 1] as int16, 1 as 32767; values outside are clipped."""
    whole: np.ndarray = (samples.detach().cpu().float().clamp(-1, 1) * 32767).round().short().numpy()
    return whole


def _wav(samples: np.ndarray, rate: int) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return stream.getvalue()
