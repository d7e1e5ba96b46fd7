import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from components.errors import AtelierError
from components.families import stylegan2
from components.modalities.image.batch import Images, ImageSpec
from tests.components.families.family_contract import FamilyContract, _same_state
from tests.components.families.image_rows import blobs

SPEC = ImageSpec(channels=1, size=8)
SMALL = {
    "latent_dim": 4,
    "width": 4,
    "r1_every": 4,
    "r1_weight": 0.01,
    "path_weight": 2,
    "style_mixing": 0.9,
    "lr": 0.01,
    "mapping_lr_multiplier": 0.01,
}


class TestStylegan2(FamilyContract):
    family = "stylegan2"
    config = SMALL
    spec = SPEC
    falling = "discriminator/loss"

    def real(self, count: int) -> Images:
        return blobs(count)

    def test_every_phase_comes_when_it_is_due(self) -> None:
        curves = self.run(self.build(), 9).curves  # a reading a step: none holds what came before it
        assert [step for step, _, _ in curves["r1/penalty"]] == [1, 5, 9]
        assert [step for step, _, _ in curves["path/penalty"]] == [1, 5, 9]

    def test_noise_of_a_row_comes_from_its_own_seed(self) -> None:
        family = self.build().eval()
        for layer in family.average.bends:
            nn.init.ones_(layer.noise_strength)
        still = [self.control(truncation=0)] * 3  # one style for all: only the noise is left to differ
        one, other, again = family.sample([1, 2, 1], controls=still).pixels
        assert torch.equal(one, again)
        assert not torch.equal(one, other)

    def test_truncation_goes_along_the_line_from_the_mean_style(self) -> None:
        family = self.build().eval()
        styles: list[torch.Tensor] = []
        family.average.bends[0].register_forward_pre_hook(lambda _, given: styles.append(given[1].clone()))
        nn.init.normal_(family.average.mean_style, generator=torch.Generator().manual_seed(0))
        for psi in (0.0, 0.5, 1.0, 2.0):
            family.sample([3], controls=[self.control(truncation=psi)])
        none, half, whole, double = styles
        torch.testing.assert_close(none, family.average.mean_style.expand_as(none))
        torch.testing.assert_close(half, (none + whole) / 2)
        torch.testing.assert_close(double, 2 * whole - none)

    def test_the_mean_style_follows_the_mapping_and_is_served(self) -> None:
        family = self.run(self.build(), 2).family
        assert family.average.mean_style.abs().sum() > 0
        assert torch.equal(family.average.mean_style, family.generator.mean_style)

    def test_an_undecided_discriminator_costs_two_log_two(self) -> None:
        family = self.build()
        last = family.discriminator[-2]
        nn.init.zeros_(last.weight)
        loss = family.loss("discriminator", self.real(8), step=0, generator=torch.Generator()).total
        assert loss.item() == pytest.approx(2 * math.log(2), rel=1e-6)

    def test_r1_of_a_linear_discriminator_is_half_its_squared_weight(self) -> None:
        family = self.build(r1_weight=3.0, r1_every=5)
        family.discriminator = nn.Sequential(nn.Flatten(), nn.Linear(64, 1), nn.Flatten(0))
        loss = family.loss("r1", self.real(8), step=0, generator=torch.Generator())
        expected = family.discriminator[1].weight.square().sum().item()
        assert loss.parts["penalty"].item() == pytest.approx(expected, rel=1e-5)
        assert loss.total.item() == pytest.approx(expected * 3.0 / 2 * 5, rel=1e-5)

    def test_mixing_changes_styles_from_some_layer_on_and_never_without_it(self) -> None:
        like, layers = torch.zeros(1), self.build().generator.layers
        styles, _ = self.build(style_mixing=1)._inputs(like, 64, torch.Generator().manual_seed(0))
        changes = (styles[:, 1:] != styles[:, :-1]).any(dim=2)
        assert changes.sum(dim=1).tolist() == [1] * 64
        assert changes.any(dim=0).sum() == layers - 1  # at every layer for some row
        plain, _ = self.build(style_mixing=0)._inputs(like, 64, torch.Generator().manual_seed(0))
        assert torch.equal(plain, plain[:, :1].expand_as(plain))

    def test_a_phase_without_weight_is_left_out(self) -> None:
        names = [phase.name for phase in self.build(r1_weight=0, path_weight=0).phases()]
        assert names == ["discriminator", "generator"]

    def test_lazy_phases_slow_their_optimizer(self) -> None:
        groups = {name: o.param_groups[0] for name, o in self.build(r1_every=4, path_weight=0).optimizers().items()}
        lr = SMALL["lr"]
        assert groups["discriminator"]["lr"] == pytest.approx(lr * 4 / 5)
        assert groups["discriminator"]["betas"] == pytest.approx((0, 0.99**0.8))
        assert (groups["generator"]["lr"], groups["generator"]["betas"]) == (lr, (0, 0.99))

    def build(self, seed: int = 0, **changed: Any) -> Any:
        torch.manual_seed(seed)
        return stylegan2.Model(stylegan2.Config.model_validate({**self.config, **changed}), self.spec)


class TestAugmentedStylegan2(FamilyContract):
    family = "stylegan2"
    config = {**SMALL, "adaptive_augment": True, "augment_rows": 10_000}
    spec = SPEC
    falling = "discriminator/loss"

    def real(self, count: int) -> Images:
        return blobs(count)

    def test_its_probability_is_part_of_what_a_cut_off_run_resumes(self, tmp_path: Any) -> None:
        def build() -> Any:
            torch.manual_seed(0)
            quick = {**self.config, "augment_rows": 320, "augment_target": -0.9}
            return stylegan2.Model(stylegan2.Config.model_validate(quick), self.spec)

        undisturbed = self.run(build(), 14).family
        assert 0.05 < undisturbed.augment.probability < stylegan2.NOT_LEAKING
        self.run(build(), 10, job="job", checkpoints=tmp_path)  # amid the steps of one measure
        assert _same_state(undisturbed, self.run(build(), 14, job="job", checkpoints=tmp_path).family)


def augment(probability: float, **settings: Any) -> stylegan2.Augment:
    found = stylegan2.Augment(stylegan2.Config(**settings))
    found.probability.fill_(probability)
    return found


def test_modulation_is_that_of_the_weights_and_outputs_keep_their_scale() -> None:
    torch.manual_seed(0)
    layer = stylegan2.Modulated(3, 5, 3, 4)
    hidden, style = torch.randn(2, 3, 6, 6), torch.randn(2, 4)
    out, factor = layer(hidden, style)
    for row in range(2):
        weight = layer.scale * layer.weight * layer.style(style)[row][None, :, None, None]  # eq. 1
        weight = weight / (weight.square().sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()  # eq. 3
        expected = F.conv2d(hidden[row : row + 1], weight, padding=1)
        torch.testing.assert_close((out * factor)[row : row + 1], expected, atol=1e-5, rtol=1e-4)


def test_filters_keep_flat_pictures_flat_and_halve_what_they_doubled() -> None:
    flat = torch.full((1, 2, 8, 8), 3.0)
    assert stylegan2.Filter(up=True)(flat)[:, :, 2:-2, 2:-2].unique().tolist() == pytest.approx([3.0])
    assert stylegan2.Filter(down=True)(flat)[:, :, 1:-1, 1:-1].unique().tolist() == pytest.approx([3.0])
    up = stylegan2.Modulated(2, 2, 3, 4, up=True)
    assert up(flat, torch.zeros(1, 4))[0].shape == (1, 2, 16, 16)


def test_path_length_of_a_linear_generator_is_that_of_its_matrix() -> None:
    torch.manual_seed(0)
    matrix, styles = torch.randn(3, 16), torch.randn(2, 5, 3, requires_grad=True)
    images = (styles.sum(dim=1) @ matrix).view(2, 1, 4, 4)
    noise = torch.randn(2, 1, 4, 4)
    lengths = (noise.view(2, 16) @ matrix.T / 4).norm(dim=1)  # the same at every layer; sqrt of 4 x 4 pixels
    path = stylegan2.PathLength()
    penalty, mean = path(images, styles, noise)  # the mean starts at what comes first
    assert path.mean.item() == mean.item() == pytest.approx(lengths.mean().item(), rel=1e-5)
    assert penalty.item() == pytest.approx(lengths.var(correction=0).item(), rel=1e-4)
    penalty, _ = path(2 * images, styles, noise)  # twice as long
    average = (0.99 + 0.01 * 2) * lengths.mean()
    assert path.mean.item() == pytest.approx(average.item(), rel=1e-5)
    assert penalty.item() == pytest.approx((2 * lengths - average).square().mean().item(), rel=1e-5)


def test_rows_that_are_all_alike_are_seen_to_be() -> None:
    same, other = torch.ones(4, 2, 3, 3), torch.zeros(4, 2, 3, 3)
    other[0] += 1  # deviation of (1, 0, 0, 0): sqrt(3) / 4
    assert stylegan2.Likeness()(same)[:, 2].unique().tolist() == pytest.approx([0], abs=2e-4)
    assert stylegan2.Likeness()(other)[:, 2].unique().tolist() == pytest.approx([math.sqrt(3) / 4], rel=1e-4)


def test_augmentation_is_none_at_zero_and_some_of_each_at_more() -> None:
    pixels = torch.rand(64, 1, 16, 16, generator=torch.Generator().manual_seed(0)) + 1
    assert torch.equal(augment(0.0)(pixels, torch.Generator().manual_seed(1)), pixels)
    changed = augment(0.8)(pixels, torch.Generator().manual_seed(1))
    cut = (changed == 0).flatten(1).any(dim=1)
    assert 0.6 < cut.float().mean() < 0.95
    whole = [row for row in range(64) if not cut[row]]
    flipped = [row for row in whole if torch.equal(changed[row], pixels[row].flip(2))]
    assert 0 < len(flipped) < len(whole)
    assert any(not torch.equal(changed[row], pixels[row]) for row in set(whole) - set(flipped))  # shifted


def test_gradients_pass_through_augmentation_twice() -> None:
    pixels = torch.rand(4, 1, 8, 8, dtype=torch.double, requires_grad=True)
    changed = augment(0.8)(pixels, torch.Generator().manual_seed(2))
    (gradient,) = torch.autograd.grad((changed**2).sum(), pixels, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), pixels)
    assert second.unique().tolist() != [0]
    assert gradient.sum() > 0


def test_the_probability_rises_while_real_rows_are_told_too_well_and_falls_otherwise() -> None:
    adaptive = augment(0.0, augment_rows=100, augment_target=0.6)
    sure, unsure = torch.ones(5), torch.tensor([1.0, 1, 1, -1, -1])  # mean signs of 1 and 0.2
    probabilities = []
    for step, rows in enumerate([sure] * 8 + [unsure] * 4):
        adaptive.adapt(rows, step)
        probabilities.append(round(adaptive.probability.item(), 4))
    assert probabilities == [0, 0, 0, 0.2, 0.2, 0.2, 0.2, 0.4, 0.4, 0.4, 0.4, 0.2]
    for step in range(40):
        adaptive.adapt(sure, step)
    assert adaptive.probability.item() == pytest.approx(stylegan2.NOT_LEAKING)


@pytest.mark.parametrize(("size", "start"), [(8, 4), (14, 7), (28, 7), (32, 4), (64, 4)])
def test_sizes_that_it_can_make_come_out_as_they_were_asked_for(size: int, start: int) -> None:
    torch.manual_seed(0)
    config = stylegan2.Config(latent_dim=4, width=2, max_width=8)
    family = stylegan2.Model(config, ImageSpec(channels=3, size=size)).eval()
    pixels = family.sample([1], controls=[stylegan2.Controls()]).pixels
    assert pixels.shape == (1, 3, size, size)
    assert family.generator.start.shape[1] == start
    assert family.discriminator(pixels.clone().expand(4, -1, -1, -1)).shape == (4,)


@pytest.mark.parametrize("size", [4, 7, 12, 30])
def test_a_size_it_cannot_make_is_refused(size: int) -> None:
    with pytest.raises(AtelierError, match=f"prepare.size must be 8, 16.*not {size}"):
        stylegan2.Model(stylegan2.Config(), ImageSpec(channels=1, size=size))
