"""Each augmentation step against a known answer; all of them draw from the generator alone."""

import pytest
import torch
from torch import Tensor

from components.modalities.image.augment import STEPS, Augment
from components.modalities.image.batch import Images

EVERY = [{"flip": "horizontal"}, {"shift": 2}, {"crop": 12}, {"rotate": 10}, {"cutout": 6}, {"noise": 0.05}]


def changed(pixels: Tensor, *steps: dict[str, object], seed: int = 0) -> Tensor:
    size = pixels.shape[-1]
    images = Augment(steps, size=size)(Images(pixels), torch.Generator().manual_seed(seed))  # type: ignore[arg-type]
    assert images.pixels.shape == pixels.shape
    return images.pixels


def delta(rows: int = 64, size: int = 16) -> Tensor:
    """Black pictures with one white pixel in the middle."""
    pixels = torch.full((rows, 1, size, size), -1.0)
    pixels[:, :, size // 2, size // 2] = 1
    return pixels


def noise(rows: int = 64, channels: int = 3, size: int = 16) -> Tensor:
    return torch.rand(rows, channels, size, size, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize(("way", "axis"), [("horizontal", 3), ("vertical", 2)])
def test_flip_turns_about_half_the_rows_and_leaves_the_rest(way: str, axis: int) -> None:
    pixels = noise(400)
    flipped = changed(pixels, {"flip": way})
    turned = (flipped == pixels.flip(axis)).flatten(1).all(1)
    kept = (flipped == pixels).flatten(1).all(1)
    assert bool((turned ^ kept).all()) and 150 < int(turned.sum()) < 250


def test_shift_moves_by_at_most_its_reach_and_by_all_of_it() -> None:
    places = (changed(delta(512), {"shift": 2})[:, 0] > 0).nonzero()[:, 1:] - 8
    assert len(places) == 512 and {tuple(place) for place in places.tolist()} == {
        (down, right) for down in range(-2, 3) for right in range(-2, 3)
    }


def test_what_shift_brings_in_is_black() -> None:
    moved = changed(torch.ones(64, 1, 8, 8), {"shift": 3})
    assert set(moved.unique().tolist()) == {-1.0, 1.0} and bool((moved[:, :, 3:5, 3:5] == 1).all())


def test_crop_enlarges_a_window() -> None:
    assert torch.allclose(changed(torch.full((8, 3, 16, 16), 0.3), {"crop": 8}), torch.tensor(0.3))
    ramp = torch.linspace(-1, 1, 16).expand(64, 1, 16, 16).contiguous()
    slopes = changed(ramp, {"crop": 8}).diff(dim=3)[..., 2:-2].mean((1, 2, 3))
    assert torch.allclose(slopes, torch.tensor(1 / 15), atol=1e-4)  # half of 2 / 15


def test_rotate_keeps_a_disc_and_moves_what_is_off_centre_by_the_angle() -> None:
    y, x = torch.meshgrid(torch.arange(32) - 15.5, torch.arange(32) - 15.5, indexing="ij")
    disc = (((x**2 + y**2) < 100).float() * 2 - 1).expand(16, 1, 32, 32)
    assert (changed(disc, {"rotate": 30}) - disc).abs().mean() < 0.05
    spot = ((((x - 10) ** 2 + y**2) < 6).float() * 2 - 1).expand(200, 1, 32, 32)
    mass = changed(spot, {"rotate": 30})[:, 0] + 1
    angle = torch.atan2((mass * y).sum((1, 2)), (mass * x).sum((1, 2))).rad2deg()
    assert 25 < float(angle.abs().max()) < 31 and float(angle.min()) < -20 and float(angle.max()) > 20


def test_cutout_blackens_exactly_its_square() -> None:
    holes = changed(torch.ones(64, 3, 16, 16), {"cutout": 6}) == -1
    assert bool((holes.sum((2, 3)) == 36).all()) and bool((holes[:, 0] == holes[:, 2]).all())
    assert len({tuple(hole.nonzero()[0].tolist()) for hole in holes[:, 0]}) > 20
    assert bool((holes.any(2).sum(2) == 6).all()) and bool((holes.any(3).sum(2) == 6).all())


def test_noise_has_its_deviation_and_stays_in_range() -> None:
    assert changed(torch.zeros(64, 1, 32, 32), {"noise": 0.05}).std() == pytest.approx(0.05, rel=0.02)
    assert changed(torch.ones(8, 1, 8, 8), {"noise": 0.5}).max() <= 1


@pytest.mark.parametrize("step", EVERY, ids=lambda step: next(iter(step)))
def test_a_step_is_a_function_of_its_generator_and_changes_something(step: dict[str, object]) -> None:
    pixels = noise()
    before = pixels.clone()
    assert torch.equal(changed(pixels, step), changed(pixels, step))
    assert not torch.equal(changed(pixels, step), changed(pixels, step, seed=1))
    assert torch.equal(pixels, before)
    torch.manual_seed(0)
    state = torch.get_rng_state()
    changed(pixels, step)
    assert torch.equal(torch.get_rng_state(), state)


def test_steps_run_in_order_and_labels_stay() -> None:
    labels = torch.arange(4)
    images = Augment(EVERY, size=16)(Images(noise(4), labels), torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    assert images.labels is labels and images.pixels.abs().max() <= 1
    last = changed(torch.ones(4, 1, 16, 16), {"noise": 0.1}, {"cutout": 4})
    assert bool(((last == -1).sum((1, 2, 3)) == 16).all())


def test_every_step_is_covered_here() -> None:
    assert {next(iter(step)) for step in EVERY} == set(STEPS)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"flop": 1}, "unknown augment step 'flop'; did you mean 'flip'"),
        ({"flip": "sideways"}, "horizontal or vertical"),
        ({"shift": 0}, "from 1 to 15"),
        ({"shift": 2.5}, "whole number of pixels"),
        ({"crop": 16}, "from 2 to 15"),
        ({"cutout": True}, "cutout is True"),
        ({"noise": 2}, "from 1e-06 to 1"),
        ({"rotate": "10"}, "rotate is '10'"),
        ({"rotate": float("nan")}, "rotate is nan"),
        ({}, "one name and one value"),
        ({"shift": 1, "crop": 8}, "one name and one value"),
    ],
)
def test_a_mistaken_step_is_named(step: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Augment([step], size=16)  # type: ignore[list-item]
