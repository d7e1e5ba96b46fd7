"""Diffusion (Ho et al., 2020, arXiv:2006.11239) as EDM formulates it (Karras et al., 2022, arXiv:2206.00364).

Data y is seen through noise, x = y + sigma n, and a denoiser D(x; sigma) is learnt. Objective `edm` has EDM's
preconditioning, loss weight and noise levels; `epsilon` predicts the noise as DDPM does, in the limit of many steps
(arXiv:2011.13456, section 3.4), so that it may be sampled at any level. Both are sampled along the ODE
dx/dsigma = (x - D) / sigma, by DDIM (arXiv:2010.02502, which is Euler's method in these terms) or by Heun's method.
With classes, guidance is classifier-free (arXiv:2207.12598). Served: a moving average of the network.
B batch, C channels, H W sides.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.optim import Adam, Optimizer

from components import contract
from components.contract import Batch, Family, Loss, Phase
from components.errors import AtelierError
from components.layers import average_into, normal_like, seeded_normal
from components.modalities.image.batch import ANY, Images, ImageSpec, given_labels, labels, refuse_label
from components.unet import Mixing, UNet, drop_labels, guided

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 80.0, 7.0  # of the steps of sampling, arXiv:2206.00364, table 1
BETA_MIN, BETA_RANGE = 0.1, 19.9  # DDPM's linear schedule in continuous time, arXiv:2011.13456, appendix C
FIRST_TIME = 1e-3  # DDPM's first of 1,000 steps


class Config(contract.Config):
    objective: Literal["edm", "epsilon"] = "edm"
    conditional: bool = False  # on the class, with `label` and `guidance` as controls
    width: int = Field(32, ge=1)  # the papers' 128 is for GPUs; this trains in minutes on a CPU
    multipliers: tuple[int, ...] = Field((1, 2), min_length=1)  # of the width, one for each resolution
    blocks: int = Field(1, ge=1)
    patch: int = Field(2, ge=1)  # pixels a side that are one place of the network: 1 costs four times as much
    mixing: Mixing = "dense"  # of far places: "attention" where pictures are not centred, at more cost
    label_dropout: float = Field(0.1, ge=0, le=1)  # arXiv:2207.12598, section 4.2: 0.1 or 0.2 do alike
    data_deviation: float = Field(0.7, gt=0)  # of the pixels, for `edm`: CIFAR-10 has 0.5, Fashion-MNIST 0.7
    noise_mean: float = -0.4  # of log sigma in training, for `edm`; EDM's -1.2 leaves the outlines of short runs poor
    noise_deviation: float = Field(1.2, gt=0)
    average_gamma: float = Field(6.94, ge=0)  # a profile as wide as a tenth of the run (arXiv:2312.02696, section 3)
    lr: float = Field(4e-3, gt=0)  # far above the papers' 2e-4, for runs of minutes


class Controls(contract.Controls):
    steps: int = Field(18, ge=1, le=200)  # arXiv:2206.00364 for pictures of 32 x 32
    sampler: Literal["heun", "ddim"] = "heun"  # 2 steps - 1 evaluations, and as many as steps
    truncation: float = Field(1.0, ge=0, le=2)  # scale of the first noise: below 1 safer, above 1 more varied
    label: str = ANY  # the name of a class
    guidance: float = Field(1.0, ge=0, le=10)  # above 1, more of what tells the class from the rest


class Model(Family[Config, Controls, ImageSpec, Images]):
    modality = "image"
    served = ("average",)
    alike = ("steps", "sampler")

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__(config, spec)
        if config.conditional and not spec.classes:
            raise AtelierError(
                "diffusion is asked for `conditional: true`, but the data have no classes. Set `conditional: false`, "
                "or give the rows labels."
            )
        self.network = UNet(
            channels=spec.channels,
            size=spec.size,
            width=config.width,
            multipliers=config.multipliers,
            blocks=config.blocks,
            patch=config.patch,
            mixing=config.mixing,
            classes=len(spec.classes) if config.conditional else 0,
        )
        self.average = copy.deepcopy(self.network).requires_grad_(False)

    def optimizers(self) -> Mapping[str, Optimizer]:
        return {"main": Adam(self.network.parameters(), self.config.lr)}

    def phases(self) -> Sequence[Phase]:
        return (Phase("main", optimizer="main", clip_norm=1.0),)

    def refuse(self, controls: Controls) -> None:
        if self.config.conditional:
            refuse_label(controls.label, self.spec.classes)
        elif controls.label != ANY or controls.guidance != 1:
            name, value = ("label", controls.label) if controls.label != ANY else ("guidance", controls.guidance)
            raise AtelierError(
                f"the control {name} is {value!r}, but this diffusion knows no classes: set `conditional: true` in "
                f"its config, or leave {name} at {ANY if name == 'label' else 1!r}"
            )

    def loss(self, phase: str, batch: Images, *, step: int, generator: torch.Generator) -> Loss:
        """The squared error of what the network says: of the denoiser, weighted by 1 / out^2, eq. 8."""
        data_BCHW, labels_B = batch.pixels, self._labels(batch, step, generator)
        sigma_B111 = self._levels(len(data_BCHW), generator).to(data_BCHW.device)[:, None, None, None]
        noisy_BCHW = data_BCHW + sigma_B111 * normal_like(data_BCHW, data_BCHW.shape, generator)
        scales = self._scales(sigma_B111)
        told_BCHW = self.network(scales.inward * noisy_BCHW, scales.time.flatten(), labels_B)
        loss = (told_BCHW - (data_BCHW - scales.skip * noisy_BCHW) / scales.out).square().mean()
        return Loss(loss, {"loss": loss})

    def after_step(self, step: int) -> None:
        average_into(self.average, self.network, decay=(1 - 1 / (step + 1)) ** (self.config.average_gamma + 1))

    def draw(self, seeds: Sequence[int], controls: Sequence[Controls], conditions: Batch | None) -> Images:
        device = next(self.average.parameters()).device
        truncation_B111 = torch.tensor([control.truncation for control in controls])[:, None, None, None]
        noise_BCHW = truncation_B111 * seeded_normal(seeds, self.spec.channels, self.spec.size, self.spec.size)
        labels_B = None
        if self.config.conditional:
            labels_B = labels([control.label for control in controls], seeds, self.spec.classes).to(device)
        guidance = [control.guidance for control in controls]

        def denoise(noisy_BCHW: Tensor, sigma: float) -> Tensor:
            def predict(asked_B: Tensor | None) -> Tensor:
                return self._denoised(noisy_BCHW, torch.full((len(seeds),), sigma, device=device), asked_B)

            return guided(predict, labels_B, guidance)

        sigmas = noise_levels(controls[0].steps)
        pixels_BCHW = solve(denoise, sigmas[0] * noise_BCHW.to(device), sigmas, sampler=controls[0].sampler)
        return Images(pixels_BCHW.clamp(-1, 1), labels_B)

    def _denoised(self, noisy_BCHW: Tensor, sigma_B: Tensor, labels_B: Tensor | None) -> Tensor:
        """D(x; sigma) of the served network, eq. 7."""
        scales = self._scales(sigma_B[:, None, None, None])
        told_BCHW: Tensor = self.average(scales.inward * noisy_BCHW, scales.time.flatten(), labels_B)
        return scales.skip * noisy_BCHW + scales.out * told_BCHW

    def _scales(self, sigma: Tensor) -> "Scales":
        """How the network sees a noise level, table 1: `epsilon` is the column VP, whose network says the noise."""
        if self.config.objective == "epsilon":
            grown = torch.log1p(sigma.square())
            time = ((BETA_MIN**2 + 2 * BETA_RANGE * grown).sqrt() - BETA_MIN) / BETA_RANGE
            return Scales(torch.ones_like(sigma), -sigma, (1 + sigma.square()).rsqrt(), time)
        data = self.config.data_deviation
        variance = sigma.square() + data**2
        return Scales(data**2 / variance, sigma * data * variance.rsqrt(), variance.rsqrt(), sigma.log() / 4)

    def _levels(self, count: int, generator: torch.Generator) -> Tensor:
        """The noise level [B] of each training row."""
        if self.config.objective == "epsilon":
            share = torch.rand(count, generator=generator, device=generator.device)
            time = FIRST_TIME + (1 - FIRST_TIME) * share
            sigma_B: Tensor = (BETA_RANGE / 2 * time.square() + BETA_MIN * time).expm1().sqrt()
            return sigma_B
        normal = torch.randn(count, generator=generator, device=generator.device)
        return (self.config.noise_mean + self.config.noise_deviation * normal).exp()

    def _labels(self, batch: Images, step: int, generator: torch.Generator) -> Tensor | None:
        """The labels to train on, some of them replaced by the null class."""
        if not self.config.conditional:
            return None
        labels_B = given_labels(batch, step)
        return drop_labels(labels_B, self.config.label_dropout, null=self.network.null, generator=generator)


class Scales(NamedTuple):
    """D = skip x + out network(inward x, time), each [B, 1, 1, 1]."""

    skip: Tensor
    out: Tensor
    inward: Tensor
    time: Tensor


def noise_levels(steps: int) -> list[float]:
    """The levels between steps of sampling, from the highest to 0, eq. 5."""
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return [(high + i / max(1, steps - 1) * (low - high)) ** RHO for i in range(steps)] + [0.0]


def solve(
    denoise: Callable[[Tensor, float], Tensor], noisy_BCHW: Tensor, sigmas: Sequence[float], *, sampler: str
) -> Tensor:
    """The picture at the last level of the path through `noisy_BCHW` at the first one, algorithm 1."""
    for sigma, lower in pairwise(sigmas):
        slope_BCHW = (noisy_BCHW - denoise(noisy_BCHW, sigma)) / sigma
        next_BCHW = noisy_BCHW + (lower - sigma) * slope_BCHW
        if sampler == "heun" and lower > 0:
            there_BCHW = (next_BCHW - denoise(next_BCHW, lower)) / lower
            next_BCHW = noisy_BCHW + (lower - sigma) * (slope_BCHW + there_BCHW) / 2
        noisy_BCHW = next_BCHW
    return noisy_BCHW
