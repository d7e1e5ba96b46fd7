"""StyleGAN2 (Karras et al., 2019, arXiv:1912.04958), small, with adaptive augmentation (arXiv:2006.06676) on request.

A mapping network makes styles of latents; a skip generator is modulated by a style at each layer and adds noise to it;
the discriminator is residual and sees how alike a few rows are. R1 and path length are phases of their own, "lazy".
Defaults are those of the `cifar` preset of stylegan2-ada-pytorch, which maps by two layers and leaves style mixing (0.9
in the paper) and path length (2, every 4) out; those that differ say why. Deviations: the discriminator filters before
its second convolution rather than inside of it; style mixing is drawn for each row rather than each batch; the
augmentation has the paper's flip, shift (blitting) and cutout without its colours, noise and turns.
B batch, Z latent, W style, L layers, I O channels in and out, C channels, H side.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, Optimizer

from components import contract
from components.contract import Batch, Family, Loss, Phase
from components.diffaugment import shifted, square
from components.errors import AtelierError
from components.layers import average_into, normal_like, seeded_normal
from components.modalities.image.batch import Images, ImageSpec

STARTS = (4, 7)  # pixels a side of the first layer; 7 for 28 x 28
GROUP = 4  # rows among which the discriminator measures how alike they are
STYLE_DECAY = 0.998  # of the mean style, per step, as in the trusted implementation
PATH_DECAY = 0.99  # of the mean path length, per update of it
MEASURED_OVER = 4  # steps between two changes of the augmentation's probability, appendix B of 2006.06676
GAIN = math.sqrt(2)  # keeps the variance through a leaky ReLU; taken before it, where weights and biases can carry it
NOT_LEAKING = 0.8  # the most often an augmentation may come without showing in what is generated, section 2.2 there


class Config(contract.Config):
    latent_dim: int = Field(64, ge=1)  # of latents and styles; the paper's 512 is for faces of 1024 x 1024
    width: int = Field(8, ge=1)  # channels at full size, twice as many at each halving; few, for minutes on a CPU
    max_width: int = Field(512, ge=1)
    mapping_layers: int = Field(2, ge=1)
    mapping_lr_multiplier: float = Field(0.1, gt=0)  # the paper's 0.01 hardly moves it in a thousand steps
    style_mixing: float = Field(0.0, ge=0, le=1)  # share of rows whose style changes at a random layer
    lr: float = Field(0.02, gt=0)  # the preset's 0.0025 is for a hundred times the steps
    r1_weight: float = Field(1.0, ge=0)  # 0 leaves the phase out; the preset's 0.01 loses variety at such a pace
    r1_every: int = Field(16, ge=1)
    path_weight: float = Field(0.0, ge=0)  # 0 leaves the phase out
    path_every: int = Field(4, ge=1)
    average_decay: float = Field(0.99, ge=0, lt=1)  # short runs: the preset's half-life of 500,000 rows outlasts them
    adaptive_augment: bool = False  # what the discriminator sees, for small datasets
    augment_target: float = Field(0.6, gt=-1, lt=1)  # of the mean sign of the discriminator on real rows
    augment_rows: int = Field(100_000, ge=1)  # real rows in which the probability may rise from 0 to 1


class Controls(contract.Controls):
    truncation: float = Field(1.0, ge=0, le=2)  # psi: the style's distance from the mean style, below 1 safer


class Model(Family[Config, Controls, ImageSpec, Images]):
    modality = "image"
    served = ("average",)

    def __init__(self, config: Config, spec: ImageSpec) -> None:
        super().__init__(config, spec)
        sides = _sides(spec.size)
        self.generator = Generator(config, spec, sides)
        self.discriminator = Discriminator(config, spec, sides)
        self.average = copy.deepcopy(self.generator).requires_grad_(False)
        self.path = PathLength()
        self.augment = Augment(config) if config.adaptive_augment else None

    def optimizers(self) -> Mapping[str, Optimizer]:
        config = self.config
        return {
            "generator": _lazy_adam(self.generator, config.lr, config.path_every if config.path_weight else None),
            "discriminator": _lazy_adam(self.discriminator, config.lr, config.r1_every if config.r1_weight else None),
        }

    def phases(self) -> Sequence[Phase]:
        config = self.config
        phases = [Phase("discriminator", optimizer="discriminator")]
        if config.r1_weight:
            phases.append(Phase("r1", optimizer="discriminator", every=config.r1_every))
        phases.append(Phase("generator", optimizer="generator"))
        if config.path_weight:
            phases.append(Phase("path", optimizer="generator", every=config.path_every))
        return phases

    def differentiated_twice(self) -> Sequence[str]:
        weights = {"discriminator": self.config.r1_weight, "generator": self.config.path_weight}
        return [network for network, weight in weights.items() if weight]

    def loss(self, phase: str, batch: Images, *, step: int, generator: torch.Generator) -> Loss:
        if phase == "r1":
            return self._r1(batch.pixels, generator)
        if phase == "path":
            return self._path(batch.pixels, generator)
        real = batch.pixels
        styles_BLW, noise = self._inputs(real, len(real), generator)
        fake_B = self._judged(self.generator(styles_BLW, noise), generator)
        if phase == "generator":
            self.generator.remember(styles_BLW[:, 0])
            loss = F.softplus(-fake_B).mean()  # non-saturating
            return Loss(loss, {"loss": loss})
        real_B = self._judged(real, generator)
        loss = F.softplus(-real_B).mean() + F.softplus(fake_B).mean()
        parts = {"loss": loss, "accuracy": ((real_B > 0).float().mean() + (fake_B < 0).float().mean()) / 2}
        if self.augment is not None:
            self.augment.adapt(real_B.detach(), step)
            parts["augment_probability"] = self.augment.probability.clone()
        return Loss(loss, parts)

    def after_step(self, step: int) -> None:
        average_into(self.average, self.generator, decay=min(self.config.average_decay, (1 + step) / (10 + step)))

    def draw(self, seeds: Sequence[int], controls: Sequence[Controls], conditions: Batch | None) -> Images:
        served, latent = self.average, self.config.latent_dim
        psi_B1 = torch.tensor([[control.truncation] for control in controls]).to(served.mean_style.device)
        drawn = seeded_normal(seeds, latent + served.noise_size).to(served.mean_style.device)
        style_BW = served.mapping(drawn[:, :latent])
        style_BW = served.mean_style + psi_B1 * (style_BW - served.mean_style)
        pixels = served(style_BW[:, None].expand(-1, served.layers, -1), drawn[:, latent:])
        return Images(pixels.clamp(-1, 1))

    def _inputs(self, like: Tensor, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Styles [B, L, W], some of them mixed of two, and the noise of every layer, one after another [B, -1]."""
        network = self.generator
        latent = normal_like(like, (2 * rows, self.config.latent_dim), generator)
        one_BW, other_BW = network.mapping(latent).chunk(2)
        chance_B2 = torch.rand(rows, 2, generator=generator, device=generator.device).to(like.device)
        crossover_B = 1 + (chance_B2[:, 1] * (network.layers - 1)).floor()  # from the second layer to the last
        crossover_B = torch.where(chance_B2[:, 0] < self.config.style_mixing, crossover_B, network.layers)
        after_BL1 = (torch.arange(network.layers, device=like.device) >= crossover_B[:, None])[:, :, None]
        styles_BLW = torch.where(after_BL1, other_BW[:, None], one_BW[:, None])
        return styles_BLW, normal_like(like, (rows, network.noise_size), generator)

    def _judged(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """The discriminator's logits [B], of augmented pictures where that is asked for."""
        seen = pixels if self.augment is None else self.augment(pixels, generator)
        logits_B: Tensor = self.discriminator(seen)
        return logits_B

    def _r1(self, pixels: Tensor, generator: torch.Generator) -> Loss:
        """The squared gradient at real rows (arXiv:1801.04406, eq. 9), for all the steps that it stands for."""
        real = pixels.detach().requires_grad_(True)
        (gradient,) = torch.autograd.grad(self._judged(real, generator).sum(), real, create_graph=True)
        penalty = gradient.square().flatten(1).sum(dim=1).mean()
        return Loss(penalty * (self.config.r1_weight / 2 * self.config.r1_every), {"penalty": penalty})

    def _path(self, pixels: Tensor, generator: torch.Generator) -> Loss:
        """How unevenly pictures move with their styles, section 3.2, on half as many rows."""
        styles_BLW, noise = self._inputs(pixels, max(1, len(pixels) // 2), generator)
        images = self.generator(styles_BLW, noise)
        penalty, mean = self.path(images, styles_BLW, normal_like(images, images.shape, generator))
        weight = self.config.path_weight * self.config.path_every
        return Loss(penalty * weight, {"penalty": penalty, "length": mean})


class Generator(nn.Module):
    """Styles and noise in, pictures out; `layers` styles a row, `noise_size` numbers of noise."""

    mean_style: Tensor

    def __init__(self, config: Config, spec: ImageSpec, sides: Sequence[int]) -> None:
        super().__init__()
        dim, widths = config.latent_dim, _widths(config, sides)
        multiplier = config.mapping_lr_multiplier
        self.mapping = nn.Sequential(UnitNorm())
        for _ in range(config.mapping_layers):
            self.mapping.extend([Linear(dim, dim, gain=GAIN, lr_multiplier=multiplier), nn.LeakyReLU(0.2)])
        self.start = nn.Parameter(torch.randn(widths[0], sides[0], sides[0]))
        self.bends = nn.ModuleList([Layer(widths[0], widths[0], dim)])
        self.colours = nn.ModuleList([Colour(widths[0], spec.channels, dim)])
        for before, after in pairwise(widths):
            self.bends.extend([Layer(before, after, dim, up=True), Layer(after, after, dim)])
            self.colours.append(Colour(after, spec.channels, dim))
        self.up = Filter(up=True)
        self.sides = [sides[0]] + [side for side in sides[1:] for _ in range(2)]  # of each layer
        self.layers = len(self.sides) + 1  # a style each, and one for the last colours
        self.noise_size = sum(side**2 for side in self.sides)
        self.register_buffer("mean_style", torch.zeros(dim))

    def forward(self, styles_BLW: Tensor, noise: Tensor) -> Tensor:
        styles = styles_BLW.unbind(dim=1)
        maps = [
            part.view(-1, 1, side, side)
            for part, side in zip(torch.split(noise, [side**2 for side in self.sides], dim=1), self.sides, strict=True)
        ]
        hidden = self.bends[0](self.start.expand(len(noise), -1, -1, -1), styles[0], maps[0])
        picture: Tensor = self.colours[0](hidden, styles[1])
        for block in range(1, len(self.colours)):
            for layer in (2 * block - 1, 2 * block):
                hidden = self.bends[layer](hidden, styles[layer], maps[layer])
            picture = self.up(picture) + self.colours[block](hidden, styles[2 * block + 1])
        return picture

    @torch.no_grad()
    def remember(self, style_BW: Tensor) -> None:
        """Move the mean style, which truncation draws towards."""
        self.mean_style.lerp_(style_BW.float().mean(dim=0), 1 - STYLE_DECAY)


class Discriminator(nn.Sequential):
    """Pictures in, a logit [B] each out."""

    def __init__(self, config: Config, spec: ImageSpec, sides: Sequence[int]) -> None:
        widths = _widths(config, sides)
        blocks = [Residual(before, after) for before, after in pairwise(reversed(widths))]
        last = widths[0]
        super().__init__(
            Convolution(spec.channels, widths[-1], 1, gain=GAIN), nn.LeakyReLU(0.2), *blocks,
            Likeness(), Convolution(last + 1, last, 3, gain=GAIN), nn.LeakyReLU(0.2), nn.Flatten(),
            Linear(last * sides[0] ** 2, last, gain=GAIN), nn.LeakyReLU(0.2), Linear(last, 1), nn.Flatten(0),
        )  # fmt: skip


class Linear(nn.Module):
    """A linear layer whose weights are scaled when they are used, so that all learn alike (arXiv:1710.10196)."""

    def __init__(
        self, inside: int, outside: int, *, bias: float = 0.0, gain: float = 1.0, lr_multiplier: float = 1.0
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outside, inside) / lr_multiplier)
        self.bias = nn.Parameter(torch.full((outside,), bias / lr_multiplier))
        self.scale, self.bias_scale = gain * lr_multiplier / math.sqrt(inside), gain * lr_multiplier

    def forward(self, hidden: Tensor) -> Tensor:
        return F.linear(hidden, self.weight * self.scale, self.bias * self.bias_scale)


class Convolution(nn.Module):
    """A convolution likewise."""

    def __init__(self, inside: int, outside: int, side: int, *, bias: bool = True, gain: float = 1.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outside, inside, side, side))
        self.bias = nn.Parameter(torch.zeros(outside)) if bias else None
        self.scale, self.gain, self.padding = gain / math.sqrt(inside * side**2), gain, side // 2

    def forward(self, hidden: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias * self.gain
        return F.conv2d(hidden, self.weight * self.scale, bias, padding=self.padding)


class Modulated(nn.Module):
    """A convolution whose weights each row's style scales, eq. 1; `up` doubles the sides.

    Scaling what goes in is the same as scaling the weights, and one convolution does for all rows.
    """

    def __init__(self, inside: int, outside: int, side: int, dim: int, *, up: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(outside, inside, side, side))
        self.style = Linear(dim, inside, bias=1.0)
        self.scale, self.padding = 1 / math.sqrt(inside * side**2), side // 2
        self.blur = Filter(gain=4) if up else None

    def forward(self, hidden: Tensor, style_BW: Tensor) -> tuple[Tensor, Tensor]:
        """What comes out, and the factor [B, O, 1, 1] that demodulates it, eq. 3."""
        scale_BI, weight = self.style(style_BW), self.weight * self.scale
        hidden = hidden * scale_BI[:, :, None, None]
        if self.blur is None:
            hidden = F.conv2d(hidden, weight, padding=self.padding)
        else:
            hidden = self.blur(F.conv_transpose2d(hidden, weight.transpose(0, 1), stride=2))
        power_BO = F.linear(scale_BI.square(), weight.square().sum(dim=(2, 3)))
        return hidden, (power_BO + 1e-8).rsqrt()[:, :, None, None]


class Layer(nn.Module):
    """A modulated and demodulated convolution, its noise, bias and activation; `up` doubles the sides."""

    def __init__(self, inside: int, outside: int, dim: int, *, up: bool = False) -> None:
        super().__init__()
        self.convolution = Modulated(inside, outside, 3, dim, up=up)
        self.noise_strength = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(outside, 1, 1))

    def forward(self, hidden: Tensor, style_BW: Tensor, noise_B1HH: Tensor) -> Tensor:
        hidden, factor_BO11 = self.convolution(hidden, style_BW)
        hidden = torch.addcmul(GAIN * self.bias, hidden, GAIN * factor_BO11)
        return F.leaky_relu(hidden + GAIN * self.noise_strength * noise_B1HH, 0.2)


class Colour(nn.Module):
    """What a layer adds to the picture: modulated and not demodulated, section 2.2."""

    def __init__(self, inside: int, channels: int, dim: int) -> None:
        super().__init__()
        self.convolution = Modulated(inside, channels, 1, dim)
        self.bias = nn.Parameter(torch.zeros(channels, 1, 1))

    def forward(self, hidden: Tensor, style_BW: Tensor) -> Tensor:
        picture: Tensor = self.convolution(hidden, style_BW)[0] + self.bias
        return picture


class Residual(nn.Module):
    """Two convolutions and a shortcut; the sides are halved. Their sum over the square root of 2 keeps the variance."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.first = Convolution(inside, inside, 3, gain=GAIN)
        self.second = Convolution(inside, outside, 3, gain=GAIN / math.sqrt(2))
        self.shortcut = Convolution(inside, outside, 1, bias=False, gain=1 / math.sqrt(2))
        self.down = Filter(down=True)

    def forward(self, hidden: Tensor) -> Tensor:
        bent = F.leaky_relu(self.first(hidden), 0.2)
        bent = F.leaky_relu(self.second(self.down(bent)), 0.2)
        summed: Tensor = bent + self.shortcut(self.down(hidden))
        return summed


class Filter(nn.Module):
    """The low-pass filter [1, 3, 3, 1] in both directions, on its own or around a change of sides by two.

    On its own it takes one off each side, the row and column that a transposed convolution has too many.
    """

    kernel: Tensor

    def __init__(self, *, up: bool = False, down: bool = False, gain: float = 1.0) -> None:
        super().__init__()
        line = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = line[:, None] * line / line.sum() ** 2 * (4.0 if up else gain)
        self.register_buffer("kernel", kernel[None, None], persistent=False)
        self.up, self.stride = up, 2 if down else 1

    def forward(self, hidden: Tensor) -> Tensor:
        channels = hidden.shape[1]
        kernel = self.kernel.to(hidden.dtype).expand(channels, -1, -1, -1)
        if self.up:
            return F.conv_transpose2d(hidden, kernel, stride=2, padding=1, groups=channels)
        return F.conv2d(hidden, kernel, stride=self.stride, padding=1, groups=channels)


class Likeness(nn.Module):
    """One more channel: how much a few rows differ, so that a generator of one picture is found out (1710.10196)."""

    def forward(self, hidden: Tensor) -> Tensor:
        rows, channels, *sides = hidden.shape
        group = GROUP if rows % GROUP == 0 else rows
        grouped = hidden.reshape(group, rows // group, channels, *sides)
        variance = (grouped - grouped.mean(dim=0)).square().mean(dim=0)
        deviation = (variance + 1e-8).sqrt().mean(dim=(1, 2, 3))
        channel = deviation.repeat(group)[:, None, None, None].expand(-1, 1, *sides)
        return torch.cat([hidden, channel.to(hidden.dtype)], dim=1)


class UnitNorm(nn.Module):
    """Latents at a mean square of 1."""

    def forward(self, latent_BZ: Tensor) -> Tensor:
        return latent_BZ * (latent_BZ.square().mean(dim=1, keepdim=True) + 1e-8).rsqrt()


class PathLength(nn.Module):
    """Mean squared difference of path lengths from their moving mean, eq. 4.

    The mean starts at the first lengths: from 0, as in the trusted implementation, short runs are pulled to 0 with it.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, images: Tensor, styles_BLW: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The penalty, and the mean length; `noise` is standard normal in the shape of the images."""
        moved = (images * noise).sum() / math.sqrt(images.shape[2] * images.shape[3])
        (gradient,) = torch.autograd.grad(moved, styles_BLW, create_graph=True)
        length_B = gradient.square().sum(dim=2).mean(dim=1).sqrt()
        with torch.no_grad():
            now = length_B.float().mean()
            self.mean.copy_(torch.where(self.mean == 0, now, self.mean.lerp(now, 1 - PATH_DECAY)))
        return (length_B - self.mean.clone()).square().mean(), length_B.mean()


class Augment(nn.Module):
    """Flips, shifts and cutouts of whatever the discriminator sees, as often as it is too sure of real rows.

    Its state is in its buffers, so that a run that was cut off goes on as it would have.
    """

    probability: Tensor
    signs: Tensor

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.target, self.rows = config.augment_target, config.augment_rows
        self.register_buffer("probability", torch.zeros(()))
        self.register_buffer("signs", torch.zeros(()))

    def forward(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """The same pictures, each changed in each way with the probability; gradients pass."""
        rows, _, _, side = pixels.shape
        chance = torch.rand(8, rows, generator=generator, device=generator.device).to(pixels.device)
        due = chance[:3] < self.probability
        pixels = torch.where((due[0] & (chance[3] < 0.5))[:, None, None, None], pixels.flip(3), pixels)
        farthest = side // 8  # the paper's 12.5%
        shift_2B = ((2 * farthest + 1) * chance[4:6]).floor() - farthest
        pixels = shifted(pixels, torch.where(due[1], shift_2B, 0).long())
        return torch.where((due[2][:, None, None] & square(chance[6:], side))[:, None], 0.0, pixels)

    @torch.no_grad()
    def adapt(self, real_B: Tensor, step: int) -> None:
        """Learn of the logits of a step's real rows; now and then move the probability, section 3.1."""
        self.signs += real_B.sign().float().mean() / MEASURED_OVER
        if (step + 1) % MEASURED_OVER == 0:
            moved = (self.signs - self.target).sign() * (MEASURED_OVER * len(real_B) / self.rows)
            self.probability.add_(moved).clamp_(0, NOT_LEAKING)
            self.signs.zero_()


def _sides(size: int) -> list[int]:
    """The sides of the pictures inside, from the first layer to `size`."""
    for start in STARTS:
        doublings = max(1, round(math.log2(size / start)))
        if start * 2**doublings == size:
            return [start * 2**i for i in range(doublings + 1)]
    raise AtelierError(
        "stylegan2 doubles a picture from 4 or 7 pixels a side, so prepare.size must be 8, 16, 32, 64 and so on, or "
        f"14, 28, 56 and so on, not {size}"
    )


def _widths(config: Config, sides: Sequence[int]) -> list[int]:
    return [min(config.width * sides[-1] // side, config.max_width) for side in sides]


def _lazy_adam(network: nn.Module, lr: float, every: int | None) -> Adam:
    """Adam (0, 0.99), slowed by the updates that a lazy phase adds, appendix B."""
    share = 1.0 if every is None else every / (every + 1)
    return Adam(network.parameters(), lr * share, (0.0, 0.99**share), eps=1e-8)
