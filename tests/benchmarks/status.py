"""`atelier status` and `atelier ls` of 100 recipes on schedules with 10,000 past runs in the databases.

The databases are made by their own migrations, and filled by SQL as the platform would have filled them: every run has
a verdict, a registered version and a promotion, a run of MLflow's and one of Prefect's with ten tasks.
"""

import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import closing
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

from components.ledger import Ledger
from components.records import Artifact, Check, Pointer, Scores, Verdict
from flows import events, runs
from flows.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
RECIPES, EACH, TASKS, ROUNDS = 100, 100, 10, 5
NOW = datetime.now(UTC).replace(microsecond=0)


def main() -> None:
    """Status and listing of 100 recipes and 10,000 runs."""
    with tempfile.TemporaryDirectory(prefix="atelier-status-") as folder:
        place = build(Path(folder))
        sizes = {
            path.name: path.stat().st_size >> 20 for path in (*place.root.glob("*.db"), place.prefect / "prefect.db")
        }
        print(f"{RECIPES} recipes, {RECIPES * EACH:,} runs; MiB: {sizes}", flush=True)
        for command in (("status",), ("status", "--json"), ("ls",), ("ls", "--json")):
            taken = sorted(timed(place, *command) for _ in range(ROUNDS))
            spread = f"{taken[0]:.2f} to {taken[-1]:.2f} over {ROUNDS}"
            print(f"atelier {' '.join(command)}: {median(taken):.2f} s ({spread})", flush=True)


def timed(place: Workspace, *command: str) -> float:
    atelier = [str(Path(sys.executable).with_name("atelier")), *command]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    begun = time.monotonic()
    done = subprocess.run(atelier, cwd=place.project, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 2) and not done.stderr, done.stderr
    assert f"model-{RECIPES - 1:03}" in done.stdout
    return time.monotonic() - begun


def build(project: Path, *, recipes: int = RECIPES, each: int = EACH) -> Workspace:
    """A project with that many recipes, and the workspace that so many runs of each would have left."""
    (project / "data.dvc").write_text("outs: []\n")
    folder = project / "flows" / "recipes"
    folder.mkdir(parents=True)
    text = (ROOT / "flows/recipes/fashion-tiny.yaml").read_text()
    models = [f"model-{number:03}" for number in range(recipes)]
    for number, model in enumerate(models):
        schedule = f"schedule: {{cron: '{number % 60} 3 * * *', timezone: UTC}}\n"
        (folder / f"{model}.yaml").write_text(text.replace("model: fashion-tiny", f"model: {model}") + schedule)
    place = Workspace(project, project / ".atelier")
    place.root.mkdir()
    times = [NOW - timedelta(hours=each - step) for step in range(each)]
    fill_ledger(place, models, times)
    fill_runs(place, models, times)
    fill_mlflow(place, models, times)
    fill_prefect(place, models, times)
    return place


def fill_ledger(place: Workspace, models: list[str], times: list[datetime]) -> None:
    ledger = Ledger(place.ledger_url)
    ledger.models()  # makes the tables
    verdicts, versions, moves = [], [], []
    for number, model in enumerate(models):
        for step, moment in enumerate(times):
            verdict = _verdict(model, digest=f"sha256:{number:032x}{step:032x}")
            record, created = verdict.model_dump(mode="json"), _iso(moment)
            digest, bundle, version = verdict.fingerprint(), verdict.bundle.digest, str(step + 1)
            verdicts.append((digest, model, "vae", "vae", bundle, 1, json.dumps(record), "r", created))
            pointers = [
                Pointer(kind=kind, digest=bundle, dvc=f"md5:{step:032x}.dir") for kind in ("data", "shards", "bundle")
            ]
            told = json.dumps([pointer.model_dump() for pointer in pointers])
            versions.append(
                (model, version, "image", "vae", bundle, digest, "md5:0.dir", None, "sha256:r", "r", told, created)
            )
            previous = str(step) if step else None
            moves.append(
                (len(moves) + 1, model, "champion", version, previous, bundle, digest, "recipe", "auto", created)
            )
    _insert(place.root / "ledger.db", {"verdicts": verdicts, "versions": versions, "moves": moves})


def fill_runs(place: Workspace, models: list[str], times: list[datetime]) -> None:
    runs.begin(place, model=models[0], recipe=f"flows/recipes/{models[0]}.yaml", why="by hand")  # makes the table
    rows = [
        (f"{model}-{step}", model, f"flows/recipes/{model}.yaml", "schedule", "", _iso(moment), _iso(moment),
         _iso(moment), "passed", 0, 60.0, None, 1, None, 0.0)
        for step, moment in enumerate(times) for model in models
    ]  # fmt: skip
    columns = (
        "id, model, recipe, why, detail, began, started, ended, outcome, exit_code, seconds, flow_run, pid, born, clock"
    )
    with closing(sqlite3.connect(runs.file(place))) as base, base:
        base.executemany(f"INSERT INTO runs ({columns}) VALUES ({', '.join('?' * 15)})", rows)
    ended = [
        events.Event(f"{model}-{step}", _iso(moment), "run.ended", model, "passed", {"run": f"{model}-{step}"})
        for step, moment in enumerate(times) for model in models
    ]  # fmt: skip
    folder = events.folder(place)
    folder.mkdir()
    for event in ended:
        with (folder / f"{event.time[:7]}.jsonl").open("a") as file:
            file.write(json.dumps(asdict(event)) + "\n")


def fill_mlflow(place: Workspace, models: list[str], times: list[datetime]) -> None:
    make = "from components.mlflow_database import make_whole; import sys; make_whole(sys.argv[1])"
    subprocess.run([sys.executable, "-c", make, place.tracking_uri], cwd=ROOT, check=True, capture_output=True)
    with closing(sqlite3.connect(place.root / "mlflow.db")) as base, base:
        for number, model in enumerate(models):
            base.execute("INSERT INTO registered_models (name, creation_time) VALUES (?, 0)", (model,))
            base.execute(
                "INSERT INTO registered_model_aliases (alias, version, name) VALUES ('champion', ?, ?)",
                (len(times), model),
            )
            base.execute(
                "INSERT INTO experiments (experiment_id, name, lifecycle_stage) VALUES (?, ?, 'active')",
                (number + 1, model),
            )
            rows = [
                (f"{number:016x}{step:016x}", "vae", int(moment.timestamp() * 1000), number + 1)
                for step, moment in enumerate(times)
            ]
            base.executemany("INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage, experiment_id) "
                             "VALUES (?, ?, 'FINISHED', ?, 'active', ?)", rows)  # fmt: skip
            base.executemany("INSERT INTO model_versions (name, version, run_id, status) VALUES (?, ?, ?, 'READY')",
                             [(model, step + 1, row[0]) for step, row in enumerate(rows)])  # fmt: skip


def fill_prefect(place: Workspace, models: list[str], times: list[datetime]) -> None:
    environment = {**os.environ, "PREFECT_HOME": str(place.prefect), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    environment.pop("PREFECT_API_URL", None)
    upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "-y"]
    subprocess.run(upgrade, env=environment, check=True, capture_output=True)
    with closing(sqlite3.connect(place.prefect / "prefect.db")) as base, base:
        base.execute("INSERT INTO flow (id, name) VALUES ('f', 'retrain')")
        tasks = []
        for number, model in enumerate(models):
            named = json.dumps({"recipe": f"flows/recipes/{model}.yaml"})
            base.execute(
                "INSERT INTO deployment (id, name, parameters, flow_id) VALUES (?, ?, ?, 'f')",
                (f"d{number}", model, named),
            )
            past = [(f"{number}-{step}", _db(moment), _db(moment), f"d{number}") for step, moment in enumerate(times)]
            base.executemany(
                "INSERT INTO flow_run (id, name, state_type, state_name, start_time, end_time, flow_id, "
                "deployment_id) VALUES (?, 'run', 'COMPLETED', 'Completed', ?, ?, 'f', ?)", past,
            )  # fmt: skip
            due = [(f"{number}+{day}", _db(NOW + timedelta(days=day)), f"d{number}") for day in range(1, 4)]
            base.executemany(
                "INSERT INTO flow_run (id, name, state_type, state_name, next_scheduled_start_time, auto_scheduled, "
                "flow_id, deployment_id) VALUES (?, 'run', 'SCHEDULED', 'Scheduled', ?, 1, 'f', ?)", due,
            )  # fmt: skip
            tasks += [(f"{run[0]}-{task}", str(task), run[0]) for run in past for task in range(TASKS)]
        base.executemany("INSERT INTO task_run (id, name, state_type, task_key, dynamic_key, flow_run_id) "
                         "VALUES (?, 'train', 'COMPLETED', 'train', ?, ?)", tasks)  # fmt: skip


def _verdict(model: str, *, digest: str) -> Verdict:
    """A verdict as large as those of pictures are."""
    bundle = Artifact(kind="bundle", digest=digest)
    names = [f"metric_{number}" for number in range(14)]
    scores = Scores(
        bundle=bundle, encoder=digest, held_out=digest, samples=2048, seeds=(0, 1, 2), pictures=bundle,
        values=dict.fromkeys(names, (1.25, 1.5, 1.75)), floor=dict.fromkeys(names, 0.5),
    )  # fmt: skip
    checks = [
        Check(gate=f"{name} at most 2", metric=name, value=1.5, low=1.25, high=1.75, bound=2.0, passed=True)
        for name in names[:8]
    ]  # fmt: skip
    return Verdict(
        model=model, candidate="vae", family="vae", bundle=bundle, scores=scores, checks=tuple(checks), rank=1.0,
        passed=True,
    )  # fmt: skip


def _insert(path: Path, tables: dict[str, Iterable[tuple[Any, ...]]]) -> None:
    with closing(sqlite3.connect(path)) as base, base:
        for table, rows in tables.items():
            held = list(rows)
            base.executemany(f"INSERT INTO {table} VALUES ({', '.join('?' * len(held[0]))})", held)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def _db(moment: datetime) -> str:
    """As Prefect writes a time into SQLite."""
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")
