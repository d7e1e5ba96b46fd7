"""What judging costs beside training: seconds of the stages of a run of the recipes as they are."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RECIPES = ("fashion", "shakespeare")
JUDGING = ("evaluate", "time", "gate", "report")  # first words of stages


def main() -> None:
    """Seconds of scores, times, gates and report as a share of those of training; 0.1 at most."""
    for recipe in RECIPES:
        with tempfile.TemporaryDirectory() as workspace:
            command = [str(Path(sys.executable).parent / "atelier"), "run", recipe, "--json"]
            here = {**os.environ, "ATELIER_WORKSPACE": workspace}
            done = subprocess.run(command, env=here, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
        print(f"{recipe}: {told(json.loads(done.stdout)['runs'][0])}", flush=True)


def told(run: dict[str, Any]) -> str:
    """The share in a run's record, alone and with a champion to score, which takes what the dearer candidate takes."""
    seconds = {stage["stage"]: stage["own_seconds"] for stage in run["stages"] if not stage["cached"]}
    training = sum(spent for name, spent in seconds.items() if name.startswith("train "))
    judging = {name: spent for name, spent in seconds.items() if name.split()[0] in JUDGING}
    champion = max(spent for name, spent in judging.items() if name.startswith("evaluate "))
    alone = sum(judging.values())
    parts = ", ".join(f"{name} {spent:.1f}" for name, spent in judging.items())
    return (
        f"{alone:.1f} s of judging beside {training:.1f} s of training, {alone / training:.3f}; "
        f"with a champion {(alone + champion) / training:.3f} ({parts})"
    )
