"""Which rows a training step sees: a function of the seed and the step alone, so that resuming needs no state."""

import hashlib
import itertools
from collections.abc import Callable, Iterator
from typing import Protocol

import torch
from torch import Tensor

from components.contract import Batch
from components.errors import AtelierError

# of a metric of the held-out side: its value, and the same over parts of it, in the same order for every model
Foretold = tuple[dict[str, float], dict[str, tuple[float, ...]]]
Augment = Callable[[Batch, torch.Generator], Batch]


class Split(Protocol):
    """One side of prepared shards, as the modality opens it."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor) -> Batch: ...


def seed_of(seed: int, *names: int | str) -> int:
    """A seed of its own for each name: the first 63 bits of a sha256."""
    text = "/".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def batches(split: Split, *, size: int, seed: int, start: int, augment: Augment | None = None) -> Iterator[Batch]:
    """Batches without end from step `start` on; each epoch is a fresh order of all rows, its short tail left out."""
    per_epoch = len(split) // size
    if per_epoch == 0:
        raise AtelierError(
            f"train.batch_size is {size}, but only {len(split)} rows are left to train on. "
            "Lower train.batch_size, or give the recipe more data."
        )
    order, epoch_of_order = torch.empty(0), -1
    generator = torch.Generator()
    step = start
    while True:
        epoch, position = divmod(step, per_epoch)
        if epoch != epoch_of_order:
            order = torch.randperm(len(split), generator=generator.manual_seed(seed_of(seed, "order", epoch)))
            epoch_of_order = epoch
        batch = split.batch(order[position * size : (position + 1) * size])
        if augment is not None:
            batch = augment(batch, generator.manual_seed(seed_of(seed, "augment", step)))
        yield batch
        step += 1


def reading_on(split: Split, *, size: int, start: int) -> Iterator[Batch]:
    """Batches without end from step `start` on, each row going on where it ended at the step before."""
    for step in itertools.count(start):
        yield split.batch(consecutive(len(split), step=step, size=size))


def moved(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """The same batches on the device; on CUDA each is copied while the step before it still runs."""
    if device.type != "cuda":
        yield from (batch.to(device) for batch in batches)
        return
    copying, computing = torch.cuda.Stream(device), torch.cuda.current_stream(device)  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(copying):
            there = batch.map(lambda tensor: tensor.pin_memory().to(device, non_blocking=True))
        computing.wait_stream(copying)
        there.map(lambda tensor: _used_by(tensor, computing))
        yield there


def _used_by(tensor: Tensor, stream: torch.cuda.Stream) -> Tensor:
    """The tensor, whose memory is not given to another before that stream is through with it."""
    tensor.record_stream(stream)
    return tensor


def consecutive(windows: int, *, step: int, size: int) -> Tensor:
    """The index [size] of the windows of one step of truncated back-propagation.

    Row b reads on where it ended at the step before, each row in a part of the side of its own, until all parts are
    read (windows // size steps) and every row begins again.
    """
    each = windows // size
    if not each:
        raise AtelierError(
            f"train.batch_size is {size}, but there are only {windows} windows to train on. Lower train.batch_size, "
            "let `prepare` cut shorter windows, or give the recipe more data."
        )
    return torch.arange(size) * each + step % each
