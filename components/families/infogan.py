"""InfoGAN (Chen et al., 2016, arXiv:1606.03657): a GAN some of whose latent must be readable from its pictures.

One categorical and one or two continuous codes enter the generator beside the noise. A head Q on the discriminator's
trunk says which they were; log Q(c | x) + H(c), a lower bound on the mutual information of code and picture (eq. 5),
is raised by the generator and by Q with its trunk, as in the authors' code. Nothing is labelled: what a code comes to
mean is found in training. Learning rates, noise and codes are those for MNIST (appendix C.1); the networks are half as
wide and lack its layers of 1024 units, to train in minutes on a CPU, and the discriminator halves pictures down to 3, 4
or 5 pixels a side, where the authors' ends at 7: after a minute that had nearly twice the Frechet distance. Served: a
moving average of the generator (arXiv:1806.04498).
B batch, Z latent, K categories, S styles, F features.
"""

import copy
import math
import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from components import contract
from components.contract import Batch, Family, Loss, Phase
from components.errors import AtelierError
from components.layers import average_into, normal_like, seeded_normal
from components.modalities.image.batch import Images, ImageSpec

SMALLEST = 3  # pixels a side that a further stage of the discriminator must leave
DRAWN = -1  # as a code: whichever the row's seed draws
STYLE_VARIANCE = 1 / 3  # of a uniform variable on [-1, 1]


class Config(contract.Config):
    latent_dim: int = Field(62, ge=1)  # of the noise alone
    categories: int = Field(10, ge=2)
    styles: Literal[1, 2] = 2  # continuous codes, uniform on [-1, 1] in training
    code_weight: float = Field(1.0, ge=0)  # lambda of the categorical code's information
    style_weight: float = Field(0.1, ge=0)  # and of the continuous ones', smaller as the paper advises
    width: int = Field(16, ge=1)  # half the paper's
    hidden: int = Field(128, ge=1)  # of Q
    average_decay: float = Field(0.995, ge=0, lt=1)  # short runs: the usual 0.999 would still hold the first steps
    lr: float = Field(1e-3, gt=0)
    discriminator_lr: float = Field(2e-4, gt=0)
    beta1: float = Field(0.5, ge=0, lt=1)


class Controls(contract.Controls):
    truncation: float = Field(1.0, ge=0, le=2)  # scale of the noise: below 1 safer, above 1 more varied
    code: int = Field(DRAWN, ge=DRAWN)  # a category from 0 up; -1 is drawn from the seed
    style: float | None = Field(None, ge=-2, le=2)  # drawn from the seed where left out, in [-1, 1]
    style_2: float | None = Field(None, ge=-2, le=2)  # likewise


class Model(Family[Config, Controls, ImageSpec, Images]):
    modality = "image"
    served = ("average",)

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__(config, spec)
        if spec.size % 4:
            raise AtelierError(
                f"infogan doubles a picture twice, so prepare.size must be a multiple of 4, not {spec.size}"
            )
        self.generator = _generator(config, spec)
        self.discriminator = Discriminator(config, spec)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)

    def optimizers(self) -> Mapping[str, Optimizer]:
        config = self.config
        betas = (config.beta1, 0.999)
        return {
            "generator": Adam(self.generator.parameters(), config.lr, betas),
            "discriminator": Adam(self.discriminator.parameters(), config.discriminator_lr, betas),
        }

    def phases(self) -> Sequence[Phase]:
        return (Phase("discriminator", optimizer="discriminator"), Phase("generator", optimizer="generator"))

    def refuse(self, controls: Controls) -> None:
        if controls.code >= self.config.categories:
            raise AtelierError(
                f"the control code is {controls.code}, but this infogan has {self.config.categories} categories: "
                f"choose 0 to {self.config.categories - 1}, or {DRAWN} for one drawn from the seed"
            )
        if controls.style_2 is not None and self.config.styles == 1:
            raise AtelierError(
                f"the control style_2 is {controls.style_2}, but this infogan has one continuous code: leave style_2 "
                "out, or set `styles: 2` in its config"
            )

    def loss(self, phase: str, batch: Images, *, step: int, generator: torch.Generator) -> Loss:
        real, config = batch.pixels, self.config
        codes = self._codes(real, generator)
        noise_BZ = normal_like(real, (len(real), config.latent_dim), generator)
        with torch.set_grad_enabled(phase == "generator"):
            fake = self.generator(_joined(noise_BZ, codes, config.categories))
        fake_B, said = self.discriminator(fake)
        read = self._read(said, codes)
        gained = config.code_weight * read["code_nats"] + config.style_weight * read["style_nats"]
        if phase == "generator":
            loss = F.softplus(-fake_B).mean()  # -log D(G(z, c)), the non-saturating form
            return Loss(loss - gained, {"loss": loss, **read})
        real_B, _ = self.discriminator(real)
        loss = F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
        accuracy = ((real_B > 0).float().mean() + (fake_B < 0).float().mean()) / 2
        return Loss(loss - gained, {"loss": loss, "accuracy": accuracy})

    def after_step(self, step: int) -> None:
        average_into(self.average, self.generator, decay=min(self.config.average_decay, (1 + step) / (10 + step)))

    def draw(self, seeds: Sequence[int], controls: Sequence[Controls], conditions: Batch | None) -> Images:
        config, device = self.config, next(self.average.parameters()).device
        drawn = seeded_normal(seeds, config.latent_dim + config.styles)
        styles_BS = torch.erf(drawn[:, config.latent_dim :] / math.sqrt(2))  # uniform on [-1, 1]
        codes = []
        for i, (seed, control) in enumerate(zip(seeds, controls, strict=True)):
            any_code = random.Random(f"code of {seed}").randrange(config.categories)
            codes.append(any_code if control.code == DRAWN else control.code)
            for s, asked in enumerate((control.style, control.style_2)[: config.styles]):
                if asked is not None:
                    styles_BS[i, s] = asked
        noise_BZ = torch.tensor([[control.truncation] for control in controls]) * drawn[:, : config.latent_dim]
        inward_BZ = _joined(noise_BZ, Codes(torch.tensor(codes), styles_BS), config.categories)
        return Images(self.average(inward_BZ.to(device)))

    def _codes(self, real: Tensor, generator: torch.Generator) -> "Codes":
        """Codes for training, drawn from their priors."""
        place, count = generator.device, len(real)
        codes_B = torch.randint(self.config.categories, (count,), generator=generator, device=place)
        styles_BS = 2 * torch.rand(count, self.config.styles, generator=generator, device=place) - 1
        return Codes(codes_B.to(real.device), styles_BS.to(real.device))

    def _read(self, said: "Said", codes: "Codes") -> dict[str, Tensor]:
        """How well Q recovers the codes: what it knows in nats (eq. 5), the share it names, the variance it explains.

        `code_nats` is at most log K; `style_nats` is of all styles together; `code_accuracy` and `style_r2` are 1 at
        best, and by chance 1 / K and 0.
        """
        error_BS = said.mean_BS - codes.styles_BS
        surprise_BS = (
            said.log_variance_BS + error_BS.square() * (-said.log_variance_BS).exp() + math.log(math.tau)
        ) / 2
        return {
            "code_nats": math.log(self.config.categories) - F.cross_entropy(said.logits_BK, codes.codes_B),
            "style_nats": (math.log(2) - surprise_BS).sum(1).mean(),  # log 2: the entropy of a style
            "code_accuracy": (said.logits_BK.argmax(1) == codes.codes_B).float().mean(),
            "style_r2": 1 - error_BS.square().mean() / STYLE_VARIANCE,
        }


class Codes(NamedTuple):
    """What is to be readable: categories [B] and continuous codes [B, S]."""

    codes_B: Tensor
    styles_BS: Tensor


class Said(NamedTuple):
    """Q of the codes: logits of the category, and a Gaussian of each style."""

    logits_BK: Tensor
    mean_BS: Tensor
    log_variance_BS: Tensor


def _joined(noise_BZ: Tensor, codes: Codes, categories: int) -> Tensor:
    """What the generator reads: noise, the category as a one-hot row, and the styles."""
    return torch.cat([noise_BZ, F.one_hot(codes.codes_B, categories).to(noise_BZ), codes.styles_BS], dim=1)


class Discriminator(nn.Module):
    """How real pictures look [B], and what Q says of their codes, on one trunk."""

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__()
        self.sizes = [config.categories, config.styles, config.styles]
        sides = [spec.size // 2, spec.size // 4]
        while sides[-1] // 2 >= SMALLEST:
            sides.append(sides[-1] // 2)
        widths = [spec.channels, *(max(1, 4 * config.width >> halvings) for halvings in reversed(range(len(sides))))]
        stages: list[nn.Module] = []
        for before, after in pairwise(widths):
            first = not stages
            stages.append(nn.Conv2d(before, after, 4, 2, 1, bias=first))
            stages += [] if first else [nn.BatchNorm2d(after)]
            stages.append(nn.LeakyReLU(0.1))
        self.trunk, features = nn.Sequential(*stages, nn.Flatten()), widths[-1] * sides[-1] ** 2
        self.head = nn.Linear(features, 1)
        self.says = nn.Sequential(
            nn.Linear(features, config.hidden, bias=False), nn.BatchNorm1d(config.hidden), nn.LeakyReLU(0.1),
            nn.Linear(config.hidden, sum(self.sizes)),
        )  # fmt: skip
        self.apply(_initialise)

    def forward(self, pixels_BCHW: Tensor) -> tuple[Tensor, Said]:
        features_BF = self.trunk(pixels_BCHW)
        return self.head(features_BF).flatten(), Said(*self.says(features_BF).split(self.sizes, dim=1))


def _generator(config: Config, spec: ImageSpec) -> nn.Sequential:
    side, width = spec.size // 4, config.width
    inward = config.latent_dim + config.categories + config.styles
    network = nn.Sequential(
        nn.Linear(inward, 4 * width * side**2, bias=False), nn.Unflatten(1, (4 * width, side, side)),
        nn.BatchNorm2d(4 * width), nn.ReLU(),
        nn.ConvTranspose2d(4 * width, 2 * width, 4, 2, 1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        nn.ConvTranspose2d(2 * width, spec.channels, 4, 2, 1), nn.Tanh(),
    )  # fmt: skip
    return network.apply(_initialise)


def _initialise(layer: nn.Module) -> None:
    """Normal weights of deviation 0.02, as DCGAN's (arXiv:1511.06434, section 4)."""
    if isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
    elif isinstance(layer, nn.BatchNorm2d | nn.BatchNorm1d):
        nn.init.normal_(layer.weight, 1.0, 0.02)
