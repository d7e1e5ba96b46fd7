import math

import pytest
import torch

from components.errors import AtelierError
from components.families import vae
from components.modalities.image.batch import Images, ImageSpec
from tests.components.families.family_contract import FamilyContract
from tests.components.families.image_rows import blobs


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
