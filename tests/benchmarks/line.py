"""How long the whole line takes: `atelier run` in a fresh workspace, the same again, and beside a Prefect server."""

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

RECIPE = "flows/recipes/fashion.yaml"
BIN = Path(sys.executable).parent
AGAIN = 5


def main() -> None:
    """Wall seconds: the first run at most 360; every stage skipped at most 20, 8 with a server up; --help 1; ls 3."""
    with tempfile.TemporaryDirectory() as workspace:
        here = {**os.environ, "ATELIER_WORKSPACE": workspace}
        _told("first run", *_run(here))
        for _ in range(2):
            _told("again, every stage skipped", *_run(here))
        with _server(Path(workspace) / "server") as url:
            beside = {**here, "PREFECT_API_URL": url}
            _run(beside)  # what the first run under a new server writes is written
            _spread("again, with a Prefect server up", [_run(beside)[0] for _ in range(AGAIN)])
        _spread("atelier --help", [_timed(here, "--help") for _ in range(AGAIN)])
        _spread("atelier ls", [_timed(here, "ls") for _ in range(AGAIN)])


def _run(environment: dict[str, str]) -> tuple[float, dict[str, Any]]:
    begun = time.monotonic()
    command = [str(BIN / "atelier"), "run", RECIPE, "--json"]
    ended = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=True)
    return time.monotonic() - begun, json.loads(ended.stdout)["runs"][0]


def _told(title: str, wall: float, told: dict[str, Any]) -> None:
    own = wall - told["seconds"] + told["orchestration"]
    print(f"{title}: {wall:.1f} s in all, {own:.1f} s of it orchestration", flush=True)
    stages = [f"{s['stage']} {s['seconds']:g}" for s in told["stages"] if not s["cached"] and s["seconds"] >= 1]
    print(f"  stages over a second: {', '.join(stages)}")


def _timed(environment: dict[str, str], *arguments: str) -> float:
    begun = time.monotonic()
    subprocess.run([str(BIN / "atelier"), *arguments], env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begun


def _spread(title: str, seconds: list[float]) -> None:
    print(
        f"{title}: {median(seconds):.2f} s ({min(seconds):.2f} to {max(seconds):.2f} over {len(seconds)})", flush=True
    )


@contextmanager
def _server(home: Path) -> Iterator[str]:
    """The API of a Prefect server of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}/api"
    settings = {"PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    process = subprocess.Popen(
        [str(BIN / "prefect"), "server", "start", "--port", str(port), "--no-ui"],
        env={**os.environ, **settings}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until = time.monotonic() + 120
        while not _answers(url):
            assert process.poll() is None and time.monotonic() < until, "the Prefect server did not start"
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=2):
            return True
    except OSError:
        return False
