"""A small project with a recipe that runs by itself, and Prefect's server and the worker as `up` has them."""

import json
import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from flows import events, runs, schedules, workspace
from flows.platform import Platform, Ports
from flows.supervisor import Part, Supervisor
from flows.workspace import Workspace

FINAL = ("COMPLETED", "FAILED", "CANCELLED")
ROOT = Path(__file__).resolve().parents[2]
WORDS = ("the", "a", "king", "queen", "night", "day", "moon", "sun", "walks", "sings", "in", "over", "gold", "river")
RECIPE = """
model: words
modality: text
data: {source: data/words, held_out: {share: 0.2, by: block}}
candidates:
  lstm: {family: lstm, config: {width: 16, layers: 1}, train: {steps: 6, batch_size: 4, checkpoint_every: 2}}
evaluate: {samples: 16, seeds: [0, 1]}
gates:
  - {metric: copied, at_most: 1}
  - {metric: repetition, waived: far too few samples}
  - {metric: profane, waived: far too few samples}
  - {metric: personal, waived: far too few samples}
  - {metric: overfit, waived: far too few samples}
  - {metric: distinct, waived: far too few samples}
rank_by: bits_per_byte
serve: {latency_ms: 60000}
"""


def write_words(folder: Path, seed: int) -> None:
    """Some pages of a few words."""
    chance = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for page in range(4):
        lines = (" ".join(chance.choice(WORDS) for _ in range(9)).capitalize() + "." for _ in range(300))
        (folder / f"{page}.txt").write_text("\n".join(lines))


def make_project(root: Path, recipe: str = RECIPE) -> Workspace:
    """A project whose data DVC tracks, with its workspace beside it."""
    write_words(root / "data" / "words", 0)
    (root / "data" / "words" / "README.md").write_text("---\nlicence: CC0-1.0\n---\nWords.\n")
    recipes = root / "flows" / "recipes"
    recipes.mkdir(parents=True)
    (recipes / "words.yaml").write_text(recipe)
    for command in (["init", "-q", "--no-scm"], ["add", "-q", "data"]):
        dvc(root, *command)
    return Workspace(root, root / "workspace")


def dvc(root: Path, *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("dvc")), *arguments]
    subprocess.run(command, cwd=root, env={**os.environ, "DVC_NO_ANALYTICS": "1"}, check=True, capture_output=True)


def free_ports(count: int) -> list[int]:
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@dataclass
class Clockwork:
    """Prefect's server and the worker, kept by the platform's own supervisor."""

    place: Workspace
    told: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        numbers = free_ports(5)
        names = ("mlflow", "prefect", "controller", "endpoints", "worker")
        platform = Platform(self.place, Ports(**dict(zip(names, numbers, strict=True))))
        home = {**workspace.QUIET, "PREFECT_HOME": str(self.place.prefect)}
        self.parts: dict[str, Part] = {
            part.name: replace(part, environment={**part.environment, **home}) for part in platform.parts()
        }
        self.api = f"{self.parts['prefect'].url}/api"
        wanted = [self.parts[name] for name in ("prefect", "worker")]
        self.supervisor = Supervisor(wanted, say=self.told.append, changed=lambda told: None)

    def start(self) -> None:
        self.supervisor.start(within=240)

    def stop(self) -> None:
        self.supervisor.stop()

    def look(self) -> None:
        """What the supervisor does all the time."""
        self.supervisor.look()

    def wait(self, done: Callable[[], Any], *, seconds: float, what: str) -> Any:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            self.look()
            if value := done():
                return value
            time.sleep(0.2)
        log = self.place.root / "logs" / "worker.log"
        words = log.read_text()[-3000:] if log.is_file() else ""
        raise AssertionError(f"{what}: not within {seconds} s\n{words}\n{self.flow_runs()}")

    def kill(self, name: str) -> None:
        """`kill -9` of a part; the supervisor starts it again."""
        process = self.supervisor.kept[name].process
        if process is not None:
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def atelier(self, *arguments: str) -> Any:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        told = {"ATELIER_WORKSPACE": str(self.place.root), "PREFECT_API_URL": self.api, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [str(Path(sys.executable).with_name("atelier")), *arguments, "--json"],
            cwd=self.place.project, env={**kept, **told}, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        return json.loads(done.stdout)

    def schedule(self, **more: str) -> None:
        """Give the recipe its `schedule` and `retrain`, and apply them."""
        lines = "".join(f"{name}: {value}\n" for name, value in more.items())
        (self.place.project / "flows" / "recipes" / "words.yaml").write_text(RECIPE + lines)
        self.atelier("schedule", "apply")

    def flow_runs(self) -> list[dict[str, Any]]:
        """Those of the flow `retrain` that have left their plan, the newest first, as Prefect's database has them."""
        query = """SELECT flow_run.id, flow_run.state_type, flow_run.state_name, expected_start_time, start_time,
          auto_scheduled, flow_run.parameters FROM flow_run JOIN flow ON flow.id = flow_run.flow_id
          WHERE flow.name = 'retrain' AND NOT (flow_run.state_type = 'SCHEDULED' AND auto_scheduled = 1
          AND flow_run.run_count = 0) ORDER BY expected_start_time DESC"""
        with closing(sqlite3.connect(self.place.prefect / "prefect.db", timeout=30)) as base:
            base.row_factory = sqlite3.Row
            return [dict(row) for row in base.execute(query)]

    def runs(self) -> list[runs.Run]:
        return runs.of(self.place, "words", limit=1000)

    def of_line(self) -> list[int]:
        """The processes of runs that are on: each carries the id of its flow run."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                environment = (folder / "environ").read_bytes().split(b"\0")
                mine = f"ATELIER_WORKSPACE={self.place.root}".encode() in environment
                if mine and any(part.startswith(b"PREFECT__FLOW_RUN_ID=") for part in environment):
                    found.append(int(folder.name))
        return found


def trigger(place: Workspace, count: int, *, kind: events.Kind = "data.changed") -> list[events.Event]:
    """A storm: many events of one kind, written at once and told to Prefect in a few requests."""
    made = [
        events.Event(f"{random.getrandbits(128):032x}", events._now(), kind, "words", f"change {number}", {})
        for number in range(count)
    ]
    events.append(place, made)
    return made


def delay(flow_run: dict[str, Any]) -> float:
    """Seconds between when a run was due and when it began."""
    due, began = (datetime.fromisoformat(flow_run[name]) for name in ("expected_start_time", "start_time"))
    return (began - due).total_seconds()


def settled(found: Sequence[runs.Run]) -> list[runs.Run]:
    return [run for run in found if runs.is_settled(run)]


def applied(place: Workspace) -> schedules.Applied:
    return schedules.applied(place)["words"]


@dataclass(frozen=True)
class Survived:
    """What came of a series of kills: what was injected, how many runs were gone on with, what did not end once."""

    injected: Sequence[str]
    resumed: int
    wrong: Sequence[str]


def survive(clockwork: Clockwork, count: int, seed: int) -> Survived:
    """Start a run of new training by an event, kill something at a random moment, and see each run to its one end.

    The recipe has a new seed each time, so that each run trains, and registers a version of its own.
    """
    chance, injected, wrong, resumed = random.Random(seed), list[str](), list[str](), 0
    recipe = clockwork.place.project / "flows" / "recipes" / "words.yaml"
    text = recipe.read_text()
    for number in range(count):
        recipe.write_text(text.replace("train: {steps: 6", f"train: {{seed: {seed + number}, steps: 6"))
        known = {one["id"] for one in clockwork.flow_runs()}
        trigger(clockwork.place, 1, kind="drift.found")
        target = chance.choice(["worker", "prefect", "run", "all"])
        moment = chance.uniform(0, 25)
        (mine,) = clockwork.wait(
            lambda known=known: [one["id"] for one in clockwork.flow_runs() if one["id"] not in known],
            seconds=120, what="a flow run",
        )  # fmt: skip
        until = time.monotonic() + moment
        clockwork.wait(lambda until=until: time.monotonic() > until, seconds=60, what="the moment")
        over = bool(settled(runs.of_flow_run(clockwork.place, mine)))
        if target in ("run", "all"):
            for pid in clockwork.of_line():
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for part in ("worker", "prefect"):
            if target in (part, "all"):
                clockwork.kill(part)
        injected.append(f"kill -9 of {target}, {moment:.1f} s after the event{', after its end' if over else ''}")

        def closed(mine: str = mine) -> bool:
            return all(one["state_type"] in FINAL for one in clockwork.flow_runs() if one["id"] == mine)

        clockwork.wait(closed, seconds=400, what=f"the end of {injected[-1]}")
        found = runs.of_flow_run(clockwork.place, mine)
        resumed += len(found) > 1
        (state,) = [one["state_name"] for one in clockwork.flow_runs() if one["id"] == mine]
        if [run.exit_code for run in settled(found)] != [0] or state != "Completed":
            wrong.append(f"{injected[-1]}: {state}, {[(run.outcome, run.exit_code) for run in found]}")
        if len(clockwork.flow_runs()) != len(known) + 1:
            wrong.append(f"{injected[-1]}: {len(clockwork.flow_runs()) - len(known)} flow runs for one event")
    recipe.write_text(text)
    return Survived(injected, resumed, wrong)
