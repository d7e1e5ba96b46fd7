"""Public implementations as contenders: the same pictures, budget, threads and scores as the project's own families.

Each has an environment of its own in the workspace, made once from what is pinned here, and a script in `public_arms`
that trains it through its own trainer, or in the loop of its documentation where it has none. The time from the first
row asked for to the last step counts; loading, drawing and scoring do not.

Settings were tried once each on one thread of a busy machine. FD after 20 to 30 CPU-seconds: pythae, latent 16, Adam
0.001, batch 64: its default MLP 47; its convolutions for MNIST, 17 million weights, 590 after the 16 steps they got.
torchgan: width 32, minimax, 0.0002, batch 64, 176; width 16, minimax, 0.0005, batch 32, 84; width 32, least squares,
0.0002, batch 32, 198. FD after 120 to 140 CPU-seconds: diffusers, widths 16, 32 and 64, 0.001, batch 32, 121; batch 16,
114.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from components import encoders, modalities
from components.store import Store

ARMS = Path(__file__).with_name("public_arms")
TORCH = "torch==2.13.0"
SHOWN = 60  # samples on a sheet


@dataclass(frozen=True)
class Arm:
    """A script of `public_arms`, what it needs from PyPI, and its settings."""

    script: str
    requires: str
    batch_size: int
    threads: int  # with which it is fastest on two cores
    settings: Mapping[str, Any]


CONTENDERS = {
    "vae of pythae": Arm("vae", "pythae==0.1.2", 64, 1, {"lr": 0.001, "loss": "bce", "network": "mlp"}),
    "dcgan of torchgan": Arm("gan", "torchgan==0.1.0", 32, 2, {"lr": 0.0005, "loss": "minimax", "width": 16}),
    "diffusion of diffusers": Arm(
        "diffusion", "diffusers==0.42.1", 16, 2, {"lr": 0.001, "warmup": 50, "layers": 1, "widths": [16, 32, 64]}
    ),
}


def measure(
    arm: Arm, shards: Any, *, seconds: float, threads: int, samples: int, seeds: Sequence[int], store: Store,
    workspace: Path, sheets: Path,
) -> dict[str, Any]:  # fmt: skip
    """What a cell tells of the arm: its training, then its samples under the encoder that scores the others."""
    reference = _reference(shards, store)
    folder = workspace / f"{arm.script}-{time.time_ns()}"
    folder.mkdir(parents=True)
    levels = reference.training.reshape(-1, *reference.held_out.pixels.shape[1:]).add(1).mul(127.5).round()
    np.save(folder / "train.npy", levels.to(torch.uint8).numpy())
    settings = {**arm.settings, "batch_size": arm.batch_size, "samples": samples, "seeds": list(seeds)}
    script, python = ARMS / f"{arm.script}.py", environment(arm, workspace)
    command = [str(python), str(script), str(folder), str(seconds), str(threads), json.dumps(settings)]
    subprocess.run(command, stdout=sys.stderr, check=True)
    told: dict[str, Any] = json.loads((folder / "told.json").read_text())
    sheets.mkdir(parents=True, exist_ok=True)
    for name, sheet in reference.sheets(samples_of(folder, seeds[0]).rows(torch.arange(SHOWN))).items():
        (sheets / name).write_bytes(sheet)
    scored = {"values": score(folder, seeds, reference), "floor": reference.floor()}
    shutil.rmtree(folder)
    return {**told, **scored}


def score(folder: Path, seeds: Sequence[int], reference: Any) -> dict[str, list[float]]:
    """Every metric of the samples that an arm left in the folder, once per seed."""
    rounds = [reference.measure(samples_of(folder, seed)) for seed in seeds]
    return {name: [scores[name] for scores in rounds] for name in rounds[0]}


def samples_of(folder: Path, seed: int) -> Any:
    """The samples that an arm drew with a seed, as the metrics take them."""
    pixels = torch.from_numpy(np.load(folder / f"samples-{seed}.npy")).float()
    return modalities.part("image", "batch").Images(pixels)


def environment(arm: Arm, workspace: Path) -> Path:
    """The interpreter of the arm's environment, which is made where it is not there as pinned."""
    home = workspace / "environments" / arm.script
    python, made, requires = home / "bin" / "python", home / "made", f"{TORCH} {arm.requires}"
    if not made.exists() or made.read_text() != requires:
        uv = str(Path(sys.executable).with_name("uv"))
        subprocess.run([uv, "venv", "-q", "--clear", "-p", sys.executable, str(home)], check=True)
        subprocess.run([uv, "pip", "install", "-q", "-p", str(python), *requires.split()], check=True)
        made.write_text(requires)
    return python


def _reference(shards: Any, store: Store) -> Any:
    part, directory = modalities.part("image", "shards"), store.path(shards.shards)
    encoder = encoders.fit(shards, modality="image", store=store)
    return modalities.part("image", "metrics").Reference.of(
        part.open_split(directory, "train"),
        part.open_split(directory, "held_out"),
        encoders.load(encoder, shards.spec, modality="image", store=store),
        classes=shards.validated.dataset.classes,
    )
