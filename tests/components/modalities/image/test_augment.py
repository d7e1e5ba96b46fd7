import pytest
import torch

from components.modalities.image.augment import BLACK, STEPS, Augment
from components.modalities.image.batch import Images

SIZE = 16
EXAMPLES = {"flip": "horizontal", "shift": 2, "crop": 12, "rotate": 10, "cutout": 5, "noise": 0.05}


def changed(name: str, value: object, pixels: torch.Tensor, seed: int = 0) -> torch.Tensor:
    step = Augment([{name: value}], size=SIZE)  # type: ignore[dict-item]
    return step(Images(pixels), torch.Generator().manual_seed(seed)).pixels


def delta(count: int) -> torch.Tensor:
    pixels = torch.full((count, 1, SIZE, SIZE), BLACK)
    pixels[:, :, 8, 8] = 1
    return pixels


def test_every_step_has_an_example_here() -> None:
    assert EXAMPLES.keys() == STEPS.keys()


@pytest.mark.parametrize("name", STEPS)
def test_a_step_keeps_the_shape_and_is_a_function_of_its_generator(name: str) -> None:
    pixels = torch.rand(32, 3, SIZE, SIZE) * 2 - 1
    one, same, other = (changed(name, EXAMPLES[name], pixels, seed) for seed in (0, 0, 1))
    assert one.shape == pixels.shape
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    assert not torch.equal(one, pixels)


def test_flip_turns_about_half_the_rows_around() -> None:
    pixels = torch.rand(1000, 1, 4, SIZE)
    flipped = changed("flip", "horizontal", pixels)
    turned = (flipped == pixels.flip(3)).all(dim=(1, 2, 3))
    kept = (flipped == pixels).all(dim=(1, 2, 3))
    assert bool((turned | kept).all())
    assert 430 < int(turned.sum()) < 570
    upside = changed("flip", "vertical", torch.rand(8, 1, SIZE, SIZE))
    assert upside.shape == (8, 1, SIZE, SIZE)


def test_shift_moves_every_way_by_as_much_as_it_says_and_no_further() -> None:
    places = (changed("shift", 2, delta(400)) == 1).nonzero()[:, 2:] - 8
    assert len(places) == 400
    assert places.min() == -2
    assert places.max() == 2


def test_crop_magnifies() -> None:
    pixels = torch.full((1, 1, SIZE, SIZE), BLACK)
    pixels[..., 6:10, 6:10] = 1
    assert (changed("crop", 8, pixels.expand(50, -1, -1, -1)) > 0).float().mean() > 2 * (pixels > 0).float().mean()


def test_rotation_keeps_a_disc_and_turns_a_bar() -> None:
    place = torch.arange(SIZE) - (SIZE - 1) / 2
    disc = torch.where(place[:, None] ** 2 + place**2 < 25, 1.0, BLACK).expand(20, 1, SIZE, SIZE)
    bar = torch.full((20, 1, SIZE, SIZE), BLACK)
    bar[..., 7:9, :] = 1
    assert (changed("rotate", 45, disc) - disc).abs().mean() < 0.1
    assert (changed("rotate", 45, bar) - bar).abs().mean() > 0.1
    assert changed("rotate", 45, bar).min() >= BLACK - 1e-5


def test_cutout_blackens_one_whole_square() -> None:
    holes = changed("cutout", 5, torch.ones(100, 1, SIZE, SIZE)) == BLACK
    assert holes.sum(dim=(1, 2, 3)).tolist() == [25] * 100
    assert holes.any(dim=2).sum(dim=(1, 2)).tolist() == [5] * 100


def test_noise_has_the_stated_deviation() -> None:
    assert changed("noise", 0.05, torch.zeros(100, 1, SIZE, SIZE)).std().item() == pytest.approx(0.05, rel=0.03)


def test_steps_run_in_order_and_keep_labels() -> None:
    labels = torch.arange(4)
    both = Augment([{"noise": 0.5}, {"cutout": 8}], size=SIZE)
    out = both(Images(torch.ones(4, 1, SIZE, SIZE), labels), torch.Generator().manual_seed(0))
    assert torch.equal(out.labels, labels)  # type: ignore[arg-type]
    assert (out.pixels == BLACK).sum().item() == 4 * 64
