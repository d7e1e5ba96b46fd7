"""A small source of recordings through ingestion, validation and preparation, with a planted row for each check."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import scipy.io
import torch

from components import preprocessing
from components.errors import DataRejected
from components.ingestion import ingest
from components.modalities.audio import codec, shards
from components.modalities.audio.batch import PAD, AudioSpec
from components.recipe import Data, HeldOut, Validate
from components.records import Validated
from components.store import Store
from components.validation import validate
from tests.components.modalities.audio.sounds import melody, read, saved

SCIPYS = Path(scipy.io.__file__).parent / "tests" / "data"


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "false")


def levels(seed: int) -> np.ndarray:
    """Half a second as int16, which a WAV and a FLAC hold alike."""
    return np.round(melody(seed, seconds=0.5) * 32767).astype(np.int16)


def clean(count: int = 60) -> list[bytes]:
    return [saved(levels(seed)) for seed in range(count)]


def checked(project: Path, sounds: list[bytes], *, at_most: float = 0.0, **columns: list[Any]) -> Validated:
    """Every fifth row is held out."""
    folder, store = project / "data" / "d", Store(project / ".atelier")
    folder.mkdir(parents=True)
    sides = ["held_out" if number % 5 == 4 else "train" for number in range(len(sounds))]
    rows = {"id": [f"r{number}" for number in range(len(sounds))], "audio": sounds, "split": sides, **columns}
    pq.write_table(pa.table(rows), folder / "rows.parquet")
    data = Data(source="data/d", held_out=HeldOut(column="split", value="held_out"))
    dataset = ingest(data, modality="audio", project=project, store=store)
    return validate(dataset, Validate(), modality="audio", reject_at_most=at_most, store=store)


def rejected(project: Path, validated: Validated) -> dict[str, str]:
    path = Store(project / ".atelier").path(validated.quarantine) / "quarantine.parquet"
    return {row["id"]: row["reason"] for row in pq.read_table(path).to_pylist()}


def test_recordings_go_through_to_a_split_that_reads_them(tmp_path: Path) -> None:
    sounds = clean()
    said = [f"number {number}" for number in range(60)]
    sounds[1] = saved(np.stack([melody(1, seconds=0.5, rate=192_000)] * 2, axis=1), 192_000, subtype="FLOAT")
    sounds[2] = saved(melody(2, seconds=0.5, rate=16_000), 16_000, "MP3")
    validated = checked(tmp_path, sounds, text=said, label=["odd" if n % 2 else "even" for n in range(60)])
    assert validated.accepted == {"held_out": 12, "train": 48} and validated.rejected == {}
    store, options = Store(tmp_path / ".atelier"), {"rate": 8000, "seconds": 0.6, "text": 16}
    prepared = preprocessing.prepare(validated, options, modality="audio", store=store)
    assert preprocessing.prepare(validated, options, modality="audio", store=store) == prepared
    spec = AudioSpec.model_validate(prepared.spec)
    assert spec == AudioSpec(rate=8000, length=4800, classes=("even", "odd"), text=16, characters=spec.characters)
    assert set("number 1") <= set(spec.characters)
    split = shards.open_split(store.path(prepared.shards), "train")
    batch = split.batch(torch.arange(len(split)))
    assert len(batch) == 48 and batch.lengths.tolist() == [4000] * 48
    assert batch.labels is not None and batch.labels[:6].tolist() == [0, 1, 0, 1, 1, 0]  # the fifth is held out
    assert batch.text is not None and bytes(batch.text[4][batch.text[4] != PAD].tolist()) == b"number 5"
    written, rate = read(codec.encode(batch.rows(slice(0, 1)), spec)[0])
    assert rate == 8000 and np.abs(written.astype(int) - levels(0)).max() <= 1


PLANTS = {
    "lying header": (
        (SCIPYS / "test-44100Hz-le-1ch-4bytes-early-eof.wav").read_bytes(),
        "does not decode: its header says 17640 bytes of samples, but 944 follow",
    ),
    "other bytes": (b"<html>", "does not decode: these bytes are none of FLAC, MP3, OGG, WAV"),
    "NaN": (saved(np.full(4000, np.nan), subtype="FLOAT"), "holds samples that are no numbers (NaN or infinite)"),
    "rate": (saved(melody(99, rate=2000), 2000), "its rate is 2000 Hz, must be between 4000 and 384000"),
    "channels": (saved(np.stack([melody(99)] * 9, axis=1)), "it has 9 channels, must be between 1 and 8"),
    "one sample": (saved(np.array([0.5])), "lasts 0.000 s, must be between 0.05 and 3600; "),
    "silent": (saved(np.zeros(4000)), "is silent: -160 dBFS, must be at least -70; is silent for 100%"),
    "mostly silent": (
        saved(np.concatenate([melody(99, seconds=0.02), np.zeros(4000)])),
        "is silent for 96% of its time, must be at most 95%",
    ),
    "clipped": (
        saved(np.clip(melody(99) * 6, -1, 1)),
        r"is clipped: ",
    ),
    "off centre": (saved(melody(99) / 2 + 0.2), "is off centre: its mean sample is 0.2"),
    "twin": (saved(levels(0), kind="FLAC"), "is the same sound as an earlier row"),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_recording_goes_to_quarantine_with_its_reason(plant: str, tmp_path: Path) -> None:
    payload, reason = PLANTS[plant]
    sounds = clean()
    sounds[7] = payload
    found = rejected(tmp_path, checked(tmp_path, sounds, at_most=0.05))
    assert list(found) == ["r7"] and found["r7"].startswith(reason)


def same_on_both_sides() -> list[bytes]:
    sounds = clean()
    sounds[9] = saved(levels(0), kind="FLAC")
    return sounds


def nearly_the_same() -> list[bytes]:
    sounds = clean()
    sounds[9] = saved(levels(0) // 2)
    return sounds


def again_and_softer() -> list[bytes]:
    """Twelve of sixty are earlier ones of their side at another gain."""
    sounds = clean()
    for number in range(30, 42):
        sounds[number] = saved(levels(number - 30) // 2)
    return sounds


WHOLE = {
    "near duplicates": (again_and_softer, r"nearly the same as earlier ones of their side \(11: r30; r31"),
    "leak": (same_on_both_sides, r"held-out recordings are in the training side too \(1: r9\)"),
    "near leak": (nearly_the_same, r"held-out recordings are nearly the same as training ones \(1: r9\)"),
    "few": (lambda: clean(40), r"fewer than 50 rows \(40\)"),
}


@pytest.mark.parametrize("plant", WHOLE)
def test_a_fault_of_all_recordings_together_stops_the_run(plant: str, tmp_path: Path) -> None:
    make, message = WHOLE[plant]
    with pytest.raises(DataRejected, match=message):
        checked(tmp_path, make(), at_most=0.5)
