"""Shards hold the recordings that went in: known samples, order, sides, digest; windows leave no sample out."""

import tracemalloc
from fractions import Fraction
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from components.contract import join
from components.errors import AtelierError
from components.loading import batches
from components.modalities.audio.batch import PAD, AudioSpec, Waves
from components.modalities.audio.codec import to_whole
from components.modalities.audio.shards import (
    LARGEST,
    Prepare,
    Split,
    open_augment,
    open_split,
    ratio,
    resampled,
    trimmed,
    write,
)
from components.rows import Row
from components.store import digest_of
from tests.components.modalities.audio.sounds import melody, saved

SIDES = ("train", "held_out")


def given(payloads: list[bytes], *, texts: list[str | None] | None = None) -> list[Row]:
    """Every third row is held out."""
    return [
        Row(f"row-{i}", payload, i % 2, texts[i] if texts else None, "held_out" if i % 3 == 2 else "train")
        for i, payload in enumerate(payloads)
    ]


def levels(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-32767, 32768, count).astype(np.int16)


def written(directory: Path, rows: list[Row], *, classes: tuple[str, ...] = (), **prepare: object) -> AudioSpec:
    directory.mkdir(exist_ok=True)
    counts = {side: count for side in SIDES if (count := sum(row.split == side for row in rows))}
    return write(iter(rows), directory, prepare=Prepare.model_validate(prepare), classes=classes, counts=counts)


def every(split: Split) -> Waves:
    return split.batch(torch.arange(len(split)))


def test_windows_are_the_samples_in_order_and_leave_none_out(tmp_path: Path) -> None:
    clips = [levels(0, 2000), levels(1, 500), levels(2, 800), levels(3, 1600)]
    assert written(tmp_path, given([saved(clip) for clip in clips]), seconds=0.1) == AudioSpec(rate=8000, length=800)
    train = every(open_split(tmp_path, "train"))
    assert train.samples.shape == (6, 800) and train.samples.dtype == torch.float32 and train.samples.abs().max() <= 1
    assert train.lengths.tolist() == [800, 800, 400, 500, 800, 800]
    parts = [row[:length] for row, length in zip(to_whole(train.samples), train.lengths, strict=True)]
    kept = np.concatenate(parts).astype(int)
    assert np.abs(kept - np.concatenate([clips[0], clips[1], clips[3]])).max() <= 1  # 32767 is full scale, not 32768
    assert not train.samples[2, 400:].any() and not train.samples[3, 500:].any()
    assert (train.labels, train.text) == (None, None)
    assert every(open_split(tmp_path, "held_out")).lengths.tolist() == [800]


def test_what_was_written_comes_back_to_the_level(tmp_path: Path) -> None:
    written(tmp_path, given([saved(levels(i, 900)) for i in range(3)]), seconds=0.1)
    split = open_split(tmp_path, "train")
    first = split.batch(torch.tensor([0]))
    assert np.array_equal(to_whole(first.samples)[0], split.samples[:800])


def test_samples_are_read_from_the_disk_as_they_are_asked_for(tmp_path: Path) -> None:
    written(tmp_path, given([saved(levels(i, 900)) for i in range(3)]), seconds=0.1)
    split = open_split(tmp_path, "train")
    assert isinstance(split.samples, np.memmap) and split.samples.itemsize == 2
    batch = split.batch(torch.tensor([3, 0, 3]))
    assert torch.equal(batch.samples[0], batch.samples[2]) and batch.lengths.tolist() == [100, 800, 100]


def test_a_row_continues_another_exactly_where_its_clip_goes_on(tmp_path: Path) -> None:
    written(tmp_path, given([saved(levels(i, size)) for i, size in enumerate((1600, 800, 800, 900))]), seconds=0.1)
    batch = every(open_split(tmp_path, "train"))
    assert batch.places is not None
    goes_on = batch.places[1:] == batch.places[:-1] + batch.lengths[:-1]
    assert goes_on.tolist() == [True, False, False, True]


def test_steps_of_one_epoch_read_every_part_of_a_side_on_and_on(tmp_path: Path) -> None:
    written(tmp_path, given([saved(levels(i, 5000)) for i in range(3)]), seconds=0.1)
    split = open_split(tmp_path, "train")
    steps = [split.consecutive(step, size=3) for step in range(4)]
    assert all(torch.equal(after, before + 1) for before, after in pairwise(steps))
    assert sorted(torch.cat(steps).tolist()) == list(range(12))
    assert torch.equal(split.consecutive(4, size=3), steps[0])
    with pytest.raises(AtelierError, match="only 14 windows"):
        split.consecutive(0, size=15)


def test_labels_go_with_every_window_of_a_clip(tmp_path: Path) -> None:
    spec = written(tmp_path, given([saved(levels(i, 1000)) for i in range(4)]), classes=("a", "b"), seconds=0.1)
    batch = every(open_split(tmp_path, "train"))
    assert spec.classes == ("a", "b")
    assert batch.labels is not None and batch.labels.tolist() == [0, 0, 1, 1, 1, 1]
    row = given([saved(levels(0, 900))])[0]._replace(label=None)
    with pytest.raises(AtelierError, match="the row 'row-0' has the label None"):
        written(tmp_path / "c", [row], classes=("a", "b"))


def test_a_transcript_goes_with_a_whole_clip_only(tmp_path: Path) -> None:
    texts = ["één", "two parts", "held", None, "last"]
    rows = given([saved(levels(i, 900 if i == 1 else 700)) for i in range(5)], texts=texts)
    assert written(tmp_path, rows, seconds=0.1, text=12).text == 12
    batch = every(open_split(tmp_path, "train"))
    assert batch.text is not None and batch.text.shape == (5, 12) and batch.text.dtype == torch.int64
    said = [bytes(row[row != PAD].tolist()).decode() for row in batch.text]
    assert said == ["één", "", "", "", "last"] and batch.text[0].tolist() == [*"één".encode(), *[PAD] * 7]
    with pytest.raises(AtelierError, match=r"the row 'row-1' has 9 bytes, over prepare\.text 8"):
        written(tmp_path / "b", rows, text=8)


def test_rows_without_any_transcript_have_empty_ones(tmp_path: Path) -> None:
    written(tmp_path, given([saved(levels(i, 700)) for i in range(3)]), text=5)
    batch = every(open_split(tmp_path, "train"))
    assert batch.text is not None and set(batch.text.unique().tolist()) == {PAD}


@pytest.mark.parametrize("rate", [4000, 11025, 44100, 192_000])
def test_another_rate_becomes_the_recipes_and_a_tone_stays_where_it_is(rate: int, tmp_path: Path) -> None:
    tone = 0.5 * np.sin(2 * np.pi * 500 * np.arange(rate) / rate)
    payload = saved(np.stack([tone, tone], axis=1), rate, subtype="FLOAT")
    written(tmp_path, given([payload] * 3), rate=8000, seconds=1)
    split = open_split(tmp_path, "train")
    assert len(split) == 2 and len(split.samples) == 16000
    expected = 0.5 * np.sin(2 * np.pi * 500 * np.arange(8000) / 8000)
    assert np.abs(split.samples[200:7800] / 32767 - expected[200:7800]).max() < 0.005


def test_what_lies_above_half_the_rate_does_not_fold_back() -> None:
    tone = np.sin(2 * np.pi * 7000 * np.arange(16000) / 16000)
    assert np.abs(resampled(tone, 16000, 8000)[100:-100]).max() < 0.01


@pytest.mark.parametrize(("rate", "to"), [(191_999, 8000), (767_957, 8000), (7919, 44_100), (101, 191_999)])
def test_an_odd_rate_takes_no_filter_of_millions(rate: int, to: int) -> None:
    tone = np.sin(2 * np.pi * 20 * np.arange(rate // 2) / rate)  # half a second
    resampled(tone, 8000, 16_000)  # SciPy is there now
    tracemalloc.start()
    try:
        changed = resampled(tone, rate, to)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(changed) == -(-len(tone) * to // rate)
    assert peak < 4 * 8 * (len(tone) + len(changed) + 20 * LARGEST)


def test_an_odd_rate_changes_the_pitch_by_less_than_a_third_of_a_cent() -> None:
    rates = np.random.default_rng(0).integers((100, 1000), (768_000, 192_000), (2000, 2))
    for rate, to in rates.tolist():
        near = ratio(rate, to)
        assert max(near.as_integer_ratio()) <= LARGEST and abs(near / Fraction(to, rate) - 1) < 0.0002


def test_the_ratio_of_common_rates_is_exact() -> None:
    common = (8000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000, 176_400, 192_000)
    for low, high in combinations(common, 2):
        assert (ratio(high, low), ratio(low, high)) == (Fraction(low, high), Fraction(high, low))


@pytest.mark.parametrize("rate", [44_101, 7919])
def test_a_clip_of_an_odd_rate_stays_as_long_as_it_is(rate: int) -> None:
    tone = np.sin(2 * np.pi * 440 * np.arange(3 * rate) / rate)
    expected = np.sin(2 * np.pi * 440 * np.arange(24_000) / 8000)
    changed = resampled(tone, rate, 8000)
    assert len(changed) == 24_000
    assert np.abs(changed[200:8000] - expected[200:8000]).max() < 0.05
    assert len(resampled(tone[:1], rate, 8000)) == -(-8000 // rate)


def test_channels_are_mixed_and_what_exceeds_full_scale_is_clipped(tmp_path: Path) -> None:
    two = np.stack([np.full(800, 0.75), np.full(800, -0.25)], axis=1)
    loud = saved(np.full(800, 3.0), subtype="FLOAT")
    written(tmp_path, given([saved(two), loud]), seconds=0.1)
    split = open_split(tmp_path, "train")
    assert set(split.samples[:800].tolist()) == {8192} and set(split.samples[800:].tolist()) == {32767}


def test_one_sample_is_a_clip(tmp_path: Path) -> None:
    written(tmp_path, given([saved(np.array([0.5]))] * 3), seconds=0.1)
    batch = every(open_split(tmp_path, "train"))
    assert batch.lengths.tolist() == [1, 1] and batch.samples[0, 0] == pytest.approx(0.5, abs=1e-4)


def test_silence_is_cut_off_both_ends_where_it_is_asked_for(tmp_path: Path) -> None:
    sound = np.concatenate([np.zeros(4000), melody(0)[:1600], np.zeros(8000)])
    written(tmp_path, given([saved(sound)] * 3), trim=True)
    assert 1600 - 2 * 160 <= len(open_split(tmp_path, "train").samples) // 2 <= 1600 + 2 * 160
    assert len(trimmed(np.zeros(900), 8000)) == 900  # nothing but silence stays


def test_samples_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    samples = melody(0)
    samples[7] = np.nan
    with pytest.raises(AtelierError, match="the row 'row-0' holds samples that are no numbers"):
        written(tmp_path, given([saved(samples, subtype="FLOAT")]))


def test_the_loader_and_the_augmentation_take_the_windows_as_rows(tmp_path: Path) -> None:
    rows = given([saved(levels(i, 2000)) for i in range(6)], texts=["a", None] * 3)
    written(tmp_path, rows, seconds=0.1, text=4, classes=("a", "b"), augment=[{"gain": 3}, {"shift": 0.01}])
    split, augment = open_split(tmp_path, "train"), open_augment(tmp_path)
    assert augment is not None
    stream = batches(split, size=4, seed=0, start=0, augment=augment)  # type: ignore[arg-type]
    epoch = join([next(stream) for _ in range(len(split) // 4)])
    assert isinstance(epoch, Waves) and len(epoch) == len(split) // 4 * 4 and epoch.samples.abs().max() <= 1


def test_no_augmentation_is_none(tmp_path: Path) -> None:
    written(tmp_path, given([saved(levels(0, 900))]))
    assert open_augment(tmp_path) is None


def test_the_same_rows_give_the_same_digest_and_others_another(tmp_path: Path) -> None:
    rows = given([saved(melody(i), rate=11025) for i in range(4)], texts=["a", "b", "c", "d"])
    for name in "ab":
        written(tmp_path / name, rows, text=4)
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b")
    written(tmp_path / "c", [rows[1], rows[0], *rows[2:]], text=4)
    assert digest_of(tmp_path / "c") != digest_of(tmp_path / "a")


@pytest.mark.parametrize(
    "mistake", [{"rate": 0}, {"seconds": 0}, {"seconds": 1e-9}, {"text": -1}, {"augment": [{"flip": 1}]}, {"size": 28}]
)
def test_a_mistaken_preparation_is_refused(mistake: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        Prepare.model_validate(mistake)
