"""Named changes of training pictures, each drawn anew for every batch. B batch, C channels, H W sides.

A step is one mapping of a recipe: `{flip: horizontal}`, `{shift: 2}` and `{crop: 24}` in pixels, `{rotate: 10}` in
degrees, `{cutout: 6}` pixels a side, `{noise: 0.05}` of the range [-1, 1]. What moves in from outside is black, -1.
"""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from pydantic import JsonValue
from torch import Tensor
from torch.nn import functional as F

from components.modalities.image.batch import Images
from components.spelling import unknown

BLACK = -1.0

Step = Callable[[Tensor, torch.Generator], Tensor]


class Augment:
    """The steps of a recipe in order; all randomness comes from the generator that a call brings."""

    def __init__(self, steps: Sequence[Mapping[str, JsonValue]], *, size: int) -> None:
        self._steps = [_parse(step, size) for step in steps]

    def __call__(self, images: Images, generator: torch.Generator) -> Images:
        pixels_BCHW = images.pixels
        for step in self._steps:
            pixels_BCHW = step(pixels_BCHW, generator)
        return Images(pixels_BCHW, images.labels)


def _parse(step: Mapping[str, JsonValue], size: int) -> Step:
    """The function of one step; a `ValueError` names what it takes."""
    if len(step) != 1:
        raise ValueError(f"each augment step is one name and one value, as in {{shift: 2}}, not {dict(step)}")
    ((name, value),) = step.items()
    if name not in STEPS:
        raise ValueError(unknown("augment step", name, STEPS))
    if name == "flip":
        if value not in ("horizontal", "vertical"):
            raise ValueError(f"flip is {value!r}; it takes horizontal or vertical")
        return _flip(3 if value == "horizontal" else 2)
    low, high, make = STEPS[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= (high or size - 1):
        raise ValueError(f"{name} is {value!r}; it takes a number from {low:g} to {high or size - 1:g}")
    if high is None and value != int(value):
        raise ValueError(f"{name} is {value!r}; it takes a whole number of pixels")
    return make(value)


def _flip(axis: int) -> Step:
    def apply(pixels_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        turned_B = torch.rand(len(pixels_BCHW), generator=generator) < 0.5
        return torch.where(turned_B[:, None, None, None], pixels_BCHW.flip(axis), pixels_BCHW)

    return apply


def _shift(pixels: float) -> Step:
    """Up to that many pixels in each direction."""

    def apply(pixels_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        reach, size = int(pixels), pixels_BCHW.shape[-1]
        offsets_B2 = torch.randint(0, 2 * reach + 1, (len(pixels_BCHW), 2), generator=generator)
        padded = F.pad(pixels_BCHW, (reach,) * 4, value=BLACK)
        return _windows(padded, offsets_B2, size)

    return apply


def _crop(side: float) -> Step:
    """A random window of `side` pixels, scaled back to the whole."""

    def apply(pixels_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        size = pixels_BCHW.shape[-1]
        offsets_B2 = torch.randint(0, size - int(side) + 1, (len(pixels_BCHW), 2), generator=generator)
        cut = _windows(pixels_BCHW, offsets_B2, int(side))
        return F.interpolate(cut, size=(size, size), mode="bilinear", align_corners=False)

    return apply


def _rotate(degrees: float) -> Step:
    """Up to that angle to either side, about the centre."""

    def apply(pixels_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        angle_B = (2 * torch.rand(len(pixels_BCHW), generator=generator) - 1) * math.radians(degrees)
        cos_B, sin_B, zero_B = angle_B.cos(), angle_B.sin(), torch.zeros_like(angle_B)
        turn_B23 = torch.stack([torch.stack([cos_B, -sin_B, zero_B], 1), torch.stack([sin_B, cos_B, zero_B], 1)], 1)
        grid = F.affine_grid(turn_B23, list(pixels_BCHW.shape), align_corners=False)
        return F.grid_sample(pixels_BCHW - BLACK, grid, align_corners=False) + BLACK

    return apply


def _cutout(side: float) -> Step:
    """A black square of `side` pixels, wholly inside the picture (arXiv:1708.04552)."""

    def apply(pixels_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        size = pixels_BCHW.shape[-1]
        start_B2 = torch.randint(0, size - int(side) + 1, (len(pixels_BCHW), 2), generator=generator)
        place = torch.arange(size)
        inside = [(place >= start[:, None]) & (place < start[:, None] + int(side)) for start in start_B2.unbind(1)]
        hole_B1HW = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        return pixels_BCHW.masked_fill(hole_B1HW, BLACK)

    return apply


def _noise(deviation: float) -> Step:
    def apply(pixels_BCHW: Tensor, generator: torch.Generator) -> Tensor:
        noisy_BCHW = pixels_BCHW + deviation * torch.randn(pixels_BCHW.shape, generator=generator)
        return noisy_BCHW.clamp_(-1, 1)  # pixels stay what a real picture can hold

    return apply


def _windows(pixels_BCHW: Tensor, offsets_B2: Tensor, side: int) -> Tensor:
    """The square window of each picture that starts at its offset (down, right)."""
    place = torch.arange(side)
    batch_B111 = torch.arange(len(pixels_BCHW))[:, None, None, None]
    channel_C11 = torch.arange(pixels_BCHW.shape[1])[:, None, None]
    down_B1H1 = (offsets_B2[:, :1] + place)[:, None, :, None]
    right_B11W = (offsets_B2[:, 1:] + place)[:, None, None, :]
    return pixels_BCHW[batch_B111, channel_C11, down_B1H1, right_B11W]


# the least and the greatest value (None: the picture's side, less one), and what makes the step
STEPS: Mapping[str, tuple[float, float | None, Callable[[float], Step]]] = {
    "flip": (0, 0, lambda value: _flip(3)),
    "shift": (1, None, _shift),
    "crop": (2, None, _crop),
    "rotate": (0.1, 180, _rotate),
    "cutout": (1, None, _cutout),
    "noise": (1e-6, 1, _noise),
}
