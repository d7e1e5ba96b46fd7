"""Pictures ready to train on: one array of bytes per side, memory-mapped when it is read, with labels beside it."""

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from pydantic import Field, JsonValue, model_validator
from torch import Tensor

from components import workers
from components.modalities.image.augment import Augment
from components.modalities.image.batch import Degradation, Images, ImageSpec
from components.modalities.image.rows import fit
from components.records import Strict
from components.rows import Row, label_index

ROWS_AT_ONCE = 1024


class Prepare(Strict):
    """What a recipe's `prepare` says: pictures of `size` pixels a side, 1 (grey) or 3 (colour) channels.

    `degrade` makes the task image to image: models are given pictures that were degraded so, and restore them.
    """

    size: int = Field(28, ge=4, le=1024)
    channels: int = 1
    augment: tuple[dict[str, JsonValue], ...] = ()
    degrade: Degradation | None = Field(None, exclude_if=lambda degrade: degrade is None)  # as in `ImageSpec`

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
    options = {"size": prepare.size, "channels": prepare.channels}
    waiting: deque[tuple[str, int]] = deque()  # side and label of the rows whose pixels are still to come
    with ExitStack() as files:
        pixels, labels = (
            {side: files.enter_context(_Column(directory / f"{side}.{name}.npy", kind, (n, *row))) for side, n in given}
            for name, kind, row, given in (
                ("pixels", np.uint8, (prepare.channels, prepare.size, prepare.size), counts.items()),
                ("labels", np.int64, (), counts.items()),
            )
        )
        for fitted in workers.mapped(fit, _batches(accepted, waiting, classes), options=options):
            for picture in fitted["pixels"].to_pylist():
                side, label = waiting.popleft()
                pixels[side].append(picture)
                labels[side].append(np.int64(label).tobytes())
    index = {"prepare": prepare.model_dump(mode="json"), "classes": list(classes)}
    (directory / "index.json").write_text(json.dumps(index, sort_keys=True))
    return ImageSpec(channels=prepare.channels, size=prepare.size, classes=tuple(classes), degrade=prepare.degrade)


def _batches(
    accepted: Iterable[Row], waiting: deque[tuple[str, int]], classes: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """The payloads of the rows, a batch at a time; side and label of each go into `waiting`, -1 for no label."""
    payloads: list[bytes] = []
    held = 0
    for row in accepted:
        label = label_index(row, classes)
        waiting.append((row.split, -1 if label is None else label))
        payloads.append(row.payload)
        held += len(row.payload)
        if len(payloads) == ROWS_AT_ONCE or held >= workers.BYTES_AT_ONCE:
            yield pa.RecordBatch.from_arrays([pa.array(payloads, pa.binary())], names=["payload"])
            payloads, held = [], 0
    if payloads:
        yield pa.RecordBatch.from_arrays([pa.array(payloads, pa.binary())], names=["payload"])


class _Column:
    """An array on disk that grows row by row: one that is mapped while it is written counts as memory, page by page."""

    def __init__(self, path: Path, kind: type[np.generic], shape: tuple[int, ...]) -> None:
        self._shape, self._left = shape, shape[0]
        self._header = {"descr": np.lib.format.dtype_to_descr(np.dtype(kind)), "fortran_order": False, "shape": shape}
        self._stream = path.open("wb", buffering=2**18)

    def __enter__(self) -> Self:
        np.lib.format.write_array_header_1_0(self._stream, self._header)
        return self

    def append(self, row: bytes) -> None:
        self._stream.write(row)
        self._left -= 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stream.close()
        assert kind or not self._left, "every row that was counted came"


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
