"""What the arms share: rows until the time is up, and what is told of the training and kept of the model.

An arm is a script that the environment of the public implementations runs: `python ARM.py FOLDER SECONDS THREADS
SETTINGS`. It reads `train.npy` of the folder, uint8 [N, 1, 28, 28], trains for so long on so many threads, and leaves
`told.json` and for each seed `samples-SEED.npy`, float [N, 1, 28, 28] in [-1, 1].
"""

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Sampler


class Rows(Sampler[int]):
    """The rows in a fresh order each epoch, until `seconds` are over since the first was asked for."""

    def __init__(self, count: int, seconds: float) -> None:
        self.count, self.seconds = count, seconds
        self.begun = self.begun_cpu = 0.0

    def __iter__(self) -> Iterator[int]:
        self.begun, self.begun_cpu = time.perf_counter(), time.process_time()
        while True:
            for row in torch.randperm(self.count).tolist():
                if self.spent >= 1:
                    return
                yield row

    def __len__(self) -> int:  # of an epoch: a progress bar wants a number
        return self.count

    @property
    def spent(self) -> float:
        """The share of the time that is gone."""
        return (time.perf_counter() - self.begun) / self.seconds if self.begun else 0.0


@dataclass(frozen=True)
class Trained:
    """What came of it: `draw` makes so many samples, float [N, 1, 28, 28] in [-1, 1]."""

    steps: int
    network: nn.Module
    draw: Callable[[int], Tensor]


Train = Callable[[Tensor, Rows, dict[str, Any], Path], Trained]


def run(train: Train) -> None:
    """Do what the command line says; `train` gets the pixels as float [N, 1, 28, 28] in [-1, 1]."""
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[4])
    torch.set_num_threads(int(sys.argv[3]))
    torch.manual_seed(0)
    pixels = torch.from_numpy(np.load(folder / "train.npy")).float().div_(127.5).sub_(1)
    rows = Rows(len(pixels), float(sys.argv[2]))
    trained = train(pixels, rows, settings, folder)
    seconds, cpu = time.perf_counter() - rows.begun, time.process_time() - rows.begun_cpu
    begun, drawn = time.perf_counter(), 0
    for seed in settings["seeds"]:
        torch.manual_seed(seed)
        samples = trained.draw(settings["samples"]).clamp(-1, 1)
        np.save(folder / f"samples-{seed}.npy", samples.numpy())
        drawn += len(samples)
    told = {
        "steps": trained.steps, "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
        "parameters": sum(weight.numel() for weight in trained.network.parameters()),
        "samples_per_second": round(trained.steps * settings["batch_size"] / seconds, 1),
        "drawn_per_second": round(drawn / (time.perf_counter() - begun), 1), "torch": torch.__version__,
    }  # fmt: skip
    (folder / "told.json").write_text(json.dumps(told))
