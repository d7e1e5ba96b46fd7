"""A sound in a few numbers that say nothing of what is heard: what monitoring keeps of the samples that are served.

Light enough for the endpoints: `rows.py`, which tells data, needs libraries that they do without.
"""

import io
import wave

import numpy as np

SECONDS = 10  # that are looked at
FRAME = 0.02  # s, over which silence is told
SILENCE = 1e-3  # of full scale: -60 dB
QUIETEST = -160.0  # dB, what digital silence is told as


def features(payload: bytes) -> dict[str, float]:
    """Of a WAV of 16 bits, as the endpoints make them.

    `seconds`; `loudness`, the root mean square in dB of full scale; `peak` of full scale 1; `crossings` of zero a
    second; `silence`, the share of stretches of 20 ms under -60 dB; `clipped`, the share of samples at full scale.
    """
    with wave.open(io.BytesIO(payload)) as file:
        rate, frames = file.getframerate(), file.getnframes()
        heard = np.frombuffer(file.readframes(min(frames, SECONDS * rate)), "<i2").astype(np.float32) / 32767
    if not len(heard):
        return {"seconds": 0.0, "loudness": QUIETEST, "peak": 0.0, "crossings": 0.0, "silence": 1.0, "clipped": 0.0}
    power = float(np.square(heard).mean())
    size = max(1, round(FRAME * rate))
    loud = np.sqrt(np.add.reduceat(np.square(heard), np.arange(0, len(heard), size)) / size)
    return {
        "seconds": frames / rate,
        "loudness": max(QUIETEST, 10 * float(np.log10(max(power, 1e-16)))),
        "peak": float(np.abs(heard).max()),
        "crossings": float((np.diff(np.signbit(heard)) != 0).sum()) * rate / len(heard),
        "silence": float((loud < SILENCE).mean()),
        "clipped": float((np.abs(heard) >= 1).mean()),
    }
