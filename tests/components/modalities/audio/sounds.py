"""Made-up recordings for tests: notes and noise in turns, the same for the same seed."""

import io
import wave

import numpy as np
import soundfile


def melody(seed: int, *, seconds: float = 1.0, rate: int = 8000) -> np.ndarray:
    """Samples [N] float32 with a peak of 0.6: notes with overtones, hisses and short rests."""
    chance = np.random.default_rng(seed)
    samples = chance.normal(size=round(seconds * rate)) * 1e-4
    place = 0
    while place < len(samples):
        size = min(len(samples) - place, round(rate * chance.uniform(0.05, 0.2)))
        time, kind, loud = np.arange(size) / rate, chance.random(), chance.uniform(0.1, 1)
        if kind < 0.2:
            part = chance.normal(size=size) * 0.1
        else:
            pitch, peaks = chance.uniform(90, 260), chance.uniform([250, 800, 2000], [900, 2300, 3400])
            overtones = pitch * np.arange(1, int(rate / 2.2 / pitch))
            weights = (1 / (1 + ((overtones[:, None] - peaks) / 120) ** 2)).sum(axis=1)
            part = weights @ np.sin(2 * np.pi * overtones[:, None] * time + chance.uniform(0, 6, (len(overtones), 1)))
        samples[place : place + size] += loud * part * np.sin(np.pi * np.arange(size) / size) * (kind < 0.9)
        place += size
    return (samples / np.abs(samples).max() * 0.6).astype(np.float32)


def saved(samples: np.ndarray, rate: int = 8000, kind: str = "WAV", subtype: str | None = None) -> bytes:
    stream = io.BytesIO()
    soundfile.write(stream, samples, rate, format=kind, subtype=subtype)
    return stream.getvalue()


def read(payload: bytes) -> tuple[np.ndarray, int]:
    """The int16 samples of a WAV of one channel, by the standard library, and its rate."""
    with wave.open(io.BytesIO(payload)) as file:
        assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2"), file.getframerate()
