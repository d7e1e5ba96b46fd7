import numpy as np
import torch

from components.closure import closure
from components.modalities.audio import codec
from components.modalities.audio.batch import AudioSpec, Waves
from tests.components.modalities.audio.sounds import read


def test_a_row_is_a_wav_of_its_length_and_the_specs_rate() -> None:
    samples = torch.tensor([[0.0, 0.5, -1.0, 1.0], [0.25, 0, 0, 0]])
    first, second = codec.encode(Waves(samples, torch.tensor([4, 1])), AudioSpec(rate=11025, length=4))
    levels, rate = read(first)
    assert levels.tolist() == [0, 16384, -32767, 32767] and rate == 11025
    assert read(second)[0].tolist() == [8192]


def test_every_level_comes_back_and_what_overshoots_is_clipped() -> None:
    levels = torch.arange(-32767, 32768)
    waves = Waves(levels[None] / 32767, torch.tensor([len(levels)]))
    (wav,) = codec.encode(waves, AudioSpec(rate=8000, length=len(levels)))
    assert np.array_equal(read(wav)[0], levels.numpy())
    (loud,) = codec.encode(Waves(torch.tensor([[1.7, -9.0]]), torch.tensor([2])), AudioSpec(rate=8000, length=2))
    assert read(loud)[0].tolist() == [32767, -32767]


def test_a_row_without_a_sample_is_still_a_wav() -> None:
    (wav,) = codec.encode(Waves(torch.zeros(1, 4), torch.tensor([0])), AudioSpec(rate=8000, length=4))
    assert len(read(wav)[0]) == 0


def test_serving_needs_none_of_the_platforms_libraries() -> None:
    reached = closure(["components.modalities.audio.codec"])
    assert reached.versions().keys() == {"numpy", "pydantic", "safetensors", "torch"}
