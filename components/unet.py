"""The U-Net that `diffusion` and `flow_matching` share, and what makes it conditional on a class.

After Ronneberger et al. (arXiv:1505.04597) with the residual blocks of Dhariwal and Nichol (arXiv:2105.05233): group
norm, SiLU, and a scale and shift from the embedding of time and class. Made small for a CPU: it works on patches of
pixels, skips are added where others are concatenated, and far places mix at the lowest resolution alone, or nowhere.
B batch, C channels, H W sides, E embedding, F frequencies, T tokens (places), G heads, D channels of a head.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.errors import AtelierError

GROUP = 8  # channels of one group of a norm, where there are as many
HEAD = 32  # channels of one head of attention
FREQUENCIES = 32
HIGHEST = 16.0  # periods of the fastest sine while time goes from 0 to 1
HIDDEN_PLACES = 96  # of the dense mixing, about twice the 49 that pictures of 28 x 28 have left

Mixing = Literal["dense", "attention", "none"]
Layer = TypeVar("Layer", nn.Conv2d, nn.Linear)


class UNet(nn.Module):
    """Pictures [B, channels, size, size] at times [B], about -2 to 2, and labels [B] to pictures of the same shape.

    Label `classes` is the null class, of no label in particular. With `classes` 0 labels are left out. The untrained
    network gives zero. An `AtelierError` where so many halvings do not fit `size`.
    """

    def __init__(
        self,
        *,
        channels: int,
        size: int,
        width: int,
        multipliers: Sequence[int],
        blocks: int,
        patch: int,
        mixing: Mixing,
        classes: int = 0,
    ) -> None:
        super().__init__()
        _refuse_size(size, patch, len(multipliers))
        widths = [width * multiplier for multiplier in multipliers]
        embedding = 4 * width
        self.null = classes
        self.time = nn.Sequential(
            Waves(), nn.Linear(2 * FREQUENCIES, embedding), nn.SiLU(), nn.Linear(embedding, embedding)
        )
        self.label = nn.Embedding(classes + 1, embedding) if classes else None
        self.stem = nn.Sequential(nn.PixelUnshuffle(patch), nn.Conv2d(channels * patch**2, width, 3, padding=1))
        self.place_1CHW = nn.Parameter(torch.zeros(1, width, size // patch, size // patch))
        self.down = nn.ModuleList(_stage(width, blocks, embedding) for width in widths[:-1])
        self.narrow = nn.ModuleList(nn.Conv2d(wide, wider, 2, 2) for wide, wider in pairwise(widths))
        self.middle = _stage(widths[-1], 2 * blocks, embedding)
        if mixing == "attention":
            self.middle.insert(blocks, Attention(widths[-1]))
        elif mixing == "dense":
            self.middle.insert(blocks, Dense(widths[-1], (size // patch // 2 ** (len(widths) - 1)) ** 2))
        self.widen = nn.ModuleList(nn.ConvTranspose2d(wider, wide, 2, 2) for wide, wider in pairwise(widths))
        self.up = nn.ModuleList(_stage(width, blocks, embedding) for width in widths[:-1])
        last = nn.Conv2d(width, channels * patch**2, 3, padding=1)
        self.head = nn.Sequential(_norm(width), nn.SiLU(), _zero(last), nn.PixelShuffle(patch))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # a tenth faster on a CPU

    def forward(self, pixels_BCHW: Tensor, time_B: Tensor, labels_B: Tensor | None = None) -> Tensor:
        embedding_BE = self.time(time_B)
        if self.label is not None:
            null_B = torch.full_like(time_B, self.null, dtype=torch.long)
            embedding_BE = embedding_BE + self.label(null_B if labels_B is None else labels_B)
        embedding_BE = F.silu(embedding_BE)
        hidden_BCHW = self.stem(pixels_BCHW.contiguous(memory_format=torch.channels_last)) + self.place_1CHW
        skips = []
        for stage, narrow in zip(self.down, self.narrow, strict=True):
            hidden_BCHW = _through(stage, hidden_BCHW, embedding_BE)
            skips.append(hidden_BCHW)
            hidden_BCHW = narrow(hidden_BCHW)
        hidden_BCHW = _through(self.middle, hidden_BCHW, embedding_BE)
        for stage, widen in zip(reversed(self.up), reversed(self.widen), strict=True):
            hidden_BCHW = _through(stage, widen(hidden_BCHW) + skips.pop(), embedding_BE)
        out_BCHW: Tensor = self.head(hidden_BCHW)
        return out_BCHW


class Waves(nn.Module):
    """Times [B] as sines and cosines [B, 2F] of frequencies between a quarter period and `HIGHEST`, evenly in log."""

    frequency_F: Tensor

    def __init__(self) -> None:
        super().__init__()
        octaves_F = torch.linspace(math.log(0.25), math.log(HIGHEST), FREQUENCIES)
        self.register_buffer("frequency_F", 2 * math.pi * octaves_F.exp())

    def forward(self, time_B: Tensor) -> Tensor:
        angle_BF = time_B[:, None].float() * self.frequency_F
        return torch.cat([angle_BF.sin(), angle_BF.cos()], dim=1)


class Residual(nn.Module):
    """Two convolutions beside the identity, [B, C, H, W] to the same; the second norm is scaled and shifted."""

    def __init__(self, width: int, embedding: int) -> None:
        super().__init__()
        self.first = nn.Sequential(_norm(width), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1))
        self.modulation = nn.Linear(embedding, 2 * width)
        self.norm = _norm(width, affine=False)  # the modulation is its scale and shift
        self.second = _zero(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, hidden_BCHW: Tensor, embedding_BE: Tensor) -> Tensor:
        scale_BC11, shift_BC11 = self.modulation(embedding_BE)[:, :, None, None].chunk(2, dim=1)
        inner_BCHW = torch.addcmul(shift_BC11, self.norm(self.first(hidden_BCHW)), 1 + scale_BC11)
        out_BCHW: Tensor = hidden_BCHW + self.second(F.silu(inner_BCHW))
        return out_BCHW


class Attention(nn.Module):
    """Self-attention between all places of a picture, beside the identity (arXiv:1706.03762)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = width // HEAD if width % HEAD == 0 else 1
        self.norm = _norm(width)
        self.inward = nn.Conv2d(width, 3 * width, 1)
        self.outward = _zero(nn.Conv2d(width, width, 1))

    def forward(self, hidden_BCHW: Tensor, embedding_BE: Tensor) -> Tensor:
        joint_BCT = self.inward(self.norm(hidden_BCHW)).flatten(2)
        query_BGTD, key_BGTD, value_BGTD = (self._split(part_BCT) for part_BCT in joint_BCT.chunk(3, dim=1))
        mixed_BGTD = F.scaled_dot_product_attention(query_BGTD, key_BGTD, value_BGTD)
        mixed_BCHW = mixed_BGTD.transpose(2, 3).reshape(hidden_BCHW.shape)
        out_BCHW: Tensor = hidden_BCHW + self.outward(mixed_BCHW)
        return out_BCHW

    def _split(self, part_BCT: Tensor) -> Tensor:
        batch, width, tokens = part_BCT.shape
        return part_BCT.reshape(batch, self.heads, width // self.heads, tokens).transpose(2, 3)


class Dense(nn.Module):
    """A small network from all places to all places, the same for each channel, beside the identity.

    The token mixing of arXiv:2105.01601. It knows each place by name, so it is quick to learn where things are in
    pictures that are centred, as those of clothes.
    """

    def __init__(self, width: int, places: int) -> None:
        super().__init__()
        self.norm = _norm(width)
        last = _zero(nn.Linear(HIDDEN_PLACES, places))
        self.mix = nn.Sequential(nn.Linear(places, HIDDEN_PLACES), nn.SiLU(), last)

    def forward(self, hidden_BCHW: Tensor, embedding_BE: Tensor) -> Tensor:
        mixed_BCT = self.mix(self.norm(hidden_BCHW).flatten(2))
        out_BCHW: Tensor = hidden_BCHW + mixed_BCT.reshape(hidden_BCHW.shape)
        return out_BCHW


def drop_labels(labels_B: Tensor, share: float, *, null: int, generator: torch.Generator) -> Tensor:
    """The labels with about that share of them replaced by the null class (arXiv:2207.12598, algorithm 1)."""
    draw_B = torch.rand(len(labels_B), generator=generator, device=generator.device).to(labels_B.device)
    return torch.where(draw_B < share, null, labels_B)


def guided(predict: Callable[[Tensor | None], Tensor], labels_B: Tensor | None, guidance: Sequence[float]) -> Tensor:
    """Classifier-free guidance [B, C, H, W]: the null class's prediction, and on towards the label's and beyond.

    `predict` takes labels, or none for the null class. Guidance counts from there: 0 leaves the label out, 1 is the
    prediction of the label itself, to the byte (1 + w in the paper's terms, arXiv:2207.12598, eq. 6).
    """
    if labels_B is None or all(weight == 1 for weight in guidance):
        return predict(labels_B)
    labelled_BCHW, null_BCHW = predict(labels_B), predict(None)
    weight_B111 = torch.tensor(guidance, device=labelled_BCHW.device)[:, None, None, None]
    further_BCHW = null_BCHW + weight_B111 * (labelled_BCHW - null_BCHW)
    return torch.where(weight_B111 == 1, labelled_BCHW, further_BCHW)


def _stage(width: int, blocks: int, embedding: int) -> nn.ModuleList:
    return nn.ModuleList(Residual(width, embedding) for _ in range(blocks))


def _through(stage: nn.Module, hidden_BCHW: Tensor, embedding_BE: Tensor) -> Tensor:
    for block in stage.children():
        hidden_BCHW = block(hidden_BCHW, embedding_BE)
    return hidden_BCHW


def _norm(width: int, *, affine: bool = True) -> nn.GroupNorm:
    groups = width // GROUP if width % GROUP == 0 else 1
    return nn.GroupNorm(groups, width, affine=affine)


def _zero(layer: Layer) -> Layer:
    """The layer with zero weights, so that what ends in it begins as the identity."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def _refuse_size(size: int, patch: int, levels: int) -> None:
    unit = patch * 2 ** (levels - 1)
    if size % unit:
        raise AtelierError(
            f"patch {patch} and {levels} multipliers divide a picture's side by {unit}, so prepare.size must be a "
            f"multiple of {unit}, not {size}. Change prepare.size, or give fewer multipliers or a smaller patch."
        )
