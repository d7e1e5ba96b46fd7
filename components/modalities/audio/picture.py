"""Sounds as a sheet that a person looks at: each row's waveform above its spectrogram."""

import io
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from components.modalities.audio.batch import PAD, AudioSpec, Waves
from components.modalities.audio.codec import to_whole

WIDTH, WAVE, BANDS = 240, 40, 128  # pixels: of both, the waveform's height, the spectrogram's
LEFT, TOP, BOTTOM, GAP = 44, 18, 16, 12  # around them: frequencies, the caption, seconds, the next cell
QUIET, LOUD = -100.0, -20.0  # dB of a full-scale sine that are black and brightest, the same on every sheet
BLANK, INK, LINE = (232, 232, 232), (40, 40, 40), (36, 92, 150)
COLOURS = ((0, 0, 8), (60, 10, 92), (140, 36, 110), (216, 76, 62), (252, 158, 34), (252, 250, 190))  # dark to bright


def sheet(waves: Waves, spec: AudioSpec, *, columns: int, captions: Sequence[str] | None = None) -> bytes:
    """The rows as one PNG, left to right and then down; what lies behind a row's end is blank.

    A caption is the row's transcript, or else its class, unless captions are given.
    """
    samples = to_whole(waves.samples).astype(np.float64) / 32767
    said = _captions(waves, spec) if captions is None else captions
    wide, high = LEFT + WIDTH + GAP, TOP + WAVE + BANDS + BOTTOM + GAP
    picture = Image.new("RGB", (columns * wide, -(-len(samples) // columns) * high), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=11)
    for number, (row, length) in enumerate(zip(samples, waves.lengths.tolist(), strict=True)):
        left, top = number % columns * wide + LEFT, number // columns * high + TOP
        picture.paste(Image.fromarray(_waveform(row, length)), (left, top))
        picture.paste(Image.fromarray(_spectrogram(row, length)), (left, top + WAVE))
        draw.text((left, top - 15), _fitting(said[number], font), INK, font)
        bottom = top + WAVE + BANDS
        for place, text in ((top + WAVE, f"{spec.rate / 2000:g} kHz"), (bottom - 12, "0")):
            draw.text((left - 5, place), text, INK, font, anchor="ra")
        draw.text((left, bottom + 2), "0", INK, font)
        draw.text((left + WIDTH, bottom + 2), f"{samples.shape[1] / spec.rate:.2f} s", INK, font, anchor="ra")
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _captions(waves: Waves, spec: AudioSpec) -> list[str]:
    if waves.text is not None:
        rows = waves.text.cpu().numpy()
        return [row[row != PAD].astype(np.uint8).tobytes().decode(errors="replace") for row in rows]
    if waves.labels is not None:
        return [spec.classes[label] for label in waves.labels.tolist()]
    return [""] * len(waves)


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """As much of a caption as a cell has room for, on one line."""
    line = " ".join(text.split())
    cut = line
    while font.getlength(cut) > WIDTH:
        cut = cut[:-2].rstrip(". ") + "..." if not cut.endswith("...") else cut[:-4].rstrip(". ") + "..."
    return cut


def _waveform(samples: np.ndarray, length: int) -> np.ndarray:
    """Pixels [WAVE, WIDTH, 3]: from the least to the greatest sample of each column."""
    pixels = np.full((WAVE, WIDTH, 3), BLANK, np.uint8)
    edges = np.linspace(0, len(samples), WIDTH + 1).astype(int)
    for column in range(WIDTH):
        part = samples[edges[column] : max(edges[column] + 1, edges[column + 1])]
        if edges[column] < length:
            low, high = ((1 - value) / 2 * (WAVE - 1) for value in (part.max(), part.min()))
            pixels[:, column] = 255
            pixels[round(low) : round(high) + 1, column] = LINE
    return pixels


def _spectrogram(samples: np.ndarray, length: int) -> np.ndarray:
    """Pixels [BANDS, WIDTH, 3]: time to the right, frequency upwards from 0 to half the rate."""
    size = 2 * BANDS
    padded = np.pad(samples, size // 2)
    centres = np.linspace(0, len(samples) - 1, WIDTH).astype(int)
    frames = padded[centres[:, None] + np.arange(size)] * np.hanning(size)
    amplitude = np.abs(np.fft.rfft(frames, axis=1))[:, :BANDS] / (size / 4)  # a full-scale sine is 1
    decibels = 20 * np.log10(np.maximum(amplitude, 1e-9))
    level = np.clip((decibels - QUIET) / (LOUD - QUIET), 0, 1) * (len(COLOURS) - 1)
    steps = np.arange(len(COLOURS))
    colours = np.stack([np.interp(level, steps, channel) for channel in np.array(COLOURS).T], axis=-1)
    colours[centres >= length] = BLANK
    return colours.transpose(1, 0, 2)[::-1].astype(np.uint8)
