"""Wasserstein GAN with gradient penalty (Gulrajani et al., 2017, arXiv:1704.00028).

A critic without batch norm measures how far generated rows are from real ones (arXiv:1701.07875), kept near slope 1 by
a penalty on its gradient. Every step trains the critic on rows and noise of its own, and each `critic_steps`-th the
generator too: the steps of a recipe count the critic's, the paper's iterations the generator's. Networks are those of
DCGAN with kernels of 5 as in the authors' code. Penalty and betas are the paper's, algorithm 1; defaults that differ
say why. Served: a moving average of the generator (arXiv:1806.04498).
B batch, Z latent, C channels, H W sides.
"""

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from components import contract
from components.contract import Batch, Family, Loss, Phase
from components.errors import AtelierError
from components.layers import average_into, normal_like, seeded_normal
from components.modalities.image.batch import Images, ImageSpec

STARTS = (4, 5, 6, 7)  # pixels a side of the smallest layer


class Config(contract.Config):
    latent_dim: int = Field(128, ge=1)
    width: int = Field(16, ge=1)  # channels at half size, twice as many at each halving; the authors' 64 is for a GPU
    critic_steps: int = Field(2, ge=1)  # for each of the generator's; the paper's 5 learn slower in a CPU's minutes
    penalty_weight: float = Field(10.0, gt=0)
    average_decay: float = Field(0.99, ge=0, lt=1)  # per step of the generator, which short runs make few of
    lr: float = Field(3e-3, gt=0)  # the paper's 1e-4 is for 200,000 iterations, this for small batches and minutes
    beta1: float = Field(0.0, ge=0, lt=1)
    beta2: float = Field(0.9, ge=0, lt=1)


class Controls(contract.Controls):
    truncation: float = Field(1.0, ge=0, le=2)  # scale of the latent: below 1 safer, above 1 more varied


class Model(Family[Config, Controls, ImageSpec, Images]):
    modality = "image"
    served = ("average",)

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__(config, spec)
        sides = _sides(spec.size)
        self.generator = _generator(config, spec, sides)
        self.critic = _critic(config, spec, sides)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def optimizers(self) -> Mapping[str, Optimizer]:
        config = self.config
        betas = (config.beta1, config.beta2)
        return {
            "generator": Adam(self.generator.parameters(), config.lr, betas),
            "critic": Adam(self.critic.parameters(), config.lr, betas),
        }

    def phases(self) -> Sequence[Phase]:
        return (
            Phase("critic", optimizer="critic"),
            Phase("generator", optimizer="generator", every=self.config.critic_steps),
        )

    def differentiated_twice(self) -> Sequence[str]:
        return ("critic",)

    def loss(self, phase: str, batch: Images, *, step: int, generator: torch.Generator) -> Loss:
        real = batch.pixels
        latent_BZ = normal_like(real, (len(real), self.config.latent_dim), generator)
        if phase == "generator":
            loss = -self.critic(self.generator(latent_BZ)).float().mean()
            return Loss(loss, {"loss": loss})
        with torch.no_grad():
            fake = self.generator(latent_BZ).to(real.dtype)  # autocast has it rounded
        real_B, fake_B = self.critic(torch.cat([real, fake])).float().chunk(2)
        distance = real_B.mean() - fake_B.mean()
        share_B = torch.rand(len(real), generator=generator, device=generator.device).to(real.device)
        penalty = gradient_penalty(self.critic, real, fake, share_B)
        loss = self.config.penalty_weight * penalty - distance
        return Loss(loss, {"loss": loss, "distance": distance, "penalty": penalty})

    def after_step(self, step: int) -> None:
        made, other = divmod(step, self.config.critic_steps)
        if not other:
            average_into(self.average, self.generator, decay=min(self.config.average_decay, (1 + made) / (10 + made)))

    def draw(self, seeds: Sequence[int], controls: Sequence[Controls], conditions: Batch | None) -> Images:
        weight = next(self.average.parameters())
        scale_B1 = torch.tensor([[control.truncation] for control in controls])
        latent_BZ = scale_B1 * seeded_normal(seeds, self.config.latent_dim)
        return Images(self.average(latent_BZ.to(weight.device)))


def gradient_penalty(critic: nn.Module, real: Tensor, fake: Tensor, share_B: Tensor) -> Tensor:
    """How far the critic's slope is from 1, squared, on the lines between real rows and generated ones, eq. 3."""
    between = torch.lerp(fake, real, share_B[:, None, None, None].to(real.dtype)).requires_grad_(True)
    (gradient,) = torch.autograd.grad(critic(between).sum(), between, create_graph=True)
    slope_B = (gradient.float().square().flatten(1).sum(dim=1) + 1e-12).sqrt()  # a flat critic has a gradient too
    return (slope_B - 1).square().mean()


def _sides(size: int) -> list[int]:
    """Pixels a side of each layer, from the smallest to the picture."""
    sides = [size]
    while sides[0] > STARTS[-1] and sides[0] % 2 == 0:
        sides.insert(0, sides[0] // 2)
    if sides[0] not in STARTS or len(sides) == 1:
        raise AtelierError(
            "wgan_gp doubles a picture from 4, 5, 6 or 7 pixels a side, so prepare.size must be one of 8, 10, 12, 14, "
            f"16, 20, 24, 28, 32 and so on, not {size}"
        )
    return sides


def _widths(config: Config, sides: Sequence[int]) -> list[int]:
    """Channels of each layer but the picture, from the smallest on."""
    return [config.width * 2**halvings for halvings in reversed(range(len(sides) - 1))]


def _generator(config: Config, spec: ImageSpec, sides: Sequence[int]) -> nn.Sequential:
    widths, start = _widths(config, sides), sides[0]
    layers: list[nn.Module] = [
        nn.Linear(config.latent_dim, widths[0] * start**2, bias=False), nn.Unflatten(1, (widths[0], start, start)),
        nn.BatchNorm2d(widths[0]), nn.ReLU(),
    ]  # fmt: skip
    for before, after in pairwise(widths):
        layers += [nn.ConvTranspose2d(before, after, 5, 2, 2, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU()]
    layers += [nn.ConvTranspose2d(widths[-1], spec.channels, 5, 2, 2, 1), nn.Tanh()]
    return nn.Sequential(*layers).apply(_initialise)


def _critic(config: Config, spec: ImageSpec, sides: Sequence[int]) -> nn.Sequential:
    """A number [B] for each picture; it has no batch norm, as the penalty is on each row for itself (section 4)."""
    widths = [spec.channels, *reversed(_widths(config, sides))]
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Conv2d(before, after, 5, 2, 2), nn.LeakyReLU(0.2)]
    layers += [nn.Flatten(), nn.Linear(widths[-1] * sides[0] ** 2, 1), nn.Flatten(0)]
    return nn.Sequential(*layers).apply(_initialise)


def _initialise(layer: nn.Module) -> None:
    """Weights that keep the variance (arXiv:1502.01852), as in the authors' code: the critic has no norm to do it."""
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        inside = layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels * layer.kernel_size[0] ** 2
        if isinstance(layer, nn.ConvTranspose2d):
            inside //= 4  # places that add up to one of the doubled picture
        nn.init.normal_(layer.weight, 0.0, (2 / inside) ** 0.5)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
