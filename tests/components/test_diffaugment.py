"""What a discriminator sees is changed, within bounds, and the generator still learns through it."""

import pytest
import torch

from components.diffaugment import Change, changed, shifted, square

POLICY: tuple[Change, ...] = ("color", "translation", "cutout")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def pictures(count: int = 64) -> torch.Tensor:
    return torch.rand(count, 3, 16, 16, generator=generator()) * 2 - 1


def test_no_policy_changes_nothing() -> None:
    pixels = pictures()
    assert changed(pixels, (), generator()) is pixels


@pytest.mark.parametrize("policy", [(change,) for change in POLICY] + [POLICY])
def test_each_row_is_changed_by_itself_and_gradients_pass(policy: tuple[Change, ...]) -> None:
    pixels = pictures(1).expand(32, -1, -1, -1).clone().requires_grad_()
    seen = changed(pixels, policy, generator())
    assert seen.shape == pixels.shape
    assert len({row.numpy().tobytes() for row in seen.detach()}) > 8
    (slope,) = torch.autograd.grad(seen.square().sum(), pixels)
    assert bool((slope.flatten(1).abs().sum(1) > 0).all())


def test_the_same_generator_gives_the_same_changes() -> None:
    assert torch.equal(changed(pictures(), POLICY, generator()), changed(pictures(), POLICY, generator()))


def test_colours_keep_their_bounds() -> None:
    grey = torch.full((512, 3, 4, 4), 0.25)  # neither saturation nor contrast change an even grey
    seen = changed(grey, ("color",), generator())
    assert -0.25 <= float(seen.min()) < -0.2 and 0.7 < float(seen.max()) <= 0.75
    assert float(seen.var(dim=(1, 2, 3)).max()) < 1e-10


def test_a_shift_moves_down_and_right_and_mirrors_the_border() -> None:
    row = torch.arange(16.0).reshape(1, 1, 4, 4)
    down = shifted(row, torch.tensor([[1], [0]]))
    assert down[0, 0, :, 0].tolist() == [4, 0, 4, 8]
    left = shifted(row, torch.tensor([[0], [-1]]))
    assert left[0, 0, 0].tolist() == [1, 2, 3, 2]


def test_a_cutout_is_a_square_of_half_the_side() -> None:
    inside = square(torch.tensor([[0.5, 0.0], [0.5, 0.0]]), 16)
    assert inside[0].sum() == 64 and inside[1].sum() == 16  # at a corner a quarter of it is left
