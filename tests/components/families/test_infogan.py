import math

import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.distributions import Categorical, Normal, Uniform

from components.errors import AtelierError
from components.families import infogan
from components.modalities.image.batch import Images, ImageSpec
from tests.components.families.family_contract import FamilyContract
from tests.components.families.image_rows import blobs

SPEC = ImageSpec(channels=1, size=8)


class TestInfogan(FamilyContract):
    family = "infogan"
    config = {"latent_dim": 4, "categories": 3, "width": 4, "hidden": 8, "discriminator_lr": 0.002}
    spec = SPEC
    falling = "discriminator/loss"

    def real(self, count: int) -> Images:
        return blobs(count)


def model(**config: object) -> infogan.Model:
    torch.manual_seed(0)
    return infogan.Model(infogan.Config(**({"latent_dim": 4, "categories": 3, "width": 4, "hidden": 8} | config)), SPEC)


def loss(family: infogan.Model, phase: str) -> infogan.Loss:
    return family.loss(phase, blobs(8), step=0, generator=torch.Generator().manual_seed(0))


def test_the_bound_is_entropy_plus_log_likelihood() -> None:
    """Eq. 5 of the paper, term by term from torch's own distributions."""
    family, generator = model(), torch.Generator().manual_seed(0)
    said = infogan.Said(*(torch.randn(5, size, generator=generator) for size in (3, 2, 2)))
    codes = infogan.Codes(torch.tensor([0, 1, 2, 1, 0]), 2 * torch.rand(5, 2, generator=generator) - 1)
    read = family._read(said, codes)
    code = Categorical(logits=torch.zeros(3)).entropy() + Categorical(logits=said.logits_BK).log_prob(codes.codes_B)
    style = Normal(said.mean_BS, (said.log_variance_BS / 2).exp()).log_prob(codes.styles_BS)
    torch.testing.assert_close(read["code_nats"], code.mean())
    torch.testing.assert_close(read["style_nats"], (style + Uniform(-1.0, 1.0).entropy()).sum(1).mean())


def test_a_code_that_is_fully_recovered_and_one_that_is_not_at_all() -> None:
    family = model()
    codes = infogan.Codes(torch.arange(3).repeat(1000), torch.linspace(-1, 1, 3000)[:, None].expand(-1, 2))
    nothing, level = torch.zeros(3000, 2), torch.zeros(3000, 3)
    exact = family._read(infogan.Said(100 * torch.eye(3).repeat(1000, 1), codes.styles_BS, nothing), codes)
    assert (exact["code_nats"].item(), exact["code_accuracy"].item()) == pytest.approx((math.log(3), 1))
    assert exact["style_r2"].item() == 1
    blind = family._read(infogan.Said(level, nothing, nothing), codes)
    assert blind["code_nats"].item() == pytest.approx(0, abs=1e-5)
    assert blind["code_accuracy"].item() == pytest.approx(1 / 3)
    assert blind["style_r2"].item() == pytest.approx(0, abs=2e-3)


def test_both_phases_lower_their_loss_by_the_weighted_bound() -> None:
    for phase in ("discriminator", "generator"):
        plain = loss(model(code_weight=0, style_weight=0), phase)
        weighted = loss(model(code_weight=2, style_weight=0.5), phase)
        read = loss(model(), "generator").parts  # the same codes and noise
        gained = 2 * read["code_nats"] + 0.5 * read["style_nats"]
        torch.testing.assert_close(weighted.total, plain.total - gained)
        torch.testing.assert_close(plain.total, plain.parts["loss"])


def test_an_undecided_discriminator_costs_two_log_two() -> None:
    family = model()
    nn.init.zeros_(family.discriminator.head.weight)
    nn.init.zeros_(family.discriminator.head.bias)
    assert loss(family, "discriminator").parts["loss"].item() == pytest.approx(2 * math.log(2))
    assert loss(family, "generator").parts["loss"].item() == pytest.approx(math.log(2))


def test_training_makes_the_code_readable_and_without_the_bound_it_is_not() -> None:
    def accuracy(**config: object) -> float:
        curves = TestInfogan().run(model(discriminator_lr=0.002, **config), 150).curves
        return sum(value for _, _, value in curves["generator/code_accuracy"][-30:]) / 30

    assert accuracy() > 0.8
    assert accuracy(code_weight=0, style_weight=0) < 0.6


def test_codes_and_styles_asked_for_reach_the_generator_and_the_noise_stays() -> None:
    family, seen = model().eval(), []
    family.average.register_forward_hook(lambda layer, given, made: seen.append(given[0]))
    asked = [
        infogan.Controls(),
        infogan.Controls(code=2, style=-1.5),
        infogan.Controls(code=0, style_2=2.0, truncation=0.5),
    ]
    family.sample([7, 7, 7], controls=asked)
    plain, coded, truncated = seen[0][:3]
    assert torch.equal(plain[:4], coded[:4])
    assert torch.equal(plain[:4] / 2, truncated[:4])
    assert coded[4:8].tolist() == [0, 0, 1, -1.5]
    assert coded[8] == plain[8]
    assert truncated[4:7].tolist() == [1, 0, 0]
    assert truncated[8] == 2
    assert truncated[7] == plain[7]


def test_what_seeds_draw_is_uniform() -> None:
    family, seen = model().eval(), []
    family.average.register_forward_hook(lambda layer, given, made: seen.append(given[0]))
    family.sample(range(2000), controls=[infogan.Controls()] * 2000)
    drawn = torch.cat(seen)
    assert drawn[:, 4:7].mean(0).tolist() == pytest.approx([1 / 3] * 3, abs=0.04)
    for style in drawn[:, 7:].T:
        shares = torch.histc(style, 4, -1, 1) / 2000
        assert shares.tolist() == pytest.approx([0.25] * 4, abs=0.04)
        assert style.abs().max() <= 1


def test_controls_that_the_model_cannot_honour_are_refused() -> None:
    with pytest.raises(AtelierError, match="code is 3, but this infogan has 3 categories: choose 0 to 2"):
        model().refuse(infogan.Controls(code=3))
    with pytest.raises(AtelierError, match=r"style_2 is 0\.5, but this infogan has one continuous code"):
        model(styles=1).refuse(infogan.Controls(style_2=0.5))
    for controls in (infogan.Controls(), infogan.Controls(code=2, style=-2, style_2=2)):
        model().refuse(controls)
    model(styles=1).refuse(infogan.Controls(style=1))
    for outside in ({"code": -2}, {"style": 2.5}, {"style_2": -2.5}):
        with pytest.raises(ValidationError):
            infogan.Controls(**outside)


def test_a_size_it_cannot_make_and_other_numbers_of_styles_are_refused() -> None:
    with pytest.raises(AtelierError, match="multiple of 4, not 30"):
        infogan.Model(infogan.Config(), ImageSpec(channels=1, size=30))
    with pytest.raises(ValidationError, match="styles"):
        infogan.Config(styles=3)


def test_one_style_trains_and_samples() -> None:
    family = TestInfogan().run(model(styles=1), 3).family.eval()
    low, high = family.sample([1, 1], controls=[infogan.Controls(style=style) for style in (-2, 2)]).pixels
    assert not torch.equal(low, high)
