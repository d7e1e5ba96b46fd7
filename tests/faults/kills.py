"""A run that is stopped again and again, and what it comes to: as if nobody had disturbed it, or not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from components.ledger import Ledger
from components.store import Store

ROOT = Path(__file__).resolve().parents[2]
ATELIER = Path(sys.executable).with_name("atelier")
GOES_ON_WITHIN = 300.0
STOPS_WITHIN = 60.0


@dataclass(frozen=True)
class Point:
    """Where a run is stopped: so many seconds into a stage, and how.

    `group` takes the whole process group: as a crash does, and as a terminal does at Ctrl-C.
    """

    after: str  # the stage before; "" for the very start
    stage: str
    seconds: float
    group: bool = False
    number: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        how = f"{self.number.name}{' to the group' if self.group else ''}"
        return f"{how} {self.seconds:5.2f} s into {self.stage}"


@dataclass
class Line:
    """One recipe in one workspace of its own."""

    workspace: Path
    recipe: str = "fashion-tiny"
    kills: list[str] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """A whole run: its summary."""
        done = subprocess.run(
            self._command(), cwd=ROOT, env=self._environment(), capture_output=True, text=True,
            check=False, timeout=GOES_ON_WITHIN,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        (summary,) = json.loads(done.stdout)["runs"]
        return dict(summary)

    def stopped(self, point: Point) -> bool:
        """Start a run and stop it there; False where it ended before."""
        process = subprocess.Popen(
            self._command(), cwd=ROOT, env=self._environment(), text=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip
        assert process.stderr is not None
        words = ""
        while point.after and (line := process.stderr.readline()):
            words += line
            if line[:2] in ("+ ", "= ") and line[2:].startswith(point.after):
                break
        try:
            process.wait(point.seconds)
        except subprocess.TimeoutExpired:
            (os.killpg if point.group else os.kill)(process.pid, point.number)
        words += process.stderr.read()  # to its end: a pipe that nobody reads would hold it up
        code = process.wait(STOPS_WITHIN)
        if stopped := code in (-signal.SIGKILL, 130):
            self.kills.append(str(point))
        assert stopped or code == 0, f"{point}: exit code {code}: {words[-2000:]}"
        return stopped

    def outcome(self, summary: dict[str, Any]) -> dict[str, Any]:
        """What must not differ: weights, scores, verdicts, the registry, and that every byte is there."""
        ledger, store = Ledger(f"sqlite:///{self.workspace / 'ledger.db'}"), Store(self.workspace / "store")
        versions = ledger.versions(summary["model"])
        return {
            # A run that follows a registration is judged against the champion that it made: its scores are the same,
            # and the verdict that let it in is that of the ledger, by its digest among the versions.
            "scores": [(verdict["candidate"], verdict["scores"]) for verdict in summary["verdicts"]],
            # a Bento's tag ends in a digest of its trace, in which MLflow's run has an id of its own
            "registered": (summary["version"], summary["alias"], summary["bento"].rpartition("-")[0]),
            "versions": [(v.version, v.bundle, _judged(ledger, v.verdict), v.data, v.recipe) for v in versions],
            "pointers": [sorted((p.kind, p.digest, p.dvc) for p in v.pointers) for v in versions],
            "moves": [(m.alias, m.version, _judged(ledger, m.verdict)) for m in ledger.history(summary["model"])],
            "mlflow": self._registry(summary["model"]),
            "runs": self._tracked(summary["model"]),
            "damaged": sorted(
                folder.name
                for folder in (self.workspace / "store").glob("*/*")
                if folder.parent.name != "aside" and not _whole(store, folder)
            ),
        }

    def left_behind(self) -> list[str]:
        """What a killed run must not leave once the next has ended: processes, and runs that Prefect thinks are on."""
        import sqlite3

        with sqlite3.connect(self.workspace / "prefect" / "prefect.db") as database:
            on = database.execute("select name, state_type from flow_run where state_type = 'RUNNING'").fetchall()
        return [*map(str, on), *self._processes()]

    def _processes(self) -> list[str]:
        until = time.monotonic() + 15
        while (found := self._alive()) and time.monotonic() < until:
            time.sleep(0.2)
        return found

    def _alive(self) -> list[str]:
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if f"ATELIER_WORKSPACE={self.workspace}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:
                continue
        return found

    def _registry(self, model: str) -> list[tuple[str, str, tuple[str, ...]]]:
        from mlflow.tracking import MlflowClient

        client = MlflowClient(uri := f"sqlite:///{self.workspace / 'mlflow.db'}", registry_uri=uri)
        found = client.search_model_versions(f"name = '{model}'")
        aliases = client.get_registered_model(model).aliases
        return sorted(
            (
                str(v.version),
                v.tags["atelier.bundle"],
                tuple(a for a in sorted(aliases) if str(aliases[a]) == v.version),
            )
            for v in found
        )

    def _tracked(self, model: str) -> list[tuple[str, str, str]]:
        """Of each MLflow run that ended well: candidate, verdict and bundle."""
        from mlflow.tracking import MlflowClient

        client = MlflowClient(f"sqlite:///{self.workspace / 'mlflow.db'}")
        experiment = client.get_experiment_by_name(model)
        assert experiment is not None
        runs = [run for run in client.search_runs([experiment.experiment_id]) if run.info.status == "FINISHED"]
        tags = ("atelier.candidate", "atelier.passed", "atelier.bundle")
        return sorted(tuple(run.data.tags[tag] for tag in tags) for run in runs)  # type: ignore[misc]

    def _command(self) -> list[str]:
        return [str(ATELIER), "run", self.recipe, "--json"]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
        return {**kept, "ATELIER_WORKSPACE": str(self.workspace)}


def _judged(ledger: Ledger, digest: str) -> str:
    """What a verdict says but for the time that a sample took, which no two runs have alike."""
    verdict = ledger.verdict(digest)
    assert verdict is not None
    checks = tuple(check for check in verdict.checks if check.metric != "latency_ms")
    assert len(checks) == len(verdict.checks) - 1
    return verdict.model_copy(update={"checks": checks}).fingerprint()


def _whole(store: Store, folder: Path) -> bool:
    from components.records import Artifact

    return store.holds(Artifact(kind=folder.parent.name, digest=f"sha256:{folder.name}"))


def points(
    stages: Sequence[dict[str, Any]], count: int, seed: int, number: signal.Signals = signal.SIGKILL
) -> list[Point]:
    """Random moments, spread over the stages in their order: each in turn, from the first to the last."""
    chance = random.Random(seed)
    chosen = sorted(chance.sample(range(len(stages)), min(count, len(stages))))
    chosen = sorted(chosen + chance.choices(range(len(stages)), k=count - len(chosen)))
    return [
        Point(
            after=stages[index - 1]["stage"] if index else "",
            stage=stages[index]["stage"],
            seconds=chance.uniform(0, max(stages[index]["seconds"], 0.3)),
            group=number == signal.SIGINT or chance.random() < 0.3,
            number=number,
        )
        for index in chosen
    ]


@dataclass(frozen=True)
class Survived:
    """What came of a series of kills."""

    injected: Sequence[str]
    differing: Sequence[str]  # what of the outcome is not as undisturbed
    left: Sequence[str]


def survive(line: Line, undisturbed: dict[str, Any], where: Iterable[Point]) -> Survived:
    """Stop the line at each point, start the same command again at once each time, and compare how it ends."""
    for point in where:
        line.stopped(point)
    found = line.outcome(line.run())
    differing = [
        f"{name}: {found[name]} instead of {undisturbed[name]}" for name in found if found[name] != undisturbed[name]
    ]
    return Survived(line.kills, differing, line.left_behind())
