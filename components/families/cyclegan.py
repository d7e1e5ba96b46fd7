"""Cycle-consistent adversarial networks: image to image without pairs (Zhu et al., 2017, arXiv:1703.10593).

The two domains come from one dataset: A are its pictures, B those that `prepare.degrade` spoils. One half of each batch
plays A and the other B, so that no picture ever meets its own degraded self. Losses and their weights, the pool of
earlier samples and the optimizers are the paper's (sections 3.2 and 4); so are the generators, residual blocks between
strided convolutions (arXiv:1603.08155), but that skips as in a U-Net (arXiv:1505.04597) keep fine detail, which with so
few pixels would not survive. Served: a moving average of both generators. A sample follows from the given picture
alone: its seed changes nothing.
B batch, C channels, H W sides.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from components import contract
from components.contract import Batch, Family, Loss, Phase
from components.errors import AtelierError
from components.layers import average_into
from components.modalities.image.batch import Images, ImageSpec, degrade

RESTORE, DEGRADE = "restore", "degrade"


class Config(contract.Config):
    width: int = Field(8, ge=1)  # the paper's 64 is for 256 x 256 pictures; an eighth trains in minutes on a CPU
    blocks: int = Field(2, ge=0)  # residual ones; the paper has 6 for 128 x 128 pictures and 9 for larger ones
    critic_width: int = Field(16, ge=1)  # the paper: 64
    cycle: float = Field(10.0, ge=0)  # weight of what there-and-back loses, eq. 3
    identity: float = Field(0.5, ge=0)  # weight of a generator's change of its own domain, as a share of `cycle`
    pool: int = Field(50, ge=1)  # earlier samples that the discriminators are shown again, section 4
    average_decay: float = Field(0.995, ge=0, lt=1)  # not in the paper; for short runs
    lr: float = Field(1e-3, gt=0)  # the paper's 2e-4 is for 200 epochs; here runs have a thousand steps or two
    beta1: float = Field(0.5, ge=0, lt=1)


class Controls(contract.Controls):
    direction: Literal["restore", "degrade"] = "restore"  # from degraded pictures to the data's, or the way back


class Model(Family[Config, Controls, ImageSpec, Images]):
    modality = "image"
    served = ("average",)
    edits = True
    alike = ("direction",)  # each way is a network of its own

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__(config, spec)
        if spec.size % 4 or spec.size < 8:
            raise AtelierError(
                f"cyclegan halves a picture twice, so prepare.size must be a multiple of 4 from 8 up, not {spec.size}"
            )
        if spec.degrade is None:
            raise AtelierError("cyclegan needs a second domain: name one in `prepare`, as in {degrade: blur}")
        self.degradation = spec.degrade
        self.generators = nn.ModuleDict({name: Generator(config, spec) for name in (RESTORE, DEGRADE)})
        self.discriminators = nn.ModuleDict({name: _discriminator(config, spec) for name in (RESTORE, DEGRADE)})
        self.pools = nn.ModuleDict({name: Pool(config.pool, spec) for name in (RESTORE, DEGRADE)})
        self.average = copy.deepcopy(self.generators).requires_grad_(False)

    def optimizers(self) -> Mapping[str, Optimizer]:
        betas = (self.config.beta1, 0.999)
        return {
            name: Adam(part.parameters(), self.config.lr, betas)
            for name, part in (("generators", self.generators), ("discriminators", self.discriminators))
        }

    def phases(self) -> Sequence[Phase]:
        return (Phase("discriminators", optimizer="discriminators"), Phase("generators", optimizer="generators"))

    def loss(self, phase: str, batch: Images, *, step: int, generator: torch.Generator) -> Loss:
        half = len(batch) // 2
        real, spoiled = batch.pixels[:half], degrade(batch.pixels[half : 2 * half], self.degradation)
        if phase == "generators":
            return self._of_generators(real, spoiled)
        return self._of_discriminators(real, spoiled, generator)

    def _of_generators(self, real: Tensor, spoiled: Tensor) -> Loss:
        """Fool the discriminators, come back to where it started, and leave alone what is there already, eq. 3."""
        half = len(real)
        restored, real_kept = self.generators[RESTORE](torch.cat([spoiled, real])).split(half)
        degraded, spoiled_kept = self.generators[DEGRADE](torch.cat([real, spoiled])).split(half)
        fooling = _squares(self.discriminators[RESTORE](restored), 1) + _squares(
            self.discriminators[DEGRADE](degraded), 1
        )
        cycle = F.l1_loss(self.generators[RESTORE](degraded), real) + F.l1_loss(
            self.generators[DEGRADE](restored), spoiled
        )
        identity = F.l1_loss(real_kept, real) + F.l1_loss(spoiled_kept, spoiled)
        total = fooling + self.config.cycle * (cycle + self.config.identity * identity)
        return Loss(total, {"adversarial": fooling, "cycle": cycle, "identity": identity})

    def _of_discriminators(self, real: Tensor, spoiled: Tensor, generator: torch.Generator) -> Loss:
        """Least squares (arXiv:1611.04076) between real pictures and samples of now or earlier, halved, section 4."""
        parts = {}
        for name, wanted, given in ((RESTORE, real, spoiled), (DEGRADE, spoiled, real)):
            with torch.no_grad():
                made = self.pools[name](self.generators[name](given), generator)
            judge = self.discriminators[name]
            parts[name] = (_squares(judge(wanted), 1) + _squares(judge(made), 0)) / 2
        return Loss(parts[RESTORE] + parts[DEGRADE], parts)

    def after_step(self, step: int) -> None:
        average_into(self.average, self.generators, decay=min(self.config.average_decay, (1 + step) / (10 + step)))

    def draw(self, seeds: Sequence[int], controls: Sequence[Controls], conditions: Batch | None) -> Images:
        assert isinstance(conditions, Images)
        given = conditions.pixels.to(next(self.average.parameters()).device)
        back_B = torch.tensor([control.direction == DEGRADE for control in controls], device=given.device)
        asked: set[str] = {control.direction for control in controls}
        made = {name: self.average[name](given) for name in asked}
        if len(made) == 1:
            return Images(*made.values())
        return Images(torch.where(back_B[:, None, None, None], made[DEGRADE], made[RESTORE]))


class Generator(nn.Module):
    """Pictures [B, C, H, W] to pictures of the other domain, of the same shape in [-1, 1]."""

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__()
        width = config.width
        self.stem = nn.Sequential(*_convolution(spec.channels, width, 7))
        self.halve = nn.Sequential(*_convolution(width, 2 * width, 3, stride=2))
        self.quarter = nn.Sequential(*_convolution(2 * width, 4 * width, 3, stride=2))
        self.middle = nn.Sequential(*(Residual(4 * width) for _ in range(config.blocks)))
        self.widen = nn.Sequential(*_doubling(4 * width, 2 * width))
        self.widest = nn.Sequential(*_doubling(2 * width, width))
        self.head = nn.Conv2d(width, spec.channels, 7, padding=3, padding_mode="reflect")
        self.apply(_initialise)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        whole = self.stem(pixels_BCHW)
        half = self.halve(whole)
        low = self.middle(self.quarter(half))
        out_BCHW: Tensor = torch.tanh(self.head(self.widest(self.widen(low) + half) + whole))
        return out_BCHW


class Residual(nn.Module):
    """Two convolutions beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        last = nn.Conv2d(width, width, 3, padding=1, padding_mode="reflect")
        self.body = nn.Sequential(*_convolution(width, width, 3), last, nn.InstanceNorm2d(width))

    def forward(self, hidden_BCHW: Tensor) -> Tensor:
        out_BCHW: Tensor = hidden_BCHW + self.body(hidden_BCHW)
        return out_BCHW


class Pool(nn.Module):
    """The latest samples of a generator: of those that come, about half are swapped for earlier ones (1612.07828).

    It lives in buffers, so that a checkpoint holds it, and asks nothing of the device.
    """

    kept: Tensor
    filled: Tensor

    def __init__(self, size: int, spec: ImageSpec) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(size, spec.channels, spec.size, spec.size))
        self.register_buffer("filled", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def forward(self, made_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        """The samples to show in place of these; until the pool is full they are these, and fill it."""
        size = len(self.kept)
        count = min(len(made_BCHW), size)
        new, rest = made_BCHW[:count].to(self.kept.dtype), made_BCHW[count:]
        where = generator.device
        drawn = torch.randperm(size, generator=generator, device=where)[:count].to(new.device)
        heads = (torch.rand(count, generator=generator, device=where) < 0.5).to(new.device)
        full = self.filled >= size
        place = torch.where(full, drawn, (self.filled + torch.arange(count, device=new.device)) % size)
        swapped, stored = (full & heads)[:, None, None, None], (~full | heads)[:, None, None, None]
        earlier = self.kept[place]
        self.kept.index_copy_(0, place, torch.where(stored, new, earlier))
        self.filled.add_(count).clamp_(max=size)
        return torch.cat([torch.where(swapped, earlier, new), rest.to(new.dtype)])


def _discriminator(config: Config, spec: ImageSpec) -> nn.Sequential:
    """A score for each patch of 18 x 18 pixels, where the paper's of 70 x 70 would hold the whole picture."""
    width = config.critic_width
    return nn.Sequential(
        nn.Conv2d(spec.channels, width, 4, 2, 1), nn.LeakyReLU(0.2),
        nn.Conv2d(width, 2 * width, 4, 2, 1), nn.InstanceNorm2d(2 * width), nn.LeakyReLU(0.2),
        nn.Conv2d(2 * width, 1, 3, 1, 1),
    ).apply(_initialise)  # fmt: skip


def _convolution(given: int, width: int, kernel: int, *, stride: int = 1) -> list[nn.Module]:
    layer = nn.Conv2d(given, width, kernel, stride, kernel // 2, padding_mode="reflect")
    return [layer, nn.InstanceNorm2d(width), nn.ReLU()]


def _doubling(given: int, width: int) -> list[nn.Module]:
    return [nn.ConvTranspose2d(given, width, 3, 2, 1, output_padding=1), nn.InstanceNorm2d(width), nn.ReLU()]


def _squares(scores: Tensor, wanted: float) -> Tensor:
    return (scores - wanted).square().mean()


def _initialise(layer: nn.Module) -> None:
    """Normal weights of deviation 0.02, section 4 of the appendix."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        nn.init.normal_(layer.weight, 0.0, 0.02)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
