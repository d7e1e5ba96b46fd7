"""The state of a training run between two steps, on disk without pickle: safetensors and JSON, whole or not at all.

Randomness is no part of it: every step draws from a seed that is a function of the recipe's seed and the step.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from components.store import file_sha256, write_atomically


@dataclass(frozen=True)
class Progressed:
    """How far a run had come: the steps done, the seconds they took, and its curves so far."""

    step: int = 0
    seconds: float = 0.0
    curves: dict[str, list[tuple[int, float, float]]] | None = None


@contextmanager
def held(directory: Path) -> Iterator[None]:
    """One process at a time for a checkpoint: the one before may still be writing its last."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with _lock(directory).open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _is(_lock(directory), lock):  # and not one that `clear` has removed meanwhile
                yield
                return


def save(directory: Path, job: str, family: nn.Module, optimizers: Mapping[str, Optimizer], done: Progressed) -> None:
    """Replace the checkpoint in `directory` by this moment's state of `job`."""
    tensors = {f"family/{name}": tensor for name, tensor in family.state_dict().items()}
    rest: dict[str, Any] = {}
    for title, optimizer in optimizers.items():
        state = optimizer.state_dict()
        rest[title] = {"param_groups": state["param_groups"], "state": {}}
        for index, values in state["state"].items():
            kept = rest[title]["state"][str(index)] = {}
            for name, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer/{title}/{index}/{name}"] = value
                else:
                    kept[name] = value
    directory.mkdir(parents=True, exist_ok=True)
    name = f"step-{done.step}.safetensors"
    aside = directory / f".{name}"
    save_file({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, aside)
    _sync(aside)
    aside.replace(directory / name)
    state = {
        "job": job,
        "tensors": name,
        "sha256": file_sha256(directory / name),
        "step": done.step,
        "seconds": done.seconds,
        "curves": done.curves,
        "optimizers": rest,
    }
    write_atomically(directory / "state.json", json.dumps(state).encode())  # from here on, this is the checkpoint
    for old in directory.glob("*.safetensors"):
        if old.name != name:
            old.unlink()


def resume(directory: Path, job: str, family: nn.Module, optimizers: Mapping[str, Optimizer]) -> Progressed:
    """Load the checkpoint of `job` into the family and its optimizers; a missing or damaged one is a fresh start.

    A `ValueError` or `RuntimeError` where it is whole and of other networks or optimizers than these.
    """
    try:
        state = json.loads((directory / "state.json").read_bytes())
        if file_sha256(directory / state["tensors"]) != state["sha256"]:
            return Progressed()
        tensors = load_file(directory / state["tensors"])
        if state["job"] != job:
            return Progressed()
        optimized = sorted(state["optimizers"])
        done = Progressed(int(state["step"]), float(state["seconds"]), dict(state["curves"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError):
        return Progressed()
    if optimized != sorted(optimizers):
        raise ValueError(f"it has the optimizers {', '.join(optimized)}, not {', '.join(sorted(optimizers))}")
    prefix = "family/"
    family.load_state_dict(
        {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
    )
    for title, optimizer in optimizers.items():
        rest = state["optimizers"][title]
        values: dict[int, dict[str, Any]] = {int(index): dict(kept) for index, kept in rest["state"].items()}
        for key, tensor in tensors.items():
            kind, _, tail = key.partition("/")
            if kind == "optimizer" and tail.startswith(f"{title}/"):
                _, index, name = tail.split("/")
                values[int(index)][name] = tensor
        optimizer.load_state_dict({"param_groups": rest["param_groups"], "state": values})
        _lay_out(optimizer)
    return done


def _lay_out(optimizer: Optimizer) -> None:
    """What is kept of each weight in its order of memory: a fused optimizer goes through both side by side."""
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)


def clear(directory: Path) -> None:
    """Forget the checkpoint, since its run has ended well; one that a process holds is left alone."""
    with suppress(OSError), _lock(directory).open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
        _lock(directory).unlink()


def _lock(directory: Path) -> Path:
    return directory.with_name(f"{directory.name}.lock")


def _is(path: Path, file: TextIO) -> bool:
    """Whether the open file is still the one of that name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _sync(path: Path) -> None:
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
