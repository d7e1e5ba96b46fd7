"""What a batch of pictures is, and the facts a network is built around."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from pydantic import Field
from torch import Tensor

from components.contract import Batch, Spec
from components.errors import AtelierError
from components.spelling import unknown


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


ANY = "any"  # as the name of a class: whichever a row's seed draws


def labels(names: Sequence[str], seeds: Sequence[int], classes: Sequence[str]) -> Tensor:
    """The index [B] of the class that each row asks for by name; `ANY` is drawn from the row's own seed."""
    drawn = [random.Random(f"class of {seed}").randrange(len(classes)) for seed in seeds]
    return torch.tensor([at if name == ANY else classes.index(name) for name, at in zip(names, drawn, strict=True)])


def refuse_label(name: str, classes: Sequence[str]) -> None:
    """Raise an `AtelierError` where that is no class of the data."""
    if name != ANY and name not in classes:
        raise AtelierError(unknown("label", name, [ANY, *classes]))


SPEC = ImageSpec
