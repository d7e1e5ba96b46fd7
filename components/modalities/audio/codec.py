"""How sounds travel: WAV, one channel of 16 bits, which can carry a note."""

import io
import struct
import wave
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

    from components.modalities.audio.batch import AudioSpec, Waves

MEDIA_TYPE = "audio/wav"
SUFFIX = ".wav"
NOTE = b"ICMT"  # the comment of an INFO list


def encode(waves: "Waves", spec: "AudioSpec") -> list[bytes]:
    """One WAV per row, as long as the row says; values outside [-1, 1] are clipped."""
    lengths = waves.lengths.tolist()
    return [_wav(row[:length], spec.rate) for row, length in zip(to_whole(waves.samples), lengths, strict=True)]


def carry(payload: bytes, note: bytes) -> bytes:
    """The WAV with a note of UTF-8 as the comment of an INFO list behind the samples; an earlier one gives way.

    A `ValueError` where the bytes are no whole WAV.
    """
    kept = [payload[at:end] for kind, at, end in _chunks(payload) if not _is_note(payload, kind, at)]
    comment = note + b"\0" * (2 - len(note) % 2)  # ends with NUL, and chunks are even
    body = b"INFO" + NOTE + struct.pack("<I", len(comment)) + comment
    chunks = b"".join([*kept, b"LIST" + struct.pack("<I", len(body)) + body])
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks


def carried(payload: bytes) -> bytes | None:
    """The note of a WAV; None where there is none, whatever the bytes are."""
    try:
        for kind, at, end in _chunks(payload):
            if _is_note(payload, kind, at):
                return payload[at + 20 : end].rstrip(b"\0")
    except ValueError:
        return None
    return None


def content(payload: bytes) -> bytes:
    """What is heard of a WAV: its format and its samples; a `ValueError` where the bytes are no whole one."""
    heard = [payload[at:end] for kind, at, end in _chunks(payload) if kind in (b"fmt ", b"data")]
    if len(heard) != 2:
        raise ValueError("this WAV has no format or no samples, or more than one of them")
    return b"".join(heard)


def _chunks(payload: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk, and from where to where it reaches with its padding; a `ValueError` for no whole WAV."""
    if payload[:4] != b"RIFF" or payload[8:12] != b"WAVE":
        raise ValueError("these bytes are no WAV")
    if len(payload) != 8 + struct.unpack_from("<I", payload, 4)[0]:
        raise ValueError("this WAV is cut off, or something is behind it")
    at = 12
    while at < len(payload):
        if at + 8 > len(payload):
            raise ValueError("this WAV is cut off")
        size = struct.unpack_from("<I", payload, at + 4)[0]
        end = at + 8 + size + size % 2
        if end > len(payload):
            raise ValueError("this WAV is cut off")
        yield payload[at : at + 4], at, end
        at = end


def _is_note(payload: bytes, kind: bytes, at: int) -> bool:
    """Whether a chunk is a list of nothing but a comment, as `carry` writes it."""
    return kind == b"LIST" and payload.startswith(b"INFO" + NOTE, at + 8)


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
