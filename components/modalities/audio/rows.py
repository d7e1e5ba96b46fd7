"""What can be said of one recording from its bytes alone; the bytes and their header are never trusted.

N frames of C channels.
"""

import hashlib
import io
import struct
from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import soundfile

MARKS = {b"RIFF": "WAV", b"RIFX": "WAV", b"RF64": "WAV", b"fLaC": "FLAC", b"OggS": "OGG", b"ID3": "MP3"}
FORMATS = {"WAV": "WAV", "WAVEX": "WAV", "RF64": "WAV", "FLAC": "FLAC", "OGG": "OGG", "MP3": "MP3"}  # libsndfile's
MEGASAMPLES_AT_MOST = 32  # frames times channels: a little over an hour at 8 kHz, six minutes of stereo at 44.1 kHz
RATES = (100, 768_000)  # Hz: outside of them a header lies
AT_ONCE = 2**19  # samples decoded or looked at in one go
FRAME = 0.02  # s, over which silence is told
SILENCE = -60.0  # dBFS
QUIETEST = -160.0  # dBFS, what digital silence is told as
BANDS, SEGMENTS = 4, 10  # of near_hash
UNKNOWN = 0xFFFFFFFF  # the size in a WAV's header that a program writes which does not know it yet
UNTOLD = 2**62  # libsndfile's number of frames is above it where a header tells none

FACTS = pa.schema(
    [
        pa.field("digest", pa.string(), nullable=False),  # sha256 of the payload
        pa.field("content_digest", pa.string()),  # sha256 of rate, channels and samples: one for WAV and FLAC
        pa.field("decodes", pa.bool_(), nullable=False),
        pa.field("format", pa.string()),  # WAV, FLAC, OGG or MP3
        pa.field("subtype", pa.string()),  # libsndfile's: PCM_16, FLOAT, VORBIS ...
        pa.field("rate", pa.int64()),  # Hz
        pa.field("channels", pa.int64()),
        pa.field("duration", pa.float64()),  # s
        pa.field("finite", pa.bool_()),  # no sample is NaN or infinite; the facts below are null where one is
        pa.field("peak", pa.float64()),  # the largest magnitude, of full scale 1
        pa.field("rms_dbfs", pa.float64()),  # -160 is digital silence
        pa.field("clipped_share", pa.float64()),  # of samples: at full scale or above
        pa.field("silent_share", pa.float64()),  # of stretches of 20 ms: under -60 dBFS
        pa.field("dc_offset", pa.float64()),  # the mean sample
        pa.field("near_hash", pa.string()),
        pa.field("error", pa.string()),  # why it does not decode
    ]
)


class Sound(NamedTuple):
    """A decoded recording: `samples` [N, C] float32, full scale 1 (float files may exceed it, or hold NaN)."""

    samples: np.ndarray
    rate: int
    format: str
    subtype: str


def facts(payload: bytes) -> dict[str, Any]:
    """One row of `FACTS`; bytes that are no whole recording give `decodes` False and the reason, never an exception."""
    known: dict[str, Any] = dict.fromkeys(FACTS.names)
    known |= {"digest": hashlib.sha256(payload).hexdigest(), "decodes": False}
    try:
        return known | _of_sound(decode(payload))
    except Exception as error:  # noqa: BLE001 - hostile bytes make a decoder raise anything at all
        return known | {"error": " ".join(str(error).split()) or type(error).__name__}


def decode(payload: bytes) -> Sound:
    """The whole recording; a `ValueError` where the bytes are none, or are not what their header says.

    One of over 32 million samples is refused, by its header before any is decoded, or while it is decoded. MP3 has no
    checksum: where its frames are damaged, what is left of them is the recording.
    """
    kind = _kind(payload)
    if kind == "WAV":
        _check_riff(payload)
    elif kind == "OGG":
        _check_ogg(payload)
    try:
        with soundfile.SoundFile(io.BytesIO(payload)) as file:
            if FORMATS.get(file.format) != kind:
                raise ValueError(f"these bytes begin like {kind}, but are {file.format}")
            if not RATES[0] <= file.samplerate <= RATES[1]:
                raise ValueError(f"its header says {file.samplerate} Hz, outside {RATES[0]} to {RATES[1]}")
            if file.frames >= UNTOLD:  # libsndfile cannot read such a file through Python
                raise ValueError("its header does not say how long it is; write it again with its length")
            _check_size(file.frames * file.channels)
            samples = np.concatenate(list(_blocks(file)) or [np.empty((0, file.channels), np.float32)])
            if len(samples) < file.frames:
                raise ValueError(f"its header says {file.frames} frames, but {len(samples)} follow")
            if not len(samples):
                raise ValueError("it holds no samples")
            return Sound(samples, file.samplerate, kind, file.subtype)
    except soundfile.LibsndfileError as error:
        raise ValueError(_said(error)) from None


def _kind(payload: bytes) -> str:
    for mark, kind in MARKS.items():
        if payload.startswith(mark):
            return kind
    if len(payload) > 1 and payload[0] == 0xFF and payload[1] & 0xE6 == 0xE2:  # the frame mark of layer III
        return "MP3"
    raise ValueError(f"these bytes are none of {', '.join(sorted(set(FORMATS.values())))}")


def _check_size(samples: int) -> None:
    if samples > MEGASAMPLES_AT_MOST * 10**6:
        raise ValueError(f"it holds {samples} samples, over {MEGASAMPLES_AT_MOST} million; cut it into pieces")


def _blocks(file: soundfile.SoundFile) -> Iterator[np.ndarray]:
    """The samples as they are decoded, until there are no more or too many."""
    count = 0
    try:
        while len(block := file.read(max(1, AT_ONCE // file.channels), dtype="float32", always_2d=True)):
            _check_size(count := count + block.size)
            yield block
    except soundfile.LibsndfileError as error:
        raise ValueError(f"it cannot be read to its end: {_said(error)}") from None


def _said(error: soundfile.LibsndfileError) -> str:
    """What the library says, without the name of the file, which here is an address in memory."""
    return str(error.error_string).strip()


def _check_riff(payload: bytes) -> None:
    """Raise a `ValueError` where a WAV's header contradicts itself or promises more than there is.

    libsndfile reads what it finds in either case, and says nothing.
    """
    order = ">" if payload.startswith(b"RIFX") else "<"
    place, long_size = 12, 0
    while place + 8 <= len(payload):
        name, (size,) = payload[place : place + 4], struct.unpack_from(f"{order}I", payload, place + 4)
        body = payload[place + 8 : place + 8 + min(size, 64)]
        if name == b"ds64" and len(body) >= 16:
            (long_size,) = struct.unpack_from("<Q", body, 8)
        elif name == b"fmt " and len(body) >= 16:
            _check_block(*struct.unpack_from(f"{order}HHIIHH", body))
        elif name == b"data":
            here = len(payload) - place - 8
            size = (long_size or here) if size == UNKNOWN else size
            if size > here:
                raise ValueError(f"its header says {size} bytes of samples, but {here} follow")
            return
        place += 8 + size + size % 2


def _check_block(tag: int, channels: int, rate: int, bytes_per_second: int, block: int, bits: int) -> None:
    if tag in (1, 3, 0xFFFE) and block != channels * -(-bits // 8):  # samples of one size: PCM, float, extensible
        raise ValueError(f"its header says {channels} channels of {bits} bits, but {block} bytes a frame")


def _check_ogg(payload: bytes) -> None:
    """Raise a `ValueError` where the last page is not whole or not marked as the last."""
    place, last = 0, False
    while payload[place : place + 4] == b"OggS" and place + 27 <= len(payload):
        segments = payload[place + 27 : place + 27 + payload[place + 26]]
        last = bool(payload[place + 5] & 4)
        place += 27 + payload[place + 26] + sum(segments)
    if not last or place > len(payload):
        raise ValueError("its end is missing")


def content_digest(payload: bytes) -> str | None:
    """The fact of that name alone; None where the bytes are no whole recording."""
    try:
        return _content(decode(payload))
    except Exception:  # noqa: BLE001 - as in `facts`
        return None


def _content(sound: Sound) -> str:
    digest = hashlib.sha256(f"{sound.rate} {sound.samples.shape[1]} ".encode())
    digest.update(np.ascontiguousarray(sound.samples, "<f4").data)
    return digest.hexdigest()


def _of_sound(sound: Sound) -> dict[str, Any]:
    samples = sound.samples
    finite = all(bool(np.isfinite(part).all()) for part in _parts(samples, 1))
    return {
        "content_digest": _content(sound),
        "decodes": True,
        "format": sound.format,
        "subtype": sound.subtype,
        "rate": sound.rate,
        "channels": samples.shape[1],
        "duration": len(samples) / sound.rate,
        "finite": finite,
        **(_levels(sound) | {"near_hash": near_hash(mono(samples), sound.rate)} if finite else {}),
    }


def _parts(samples: np.ndarray, frame: int) -> Iterator[np.ndarray]:
    """The samples in parts that are small, each of whole stretches of `frame` as far as there are any."""
    step = max(1, AT_ONCE // samples[0].size // frame) * frame
    return (samples[start : start + step] for start in range(0, len(samples), step))


def _levels(sound: Sound) -> dict[str, float]:
    frame = max(1, round(FRAME * sound.rate))
    full = _full_scale(sound.subtype)
    peak = total = power = 0.0
    clipped = silent = stretches = 0
    for part in _parts(sound.samples, frame):
        wide = part.astype(np.float64)
        peak = max(peak, float(np.abs(wide).max()))
        total, power = total + float(wide.sum()), power + float(np.square(wide).sum())
        clipped += int((np.abs(wide) >= full).sum())
        edges = np.arange(0, len(wide), frame)
        loud = np.add.reduceat(np.square(wide).mean(axis=1), edges) / np.diff(edges, append=len(wide))
        silent += int((loud < 10 ** (SILENCE / 10)).sum())
        stretches += len(edges)
    size = sound.samples.size
    return {
        "peak": peak,
        "rms_dbfs": max(QUIETEST, 10 * float(np.log10(max(power / size, 1e-300)))),
        "clipped_share": clipped / size,
        "silent_share": silent / stretches,
        "dc_offset": total / size,
    }


def _full_scale(subtype: str) -> float:
    """The largest positive sample of a subtype: a step under 1 for whole numbers."""
    bits = {"PCM_S8": 8, "PCM_U8": 8, "PCM_16": 16, "PCM_24": 24, "PCM_32": 32}.get(subtype, 16)
    return float(np.float32(1 - 2.0 ** (1 - bits)))


def mono(samples: np.ndarray) -> np.ndarray:
    """The mean of the channels [N] float32 of samples [N, C]."""
    mixed: np.ndarray = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1, dtype=np.float32)
    return mixed


def near_hash(samples: np.ndarray, rate: int) -> str | None:
    """36 bits as hex, and the length in stretches of 20 ms; None for digital silence.

    The recording is cut into ten equal parts; a bit tells whether one of four bands (200 to 3,400 Hz) rises from one
    part to the next. A change of gain leaves it as it is, and so do mu-law, Vorbis and MP3 in most cases. A copy that
    was cut, or another take of the same words, has another hash.
    """
    size = max(8, round(0.032 * rate))
    padded = np.pad(samples, (0, max(0, size - len(samples))))
    frequencies, edges = np.fft.rfftfreq(size, 1 / rate), np.geomspace(200, 3400, BANDS + 1)
    picks = np.stack([(frequencies >= low) & (frequencies < high) for low, high in pairwise(edges)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, size)[:: max(1, size // 2)]
    power = np.concatenate([np.abs(np.fft.rfft(part * np.hanning(size))) ** 2 @ picks.T for part in _parts(windows, 1)])
    summed = np.vstack([np.zeros(BANDS), np.cumsum(power, axis=0)])
    places = np.linspace(0, len(power), SEGMENTS + 1)
    at_edges = np.stack([np.interp(places, np.arange(len(summed)), column) for column in summed.T], axis=1)
    cells = np.diff(at_edges, axis=0)
    if cells.max() <= 0:
        return None
    # what lies 60 dB under the loudest is noise of one encoder or another
    rises = np.diff(np.log10(cells / cells.max() + 1e-6), axis=0) > 0
    return f"{np.packbits(rises).tobytes().hex()}-{round(len(samples) / rate / FRAME)}"
