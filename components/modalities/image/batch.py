"""What a batch of pictures is, and the facts a network is built around."""

from dataclasses import dataclass

from pydantic import Field
from torch import Tensor

from components.contract import Batch, Spec


class ImageSpec(Spec):
    """Square pictures of `size` pixels a side; `classes` names the labels, empty where there are none."""

    channels: int = Field(ge=1, le=4)
    size: int = Field(ge=4)
    classes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Images(Batch):
    """`pixels` [B, channels, size, size] float in [-1, 1]; `labels` [B] int64, or none."""

    pixels: Tensor
    labels: Tensor | None = None


SPEC = ImageSpec
