"""What is told of served samples: each number answers to what it names, and costs next to nothing."""

import io
import time
import wave

import numpy as np
import pytest
from PIL import Image

from components import modalities
from components.modalities.audio import features as sound
from components.modalities.image import features as picture
from components.modalities.text import features as text


def png(pixels) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.asarray(pixels, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def wav(samples, rate=8000) -> bytes:
    stream = io.BytesIO()
    with wave.open(stream, "wb") as file:
        file.setparams((1, 2, rate, 0, "NONE", ""))
        file.writeframes(np.round(np.asarray(samples) * 32767).astype("<i2").tobytes())
    return stream.getvalue()


def test_a_picture():
    slope = picture.features(png(np.tile(np.arange(256), (256, 1))))
    assert slope["mean"] == pytest.approx(0.5, abs=1e-3) and slope["entropy"] == pytest.approx(8)
    assert slope["lean"] == pytest.approx(0.5, abs=1e-2) and slope["colour"] == 0
    assert slope["edges"] == pytest.approx(1 / 255 / 2, rel=0.01)
    blank = picture.features(png(np.full((28, 28), 51)))
    assert blank == pytest.approx(
        {"mean": 0.2, "spread": 0, "edges": 0, "entropy": 0, "lean": 0, "colour": 0}, abs=1e-6
    )
    red = np.zeros((8, 8, 3))
    red[..., 0] = 255
    assert picture.features(png(red))["colour"] == 1


def test_a_large_picture_is_looked_at_in_small():
    large = np.random.default_rng(0).integers(0, 256, (2000, 3000))
    began = time.perf_counter()
    told = picture.features(png(np.repeat(large, 2, axis=0)[:2000]))
    assert told["spread"] < 0.1, "noise that was not averaged has 0.29"
    assert time.perf_counter() - began < 5


def test_a_text():
    told = text.features(b"To be or not to be\nor not to be")
    assert (told["characters"], told["words"], told["line"]) == (31, 10, 15.5)
    assert told["distinct"] == 0.4 and told["letters"] == 1 and told["capitals"] == pytest.approx(1 / 22)
    assert told["repetition"] == 0.5
    assert text.features(b"")["repetition"] == 0 and text.features(b"\xff\xfe ok 12")["letters"] == pytest.approx(2 / 6)


def test_a_sound():
    at = np.arange(8000) / 8000
    told = sound.features(wav(0.5 * np.sin(2 * np.pi * 100 * at + 0.1)))
    assert told["seconds"] == 1 and told["peak"] == pytest.approx(0.5, abs=1e-3) and told["silence"] == 0
    assert told["loudness"] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert told["crossings"] == pytest.approx(200, abs=2) and told["clipped"] == 0
    half = sound.features(wav(np.concatenate([np.zeros(4000), np.ones(4000)])))
    assert (half["silence"], half["clipped"]) == (0.5, 0.5)
    assert sound.features(wav(np.zeros(0)))["loudness"] == sound.QUIETEST


@pytest.mark.parametrize("modality", modalities.names())
def test_every_modality_has_its_own_and_tells_finite_numbers_of_its_own_example(modality):
    sample = {"image": png(np.eye(28) * 255), "text": b"a b c", "audio": wav(np.ones(99))}[modality]
    told = modalities.part(modality, "features").features(sample)
    assert len(told) >= 5 and all(isinstance(value, float) and np.isfinite(value) for value in told.values())
