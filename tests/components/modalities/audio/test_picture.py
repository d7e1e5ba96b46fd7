"""The sheet shows what sounds: a tone at its height, silence dark, nothing behind a row's end."""

import io

import numpy as np
import torch
from PIL import Image

from components.modalities.audio.batch import PAD, AudioSpec, Waves
from components.modalities.audio.picture import BANDS, BLANK, BOTTOM, GAP, LEFT, TOP, WAVE, WIDTH, sheet

SPEC = AudioSpec(rate=8000, length=8000, classes=("low", "high"))


def tones(*frequencies: float) -> Waves:
    time = torch.arange(8000) / 8000
    rows = torch.stack([0.5 * torch.sin(2 * torch.pi * frequency * time) for frequency in frequencies])
    return Waves(rows, torch.full((len(rows),), 8000))


def cells(png: bytes, *, columns: int) -> list[np.ndarray]:
    """The spectrogram of each cell as brightness [BANDS, WIDTH]."""
    pixels = np.asarray(Image.open(io.BytesIO(png))).astype(int)
    high, wide = TOP + WAVE + BANDS + BOTTOM + GAP, LEFT + WIDTH + GAP
    count = pixels.shape[0] // high * columns
    corners = [(i // columns * high + TOP + WAVE, i % columns * wide + LEFT) for i in range(count)]
    return [pixels[top : top + BANDS, left : left + WIDTH].sum(axis=2) for top, left in corners]


def test_a_tone_is_a_bright_line_at_its_height_in_its_cell() -> None:
    shown = cells(sheet(tones(500, 2000, 3500), SPEC, columns=2), columns=2)
    assert len(shown) == 4 and (shown[3] == 765).all()  # the fourth cell is white paper
    for cell, frequency in zip(shown, (500, 2000, 3500), strict=False):
        brightest = BANDS - 1 - cell[:, 20:-20].argmax(axis=0)
        assert np.abs(brightest - frequency / 4000 * BANDS).max() <= 1


def test_what_lies_behind_a_rows_end_is_blank_and_silence_is_dark() -> None:
    waves = Waves(torch.zeros(1, 8000), torch.tensor([4000]))
    (cell,) = cells(sheet(waves, SPEC, columns=1), columns=1)
    assert (cell[:, WIDTH // 2 + 1 :] == sum(BLANK)).all() and (cell[:, : WIDTH // 2] < 30).all()


def test_a_caption_is_the_transcript_or_the_class_or_what_is_given() -> None:
    waves = tones(500)
    text = torch.tensor([[*b"a long transcript that has no room on its line at all, and so is cut", PAD]])
    named = Waves(waves.samples, waves.lengths, labels=torch.tensor([1]))
    said = Waves(waves.samples, waves.lengths, labels=torch.tensor([1]), text=text)
    sheets = [
        sheet(waves, SPEC, columns=1),
        sheet(named, SPEC, columns=1),
        sheet(said, SPEC, columns=1),
        sheet(waves, SPEC, columns=1, captions=["low"]),
    ]
    heads = [np.asarray(Image.open(io.BytesIO(png)))[:TOP] for png in sheets]
    assert (heads[0] == 255).all() and all((head < 255).any() for head in heads[1:])
    assert len({head.tobytes() for head in heads}) == 4
    assert (heads[2][:, LEFT + WIDTH + 2 :] == 255).all()
    assert sheet(waves, SPEC, columns=1, captions=["high"]) == sheets[1]


def test_a_sound_of_one_sample_has_a_picture() -> None:
    spec = AudioSpec(rate=8000, length=1)
    assert sheet(Waves(torch.ones(1, 1), torch.tensor([1])), spec, columns=1).startswith(b"\x89PNG")
