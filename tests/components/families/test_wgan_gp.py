from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from components.errors import AtelierError
from components.families import wgan_gp
from components.families.wgan_gp import gradient_penalty
from components.modalities.image.batch import Images, ImageSpec
from components.recipe import Train
from components.training import Loop
from tests.components.families.family_contract import FamilyContract
from tests.components.families.image_rows import blobs


class TestWganGp(FamilyContract):
    family = "wgan_gp"
    config = {"latent_dim": 4, "width": 4, "lr": 0.002}
    spec = ImageSpec(channels=1, size=8)
    falling = "critic/loss"

    def real(self, count: int) -> Images:
        return blobs(count)

    def test_the_generator_moves_once_for_all_the_critic_s_steps(self) -> None:
        curves = self.run(self.build(critic_steps=3), 8).curves
        assert [step for step, _, _ in curves["critic/loss"]] == list(range(1, 9))
        assert [step for step, _, _ in curves["generator/loss"]] == [1, 4, 7]

    def test_the_served_average_moves_with_the_generator_only(self) -> None:
        family = self.build(critic_steps=5)
        start = family.average[0].weight.clone()
        nn.init.ones_(family.generator[0].weight)
        family.after_step(5 * 10**6 + 1)
        assert torch.equal(family.average[0].weight, start)
        family.after_step(5 * 10**6)
        kept = wgan_gp.Config().average_decay
        torch.testing.assert_close(family.average[0].weight, kept * start + (1 - kept))

    def test_the_critic_s_loss_is_the_penalty_less_the_distance(self) -> None:
        family, weight = self.build(penalty_weight=3.0), torch.linspace(-1, 1, 64)
        family.critic = linear(weight)
        real, fake = self.real(8).pixels, torch.full((8, 1, 8, 8), 0.25)
        family.generator = Constant(fake)
        loss = family.loss("critic", Images(real), step=0, generator=torch.Generator().manual_seed(0))
        distance = ((real - fake).flatten(1) @ weight).mean()
        penalty = (weight.norm() - 1).square()
        torch.testing.assert_close(loss.parts["distance"], distance, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(loss.total, 3 * penalty - distance, rtol=1e-4, atol=1e-5)
        moved = family.loss("generator", Images(real), step=0, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(moved.total, -(fake.flatten(1) @ weight).mean(), rtol=1e-4, atol=1e-5)

    def test_it_trains_in_reduced_precision_too(self) -> None:
        loop = Loop(self.build(), Train(steps=2, batch_size=8, precision="bf16"))
        for _ in range(2):
            parts = loop.advance(self.real(8))
        assert parts["critic/penalty"].isfinite()
        assert parts["critic/penalty"].dtype == torch.float32

    def test_the_critic_judges_each_row_for_itself(self) -> None:
        family, pixels = self.build().train(), self.real(8).pixels
        torch.testing.assert_close(family.critic(pixels)[2:3], family.critic(pixels[2:3]))

    def build(self, seed: int = 0, **changed: Any) -> Any:
        torch.manual_seed(seed)
        return wgan_gp.Model(wgan_gp.Config.model_validate({**self.config, **changed}), self.spec)


class Constant(nn.Module):
    """The same pictures for whatever latent."""

    def __init__(self, pixels: Tensor) -> None:
        super().__init__()
        self.pixels = pixels

    def forward(self, latent: Tensor) -> Tensor:
        return self.pixels


def linear(weight: Tensor) -> nn.Sequential:
    critic = nn.Sequential(nn.Flatten(), nn.Linear(len(weight), 1), nn.Flatten(0))
    critic[1].weight.data.copy_(weight[None])
    nn.init.zeros_(critic[1].bias)
    return critic


class Square(nn.Module):
    """a |x|^2 / 2, whose slope at x is a |x|."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(0.5))

    def forward(self, pixels: Tensor) -> Tensor:
        return self.a / 2 * pixels.square().flatten(1).sum(dim=1)


def test_the_penalty_is_taken_where_the_share_says_and_reaches_the_critic() -> None:
    critic, real, fake = Square(), torch.full((2, 1, 2, 2), 3.0), torch.full((2, 1, 2, 2), 1.0)
    share = torch.tensor([0.0, 0.25])  # at 1 and at 1.5 in each of 4 places: |x| = 2 and 3
    penalty = gradient_penalty(critic, real, fake, share)
    assert penalty.item() == pytest.approx(((0.5 * 2 - 1) ** 2 + (0.5 * 3 - 1) ** 2) / 2)
    penalty.backward()  # d/da of (a |x| - 1)^2
    assert critic.a.grad.item() == pytest.approx((2 * (0.5 * 2 - 1) * 2 + 2 * (0.5 * 3 - 1) * 3) / 2, rel=1e-5)


def test_a_flat_critic_is_told_so_with_a_finite_gradient() -> None:
    critic = linear(torch.zeros(4))
    penalty = gradient_penalty(critic, torch.ones(2, 1, 2, 2), torch.zeros(2, 1, 2, 2), torch.tensor([0.5, 0.1]))
    penalty.backward()
    assert penalty.item() == pytest.approx(1, abs=1e-5)
    assert critic[1].weight.grad.isfinite().all()


def test_training_brings_the_critic_near_slope_one() -> None:
    contract = TestWganGp()
    family = contract.run(contract.build(critic_steps=5), 60).family
    real, noise = blobs(32).pixels, torch.randn(32, 4, generator=torch.Generator().manual_seed(0))
    penalty = gradient_penalty(family.critic, real, family.generator(noise).detach(), torch.full((32,), 0.5))
    assert penalty.item() < 0.1


@pytest.mark.parametrize(("size", "start"), [(8, 4), (20, 5), (28, 7), (32, 4), (64, 4)])
def test_sizes_that_it_can_make_come_out_as_they_were_asked_for(size: int, start: int) -> None:
    family = wgan_gp.Model(wgan_gp.Config(latent_dim=4, width=2), ImageSpec(channels=3, size=size)).eval()
    pixels = family.sample([1], controls=[wgan_gp.Controls()]).pixels
    assert pixels.shape == (1, 3, size, size)
    assert family.generator[1].unflattened_size[1] == start
    assert family.critic(pixels.clone()).shape == (1,)


@pytest.mark.parametrize("size", [4, 7, 9, 18, 30, 36])
def test_a_size_it_cannot_make_is_refused(size: int) -> None:
    with pytest.raises(AtelierError, match=f"prepare.size must be one of 8, .*not {size}"):
        wgan_gp.Model(wgan_gp.Config(), ImageSpec(channels=1, size=size))


@pytest.mark.parametrize("wrong", [{"critic_steps": 0}, {"penalty_weight": 0}, {"beta2": 1}])
def test_settings_out_of_range_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        wgan_gp.Config.model_validate(wrong)
