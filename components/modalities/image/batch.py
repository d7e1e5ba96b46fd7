"""What a batch of pictures is, and the facts a network is built around."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from components.contract import Batch, Spec
from components.errors import AtelierError
from components.spelling import unknown

Degradation = Literal["invert", "blur", "pixelate", "outline"]


class ImageSpec(Spec):
    """Square pictures of `size` pixels a side; `classes` names the labels, empty where there are none.

    With `degrade` the task is image to image: from a picture that was degraded so to one like the data's.
    """

    channels: int = Field(ge=1, le=4)
    size: int = Field(ge=4)
    classes: tuple[str, ...] = ()
    # left out where there is none: what was made before it was known keeps its digest
    degrade: Degradation | None = Field(None, exclude_if=lambda degrade: degrade is None)

    @property
    def gives(self) -> bool:
        return self.degrade is not None

    def given(self, rows: Batch) -> "Images | None":
        assert isinstance(rows, Images)
        return None if self.degrade is None else Images(degrade(rows.pixels, self.degrade))

    def row(self, pixels: bytes) -> "Images":
        """One row of bytes [channels, size, size]."""
        levels = torch.frombuffer(bytearray(pixels), dtype=torch.uint8)
        return Images(levels.reshape(1, self.channels, self.size, self.size).float().div_(127.5).sub_(1))


@dataclass(frozen=True, slots=True)
class Images(Batch):
    """`pixels` [B, channels, size, size] float in [-1, 1]; `labels` [B] int64, or none."""

    pixels: Tensor
    labels: Tensor | None = None


def degrade(pixels_BCHW: Tensor, how: Degradation) -> Tensor:
    """The pictures [B, C, H, W] in [-1, 1] as the named degradation leaves them, of the same shape and range.

    `invert` is a negative. `blur` is Gaussian, its deviation a sixteenth of the side. `pixelate` leaves a quarter of
    the pixels a side, each the mean of its cell. `outline` is the brightest less the darkest of 3 x 3 pixels.
    """
    if how == "invert":
        return -pixels_BCHW
    if how == "blur":
        return _blurred(pixels_BCHW, deviation=pixels_BCHW.shape[-1] / 16)
    if how == "pixelate":
        small = F.adaptive_avg_pool2d(pixels_BCHW, -(-pixels_BCHW.shape[-1] // 4))
        return F.interpolate(small, size=pixels_BCHW.shape[-2:], mode="nearest-exact")
    brightest, darkest = F.max_pool2d(pixels_BCHW, 3, 1, 1), -F.max_pool2d(-pixels_BCHW, 3, 1, 1)
    return brightest - darkest - 1


def _blurred(pixels_BCHW: Tensor, *, deviation: float) -> Tensor:
    """Convolved with a Gaussian out to three deviations; beyond the edge the outermost pixels go on."""
    reach = math.ceil(3 * deviation)
    place = torch.arange(-reach, reach + 1, device=pixels_BCHW.device, dtype=pixels_BCHW.dtype)
    line = torch.exp(-(place / deviation).square() / 2)
    rows, channels, height, width = pixels_BCHW.shape
    wide = F.pad(pixels_BCHW.reshape(rows * channels, 1, height, width), (reach,) * 4, mode="replicate")
    line = line / line.sum()
    blurred = F.conv2d(F.conv2d(wide, line[None, None, None, :]), line[None, None, :, None])
    return blurred.reshape(pixels_BCHW.shape)


ANY = "any"  # as the name of a class: whichever a row's seed draws
LABELS_LOOKED_AT_EVERY = 100  # steps on an accelerator: each look waits for it


def labels(names: Sequence[str], seeds: Sequence[int], classes: Sequence[str]) -> Tensor:
    """The index [B] of the class that each row asks for by name; `ANY` is drawn from the row's own seed."""
    drawn = [random.Random(f"class of {seed}").randrange(len(classes)) for seed in seeds]
    return torch.tensor([at if name == ANY else classes.index(name) for name, at in zip(names, drawn, strict=True)])


def refuse_label(name: str, classes: Sequence[str]) -> None:
    """Raise an `AtelierError` where that is no class of the data."""
    if name != ANY and name not in classes:
        raise AtelierError(unknown("label", name, [ANY, *classes]))


def given_labels(rows: Images, step: int) -> Tensor:
    """The labels [B] that a conditional network trains on at a step; an `AtelierError` where a row has none."""
    labels_B = rows.labels
    looking = labels_B is not None and (labels_B.device.type == "cpu" or step % LABELS_LOOKED_AT_EVERY == 0)
    if labels_B is None or looking and bool((labels_B < 0).any()):
        raise AtelierError(
            "a candidate is conditional on the label, but a row has no label. Give each row its label, or choose a "
            "config or a family that needs none."
        )
    return labels_B


SPEC = ImageSpec
