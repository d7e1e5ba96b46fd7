"""How long the whole line takes: `atelier run` in a fresh workspace, then the same again."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPE = "flows/recipes/fashion.yaml"


def main() -> None:
    """Wall seconds of `make run` after set-up: the first run ever at most 360, orchestration at most 30, then 15."""
    with tempfile.TemporaryDirectory() as workspace:
        for title in ("first run", "again", "again"):
            begun = time.monotonic()
            told = _run(Path(workspace))
            wall = time.monotonic() - begun
            own = wall - told["seconds"] + told["orchestration"]
            print(f"{title}: {wall:.1f} s in all, {own:.1f} s of it orchestration", flush=True)
            stages = [f"{s['stage']} {s['seconds']:g}" for s in told["stages"] if not s["cached"] and s["seconds"] >= 1]
            print(f"  stages over a second: {', '.join(stages)}")


def _run(workspace: Path) -> dict[str, Any]:
    command = [str(Path(sys.executable).with_name("atelier")), "run", RECIPE, "--json"]
    ended = subprocess.run(
        command, env={**os.environ, "ATELIER_WORKSPACE": str(workspace)}, stdout=subprocess.PIPE, check=True
    )
    told: dict[str, Any] = json.loads(ended.stdout)["runs"][0]
    return told
