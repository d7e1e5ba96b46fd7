"""Each augmentation step against a known answer; both draw from the generator alone and lose no sound."""

import pytest
import torch

from components.modalities.audio.augment import STEPS, Augment
from components.modalities.audio.batch import Waves

EVERY = [{"gain": 6}, {"shift": 0.5}]


def changed(waves: Waves, *steps: dict[str, object], seed: int = 0) -> Waves:
    return Augment(steps, rate=8)(waves, torch.Generator().manual_seed(seed))  # type: ignore[arg-type]


def pulses(rows: int = 400, length: int = 3, width: int = 10) -> Waves:
    """Rows of `length` samples of a tenth in windows of `width`."""
    samples = (torch.arange(width) < length).float().expand(rows, width) / 10
    return Waves(samples, torch.full((rows,), length), places=torch.arange(rows))


def test_gain_is_even_in_decibels() -> None:
    decibels = 20 * torch.log10(changed(pulses(4000), {"gain": 6}).samples[:, 0] * 10)
    assert decibels.min() >= -6.001 and decibels.max() <= 6.001
    assert abs(decibels.mean()) < 0.2 and decibels.std() == pytest.approx(12 / 12**0.5, rel=0.05)


def test_gain_stops_where_a_row_would_clip_and_leaves_silence_alone() -> None:
    loud = Waves(torch.full((200, 4), -0.9), torch.full((200,), 4))
    assert changed(loud, {"gain": 24}).samples.min() == pytest.approx(-1)
    silent = Waves(torch.zeros(3, 4), torch.full((3,), 4))
    assert not changed(silent, {"gain": 24}).samples.any()


def test_shift_moves_later_by_each_offset_there_is_room_for() -> None:
    moved = changed(pulses(), {"shift": 0.5})  # 4 samples at 8 Hz; there would be room for 7
    offsets = moved.lengths - 3
    assert set(offsets.tolist()) == {0, 1, 2, 3, 4} and moved.places is None
    for row, offset in zip(moved.samples, offsets.tolist(), strict=True):
        assert row.nonzero().flatten().tolist() == [offset, offset + 1, offset + 2]
    assert set((changed(pulses(length=8), {"shift": 9}).lengths - 8).tolist()) == {0, 1, 2}


def test_a_full_window_is_not_moved() -> None:
    full = pulses(length=10)
    assert torch.equal(changed(full, {"shift": 1}).samples, full.samples)


@pytest.mark.parametrize("step", EVERY, ids=lambda step: next(iter(step)))
def test_a_step_is_a_function_of_its_generator_and_changes_something(step: dict[str, object]) -> None:
    waves = pulses()
    before = waves.samples.clone()
    assert torch.equal(changed(waves, step).samples, changed(waves, step).samples)
    assert not torch.equal(changed(waves, step).samples, changed(waves, step, seed=1).samples)
    assert torch.equal(waves.samples, before)


def test_every_step_is_covered_here() -> None:
    assert {next(iter(step)) for step in EVERY} == set(STEPS)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"gian": 1}, "unknown augment step 'gian'; did you mean 'gain'"),
        ({"gain": 0}, "over 0 and up to 24 dB"),
        ({"gain": True}, "gain is True"),
        ({"shift": float("nan")}, "shift is nan"),
        ({"shift": "1"}, "shift is '1'"),
        ({}, "one name and one value"),
    ],
)
def test_a_mistaken_step_is_named(step: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment([step], rate=8000)  # type: ignore[list-item]
