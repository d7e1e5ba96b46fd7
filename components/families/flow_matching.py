"""Flow matching (Lipman et al., 2022, arXiv:2210.02747) with minibatch optimal transport (arXiv:2302.00482).

A network learns the velocity that carries noise x0 at time 0 to data x1 at time 1 along x_t = (1 - t) x0 + t x1; a
sample is the solution of dx/dt = v(x, t). Within a batch, noise and data are paired so that they lie near each other,
which straightens the paths: fewer steps do. Times are uniform, or logit-normal (arXiv:2403.03206, section 3.1).
With classes, guidance is classifier-free (arXiv:2207.12598). Served: a moving average of the network.
B batch, C channels, H W sides, P pixels of a picture.
"""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

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

ENTROPY, SINKHORN_STEPS = 0.05, 30  # of a plan of transport: its entropy as a share of the mean cost


class Config(contract.Config):
    conditional: bool = False  # on the class, with `label` and `guidance` as controls
    width: int = Field(32, ge=1)  # the papers' 128 and more are for GPUs; this trains in minutes on a CPU
    multipliers: tuple[int, ...] = Field((1, 2), min_length=1)  # of the width, one for each resolution
    blocks: int = Field(1, ge=1)
    patch: int = Field(2, ge=1)  # pixels a side that are one place of the network: 1 costs four times as much
    mixing: Mixing = "dense"  # of far places: "attention" where pictures are not centred, at more cost
    pairing: Literal["optimal", "independent"] = "optimal"
    time: Literal["uniform", "logit_normal"] = "uniform"
    label_dropout: float = Field(0.1, ge=0, le=1)  # arXiv:2207.12598, section 4.2: 0.1 or 0.2 do alike
    data_deviation: float = Field(0.7, gt=0)  # of the pixels, about: it sets the scale of what the network says
    average_gamma: float = Field(6.94, ge=0)  # a profile as wide as a tenth of the run (arXiv:2312.02696, section 3)
    lr: float = Field(4e-3, gt=0)  # far above the papers' 2e-4, for runs of minutes


class Controls(contract.Controls):
    steps: int = Field(10, ge=1, le=200)
    sampler: Literal["euler", "midpoint", "heun"] = "midpoint"  # one, two and two evaluations a step
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
                "flow_matching is asked for `conditional: true`, but the data have no classes. Set `conditional: "
                "false`, or give the rows labels."
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
        return {"main": Adam(self.network.parameters(), self.config.lr, (0.9, 0.99))}

    def phases(self) -> Sequence[Phase]:
        return (Phase("main", optimizer="main", clip_norm=1.0),)

    def refuse(self, controls: Controls) -> None:
        if self.config.conditional:
            refuse_label(controls.label, self.spec.classes)
        elif controls.label != ANY or controls.guidance != 1:
            name, value = ("label", controls.label) if controls.label != ANY else ("guidance", controls.guidance)
            raise AtelierError(
                f"the control {name} is {value!r}, but this flow_matching knows no classes: set `conditional: true` in "
                f"its config, or leave {name} at {ANY if name == 'label' else 1!r}"
            )

    def loss(self, phase: str, batch: Images, *, step: int, generator: torch.Generator) -> Loss:
        """The squared error of the velocity, arXiv:2210.02747, eq. 23 with sigma_min 0."""
        data_BCHW = batch.pixels
        labels_B = given_labels(batch, step) if self.config.conditional else None
        noise_BCHW = normal_like(data_BCHW, data_BCHW.shape, generator)
        if self.config.pairing == "optimal":
            noise_BCHW = noise_BCHW[paired(noise_BCHW.flatten(1), data_BCHW.flatten(1), labels_B, generator)]
        time_B = self._times(len(data_BCHW), generator).to(data_BCHW.device)
        between_BCHW = torch.lerp(noise_BCHW, data_BCHW, time_B[:, None, None, None])
        if labels_B is not None:
            labels_B = drop_labels(labels_B, self.config.label_dropout, null=self.network.null, generator=generator)
        velocity_BCHW = self._velocity(self.network, between_BCHW, time_B, labels_B)
        loss = (velocity_BCHW - (data_BCHW - noise_BCHW)).square().mean()
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

        def velocity(pixels_BCHW: Tensor, time: float) -> Tensor:
            def predict(asked_B: Tensor | None) -> Tensor:
                return self._velocity(
                    self.average, pixels_BCHW, torch.full((len(seeds),), time, device=device), asked_B
                )

            return guided(predict, labels_B, guidance)

        first = controls[0]
        pixels_BCHW = solve(velocity, noise_BCHW.to(device), steps=first.steps, sampler=first.sampler)
        return Images(pixels_BCHW.clamp(-1, 1), labels_B)

    def _velocity(self, network: UNet, pixels_BCHW: Tensor, time_B: Tensor, labels_B: Tensor | None) -> Tensor:
        """v(x, t): the velocity that Gaussian data of this deviation would have, plus what the network says.

        As in arXiv:2206.00364, section 5, the network sees inputs and is asked for outputs of unit variance.
        """
        time_B111, data = time_B[:, None, None, None], self.config.data_deviation
        variance_B111 = (1 - time_B111).square() + (data * time_B111).square()
        gaussian_BCHW = (data**2 * time_B111 - (1 - time_B111)) / variance_B111 * pixels_BCHW
        told_BCHW: Tensor = network(variance_B111.rsqrt() * pixels_BCHW, time_B, labels_B)
        return gaussian_BCHW + data * variance_B111.rsqrt() * told_BCHW

    def _times(self, count: int, generator: torch.Generator) -> Tensor:
        if self.config.time == "uniform":
            return torch.rand(count, generator=generator, device=generator.device)
        return torch.sigmoid(torch.randn(count, generator=generator, device=generator.device))


def solve(velocity: Callable[[Tensor, float], Tensor], pixels_BCHW: Tensor, *, steps: int, sampler: str) -> Tensor:
    """Where `pixels_BCHW` at time 0 have got to at time 1, along dx/dt = v(x, t) in even steps."""
    step = 1 / steps
    for time in (i / steps for i in range(steps)):
        there_BCHW = velocity(pixels_BCHW, time)
        if sampler == "midpoint":
            there_BCHW = velocity(pixels_BCHW + step / 2 * there_BCHW, time + step / 2)
        elif sampler == "heun":
            there_BCHW = (there_BCHW + velocity(pixels_BCHW + step * there_BCHW, time + step)) / 2
        pixels_BCHW = pixels_BCHW + step * there_BCHW
    return pixels_BCHW


def paired(noise_BP: Tensor, data_BP: Tensor, labels_B: Tensor | None, generator: torch.Generator) -> Tensor:
    """For each row of data a row of noise [B] that lies near, so that the batch's noise is used evenly.

    With labels, pairs are made within each class: noise would tell the class otherwise, and in sampling it does not.
    On an accelerator pairs are drawn from a plan of transport: the exact ones would make it wait for the CPU.
    """
    cost_BB = torch.cdist(data_BP.float(), noise_BP.float()).square()
    if labels_B is not None:
        cost_BB = torch.where(labels_B[:, None] == labels_B[None, :], cost_BB, math.inf)
    return assigned(cost_BB) if cost_BB.device.type == "cpu" else drawn(plan(cost_BB), generator)


def assigned(cost_BB: Tensor) -> Tensor:
    """The column [B] of each row, none of them twice, at the least cost in all (arXiv:2302.00482, eq. 15)."""
    from scipy.optimize import linear_sum_assignment  # only training needs it: serving goes without

    return torch.from_numpy(linear_sum_assignment(cost_BB.numpy())[1])


def plan(cost_BB: Tensor) -> Tensor:
    """Log of how much of each row goes to each column, by Sinkhorn's iterations (arXiv:1306.0895, algorithm 1).

    Each row, and nearly each column, adds up to 1. The entropy's weight follows the costs beyond the least of their row
    and column; on Fashion-MNIST such pairs have 0.96 of what the exact ones save.
    """
    spare_BB = cost_BB - cost_BB.amin(dim=1, keepdim=True)
    spare_BB = spare_BB - spare_BB.amin(dim=0, keepdim=True)
    finite_BB = spare_BB.isfinite()
    mean = torch.where(finite_BB, spare_BB, 0).sum() / finite_BB.sum()
    log_BB = -spare_BB / (ENTROPY * mean + 1e-12)
    for _ in range(SINKHORN_STEPS):
        log_BB = log_BB.log_softmax(dim=0).log_softmax(dim=1)
    return log_BB


def drawn(log_BB: Tensor, generator: torch.Generator) -> Tensor:
    """A column [B] of each row, drawn by these logarithms of its shares: the first of exponential arrivals."""
    arrivals_BB = torch.empty_like(log_BB).exponential_(generator=generator)
    return (log_BB - arrivals_BB.log()).argmax(dim=1)
