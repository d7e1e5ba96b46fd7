import math

import pytest
import torch

from components.families import dcgan
from components.modalities.image.batch import Images, ImageSpec
from tests.components.families.family_contract import FamilyContract
from tests.components.families.image_rows import blobs


class TestDcgan(FamilyContract):
    family = "dcgan"
    config = {"latent_dim": 4, "width": 4}
    spec = ImageSpec(channels=1, size=8)
    falling = "discriminator/loss"

    def real(self, count: int) -> Images:
        return blobs(count)

    def test_an_undecided_discriminator_costs_two_log_two(self) -> None:
        family = self.build()
        torch.nn.init.zeros_(family.discriminator[-2].weight)
        torch.nn.init.zeros_(family.discriminator[-2].bias)
        generator = torch.Generator().manual_seed(0)
        loss = family.loss("discriminator", self.real(8), step=0, generator=generator).total
        assert loss.item() == pytest.approx(2 * math.log(2), rel=1e-6)

    def test_what_the_discriminator_sees_is_augmented_on_request_and_what_is_drawn_is_not(self) -> None:
        plain = self.build()
        seen = dcgan.Model(dcgan.Config(**self.config, diff_augment=("translation", "cutout")), self.spec)
        seen.load_state_dict(plain.state_dict())
        noise = [torch.Generator().manual_seed(0) for _ in range(2)]
        losses = [
            family.train().loss("discriminator", self.real(8), step=0, generator=generator).total
            for family, generator in zip((plain, seen), noise, strict=True)
        ]
        assert losses[0] != losses[1]
        drawn = [family.eval().draw([1], [dcgan.Controls()], None).pixels for family in (plain, seen)]
        assert torch.equal(*drawn)

    @pytest.mark.parametrize(("size", "widths"), [(8, [8, 16]), (28, [4, 8, 16]), (64, [2, 4, 8, 16])])
    def test_the_discriminator_halves_pictures_down_to_a_few_pixels(self, size: int, widths: list[int]) -> None:
        family = dcgan.Model(dcgan.Config(width=4), ImageSpec(channels=1, size=size))
        stages = [layer for layer in family.discriminator if isinstance(layer, torch.nn.Conv2d)]
        assert [stage.out_channels for stage in stages] == widths
        assert family.discriminator(torch.zeros(2, 1, size, size)).shape == (2,)
        normed = [layer for layer in family.discriminator if isinstance(layer, torch.nn.BatchNorm2d)]
        assert len(normed) == len(widths) - 1, "all but the first, section 3"

    def test_the_served_average_follows_the_generator(self) -> None:
        family = self.build()
        start = family.average[0].weight.clone()
        torch.nn.init.ones_(family.generator[0].weight)
        family.after_step(10**6)
        kept = self.config.get("average_decay", dcgan.Config().average_decay)
        torch.testing.assert_close(family.average[0].weight, kept * start + (1 - kept))

    def test_spectral_norm_bounds_every_layer_of_the_discriminator(self) -> None:
        family = dcgan.Model(dcgan.Config(width=4, spectral_norm=True), self.spec).train()
        pixels = self.real(8).pixels
        for _ in range(30):  # each pass is one step of the power iteration
            family.discriminator(pixels)
        heads = [layer for layer in family.discriminator if hasattr(layer, "weight")]
        norms = [torch.linalg.matrix_norm(layer.weight.flatten(1), 2).item() for layer in heads]
        assert len(norms) == 3
        assert norms == pytest.approx([1, 1, 1], abs=0.05)
