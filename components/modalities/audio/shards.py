"""Recordings ready to train on: one memory-mapped array of 16-bit samples per side, and where each clip begins in it.

Every clip is one channel at one rate, and is cut into windows of one length; the last of a clip may be short. B rows of
a batch, T samples of a window, L bytes of a transcript.
"""

import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, Self

import numpy as np
import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor

from components import loading
from components.errors import AtelierError
from components.modalities.audio.augment import Augment
from components.modalities.audio.batch import PAD, AudioSpec, Waves, plain
from components.modalities.audio.rows import FRAME, decode, mono
from components.records import Strict
from components.rows import Row, label_index

LARGEST = 4000  # of the terms of a ratio of rates: those of common rates go up to 2560, from 11,025 to 192,000 Hz
FULL = 32767  # the int16 of a sample of 1
TRIM = 1e-4  # of the power of the loudest 20 ms: what is cut off at both ends where `trim` asks for it, 40 dB down


class Prepare(Strict):
    """What a recipe's `prepare` says: one channel (the mean of all) at `rate` Hz, in windows of `seconds`.

    `trim` cuts silence off both ends of a recording. `text` is the longest transcript in bytes; 0 leaves them out.
    """

    rate: int = Field(8000, ge=1000, le=192_000)
    seconds: float = Field(2.0, gt=0, le=60)
    trim: bool = False
    text: int = Field(0, ge=0, le=4096)
    augment: tuple[dict[str, JsonValue], ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        Augment(self.augment, rate=self.rate)
        if not self.length:
            raise ValueError(f"seconds {self.seconds} is less than one sample at {self.rate} Hz")
        return self

    @property
    def length(self) -> int:
        """A window in samples."""
        return round(self.seconds * self.rate)


def write(
    accepted: Iterable[Row], directory: Path, *, prepare: Prepare, classes: Sequence[str], counts: Mapping[str, int]
) -> AudioSpec:
    """Fill `directory` with the rows of each split in order; memory is bounded by the longest recording.

    An `AtelierError` names a row that validation should have kept out, or one with too long a transcript.
    """
    heard: set[str] = set()
    with ExitStack() as files:
        sides = {side: _Side(directory, side, files) for side in counts}
        for row in accepted:
            clip, label = _clip(row, prepare), label_index(row, classes)
            whole = len(clip) <= prepare.length  # of a part of a recording nobody knows which words it holds
            text = _transcript(row, prepare) if prepare.text and whole else b""
            sides[row.split].add(clip, label, text if prepare.text else None)
            if row.split == "train":
                heard.update(plain(text.decode()))
    assert {side: clips.rows for side, clips in sides.items()} == dict(counts), "every row that was counted came"
    spec = AudioSpec(
        rate=prepare.rate, length=prepare.length, classes=tuple(classes), text=prepare.text,
        characters="".join(sorted(heard)),
    )  # fmt: skip
    index = {"prepare": prepare.model_dump(mode="json"), "spec": spec.model_dump(mode="json")}
    (directory / "index.json").write_text(json.dumps(index, sort_keys=True))
    return spec


@dataclass(frozen=True)
class Split:
    """One side of the shards, read from disk as it is asked for.

    Windows come clip by clip and in order: of one clip, window i + 1 begins where window i ends.
    """

    samples: np.ndarray  # [N] int16 of all clips, 32767 is full scale
    ends: np.ndarray  # [clips] int64: the place behind each clip's last sample
    labels: np.ndarray | None  # [clips] int64
    text: np.ndarray | None  # [bytes] uint8 of all transcripts
    text_ends: np.ndarray | None  # [clips] int64
    spec: AudioSpec

    def __len__(self) -> int:
        return int(self._windows[-1])

    @cached_property
    def _windows(self) -> np.ndarray:
        """How many windows there are up to the end of each clip [clips]."""
        return np.cumsum(-(-np.diff(self.ends, prepend=0) // self.spec.length))

    def batch(self, index: Tensor) -> Waves:
        """The windows of an index [B], in its order; each clip's label goes with all of its windows."""
        rows_B = index.numpy()
        clips_B = np.searchsorted(self._windows, rows_B, side="right")
        first_B = np.where(clips_B > 0, self.ends[clips_B - 1], 0)
        inside_B = rows_B - np.where(clips_B > 0, self._windows[clips_B - 1], 0)
        starts_B = first_B + inside_B * self.spec.length
        lengths_B = np.minimum(self.ends[clips_B] - starts_B, self.spec.length)
        samples_BT = np.zeros((len(rows_B), self.spec.length), np.float32)
        for samples_T, start, length in zip(samples_BT, starts_B, lengths_B, strict=True):
            np.divide(self.samples[start : start + length], FULL, out=samples_T[:length], dtype=np.float32)
        whole_B = self.ends[clips_B] - first_B <= self.spec.length
        return Waves(
            torch.from_numpy(samples_BT),
            torch.from_numpy(lengths_B),
            None if self.labels is None else torch.from_numpy(self.labels[clips_B]),
            self._transcripts(clips_B, whole_B),
            torch.from_numpy(starts_B + clips_B),  # one apart between clips, so that none seems to continue another
        )

    def _transcripts(self, clips_B: np.ndarray, whole_B: np.ndarray) -> Tensor | None:
        """[B, L]; all `PAD` for a part of a clip, since nobody knows which words it holds."""
        if self.text is None or self.text_ends is None:
            return None
        text_BL = np.full((len(clips_B), self.spec.text), PAD, np.int64)
        for row in np.flatnonzero(whole_B):
            clip = clips_B[row]
            start = self.text_ends[clip - 1] if clip else 0
            text_BL[row, : self.text_ends[clip] - start] = self.text[start : self.text_ends[clip]]
        return torch.from_numpy(text_BL)

    def consecutive(self, step: int, *, size: int) -> Tensor:
        """The index [size] of the windows of one step of truncated back-propagation, as `loading.consecutive` says.

        `Waves.places` tells where a clip goes on.
        """
        return loading.consecutive(len(self), step=step, size=size)


def open_split(directory: Path, side: str) -> Split:
    """One side of what `write` made."""
    spec = AudioSpec.model_validate(json.loads((directory / "index.json").read_bytes())["spec"])
    return Split(
        samples=_opened(directory / f"{side}.samples", "<i2"),
        ends=_opened(directory / f"{side}.ends", "<i8"),
        labels=_opened(directory / f"{side}.labels", "<i8") if spec.classes else None,
        text=_opened(directory / f"{side}.text", "u1") if spec.text else None,
        text_ends=_opened(directory / f"{side}.text_ends", "<i8") if spec.text else None,
        spec=spec,
    )


def open_augment(directory: Path) -> Augment | None:
    """The augmentation that the recipe asked for; None where it asked for none."""
    prepare = Prepare.model_validate(json.loads((directory / "index.json").read_bytes())["prepare"])
    return Augment(prepare.augment, rate=prepare.rate) if prepare.augment else None


class _Side:
    """The files of one side, to which clips are added."""

    def __init__(self, directory: Path, side: str, files: ExitStack) -> None:
        self._directory, self._side, self._files = directory, side, files
        self._open: dict[str, BinaryIO] = {}
        self._samples = self._text = 0
        self.rows = 0

    def add(self, samples: np.ndarray, label: int | None, text: bytes | None) -> None:
        self.rows += 1
        self._samples += self._append("samples", samples.astype("<i2").tobytes()) // 2
        self._append("ends", struct.pack("<q", self._samples))
        if label is not None:
            self._append("labels", struct.pack("<q", label))
        if text is not None:
            self._text += self._append("text", text)
            self._append("text_ends", struct.pack("<q", self._text))

    def _append(self, name: str, content: bytes) -> int:
        if name not in self._open:
            path = self._directory / f"{self._side}.{name}"
            self._open[name] = self._files.enter_context(path.open("wb"))
        return self._open[name].write(content)


def _opened(path: Path, kind: str) -> np.ndarray:
    """The array in a file, mapped; a file without a byte, which cannot be mapped, is an empty one."""
    return np.memmap(path, kind, "r") if path.stat().st_size else np.empty(0, kind)


def _clip(row: Row, prepare: Prepare) -> np.ndarray:
    """One recording as int16 samples [N], at least one."""
    sound = decode(row.payload)
    samples = resampled(mono(sound.samples), sound.rate, prepare.rate)
    if not np.isfinite(samples).all():
        raise AtelierError(
            f"the row {row.id!r} holds samples that are no numbers. Validation rejects such rows: let the recipe's "
            "suite ask that they are finite."
        )
    if prepare.trim:
        samples = trimmed(samples, prepare.rate)
    levels = np.clip(samples, -1, 1)  # a resampling filter may overshoot a little
    return np.asarray(np.round(levels * FULL), np.int16)


def resampled(samples: np.ndarray, rate: int, to: int) -> np.ndarray:
    """The samples [N] at another rate, low-passed first, so that nothing folds back: N * to / rate of them, rounded up.

    Between common rates that is exact. Between odd ones the pitch is off by at most 0.02 %, a third of a cent, and what
    that leaves over or lacks at the end is cut off or silence: see `ratio`.
    """
    if rate == to:
        return samples
    from scipy.signal import resample_poly  # takes a second to import

    up, down = ratio(rate, to).as_integer_ratio()
    changed: np.ndarray = resample_poly(samples.astype(np.float64), up, down)
    length = -(-len(samples) * to // rate)
    return np.pad(changed[:length], (0, max(0, length - len(changed))))


def ratio(rate: int, to: int) -> Fraction:
    """`to` / `rate`, or what is nearest to it with terms of at most `LARGEST`, at most 0.02 % away.

    A filter has twenty times the larger term as taps, so two rates without a common divisor would take one of millions.
    """
    if to > rate:
        return 1 / ratio(to, rate)
    return Fraction(to, rate).limit_denominator(LARGEST)


def trimmed(samples: np.ndarray, rate: int) -> np.ndarray:
    """Without the stretches of 20 ms at both ends that lie 40 dB under the loudest, but for one of them at each."""
    frame = max(1, round(FRAME * rate))
    edges = np.arange(0, len(samples), frame)
    power = np.add.reduceat(np.square(samples, dtype=np.float64), edges) / np.diff(edges, append=len(samples))
    loud = np.flatnonzero(power > TRIM * power.max())
    kept: np.ndarray = samples[max(0, loud[0] - 1) * frame : (loud[-1] + 2) * frame] if len(loud) else samples
    return kept


def _transcript(row: Row, prepare: Prepare) -> bytes:
    """The bytes of a row's transcript, none where it has none."""
    text = (row.text or "").encode()
    if len(text) > prepare.text:
        raise AtelierError(
            f"the transcript of the row {row.id!r} has {len(text)} bytes, over prepare.text {prepare.text}. Raise "
            "prepare.text, or leave the row out."
        )
    return text
