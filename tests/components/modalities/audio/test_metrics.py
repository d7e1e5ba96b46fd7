"""Metrics of sounds: planted faults move them, each its own, and the floor is where it should be."""

import io
import math
import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from components.controls import PublicControl
from components.modalities.audio import metrics, opinions, voices
from components.modalities.audio.batch import Waves
from components.modalities.audio.discriminants import Discriminants
from components.modalities.audio.prediction import CLASSES, EDGES, Predictor
from components.modalities.audio.shards import Prepare, open_split, write
from components.rows import Row
from tests.components.modalities.audio import sounds

RATE, SECONDS = 8000, 0.5


def voice(seed: int, seconds: float = 1.0) -> np.ndarray:
    """A buzz at a pitch of speech through two resonances, with a pause in it."""
    from scipy.signal import lfilter

    chance = np.random.default_rng(seed)
    length, pitch = round(seconds * RATE), chance.uniform(90, 180)
    buzz = ((np.arange(length) % round(RATE / pitch)) == 0) + 0.01 * chance.standard_normal(length)
    for centre in (chance.uniform(300, 800), chance.uniform(1000, 2000)):
        radius, angle = 0.97, 2 * math.pi * centre / RATE
        buzz = lfilter([1 - radius], [1, -2 * radius * math.cos(angle), radius**2], buzz)
    spoken = 0.4 * buzz / np.abs(buzz).max()
    spoken[length // 3 : length // 3 + length // 6] = 0
    return spoken.astype(np.float32)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> metrics.Reference:
    folder: Path = tmp_path_factory.mktemp("shards")
    sides = {"train": range(30), "held_out": range(30, 70)}
    rows = [
        Row(f"r{seed}", sounds.saved(voice(seed), RATE), None, None, side)
        for side, seeds in sides.items()
        for seed in seeds
    ]
    counts = {side: len(seeds) for side, seeds in sides.items()}
    write(iter(rows), folder, prepare=Prepare(rate=RATE, seconds=SECONDS), classes=(), counts=counts)
    return metrics.Reference.of(open_split(folder, "train"), open_split(folder, "held_out"), None, classes=())


@pytest.fixture(scope="module")
def good(reference: metrics.Reference) -> Waves:
    """Sounds of other seeds, as long as a window."""
    length = round(SECONDS * RATE)
    parts = [part for seed in range(100, 140) for part in voice(seed).reshape(-1, length)]
    return Waves(torch.from_numpy(np.stack(parts)), torch.full((len(parts),), length))


def changed(waves: Waves, samples: torch.Tensor) -> Waves:
    return Waves(samples, waves.lengths)


def test_sounds_like_the_data_are_near_to_them(reference: metrics.Reference, good: Waves) -> None:
    found, floor = reference.measure(good), reference.floor()
    assert found["fd"] < 2 * floor["fd"] + 5 and found["spectral_distance"] < 2
    assert found["clipped"] == found["clicks"] == 0
    assert found["silence_gap"] < 0.1 and found["voiced_gap"] < 0.1
    assert found.keys() <= metrics.DIRECTIONS.keys()


@pytest.fixture(scope="module")
def sorted_by_pitch(tmp_path_factory: pytest.TempPathFactory) -> metrics.Reference:
    """Voices of two classes that a pitch tells apart, and what they say."""
    folder: Path = tmp_path_factory.mktemp("classes")
    sides = {"train": range(40), "held_out": range(40, 60)}
    rows = [
        Row(f"r{seed}", sounds.saved(low(seed) if seed % 2 else high(seed), RATE), seed % 2, f"number {seed}", side)
        for side, seeds in sides.items()
        for seed in seeds
    ]
    counts = {side: len(seeds) for side, seeds in sides.items()}
    write(iter(rows), folder, prepare=Prepare(rate=RATE, seconds=1, text=16), classes=("high", "low"), counts=counts)
    splits = (open_split(folder, side) for side in sides)
    return metrics.Reference.of(*splits, None, classes=("high", "low"))


def high(seed: int) -> np.ndarray:
    return sounds.melody(seed, seconds=0.5)


def low(seed: int) -> np.ndarray:
    return sounds.melody(seed, seconds=0.5).cumsum(dtype=np.float64) / 40


def test_sounds_of_the_class_that_was_asked_for_are_known_and_others_are_seen(
    sorted_by_pitch: metrics.Reference,
) -> None:
    asked = [{"label": "high"}, {"label": "low"}]
    made = np.stack([part(seed) for seed in range(100, 120) for part in (high, low)]).astype(np.float32)
    right = Waves(torch.from_numpy(made), torch.full((40,), 4000))
    assert sorted_by_pitch.measure(right, asked)["label_accuracy"] > 0.95
    assert sorted_by_pitch.measure(right, asked[::-1])["label_accuracy"] < 0.05
    deaf = right.rows(torch.arange(0, 40, 2))  # whatever is asked for, it makes the first
    assert sorted_by_pitch.measure(deaf, asked)["label_accuracy"] == 0.5
    assert sorted_by_pitch.floor()["label_accuracy"] > 0.95
    assert "label_accuracy" not in sorted_by_pitch.measure(right)


def test_each_class_is_asked_for_in_turn_with_texts_of_its_own(sorted_by_pitch: metrics.Reference) -> None:
    label = PublicControl(default="any")
    asked = sorted_by_pitch.requests({"label": label})
    assert asked == [{"label": "high"}, {"label": "low"}]
    spoken = sorted_by_pitch.requests({"label": label, "text": PublicControl(default="")})
    assert [one["label"] for one in spoken[:4]] == ["high", "low"] * 2
    assert {int(one["text"].split()[1]) % 2 for one in spoken if one["label"] == "low"} == {1}
    (one,) = sorted_by_pitch.requests({"label": PublicControl(default="low", choices=("low",))})
    assert one == {"label": "low"}
    assert "'label', which the recipe does not offer" in str(metrics.lacking("label_accuracy", controls=(), prepare={}))


def test_a_class_of_which_nothing_was_heard_is_never_told() -> None:
    features = torch.tensor([[0.0, 0.1], [0.1, 0.0], [1.0, 1.1], [1.1, 1.0]])
    known = Discriminants.of(features, torch.tensor([0, 0, 2, 2]), classes=3)
    assert known.accuracy(features, torch.tensor([0, 0, 2, 2])) == 1
    assert known.accuracy(features, torch.tensor([1, 1, 1, 1])) == 0


PLANTS = {
    "clipped": lambda x: (8 * x).clamp(-1, 1),
    "clicks": lambda x: torch.where(torch.arange(x.shape[1]) % 500 == 0, 0.9, x),
    "silence_gap": lambda x: 0.01 * x,
    "voiced_gap": lambda x: 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)),
    "spectral_distance": lambda x: x.cumsum(dim=1) / 20,
    "fd": lambda x: x.roll(1, 0)[:, ::2].repeat(1, 2),
}


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_fault_is_seen(reference: metrics.Reference, good: Waves, plant: str) -> None:
    before = reference.measure(good)[plant]
    after = reference.measure(changed(good, PLANTS[plant](good.samples)))[plant]
    assert after > 2 * before + 0.001


def test_training_windows_themselves_are_seen_as_copies_and_shown(reference: metrics.Reference, good: Waves) -> None:
    windows = reference.train.batch(torch.arange(4))
    planted = Waves(torch.cat([windows.samples, good.samples]), torch.cat([windows.lengths, good.lengths]))
    assert reference.measure(good)["copied"] == 0
    assert reference.measure(planted)["copied"] == pytest.approx(4 / len(planted))
    shown = reference.evidence(planted)
    assert shown.keys() == {"nearest.png", "nearest.wav"}
    with wave.open(io.BytesIO(shown["nearest.wav"])) as file:
        heard = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    length, gap = round(SECONDS * RATE), RATE // 4
    first, second = heard[:length], heard[length + gap : 2 * length + gap]
    assert np.abs(first.astype(int) - second).max() <= 1


def test_bits_are_counted_over_every_held_out_sample(reference: metrics.Reference) -> None:
    """A model that knows nothing needs eight bits for each of 256 classes."""

    def uniform(rows: Waves, memory: object) -> tuple[torch.Tensor, object]:
        return rows.lengths * math.log(CLASSES), memory

    told, parts = reference.likelihood(uniform)
    assert parts["bits_per_sample"] == pytest.approx([told["bits_per_sample"]] * 16)
    assert told["bits_per_sample"] == pytest.approx(8)
    assert told["bits_saved"] == pytest.approx(reference.floor()["bits_per_sample"] - 8)
    assert 1 < reference.floor()["bits_per_sample"] < 6
    assert reference.likelihood(lambda rows, memory: None) == ({}, {})


def test_windows_of_a_clip_are_read_in_their_order(reference: metrics.Reference) -> None:
    places: list[torch.Tensor] = []

    def noted(rows: Waves, memory: object) -> tuple[torch.Tensor, object]:
        assert rows.places is not None
        places.append(rows.places)
        return torch.ones(len(rows)), len(places)

    reference.likelihood(noted)
    places = places[: len(places) // 2]  # the held-out side; then comes as much of the training side
    going_on = sum(int((after == before + 4000).sum()) for before, after in pairwise(places))
    assert going_on >= len(places[0]) * (len(places) - 1) // 2 - len(places)


def test_prediction_knows_what_resonates_and_nothing_of_noise() -> None:
    known = Predictor.of([voice(seed).astype(np.float64) for seed in range(20)])
    chance = np.random.default_rng(0)
    noise = chance.uniform(-1, 1, 8000)
    assert known.bits_per_sample([voice(50).astype(np.float64)]) < 5
    assert Predictor.of([noise]).bits_per_sample([noise]) > 6


def test_the_chances_of_all_classes_make_one() -> None:
    assert len(EDGES) == CLASSES + 1 and (np.diff(EDGES[1:-1]) > 0).all()
    one = Predictor(np.zeros(16), decay=0.9, factor=1.0)
    bits = [
        one._bits(np.array([0.1, level]))[1] for level in np.concatenate([[-1], (EDGES[1:-2] + EDGES[2:-1]) / 2, [1]])
    ]
    assert (2.0 ** -np.array(bits)).sum() == pytest.approx(1, abs=1e-6)


def test_sheets_are_pictures_and_sounds(reference: metrics.Reference, good: Waves) -> None:
    sheets = reference.sheets(good)
    assert sheets.keys() == {f"{name}.{kind}" for name in ("generated", "held_out") for kind in ("png", "wav")}
    levels, rate = sounds.read(sheets["generated.wav"])
    assert rate == RATE and len(levels) == 12 * (4000 + 2000)


def test_voices_are_compared_where_the_embedding_is_installed(
    reference: metrics.Reference, good: Waves, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> str | None:
        return metrics.lacking("voice_fd", controls=(), prepare={})

    if voices.installed():
        assert told() is None
        few, other = good.rows(slice(16)), changed(good, PLANTS["voiced_gap"](good.samples)).rows(slice(16))
        near, far = reference.measure(few), reference.measure(other)
        assert far["voice_fd"] > 2 * near["voice_fd"] and far["voice_kd"] > near["voice_kd"]
    monkeypatch.setattr(voices, "installed", lambda: False)
    assert "pip install resemblyzer" in str(told()) and "voice_fd" not in reference.measure(good.rows(slice(2)))


def test_listeners_opinions_are_foretold_where_what_foretells_them_is_installed(
    reference: metrics.Reference, good: Waves, monkeypatch: pytest.MonkeyPatch
) -> None:
    def told() -> str | None:
        return metrics.lacking("mos", controls=(), prepare={})

    if opinions.installed():
        noise = 0.1 * torch.randn(good.samples.shape, generator=torch.Generator().manual_seed(0))
        few = slice(4)
        near, far = reference.measure(good.rows(few)), reference.measure(changed(good, noise).rows(few))
        assert told() is None and 1 <= far["mos"] < near["mos"] <= 5
    monkeypatch.setattr(opinions, "installed", lambda: False)
    assert "pip install speechmos" in str(told()) and "mos" not in reference.measure(good.rows(slice(2)))


def test_what_lies_behind_the_end_of_a_sound_counts_nowhere(reference: metrics.Reference, good: Waves) -> None:
    short = Waves(good.samples.clone(), good.lengths // 2)
    short.samples[:, 2000:] = 0
    noisy = Waves(short.samples.clone(), short.lengths)
    noisy.samples[:, 2000:] = 1.0
    assert reference.measure(short) == reference.measure(noisy)


def test_where_a_sound_stands_tells_a_copy_and_what_is_unlike_any(reference: metrics.Reference, good: Waves) -> None:
    copied = reference.placed(reference.train.batch(torch.arange(5)))
    assert copied.alone_N.max() < 0.01 and copied.far_N.max() < 0.01
    noise = changed(good, torch.randn(good.samples.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    real = reference.placed(reference.real(40))
    assert reference.placed(noise).far_N.min() > real.far_N.max()


def test_sounds_like_rejected_ones_are_told_from_real_ones(reference: metrics.Reference, good: Waves) -> None:
    noise = changed(good, torch.randn(good.samples.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    half = len(noise) // 2
    bad, others = noise.rows(slice(half)), noise.rows(slice(half, None))
    assert reference.like_rejected(others, bad) > 0.95
    assert reference.like_rejected(good, bad) < 0.05 and reference.like_rejected(None, bad) < 0.05
