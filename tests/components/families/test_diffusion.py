import math
from collections.abc import Callable

import pytest
import torch

from components.errors import AtelierError
from components.families import diffusion
from components.families.diffusion import noise_levels, solve
from components.modalities.image.batch import Images, ImageSpec
from tests.components.families.family_contract import FamilyContract
from tests.components.families.image_rows import blobs

LABELLED = ImageSpec(channels=1, size=8, classes=("even", "odd"))


class TestDiffusion(FamilyContract):
    family = "diffusion"
    config = {"width": 8, "lr": 0.01}
    spec = ImageSpec(channels=1, size=8)
    falling = "main/loss"

    def real(self, count: int) -> Images:
        return blobs(count)


def model(**config: object) -> diffusion.Model:
    torch.manual_seed(0)
    spec = LABELLED if config.get("conditional") else TestDiffusion.spec
    return diffusion.Model(diffusion.Config(width=8, **config), spec)


def woken(family: diffusion.Model) -> diffusion.Model:
    """The model with every zero weight made random, as after training."""
    for parameter in family.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    return family.eval()


def gaussian(mean: float, deviation: float) -> Callable[[torch.Tensor, float], torch.Tensor]:
    """The best denoiser of data N(mean, deviation^2): the posterior mean."""

    def denoise(noisy: torch.Tensor, sigma: float) -> torch.Tensor:
        return (deviation**2 * noisy + sigma**2 * mean) / (deviation**2 + sigma**2)

    return denoise


def end(start: float, *, mean: float, deviation: float, sigma: float) -> float:
    """Where the ODE of that denoiser leads from `start` at level sigma: the same quantile of the data."""
    return mean + (start - mean) * deviation / math.hypot(deviation, sigma)


@pytest.mark.parametrize(("sampler", "order"), [("ddim", 1), ("heun", 2)])
def test_samplers_follow_the_path_of_a_gaussian_at_their_order(sampler: str, order: int) -> None:
    start = torch.tensor([100.0, -30.0], dtype=torch.float64)
    expected = [end(value, mean=0.3, deviation=0.5, sigma=80) for value in start.tolist()]

    def error(steps: int) -> float:
        found = solve(gaussian(0.3, 0.5), start, noise_levels(steps), sampler=sampler)
        return (found - torch.tensor(expected)).abs().max().item()

    assert math.log2(error(100) / error(200)) == pytest.approx(order, abs=0.15)
    assert error(200) < 0.02


def test_one_step_of_ddim_is_the_denoiser_itself() -> None:
    noisy = torch.tensor([100.0, -30.0])
    torch.testing.assert_close(
        solve(gaussian(0.3, 0.5), noisy, noise_levels(1), sampler="ddim"), gaussian(0.3, 0.5)(noisy, 80.0)
    )


def test_the_untrained_denoiser_is_that_of_gaussian_data() -> None:
    family, noisy = model(data_deviation=0.5).eval(), torch.randn(3, 1, 8, 8)
    for sigma in (0.01, 0.5, 80.0):
        found = family._denoised(noisy, torch.full((3,), sigma), None)
        torch.testing.assert_close(found, gaussian(0, 0.5)(noisy, sigma))


def test_an_untrained_model_draws_gaussian_pictures_of_the_data_s_deviation() -> None:
    family = model(data_deviation=0.2).eval()
    drawn = family.sample([3], controls=[diffusion.Controls(steps=100, truncation=0.5)]).pixels
    noise = torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(drawn[0], 0.2 * 0.5 * noise, atol=2e-3, rtol=0)


def test_the_loss_is_the_denoiser_s_error_times_edm_s_weight() -> None:
    """lambda = (sigma^2 + data^2) / (sigma data)^2, arXiv:2206.00364, table 1, with the denoiser of Gaussian data."""
    batch, generator = blobs(4), torch.Generator().manual_seed(5)
    loss = model().loss("main", batch, step=0, generator=torch.Generator().manual_seed(5)).total
    sigmas = (1.2 * torch.randn(4, generator=generator) - 0.4).exp()
    noise, expected = torch.randn(batch.pixels.shape, generator=generator), []
    for data, one, sigma in zip(batch.pixels, noise, sigmas.tolist(), strict=True):
        error = gaussian(0, 0.7)(data + sigma * one, sigma) - data
        expected.append((sigma**2 + 0.7**2) / (sigma * 0.7) ** 2 * error.square().mean())
    torch.testing.assert_close(loss, torch.stack(expected).mean(), rtol=1e-4, atol=0)


def test_the_loss_of_epsilon_is_the_squared_error_of_the_noise() -> None:
    """An untrained network says no noise, which costs the noise's own square: 1 a pixel."""
    family, generator = model(objective="epsilon"), torch.Generator().manual_seed(5)
    loss = family.loss("main", blobs(64), step=0, generator=torch.Generator().manual_seed(5)).total
    torch.rand(64, generator=generator)
    noise = torch.randn(64, 1, 8, 8, generator=generator)
    torch.testing.assert_close(loss, noise.square().mean(), rtol=1e-4, atol=0)


def test_epsilon_s_levels_are_those_of_ddpm_s_thousand_steps() -> None:
    """sigma^2 = (1 - alpha_bar) / alpha_bar for betas from 1e-4 to 0.02, arXiv:2006.11239, section 4."""
    family = model(objective="epsilon")
    kept = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)).cumprod(0)
    for step in (100, 500, 900):
        sigma = ((1 - kept[step]) / kept[step]).sqrt().float()
        assert family._scales(sigma).time.item() == pytest.approx(step / 1000, abs=0.005)
    drawn = family._levels(20_000, torch.Generator().manual_seed(0))
    assert drawn.median().item() == pytest.approx(((1 - kept[499]) / kept[499]).sqrt().item(), rel=0.05)


def test_epsilon_learns_too_and_its_denoiser_takes_the_noise_away() -> None:
    contract = TestDiffusion()
    contract.config = {**TestDiffusion.config, "objective": "epsilon"}
    family = contract.build()
    curve = [value for _, _, value in contract.run(family, 60).curves["main/loss"]]
    assert sum(curve[-10:]) < 0.7 * sum(curve[:10])
    data, noise = blobs(16).pixels, torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    noisy = data + noise
    found = family.eval()._denoised(noisy, torch.ones(16), None)
    assert (found - data).square().mean() < 0.7 * noise.square().mean()


def test_noise_levels_are_those_of_the_paper() -> None:
    levels = noise_levels(18)
    assert (levels[0], levels[-2], levels[-1]) == (pytest.approx(80), pytest.approx(0.002), 0)
    middle = (80 ** (1 / 7) + 8 / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    assert levels[8] == pytest.approx(middle)
    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("objective", ["edm", "epsilon"])
def test_guidance_of_one_is_the_class_and_more_moves_on(objective: str) -> None:
    family = woken(model(conditional=True, objective=objective))
    asked = [diffusion.Controls(label="odd", guidance=guidance, steps=2) for guidance in (1.0, 1.0, 3.0)]
    drawn = family.sample([1, 1, 1], controls=asked)
    assert torch.equal(drawn.pixels[0], drawn.pixels[1])
    assert not torch.allclose(drawn.pixels[0], drawn.pixels[2])
    assert drawn.labels.tolist() == [1, 1, 1]
    assert torch.equal(family.sample([1], controls=asked[:1]).pixels[0], drawn.pixels[0])


def test_a_conditional_model_learns_which_picture_belongs_to_which_label() -> None:
    contract = TestDiffusion()
    contract.config, contract.spec = {**TestDiffusion.config, "conditional": True, "noise_mean": 1.0}, LABELLED
    bright = torch.where(torch.arange(32) % 2 == 1, 0.8, -0.8)[:, None, None, None].expand(32, 1, 8, 8)
    contract.real = lambda count: Images(bright[:count].clone(), torch.arange(count) % 2)
    family = contract.run(contract.build(), 120).family.eval()
    asked = [diffusion.Controls(label=label, steps=6) for label in ("even", "odd")]
    even, odd = family.sample([1, 2], controls=asked).pixels.mean(dim=(1, 2, 3)).tolist()
    assert even < -0.4
    assert odd > 0.4


def test_samplers_and_steps_reach_the_picture() -> None:
    family = woken(model())
    drawn = [
        family.sample([1], controls=[diffusion.Controls(sampler=sampler, steps=steps)]).pixels
        for sampler, steps in (("heun", 3), ("ddim", 3), ("heun", 4))
    ]
    assert all(not torch.equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i])


def test_what_cannot_be_conditional_is_refused() -> None:
    with pytest.raises(AtelierError, match="have no classes"):
        diffusion.Model(diffusion.Config(conditional=True), TestDiffusion.spec)
    for labels in (None, torch.tensor([0, -1])):
        with pytest.raises(AtelierError, match="has no label"):
            model(conditional=True).loss(
                "main", Images(blobs(2).pixels, labels), step=0, generator=torch.Generator().manual_seed(0)
            )


def test_controls_that_the_model_cannot_honour_are_refused() -> None:
    with pytest.raises(AtelierError, match="unknown label 'od'"):
        model(conditional=True).refuse(diffusion.Controls(label="od"))
    with pytest.raises(AtelierError, match=r"label is 'odd', but .* knows no classes"):
        model().refuse(diffusion.Controls(label="odd"))
    with pytest.raises(AtelierError, match=r"guidance is 2\.0, but .* knows no classes"):
        model().refuse(diffusion.Controls(guidance=2))
    model().refuse(diffusion.Controls())
    model(conditional=True).refuse(diffusion.Controls(label="odd", guidance=2))


def test_a_size_it_cannot_make_is_refused() -> None:
    with pytest.raises(AtelierError, match="multiple of 4, not 30"):
        diffusion.Model(diffusion.Config(), ImageSpec(channels=1, size=30))
