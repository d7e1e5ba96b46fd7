import io

import numpy as np
import pytest
import soundfile
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


def wav(*levels: float) -> bytes:
    (made,) = codec.encode(Waves(torch.tensor([levels]), torch.tensor([len(levels)])), AudioSpec(rate=8000, length=9))
    return made


@pytest.mark.parametrize("note", [b"{}", b'{"a": 1}', b'{"a": "\xc3\xa4"}', b"x" * 5001])
def test_a_note_is_carried_beside_the_same_sound(note: bytes) -> None:
    plain = wav(0.1, 0.2, 0.3)
    marked = codec.carry(plain, note)
    assert codec.carried(marked) == note and codec.carried(plain) is None
    assert codec.content(marked) == codec.content(plain)
    assert np.array_equal(read(marked)[0], read(plain)[0])
    if len(note) < 4096:  # of longer ones libsndfile makes nothing
        with soundfile.SoundFile(io.BytesIO(marked)) as file:
            assert file.comment.encode() == note
    assert codec.carried(codec.carry(marked, b"other")) == b"other"
    assert len(codec.carry(marked, note)) == len(marked)


def test_another_sound_has_another_content() -> None:
    assert codec.content(wav(0.1, 0.2)) != codec.content(wav(0.1, 0.3))


@pytest.mark.parametrize(
    "hostile", [b"", b"RIFF", b"RIFF\x04\0\0\0WAVE", b"RIFF\x0c\0\0\0WAVEdata\xff\xff\xff\xff", b"\x89PNG" * 9]
)
def test_bytes_that_are_no_whole_wav_carry_nothing(hostile: bytes) -> None:
    assert codec.carried(hostile) is None
    with pytest.raises(ValueError, match="WAV"):
        codec.content(hostile)


def test_a_wav_that_was_cut_or_lengthened_is_refused() -> None:
    for changed in (wav(0.1, 0.2)[:-1], wav(0.1, 0.2) + b"\0\0"):
        with pytest.raises(ValueError, match="cut off"):
            codec.carry(changed, b"{}")
