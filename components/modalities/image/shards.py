"""Pictures ready to train on: one memory-mapped array of bytes per side, with labels and ids beside it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from PIL import Image
from pydantic import Field, JsonValue, model_validator
from torch import Tensor

from components.contract import Strict
from components.errors import AtelierError
from components.modalities.image.augment import Augment
from components.modalities.image.batch import Images, ImageSpec
from components.modalities.image.rows import decode, flat
from components.rows import Row


class Prepare(Strict):
    """What a recipe's `prepare` says: pictures of `size` pixels a side, 1 (grey) or 3 (colour) channels."""

    size: int = Field(28, ge=4, le=1024)
    channels: int = 1
    augment: tuple[dict[str, JsonValue], ...] = ()

    @model_validator(mode="after")
    def _sound(self) -> Self:
        if self.channels not in (1, 3):
            raise ValueError(f"channels is {self.channels}; it must be 1 (grey) or 3 (colour)")
        Augment(self.augment, size=self.size)
        return self


def write(
    accepted: Iterable[Row], directory: Path, *, prepare: Prepare, classes: Sequence[str], counts: Mapping[str, int]
) -> ImageSpec:
    """Fill `directory` with the rows of each split in order; a picture that is not square is cropped at its centre."""
    shape = (prepare.channels, prepare.size, prepare.size)
    pixels = {side: _array(directory / f"{side}.pixels.npy", np.uint8, (n, *shape)) for side, n in counts.items()}
    labels = {side: _array(directory / f"{side}.labels.npy", np.int64, (n,)) for side, n in counts.items()}
    ids: dict[str, list[str]] = {side: [] for side in counts}
    for row in accepted:
        place = len(ids[row.split])
        pixels[row.split][place] = _fitted(row.payload, prepare)
        labels[row.split][place] = _index(row.label, row.id, classes)
        ids[row.split].append(row.id)
    assert {side: len(names) for side, names in ids.items()} == dict(counts), "every row that was counted came"
    for array in (*pixels.values(), *labels.values()):
        array.flush()
    index = {"prepare": prepare.model_dump(mode="json"), "classes": list(classes), "ids": ids}
    (directory / "index.json").write_text(json.dumps(index, sort_keys=True))
    return ImageSpec(channels=prepare.channels, size=prepare.size, classes=tuple(classes))


@dataclass(frozen=True)
class Split:
    """One side of the shards, read from disk as it is asked for."""

    pixels: np.ndarray
    labels: np.ndarray | None

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, index: Tensor) -> Images:
        """The rows of an index [B], in its order."""
        rows = index.numpy()
        pixels = torch.from_numpy(self.pixels[rows]).float().div_(127.5).sub_(1)
        return Images(pixels, None if self.labels is None else torch.from_numpy(self.labels[rows]))


def open_split(directory: Path, side: str) -> Split:
    """One side of what `write` made."""
    labelled = bool(json.loads((directory / "index.json").read_bytes())["classes"])
    pixels = np.load(directory / f"{side}.pixels.npy", mmap_mode="r")
    return Split(pixels, np.load(directory / f"{side}.labels.npy") if labelled else None)


def open_augment(directory: Path) -> Augment | None:
    """The augmentation that the recipe asked for; None where it asked for none."""
    prepare = Prepare.model_validate(json.loads((directory / "index.json").read_bytes())["prepare"])
    return Augment(prepare.augment, size=prepare.size) if prepare.augment else None


def _index(label: int | None, name: str, classes: Sequence[str]) -> int:
    """The label of one row as it is stored: -1 where the dataset has no labels, and only there."""
    if not classes:
        return -1
    if label is None or not 0 <= label < len(classes):
        raise AtelierError(
            f"the row {name!r} has the label {label}, but the dataset's {len(classes)} classes are numbered from 0. "
            "Validation rejects such rows: let the recipe's suite ask for labels."
        )
    return label


def _fitted(payload: bytes, prepare: Prepare) -> np.ndarray:
    """One picture as bytes [channels, size, size]."""
    picture = flat(decode(payload), channels=prepare.channels)
    if picture.size != (prepare.size, prepare.size):
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        picture = picture.crop(box).resize((prepare.size, prepare.size), Image.Resampling.LANCZOS)
    levels = np.asarray(picture)
    return levels[None] if levels.ndim == 2 else levels.transpose(2, 0, 1)


def _array(path: Path, kind: type[np.generic], shape: tuple[int, ...]) -> np.memmap:
    return np.lib.format.open_memmap(path, mode="w+", dtype=kind, shape=shape)
