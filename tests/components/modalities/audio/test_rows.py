"""What is said of one recording's bytes: known answers, and neither an exception nor much memory for hostile ones."""

import hashlib
import random
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given, settings
from hypothesis import strategies as some

from components.modalities.audio.rows import FACTS, MEGASAMPLES_AT_MOST, decode, facts, near_hash
from tests.components.modalities.audio.sounds import melody, saved

KINDS = [("WAV", "PCM_16"), ("WAV", "FLOAT"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)]
SCIPYS = Path(scipy.io.__file__).parent / "tests" / "data"

# SciPy's WAVs: those that decode, by subtype, rate, channels and frames, or else why they do not.
MALFORMED = {
    "test-1234Hz-le-1ch-10S-20bit-extra": ("PCM_24", 1234, 1, 10),
    "test-44100Hz-2ch-32bit-float-be": ("FLOAT", 44100, 2, 441),
    "test-44100Hz-2ch-32bit-float-le": ("FLOAT", 44100, 2, 441),
    "test-44100Hz-be-1ch-4bytes": ("PCM_32", 44100, 1, 4410),
    "test-44100Hz-le-1ch-4bytes-early-eof-no-data": "No 'data' chunk",
    "test-44100Hz-le-1ch-4bytes-early-eof": "its header says 17640 bytes of samples, but 944 follow",
    "test-44100Hz-le-1ch-4bytes-incomplete-chunk": "No 'data' chunk",
    "test-44100Hz-le-1ch-4bytes-rf64": ("PCM_32", 44100, 1, 4410),
    "test-44100Hz-le-1ch-4bytes": ("PCM_32", 44100, 1, 4410),
    "test-48000Hz-2ch-64bit-float-le-wavex": ("DOUBLE", 48000, 2, 480),
    "test-8000Hz-be-3ch-5S-24bit": ("PCM_24", 8000, 3, 5),
    "test-8000Hz-le-1ch-1byte-ulaw": ("ULAW", 8000, 1, 9),
    "test-8000Hz-le-2ch-1byteu": ("PCM_U8", 8000, 2, 800),
    "test-8000Hz-le-3ch-5S-24bit-inconsistent": "its header says 3 channels of 24 bits, but 4 bytes a frame",
    "test-8000Hz-le-3ch-5S-24bit-rf64": ("PCM_24", 8000, 3, 5),
    "test-8000Hz-le-3ch-5S-24bit": ("PCM_24", 8000, 3, 5),
    "test-8000Hz-le-3ch-5S-36bit": "unimplemented format",
    "test-8000Hz-le-3ch-5S-45bit": "unimplemented format",
    "test-8000Hz-le-3ch-5S-53bit": "unimplemented format",
    "test-8000Hz-le-3ch-5S-64bit": "unimplemented format",
    "test-8000Hz-le-4ch-9S-12bit": ("PCM_16", 8000, 4, 9),
    "test-8000Hz-le-5ch-9S-5bit": ("PCM_U8", 8000, 5, 9),
}


def test_every_one_of_scipys_files_is_known_here() -> None:
    assert {path.stem for path in SCIPYS.glob("*.wav")} == set(MALFORMED)


@pytest.mark.parametrize("name", MALFORMED)
def test_each_of_scipys_malformed_files_is_told(name: str) -> None:
    told, known = facts((SCIPYS / f"{name}.wav").read_bytes()), MALFORMED[name]
    if isinstance(known, str):
        assert not told["decodes"] and known in told["error"] and told["content_digest"] is None
    else:
        frames = round(told["duration"] * told["rate"])
        assert (told["subtype"], told["rate"], told["channels"], frames) == known and told["error"] is None


def test_the_facts_of_a_recording() -> None:
    samples = np.zeros((8000, 2), np.int16)
    samples[:4000, 0] = 16384
    samples[:80] = (32767, -32768)
    payload = saved(samples)
    told = facts(payload)
    assert list(told) == FACTS.names
    near = told.pop("near_hash")
    assert near.endswith("-50")
    power = (3920 * 0.25 + 80 * (1 + (32767 / 32768) ** 2)) / 16000
    whole = hashlib.sha256(b"8000 2 " + (samples.astype("<f4") / 32768).tobytes()).hexdigest()
    assert told == {
        "digest": hashlib.sha256(payload).hexdigest(),
        "content_digest": whole,
        "decodes": True,
        "format": "WAV",
        "subtype": "PCM_16",
        "rate": 8000,
        "channels": 2,
        "duration": 1.0,
        "finite": True,
        "peak": 1.0,
        "rms_dbfs": pytest.approx(10 * np.log10(power)),
        "clipped_share": 0.01,
        "silent_share": 0.5,
        "dc_offset": pytest.approx((3920 * 0.5 - 80 / 32768) / 16000),
        "error": None,
    }


def test_a_long_recording_is_told_as_a_short_one_is() -> None:
    """The facts are gathered part by part: parts must not show."""
    sine = np.sin(np.arange(90 * 16000) * 0.05).astype(np.float32) / 2
    told = facts(saved(np.stack([sine, sine], axis=1), 16000, subtype="FLOAT"))
    assert told["duration"] == 90 and told["peak"] == pytest.approx(0.5, abs=1e-4)
    assert told["rms_dbfs"] == pytest.approx(20 * np.log10(0.5 / np.sqrt(2)), abs=0.01)
    assert told["silent_share"] == 0 and abs(told["dc_offset"]) < 1e-3


@pytest.mark.parametrize(("subtype", "share"), [("PCM_U8", 0.5), ("PCM_16", 0.5), ("PCM_24", 0.5), ("FLOAT", 0.5)])
def test_full_scale_is_that_of_the_subtype(subtype: str, share: float) -> None:
    square = np.tile(np.array([1.0, 0.4]), 400)
    assert facts(saved(square, subtype=subtype))["clipped_share"] == share


def test_silence_and_an_offset_are_told() -> None:
    silent = facts(saved(np.zeros(800)))
    assert (silent["rms_dbfs"], silent["silent_share"], silent["near_hash"]) == (-160, 1, None)
    assert facts(saved(np.full(800, 0.25)))["dc_offset"] == 0.25


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_samples_that_are_no_numbers_are_told(wrong: float) -> None:
    samples = melody(0)
    samples[4321] = wrong
    told = facts(saved(samples, subtype="FLOAT"))
    assert (told["decodes"], told["finite"], told["duration"]) == (True, False, 1.0)
    assert told["peak"] is None and told["near_hash"] is None and told["content_digest"]


@pytest.mark.parametrize(("kind", "subtype"), [("FLAC", "PCM_16"), ("WAVEX", "PCM_16"), ("RF64", "PCM_16")])
def test_the_same_samples_have_one_content_digest_in_any_lossless_file(kind: str, subtype: str) -> None:
    levels = (melody(0) * 32767).astype(np.int16)
    one, other = facts(saved(levels)), facts(saved(levels, kind=kind, subtype=subtype))
    assert one["content_digest"] == other["content_digest"] and one["digest"] != other["digest"]
    assert one["content_digest"] != facts(saved(levels, rate=8001))["content_digest"]
    assert one["content_digest"] != facts(saved(levels.reshape(-1, 2)))["content_digest"]


def test_one_sample_is_a_recording() -> None:
    told = facts(saved(np.array([0.5])))
    assert told["decodes"] and told["duration"] == 1 / 8000 and told["peak"] == 0.5


def test_high_rates_and_float_samples_beyond_full_scale_are_told_as_they_are() -> None:
    sound = melody(0, seconds=0.5, rate=192_000)
    told = facts(saved(np.stack([sound, -3 * sound], axis=1), 192_000, subtype="FLOAT"))
    assert (told["rate"], told["channels"], told["subtype"]) == (192_000, 2, "FLOAT")
    assert told["peak"] == pytest.approx(1.8, rel=1e-4) and told["clipped_share"] > 0


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_a_recording_that_was_cut_off_does_not_decode(kind: str, subtype: str | None) -> None:
    payload = saved(melody(0, seconds=2, rate=16000), 16000, kind, subtype)
    whole, cut = facts(payload), facts(payload[: len(payload) * 2 // 3])
    assert whole["decodes"] and whole["duration"] == 2 and whole["format"] == kind
    assert not cut["decodes"] and cut["duration"] is None
    assert cut["error"].startswith(
        {"MP3": "its header says 32000 frames", "OGG": "its end", "FLAC": "it cannot be read", "WAV": "its header"}[
            kind
        ]
    )


def claiming(size: int) -> bytes:
    """A WAV of 1,000 samples whose header says that the samples take `size` bytes."""
    payload = bytearray(saved(melody(0)[:1000]))
    place = payload.index(b"data") + 4
    payload[place : place + 4] = struct.pack("<I", size)
    return bytes(payload)


@pytest.mark.parametrize("size", [2001, 2**31, 2**32 - 2])
def test_a_header_that_promises_too_much_is_told_without_memory_for_it(size: int) -> None:
    payload = claiming(size)
    facts(payload)  # what is loaded once
    tracemalloc.start()
    told = facts(payload)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told["error"] == f"its header says {size} bytes of samples, but 2000 follow" and peak < 10**6


def test_a_header_that_was_written_before_the_size_was_known_is_taken() -> None:
    told = facts(claiming(0xFFFFFFFF))
    assert told["decodes"] and told["duration"] == 1000 / 8000


def with_frames(flac: bytes, count: int) -> bytes:
    """A FLAC whose header says it has `count` frames."""
    head = struct.unpack(">Q", flac[18:26])[0] >> 36 << 36 | count
    return flac[:18] + struct.pack(">Q", head) + flac[26:]


def test_a_flac_that_says_no_length_or_a_wrong_one_is_told() -> None:
    flac = saved(melody(0), kind="FLAC")
    assert "does not say how long it is" in facts(with_frames(flac, 0))["error"]
    assert "cannot be read to its end" in facts(with_frames(flac, 8001))["error"]
    tracemalloc.start()
    told = facts(with_frames(flac, 2**36 - 1))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "68719476735 samples, over 32 million" in told["error"] and peak < 10**6


def test_a_recording_that_unpacks_to_too_much_is_refused_before_it_is_unpacked() -> None:
    bomb = saved(np.zeros((MEGASAMPLES_AT_MOST * 10**6 // 8 + 1, 8), np.int16), kind="FLAC")
    assert len(bomb) < 2 * 10**5
    tracemalloc.start()
    told, peak = facts(bomb), tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert told["error"] == "it holds 32000008 samples, over 32 million; cut it into pieces" and peak < 10**6


@pytest.mark.parametrize("payload", [b"", b"hello", b"\x89PNG\r\n\x1a\n", b"FORM\x00\x00\x00\x00AIFF", b"\xff"])
def test_other_bytes_are_no_recording(payload: bytes) -> None:
    assert facts(payload)["error"] == "these bytes are none of FLAC, MP3, OGG, WAV"


@pytest.mark.parametrize("rate", [1, 99, 768_001, 2**31 - 1])
def test_a_rate_that_nothing_has_is_refused(rate: int) -> None:
    told = facts(saved(melody(0)[:100], rate))
    assert not told["decodes"] and "outside 100 to 768000" in told["error"]


def test_a_wav_without_samples_is_refused() -> None:
    assert facts(saved(np.empty(0)))["error"] == "it holds no samples"


@pytest.mark.parametrize("mark", [b"RIFF", b"RIFX", b"RF64", b"fLaC", b"OggS", b"ID3", b"\xff\xfb", b""])
@settings(max_examples=30, deadline=None)
@given(rest=some.binary(max_size=300))
def test_no_bytes_raise(mark: bytes, rest: bytes) -> None:
    told = facts(mark + rest)
    assert list(told) == FACTS.names and told["decodes"] == (told["error"] is None)


@pytest.mark.parametrize(("kind", "subtype"), KINDS)
def test_broken_recordings_never_raise_and_are_told_the_same_each_time(kind: str, subtype: str | None) -> None:
    chance, good = random.Random(0), saved(melody(0, seconds=0.3, rate=16000), 16000, kind, subtype)
    for turn in range(40):
        broken = bytearray(good)
        for _ in range(chance.randint(1, 8)):
            broken[chance.randrange(len(good) if turn % 2 else 80)] = chance.randrange(256)
        told = facts(bytes(broken))
        assert list(told) == FACTS.names and str(told) == str(facts(bytes(broken)))  # NaN is not equal to itself


def test_decoding_gives_the_samples() -> None:
    levels = (np.stack([melody(0), melody(1)], axis=1) * 32767).astype(np.int16)
    sound = decode(saved(levels, 16000, "FLAC"))
    assert sound.samples.dtype == np.float32 and np.array_equal(sound.samples, levels / np.float32(32768))
    assert (sound.rate, sound.format, sound.subtype) == (16000, "FLAC", "PCM_16")


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (lambda samples: saved(samples / 4), 0.9),
        (lambda samples: saved(samples * 1.5, subtype="PCM_24"), 0.95),
        (lambda samples: saved(np.stack([samples, samples], axis=1)), 0.95),
        (lambda samples: saved(samples, subtype="ULAW"), 0.8),
        (lambda samples: saved(samples, kind="OGG"), 0.7),
        (lambda samples: saved(samples, kind="MP3"), 0.7),
    ],
    ids=["quieter", "louder", "stereo", "mu-law", "Vorbis", "MP3"],
)
def test_the_near_hash_finds_most_copies(change: object, share: float) -> None:
    same = [
        facts(saved(sound))["near_hash"] == facts(change(sound))["near_hash"]  # type: ignore[operator]
        for sound in (melody(seed, seconds=1 + seed / 100) for seed in range(60))
    ]
    assert np.mean(same) >= share


def test_recordings_of_their_own_have_near_hashes_of_their_own() -> None:
    assert len({near_hash(melody(seed, seconds=1), 8000) for seed in range(200)}) == 200


def test_the_near_hash_is_one_bit_for_each_rise_of_a_band() -> None:
    rising = np.linspace(0, 1, 16000) * np.random.default_rng(0).normal(size=16000)
    assert near_hash(rising, 8000) == "fffffffff0-100" and near_hash(rising[::-1], 8000) == "0000000000-100"
