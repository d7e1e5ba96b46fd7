"""What each image family trains and draws on one accelerator, beside a bare loop and beside what the card could do.

Needs torch, safetensors, pydantic and accelerate alone, and no data: pixels are noise, since speed does not depend on
what they show. Both arms have the same aids (bf16, fused optimizers, channels last, torch.compile); the bare one has
its rows on the device already, draws no seeds and reads no losses.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from components import families, loading, training
from components.contract import Batch, Family
from components.modalities.image.batch import Images, ImageSpec
from components.recipe import Candidate, Train
from tests.benchmarks.loop import Noise

PEAKS = {"H100 80GB HBM3": 989e12, "H200": 989e12}  # bf16 operations a second without sparsity, by the data sheets
CLASSES = tuple("0123456789")
PICTURES = tuple(name for name in families.names() if families.get(name).Model.modality == "image")
COUNTED = 16  # steps whose operations are counted: every lazy phase is due once in as many
WARM = 20  # steps before any is timed, in which networks are compiled
DRAWN = 512
COLUMNS = ("rows/s trained", "of the peak", "MiB", "to a bare loop", "drawn/s")


def main(arguments: list[str]) -> None:
    """A row of the table for each family and batch size."""
    asked = _asked(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("bench-gpu found no CUDA device. `--device cpu` tries the same benchmark without one.", file=sys.stderr)
        sys.exit(2)
    if asked.device == "cpu":
        os.environ["ACCELERATE_USE_CPU"] = "true"
    card = torch.cuda.get_device_name() if asked.device == "cuda" else "CPU"
    cells = []
    for name in asked.families:
        for size in asked.batch:
            cells.append(_measure(name, size, asked))
            print(_row(cells[-1]), flush=True)
            if asked.out:
                asked.out.write_text(json.dumps({"card": card, "torch": torch.__version__, "cells": cells}) + "\n")
            if cells[-1]["waits"]:
                print(f"{name} waits for the device within a step: {cells[-1]['waits']}", flush=True)
    print(f"\n| {card} | {' | '.join(COLUMNS)} |\n|---{'|--:' * len(COLUMNS)}|", *map(_row, cells), sep="\n")


def _asked(arguments: list[str]) -> Any:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--families", nargs="+", choices=PICTURES, default=PICTURES)
    parser.add_argument("--batch", nargs="+", type=int, default=[128, 512])
    parser.add_argument("--seconds", type=float, default=2.0, help="of each stretch that is timed")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--compile", choices=["auto", "on", "off"], default="auto")
    parser.add_argument("--out", type=Path, help="a file for the cells, as JSON")
    return parser.parse_args(arguments)


def _measure(name: str, size: int, asked: Any) -> dict[str, Any]:
    settings = Train(steps=10**6, batch_size=size, compile=asked.compile)
    loop = training.Loop(_build(name), settings)
    counted = _operations(name, size, loop.accelerator.device)
    if asked.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    _whole(loop, WARM)
    waits = _waits(loop) if asked.device == "cuda" else None
    peak_bytes = torch.cuda.max_memory_allocated() if asked.device == "cuda" else None
    bare = _Bare(name, settings)
    bare(WARM)
    steps = max(1, round(asked.seconds / _timed(lambda: _whole(loop, WARM)) * WARM))
    ours, plain = [], []
    for turn in range(asked.rounds):
        arms: list[tuple[list[float], Callable[[int], None]]] = [(ours, lambda n: _whole(loop, n)), (plain, bare)]
        for times, arm in arms if turn % 2 else reversed(arms):  # whoever comes second finds warmer caches
            times.append(_timed(lambda arm=arm: arm(steps)))  # type: ignore[misc]
    rates = [steps * size / seconds for seconds in ours]
    peak = next((value for card, value in PEAKS.items() if card in _card(asked)), None)
    return {
        "family": name, "batch": size, "rows_per_second": rates, "operations_per_row": counted / size,
        "share_of_peak": peak and statistics.median(rates) * counted / size / peak, "peak_bytes": peak_bytes,
        "to_bare": [other / seconds for other, seconds in zip(plain, ours, strict=True)],
        "drawn_per_second": _drawn(loop.family, asked.rounds), "waits": waits,
    }  # fmt: skip


def _waits(loop: training.Loop) -> str | None:
    """What made the CPU wait for the device within a step, which nothing should; None where nothing did."""
    rows = loading.batches(_Labelled(), size=loop.settings.batch_size, seed=0, start=0)
    batches = list(islice(loading.moved(rows, loop.accelerator.device), COUNTED))
    torch.cuda.set_sync_debug_mode("error")
    try:
        for batch in batches:
            loop.advance(batch)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return str(error)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return None


def _card(asked: Any) -> str:
    return torch.cuda.get_device_name() if asked.device == "cuda" else ""


def _row(cell: dict[str, Any]) -> str:
    told = [
        _spread(cell["rows_per_second"], ",.0f"),
        "" if cell["share_of_peak"] is None else f"{cell['share_of_peak']:.1%}",
        "" if cell["peak_bytes"] is None else f"{cell['peak_bytes'] / 2**20:,.0f}",
        _spread(cell["to_bare"], ".3f"),
        _spread(cell["drawn_per_second"], ",.0f"),
    ]
    return f"| {cell['family']}, {cell['batch']} | {' | '.join(told)} |"


def _spread(values: list[float], form: str) -> str:
    return f"{statistics.median(values):{form}} ({min(values):{form}} to {max(values):{form}})"


def _build(name: str) -> Family[Any, Any, Any, Any]:
    edits = families.get(name).Model.edits
    torch.manual_seed(0)
    spec = ImageSpec(channels=1, size=28, classes=CLASSES, degrade="pixelate" if edits else None)
    return training.build(Candidate(family=name), spec)


class _Labelled(Noise):
    def batch(self, index: torch.Tensor) -> Images:
        return Images(super().batch(index).pixels, index % len(CLASSES))


def _whole(loop: training.Loop, steps: int) -> None:
    """So many steps of the product's loop, with its seeds, readings and copies to the device."""
    rows, size = _Labelled(), loop.settings.batch_size
    loop.run(lambda start: islice(loading.batches(rows, size=size, seed=0, start=start), steps))


class _Bare:
    """The shortest loop that trains the same family with the same aids.

    It makes gradients for the networks that a phase leaves alone, which the product's loop saves.
    """

    def __init__(self, name: str, settings: Train) -> None:
        whole = training.Loop(_build(name), settings)  # laid out, fused and compiled as there
        self.family, self.optimizers, self.accelerator = whole.family, whole.optimizers, whole.accelerator
        self.generator, self.phases = whole.generator, whole.phases
        self.batch: Batch = next(self._rows(settings.batch_size)).to(self.accelerator.device)
        self.step = 0

    def __call__(self, steps: int) -> None:
        for _ in range(steps):
            for phase in self.phases:
                if self.step % phase.every == 0:
                    self._update(phase.name, phase.optimizer)
            self.family.after_step(self.step)
            self.step += 1

    def _update(self, phase: str, optimizer: str) -> None:
        with self.accelerator.autocast():
            loss = self.family.loss(phase, self.batch, step=self.step, generator=self.generator)
        self.optimizers[optimizer].zero_grad(set_to_none=True)
        self.accelerator.backward(loss.total)
        self.optimizers[optimizer].step()

    @staticmethod
    def _rows(size: int) -> Iterator[Batch]:
        return loading.batches(_Labelled(), size=size, seed=0, start=0)


def _operations(name: str, size: int, device: torch.device) -> float:
    """Operations of a mean step, counted where no compiler has rearranged them."""
    loop = training.Loop(_build(name), Train(steps=10**6, batch_size=size, compile="off"))
    rows = loading.batches(_Labelled(), size=size, seed=0, start=0)
    with _Counter() as counter:
        for batch in islice(rows, COUNTED):
            loop.advance(batch.to(device))
    return counter.operations / COUNTED


class _Counter(TorchDispatchMode):
    """Operations of products and convolutions; torch's own counter refuses a gradient that is part of a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=out)
        return out


def _drawn(trained: Family[Any, Any, Any, Any], rounds: int) -> list[float]:
    """Samples a second of the family as it serves, saved and restored, after a first pass that is not timed."""
    device, module = next(trained.parameters()).device, families.get(type(trained).__module__.rsplit(".", 1)[-1])
    with tempfile.TemporaryDirectory() as folder:
        trained.save(Path(folder))
        family = module.Model.restore(trained.config, trained.spec, Path(folder) / "model.safetensors").to(device)
    controls = module.Controls()
    given = family.spec.given(Images(torch.zeros(DRAWN, 1, 28, 28, device=device)))

    def draw(count: int) -> None:
        conditions = None if given is None else given.rows(slice(count))
        family.sample(range(count), controls=[controls] * count, conditions=conditions)

    draw(family.rows)
    return [DRAWN / _timed(lambda: draw(DRAWN)) for _ in range(rounds)]


def _timed(work: Callable[[], None]) -> float:
    """Seconds until it is done, on the device too."""
    _wait()
    begun = time.perf_counter()
    work()
    _wait()
    return time.perf_counter() - begun


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    main(sys.argv[1:])
