import math
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from components.errors import AtelierError
from components.families import vae
from components.modalities.image.batch import Images, ImageSpec
from tests.components.families.family_contract import FamilyContract
from tests.components.families.image_rows import blobs

LABELLED = ImageSpec(channels=1, size=8, classes=("left", "right"))


class TestVae(FamilyContract):
    family = "vae"
    config = {"latent_dim": 4, "width": 4, "hidden": 16, "lr": 0.01}
    spec = ImageSpec(channels=1, size=8)
    falling = "main/bound"

    def real(self, count: int) -> Images:
        return blobs(count)

    def test_divergence_of_a_standard_normal_is_zero_and_of_a_shifted_one_half_its_square(self) -> None:
        zero = torch.zeros(3, 5)
        assert vae._divergence_nats(zero, zero).item() == 0
        assert vae._divergence_nats(zero + 2, zero).item() == pytest.approx(5 * 2**2 / 2)
        assert vae._divergence_nats(zero, zero + math.log(4)).item() == pytest.approx(5 * 0.5 * (4 - 1 - math.log(4)))

    def test_reconstruction_of_an_undecided_decoder_is_log_two_a_pixel(self) -> None:
        logits, pixels = torch.zeros(2, 1, 8, 8), torch.rand(2, 1, 8, 8) * 2 - 1
        assert vae._bernoulli_nats(logits, pixels).item() == pytest.approx(64 * math.log(2), rel=1e-6)

    def test_zero_truncation_gives_every_seed_the_same_picture(self) -> None:
        samples = self.build().eval().sample([1, 2], controls=[self.control(truncation=0)] * 2).pixels
        assert torch.equal(samples[0], samples[1])

    def test_a_size_it_cannot_make_is_refused(self) -> None:
        with pytest.raises(AtelierError, match="multiple of 4, not 30"):
            vae.Model(vae.Config(), ImageSpec(channels=1, size=30))

    def test_a_label_is_refused_where_nothing_was_conditioned_on_it(self) -> None:
        self.build().refuse(self.control())
        with pytest.raises(AtelierError, match="not conditional"):
            self.build().refuse(self.control(label="left"))

    def test_readings_are_in_the_curves_at_the_steps_asked_for_and_change_no_weight(self) -> None:
        plain = self.run(self.build(), 6)
        told = self.run(vae_of(self.spec, self.config, report_every=3, importance_samples=2), 6)
        assert [step for step, _, _ in told.curves["main/bound_2"]] == [3, 6]
        assert {"main/psnr", "main/ssim"} <= told.curves.keys()
        for name, tensor in plain.family.state_dict().items():
            assert torch.equal(tensor, told.family.state_dict()[name])

    def test_a_served_model_says_that_it_cannot_reconstruct(self, tmp_path: Path) -> None:
        family = self.build()
        family.save(tmp_path)
        served = vae.Model.restore(family.config, family.spec, tmp_path / "model.safetensors")
        with pytest.raises(AtelierError, match="without its encoder"):
            served.reconstruct(self.real(2))


class TestConditionalVae(FamilyContract):
    family = "vae"
    config = {"latent_dim": 4, "width": 4, "hidden": 16, "lr": 0.01, "conditional": True, "free_bits": 0.1}
    spec = LABELLED
    falling = "main/reconstruction"

    def real(self, count: int) -> Images:
        return blobs(count)

    def test_a_label_is_what_was_asked_for_and_any_label_is_drawn_from_the_seed(self) -> None:
        family = self.build().eval()
        asked = [self.control(label=name) for name in ("left", "right", "any", "any")]
        samples = family.sample([1, 1, 1, 1], controls=asked)
        assert samples.labels is not None
        assert samples.labels[:2].tolist() == [0, 1]
        assert samples.labels[2] == samples.labels[3]
        assert not torch.equal(samples.pixels[0], samples.pixels[1])

    def test_a_trained_one_shows_the_label_that_was_asked_for(self) -> None:
        pixels = torch.full((32, 1, 8, 8), -1.0)
        pixels[0::2, :, :, :4] = 1
        pixels[1::2, :, :, 4:] = 1
        family = self.build()
        self.real = lambda count: Images(pixels[:count], torch.arange(count) % 2)  # type: ignore[method-assign]
        trained = self.run(family, 120).family.eval()
        for label in LABELLED.classes:
            drawn = trained.sample([*range(8)], controls=[self.control(label=label)] * 8).pixels
            left, right = drawn[..., :4].mean(), drawn[..., 4:].mean()
            assert (left > right) == (label == "left")

    def test_a_label_of_another_dataset_is_refused(self) -> None:
        with pytest.raises(AtelierError, match="lefft"):
            self.build().refuse(self.control(label="lefft"))

    def test_data_without_labels_is_refused(self) -> None:
        with pytest.raises(AtelierError, match="no labels to condition on"):
            vae.Model(vae.Config(conditional=True), ImageSpec(channels=1, size=8))
        for batch in (Images(self.real(4).pixels), Images(self.real(4).pixels, torch.tensor([0, 1, -1, 0]))):
            with pytest.raises(AtelierError, match="label"):
                self.build().loss("main", batch, step=1, generator=torch.Generator())


def test_perceptrons_take_pictures_of_any_size_and_labels_too() -> None:
    spec = ImageSpec(channels=3, size=7, classes=("left", "right"))
    family = vae_of(spec, {"hidden": 8}, network="perceptron", conditional=True)
    assert [layer.in_features for layer in family.encoder if isinstance(layer, torch.nn.Linear)] == [3 * 7 * 7 + 2, 8]
    rows = Images(torch.zeros(4, 3, 7, 7), torch.tensor([0, 1, 0, 1]))
    assert family.loss("main", rows, step=0, generator=torch.Generator()).total.isfinite()
    drawn = family.eval().sample([1, 2], controls=[vae.Controls(label="right")] * 2)
    assert drawn.pixels.shape == (2, 3, 7, 7) and drawn.labels.tolist() == [1, 1]


def vae_of(spec: ImageSpec, config: dict[str, object], **changed: object) -> vae.Model:
    torch.manual_seed(0)
    return vae.Model(vae.Config.model_validate({**config, **changed}), spec)


def test_free_bits_charge_each_latent_its_mean_divergence_or_what_is_free() -> None:
    mean = torch.tensor([[0.0, 2.0], [1.0, 4.0]])  # divergences (0, 2) and (1/2, 8): means 1/4 and 5
    charged = [vae._charged_nats(mean, torch.zeros(2, 2), free=free).item() for free in (0.0, 1.0, 6.0)]
    assert charged == pytest.approx([0.25 + 5, 1 + 5, 6 + 6])


def test_free_bits_without_a_price_are_refused() -> None:
    with pytest.raises(ValidationError, match="beta is 0"):
        vae.Config(free_bits=0.5, beta=0)


def test_the_importance_weighted_bound_goes_from_that_of_training_down_to_the_likelihood() -> None:
    """One latent and one pixel's logit: p(x) is an integral over a line."""
    family = vae_of(ImageSpec(channels=1, size=4), {"latent_dim": 1, "width": 1, "hidden": 1})
    slope, bias, mean, deviation = 1.5, 0.3, 0.4, 0.6
    family.encoder, family.decoder = Fixed(mean, 2 * math.log(deviation)), Line(slope, bias)  # type: ignore[assignment]
    pixels = torch.full((1, 1, 1, 1), 0.5)
    z = torch.linspace(-12, 12, 40001, dtype=torch.float64)
    logits = slope * z + bias
    nats = nn.functional.binary_cross_entropy_with_logits(logits, torch.full_like(z, 0.75), reduction="none")
    normal = torch.distributions.Normal(torch.tensor(0.0, dtype=torch.float64), 1.0)
    exact = -float(torch.trapezoid((normal.log_prob(z) - nats).exp(), z).log())
    encoded = torch.distributions.Normal(torch.tensor(mean, dtype=torch.float64), deviation)
    divergence = 0.5 * (mean**2 + deviation**2 - 1 - 2 * math.log(deviation))
    loose = float(torch.trapezoid(encoded.log_prob(z).exp() * nats, z)) + divergence
    many, generator = Images(pixels.expand(20000, 1, 1, 1)), torch.Generator().manual_seed(0)
    one, eight = (family.bound(many, samples, generator).mean().item() for samples in (1, 8))
    assert one == pytest.approx(loose, abs=0.01)
    assert exact < eight - 0.003 < one - 0.03
    assert family.bound(many.rows(slice(100)), 2000, generator).mean().item() == pytest.approx(exact, abs=0.005)


class Fixed(nn.Module):
    """An encoder that says the same of every picture."""

    def __init__(self, mean: float, log_variance: float) -> None:
        super().__init__()
        self.said = torch.tensor([mean, log_variance])

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.said.expand(len(pixels), 2)


class Line(nn.Module):
    """A decoder of one pixel, whose logit is a line in its one latent."""

    def __init__(self, slope: float, bias: float) -> None:
        super().__init__()
        self.slope, self.bias = slope, bias

    def forward(self, latent: torch.Tensor) -> torch.Tensor:
        return (self.slope * latent + self.bias).reshape(-1, 1, 1, 1)
