"""Variational auto-encoder (Kingma and Welling, 2013, arXiv:1312.6114), with convolutions.

A picture's grey level is the mean of a Bernoulli variable, as is usual on MNIST and its kin. The stride-2 encoder and
its mirror follow the convolutional VAE of arXiv:1606.05579 at half its width, for pictures of this size.
B batch, Z latent, C channels, H W sides.
"""

from collections.abc import Mapping, Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from components import contract
from components.contract import Batch, Family, Loss
from components.errors import AtelierError
from components.layers import normal_like, seeded_normal
from components.modalities.image.batch import Images, ImageSpec


class Config(contract.Config):
    latent_dim: int = Field(32, ge=1)
    width: int = Field(32, ge=1)
    hidden: int = Field(256, ge=1)
    beta: float = Field(1.0, ge=0)  # weight of the divergence, arXiv:1804.03599; 1 is the bound itself
    lr: float = Field(1e-3, gt=0)


class Controls(contract.Controls):
    truncation: float = Field(1.0, ge=0, le=2)  # scale of the latent: below 1 safer, above 1 more varied


class Model(Family[Config, Controls, ImageSpec, Images]):
    modality = "image"
    served = ("decoder",)

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__(config, spec)
        if spec.size % 4:
            raise AtelierError(f"vae halves a picture twice, so prepare.size must be a multiple of 4, not {spec.size}")
        side, width = spec.size // 4, config.width
        flat = 2 * width * side**2
        self.encoder = nn.Sequential(
            nn.Conv2d(spec.channels, width, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(), nn.Flatten(),
            nn.Linear(flat, config.hidden), nn.ReLU(),
            nn.Linear(config.hidden, 2 * config.latent_dim),
        )  # fmt: skip
        self.decoder = nn.Sequential(
            nn.Linear(config.latent_dim, config.hidden), nn.ReLU(),
            nn.Linear(config.hidden, flat), nn.ReLU(), nn.Unflatten(1, (2 * width, side, side)),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(width, spec.channels, 4, 2, 1),
        )  # fmt: skip

    def optimizers(self) -> Mapping[str, Optimizer]:
        return {"main": Adam(self.parameters(), self.config.lr)}

    def loss(self, phase: str, batch: Images, *, step: int, generator: torch.Generator) -> Loss:
        mean_BZ, log_variance_BZ = self.encoder(batch.pixels).chunk(2, dim=1)
        noise_BZ = normal_like(mean_BZ, mean_BZ.shape, generator)
        latent_BZ = mean_BZ + (0.5 * log_variance_BZ).exp() * noise_BZ
        reconstruction = _bernoulli_nats(self.decoder(latent_BZ), batch.pixels)
        divergence = _divergence_nats(mean_BZ, log_variance_BZ)
        parts = {"bound": reconstruction + divergence, "reconstruction": reconstruction, "divergence": divergence}
        return Loss(reconstruction + self.config.beta * divergence, parts)

    def draw(self, seeds: Sequence[int], controls: Sequence[Controls], conditions: Batch | None) -> Images:
        weight = next(self.decoder.parameters())
        scale_B1 = torch.tensor([[control.truncation] for control in controls])
        latent_BZ = scale_B1 * seeded_normal(seeds, self.config.latent_dim)
        return Images(2 * torch.sigmoid(self.decoder(latent_BZ.to(weight.device))) - 1)


def _bernoulli_nats(logits_BCHW: Tensor, pixels_BCHW: Tensor) -> Tensor:
    """Mean over rows of -log p(x|z), appendix C.1, for pixels in [-1, 1]."""
    summed = F.binary_cross_entropy_with_logits(logits_BCHW, (pixels_BCHW + 1) / 2, reduction="sum")
    return summed / len(pixels_BCHW)


def _divergence_nats(mean_BZ: Tensor, log_variance_BZ: Tensor) -> Tensor:
    """Mean over rows of KL(q(z|x) || N(0, 1)), appendix B."""
    per_row_B = 0.5 * (mean_BZ.square() + log_variance_BZ.exp() - 1 - log_variance_BZ).sum(dim=1)
    return per_row_B.mean()
