"""Deep convolutional GAN (Radford, Metz and Chintala, 2015, arXiv:1511.06434).

Losses: the non-saturating pair of arXiv:1406.2661, section 3. The discriminator halves pictures down to 3, 4 or 5
pixels a side, about the paper's 4: one that ends at 7 has twice the Frechet distance. The generator begins at a quarter
of the side. Served: a moving average of it (arXiv:1806.04498), whose samples vary less from step to step than its own.
B batch, Z latent.
"""

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm
from torch.optim import Adam, Optimizer

from components import contract
from components.contract import Batch, Family, Loss, Phase
from components.diffaugment import Change, changed
from components.errors import AtelierError
from components.layers import average_into, normal_like, seeded_normal
from components.modalities.image.batch import Images, ImageSpec

SMALLEST = 3  # pixels a side that a further stage of the discriminator must leave


class Config(contract.Config):
    latent_dim: int = Field(100, ge=1)
    width: int = Field(32, ge=1)  # the paper's 128 is for 64 x 64 pictures; a quarter trains in minutes on a CPU
    spectral_norm: bool = False  # arXiv:1802.05957, in place of the discriminator's batch norm
    diff_augment: tuple[Change, ...] = ()  # of what the discriminator sees, for few training rows (2006.10738)
    average_decay: float = Field(0.995, ge=0, lt=1)  # short runs: the usual 0.999 would still hold the first steps
    lr: float = Field(2e-4, gt=0)
    discriminator_lr: float | None = Field(None, gt=0)  # the generator's unless set (two time scales, 1706.08500)
    beta1: float = Field(0.5, ge=0, lt=1)


class Controls(contract.Controls):
    truncation: float = Field(1.0, ge=0, le=2)  # scale of the latent: below 1 safer, above 1 more varied


class Model(Family[Config, Controls, ImageSpec, Images]):
    modality = "image"
    served = ("average",)

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__(config, spec)
        if spec.size % 4:
            raise AtelierError(
                f"dcgan doubles a picture twice, so prepare.size must be a multiple of 4, not {spec.size}"
            )
        self.generator = _generator(config, spec)
        self.discriminator = _discriminator(config, spec)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def optimizers(self) -> Mapping[str, Optimizer]:
        config = self.config
        betas = (config.beta1, 0.999)
        return {
            "generator": Adam(self.generator.parameters(), config.lr, betas),
            "discriminator": Adam(self.discriminator.parameters(), config.discriminator_lr or config.lr, betas),
        }

    def phases(self) -> Sequence[Phase]:
        return (Phase("discriminator", optimizer="discriminator"), Phase("generator", optimizer="generator"))

    def loss(self, phase: str, batch: Images, *, step: int, generator: torch.Generator) -> Loss:
        real, policy = batch.pixels, self.config.diff_augment
        fake = self.generator(normal_like(real, (len(real), self.config.latent_dim), generator))
        fake = changed(fake, policy, generator)
        if phase == "generator":
            loss = F.softplus(-self.discriminator(fake)).mean()  # -log D(G(z)), the non-saturating form
            return Loss(loss, {"loss": loss})
        real_B, fake_B = self.discriminator(changed(real, policy, generator)), self.discriminator(fake.detach())
        loss = F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
        accuracy = ((real_B > 0).float().mean() + (fake_B < 0).float().mean()) / 2
        return Loss(loss, {"loss": loss, "accuracy": accuracy})

    def after_step(self, step: int) -> None:
        average_into(self.average, self.generator, decay=min(self.config.average_decay, (1 + step) / (10 + step)))

    def draw(self, seeds: Sequence[int], controls: Sequence[Controls], conditions: Batch | None) -> Images:
        weight = next(self.average.parameters())
        scale_B1 = torch.tensor([[control.truncation] for control in controls])
        latent_BZ = scale_B1 * seeded_normal(seeds, self.config.latent_dim)
        return Images(self.average(latent_BZ.to(weight.device)))


def _generator(config: Config, spec: ImageSpec) -> nn.Sequential:
    side, width = spec.size // 4, config.width
    network = nn.Sequential(
        nn.Linear(config.latent_dim, 4 * width * side**2, bias=False), nn.Unflatten(1, (4 * width, side, side)),
        nn.BatchNorm2d(4 * width), nn.ReLU(),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.ConvTranspose2d(2 * width, spec.channels, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    return network.apply(_initialise)


def _discriminator(config: Config, spec: ImageSpec) -> nn.Sequential:
    """Pictures in, a logit [B] each out; two stages at least, and as many channels at last as the generator's first."""
    sides = [spec.size // 2, spec.size // 4]
    while sides[-1] // 2 >= SMALLEST:
        sides.append(sides[-1] // 2)
    widths = [spec.channels, *(max(1, 4 * config.width >> halvings) for halvings in reversed(range(len(sides))))]
    layers: list[nn.Module] = []
    for stage, (before, after) in enumerate(pairwise(widths)):
        normed = stage > 0 and not config.spectral_norm
        layers.append(nn.Conv2d(before, after, 4, 2, 1, bias=not normed))
        layers += [nn.BatchNorm2d(after)] if normed else []
        layers.append(nn.LeakyReLU(0.2))
    layers += [nn.Flatten(), nn.Linear(widths[-1] * sides[-1] ** 2, 1), nn.Flatten(0)]
    network = nn.Sequential(*layers).apply(_initialise)
    if config.spectral_norm:
        for layer in network:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                spectral_norm(layer)
    return network


def _initialise(layer: nn.Module) -> None:
    """Normal weights of deviation 0.02, section 4."""
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
