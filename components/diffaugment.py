"""Augmentation that gradients pass: of all that a discriminator sees, real and made (Zhao et al., arXiv:2006.10738).

It keeps a discriminator from learning few training rows by heart, and the changes do not show in what is generated,
since real rows have them too. Deviation: shifts mirror at the border, where the authors' code fills with grey.
B batch, C channels, H the side.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

Change = Literal["color", "translation", "cutout"]


def changed(pixels_BCHH: Tensor, policy: Sequence[Change], generator: torch.Generator) -> Tensor:
    """The same pictures, each changed at random in every way of the policy, as in the authors' code.

    `color` is brightness by up to a half either way, saturation 0 to 2 and contrast 0.5 to 1.5 times what it was;
    `translation` by up to an eighth of the side; `cutout` greys a square of half the side.
    """
    for change in policy:
        chance = torch.rand(3, len(pixels_BCHH), generator=generator, device=generator.device).to(pixels_BCHH.device)
        if change == "color":
            pixels_BCHH = _coloured(pixels_BCHH, *chance[:, :, None, None, None])
        elif change == "translation":
            farthest = pixels_BCHH.shape[3] // 8
            shift_2B = ((2 * farthest + 1) * chance[:2]).floor() - farthest
            pixels_BCHH = shifted(pixels_BCHH, shift_2B.long())
        else:
            pixels_BCHH = torch.where(square(chance[:2], pixels_BCHH.shape[3])[:, None], 0.0, pixels_BCHH)
    return pixels_BCHH


def _coloured(pixels_BCHH: Tensor, brightness_B111: Tensor, saturation_B111: Tensor, contrast_B111: Tensor) -> Tensor:
    pixels_BCHH = pixels_BCHH + brightness_B111 - 0.5
    grey_B1HH = pixels_BCHH.mean(dim=1, keepdim=True)
    pixels_BCHH = grey_B1HH + 2 * saturation_B111 * (pixels_BCHH - grey_B1HH)
    level_B111 = pixels_BCHH.mean(dim=(1, 2, 3), keepdim=True)
    return level_B111 + (contrast_B111 + 0.5) * (pixels_BCHH - level_B111)


def shifted(pixels_BCHH: Tensor, shift_2B: Tensor) -> Tensor:
    """Each row moved down and to the right by whole pixels, mirrored at its border."""
    side = pixels_BCHH.shape[3]
    for dim, shift_B in zip((2, 3), shift_2B, strict=True):
        source_BH = (torch.arange(side, device=pixels_BCHH.device) - shift_B[:, None]).abs()
        source_BH = torch.where(source_BH >= side, 2 * (side - 1) - source_BH, source_BH)
        shape = [len(pixels_BCHH), 1, 1, 1]
        shape[dim] = side
        pixels_BCHH = pixels_BCHH.gather(dim, source_BH.view(shape).expand_as(pixels_BCHH))
    return pixels_BCHH


def square(centre_2B: Tensor, side: int) -> Tensor:
    """Which pixels [B, H, H] lie in a square of half the side around a centre given in [0, 1]."""
    place_H = (torch.arange(side, device=centre_2B.device) + 0.5) / side
    near_2BH = (place_H - centre_2B[:, :, None]).abs() <= 0.25
    return near_2BH[0][:, :, None] & near_2BH[1][:, None, :]
