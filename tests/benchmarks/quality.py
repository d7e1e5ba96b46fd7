"""What each image family reaches for what it costs: one cell of the README's table at a time.

A cell is a contender at a budget: trained on the pictures of `data/fashion` by the loop of the product, scored through
the door of serving, in a process of its own. Cells are kept in `quality.json` beside this file and not measured again;
name some to measure them anew (`python -m tests.benchmarks.quality vae flow_matching`).

Speed is measured first, with nothing else running, and says how many steps fit into the budget. Public implementations
(`public.py`) compete with the same pictures, budgets and scores, each alone and on as many threads as it is fastest
with. Then our cells are trained two at a time, since what so many steps teach does not depend on how long they took.
Each has one thread, as the product gives it on two cores: with two, every family's steps took longer or hardly less.
The budget of a GPU is asked for where there is one, of our own contenders; the others keep off it.
`ATELIER_BENCH_BUDGETS` names some of the budgets, `ATELIER_BENCH_KEPT` another file to keep cells in.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from threading import Lock
from typing import Any, Literal

import torch

from tests.benchmarks import public

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(os.environ.get("ATELIER_BENCH_KEPT") or Path(__file__).with_suffix(".json"))
STORE = ROOT / ".atelier" / "quality"
SAMPLES, SEEDS = 2048, (0, 1, 2)
PACE_SECONDS = 10.0
TOGETHER = 2  # cells that are trained at a time
TIMED = 512  # samples whose drawing is timed


@dataclass(frozen=True)
class Budget:
    """What a contender may spend: `seconds`, on `threads` threads at most, or on a GPU."""

    seconds: float
    threads: int
    told: str
    device: Literal["cpu", "cuda"] = "cpu"


BUDGETS = {
    "60s": Budget(60, 1, "60 CPU-seconds"),
    "10min": Budget(600, 2, "10 minutes on 2 cores"),
    "gpu": Budget(300, 1, "5 minutes on a GPU", "cuda"),
}


@dataclass(frozen=True)
class Contender:
    """A family as its defaults have it, but for what is said here."""

    family: str
    batch_size: int
    config: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)
    prepare: Mapping[str, Any] = field(default_factory=dict)
    controls: Mapping[str, Any] = field(default_factory=dict)


LABEL = {"label": {"default": "any"}}
COSINE = {"schedule": "cosine"}
CONTENDERS: dict[str, Contender | public.Arm] = {
    "vae": Contender("vae", 64),
    "vae, perceptron": Contender("vae", 64, {"network": "perceptron", "hidden": 512, "lr": 0.001}, COSINE),
    "dcgan": Contender("dcgan", 32, {"width": 16, "lr": 0.001}),
    "dcgan, width 8": Contender("dcgan", 32, {"width": 8, "lr": 0.001}),
    "wgan_gp": Contender("wgan_gp", 16),
    "cgan": Contender("cgan", 32, controls=LABEL),
    "infogan": Contender("infogan", 32, controls={"code": {"default": -1, "at_least": -1, "at_most": 9}}),
    "stylegan2": Contender("stylegan2", 16),
    "cyclegan": Contender("cyclegan", 8, prepare={"degrade": "pixelate"}),
    "diffusion": Contender("diffusion", 32, train=COSINE),
    "flow_matching": Contender("flow_matching", 32, train=COSINE),
    "diffusion by label": Contender("diffusion", 32, {"conditional": True}, COSINE, controls=LABEL),
    "flow_matching by label": Contender("flow_matching", 32, {"conditional": True}, COSINE, controls=LABEL),
    **public.CONTENDERS,
}


def main(named: Sequence[str] = ()) -> None:
    """Each image family at each budget: cells that are not kept yet are measured, then all are shown."""
    missing = list(_missing(named))
    ours = [title for title in missing if isinstance(CONTENDERS[title[0]], Contender)]
    places = dict.fromkeys((contender, BUDGETS[budget].device) for contender, budget in ours)
    speeds = {(contender, device): _process("speed", contender, device=device) for contender, device in places}
    for title in missing:
        if title not in ours:
            _keep(_process("public", *title))
    turn = Lock()

    def measure(title: tuple[str, str]) -> None:
        device = BUDGETS[title[1]].device
        cell = _process("cell", *title, json.dumps(speeds[title[0], device]), device=device)
        with turn:
            _keep(cell)

    with ThreadPoolExecutor(TOGETHER) as pool:
        measured = [pool.submit(measure, title) for title in ours]
    for cell in measured:  # one that failed says so once the others are kept
        cell.result()
    print(table(cells()))


def _process(*arguments: str, device: str = "cpu") -> dict[str, Any]:
    """What a process of its own tells of it; on the CPU though there be a GPU, unless that is asked for."""
    print(", ".join(arguments[:3]), "...", flush=True)
    command = [sys.executable, "-m", "tests.benchmarks.quality", *arguments]
    ours = {} if arguments[0] == "public" else {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive"}
    if device == "cpu":
        ours["ACCELERATE_USE_CPU"] = "true"
    environment = {**os.environ, **ours}  # threads that sleep while they wait halve the speed of others
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    told: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return told


def _keep(cell: Mapping[str, Any]) -> None:
    kept = [other for other in cells() if any(other[name] != cell[name] for name in ("contender", "budget"))]
    lines = ",\n".join(json.dumps(each, sort_keys=True) for each in sorted([*kept, cell], key=_place))
    KEPT.write_text(f"[\n{lines}\n]\n")
    print(_row(cell), flush=True)


def cells() -> list[dict[str, Any]]:
    """What has been measured."""
    found: list[dict[str, Any]] = json.loads(KEPT.read_text()) if KEPT.exists() else []
    return found


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """The cells as a table in Markdown, a budget after the other; what was not measured is not there."""
    lines = []
    for key, budget in BUDGETS.items():
        rows = [_row(cell) for cell in cells if cell["budget"] == key]
        if rows:
            lines += ["", f"| {budget.told} | {' | '.join(COLUMNS)} |", f"|---{'|--:' * len(COLUMNS)}|", *rows]
    return "\n".join(lines[1:])


def _missing(named: Sequence[str]) -> Iterator[tuple[str, str]]:
    there = {(cell["contender"], cell["budget"]) for cell in cells()}
    for budget in os.environ.get("ATELIER_BENCH_BUDGETS", " ".join(BUDGETS)).split():
        for contender, asked in CONTENDERS.items():
            if BUDGETS[budget].device == "cuda" and (isinstance(asked, public.Arm) or not torch.cuda.is_available()):
                continue
            if contender in named or not named and (contender, budget) not in there:
                yield contender, budget


def _place(cell: Mapping[str, Any]) -> tuple[int, int]:
    return list(BUDGETS).index(cell["budget"]), list(CONTENDERS).index(cell["contender"])


COLUMNS = {
    "FD": ("fd", ".1f"),
    "KID, 3 seeds": ("kd", ".1f"),
    "precision": ("precision", ".2f"),
    "recall": ("recall", ".2f"),
    "coverage": ("coverage", ".2f"),
    "label accuracy": ("label_accuracy", ".2f"),
    "code accuracy": ("code_accuracy", ".2f"),
    "rows/s trained": ("samples_per_second", ",.0f"),
    "drawn/s": ("drawn_per_second", ",.0f"),
    "parameters": ("parameters", ",.0f"),
}


def _row(cell: Mapping[str, Any]) -> str:
    told = []
    for name, form in COLUMNS.values():
        values = cell["values"].get(name) or ([cell[name]] if name in cell else [])
        spread = f" ({min(values):{form}} to {max(values):{form}})" if name == "kd" else ""
        told.append(f"{mean(values):{form}}{spread}" if values else "")
    return f"| {cell['contender']} | {' | '.join(told)} |"


def _measure(title: str, key: str, speed: Mapping[str, float]) -> dict[str, Any]:
    """One cell, in this process."""
    from components import bundle, encoders, evaluation, training
    from components.recipe import Evaluate
    from components.store import Store

    contender, store = CONTENDERS[title], Store(STORE)
    assert isinstance(contender, Contender)
    shards = _shards(contender.prepare, store)
    encoder = encoders.fit(shards, modality="image", store=store)
    steps = max(1, round(BUDGETS[key].seconds * speed["steps_per_second"]))
    candidate = _candidate(contender, steps=steps, checkpoint_every=steps)
    spent = time.process_time()
    trained = training.train(
        title, candidate, shards, job=f"{time.time_ns()}", modality="image", store=store,
        checkpoints=STORE / "checkpoints", report=lambda progress: None,
    )  # fmt: skip
    spent = time.process_time() - spent
    card = bundle.EndpointCard(model="fashion", controls=contender.controls)
    made = bundle.assemble(trained.weights, card, store)
    scores = evaluation.evaluate(
        made, shards, encoder, Evaluate(samples=SAMPLES, seeds=SEEDS), modality="image", store=store
    )
    for sheet in store.path(scores.pictures).glob("*.png"):
        sheets = STORE / "sheets" / f"{title}, {key}"
        sheets.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sheet, sheets / sheet.name)
    return {
        "contender": title, "budget": key, "steps": trained.steps, "seconds": BUDGETS[key].seconds,
        "cpu_seconds": round(spent, 1), "parameters": trained.parameters,
        "samples_per_second": round(speed["steps_per_second"] * contender.batch_size, 1),
        "drawn_per_second": round(speed["drawn_per_second"], 1),
        "values": _rounded(scores.values), "floor": _rounded(scores.floor),
        "config": dict(contender.config), "train": {"batch_size": contender.batch_size, **contender.train},
        **({"card": torch.cuda.get_device_name()} if BUDGETS[key].device == "cuda" else {}), **_circumstances(shards),
    }  # fmt: skip


def _candidate(contender: Contender, **train: Any) -> Any:
    from components.recipe import Candidate, Train

    settings = Train(**{"batch_size": contender.batch_size, **contender.train, **train})
    return Candidate(family=contender.family, config=dict(contender.config), train=settings)


def _rounded(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: [round(one, 4) for one in value] if isinstance(value, list | tuple) else round(value, 4)
        for name, value in values.items()
    }


def _circumstances(shards: Any) -> dict[str, Any]:
    return {"rows": shards.validated.accepted, "torch": torch.__version__, "day": time.strftime("%Y-%m-%d")}


def _measure_public(title: str, key: str) -> dict[str, Any]:
    from components.store import Store

    arm, store, budget = CONTENDERS[title], Store(STORE), BUDGETS[key]
    assert isinstance(arm, public.Arm)
    shards = _shards({}, store)
    told = public.measure(
        arm, shards, seconds=budget.seconds, threads=min(budget.threads, arm.threads), samples=SAMPLES, seeds=SEEDS,
        store=store, workspace=STORE / "public", sheets=STORE / "sheets" / f"{title}, {key}",
    )  # fmt: skip
    return {
        **told, "contender": title, "budget": key, "values": _rounded(told["values"]),
        "floor": _rounded(told["floor"]), "config": dict(arm.settings), "train": {"batch_size": arm.batch_size},
        **_circumstances(shards),
    }  # fmt: skip


def _shards(options: Mapping[str, Any], store: Any) -> Any:
    """The starter pictures, ingested, validated and prepared as any recipe's."""
    from components import ingestion, preprocessing, validation
    from components.recipe import Data, HeldOut, Validate

    data = Data(source="data/fashion", held_out=HeldOut(column="split", value="held_out"))
    source = ingestion.bring(data, project=ROOT, store=store)
    dataset = ingestion.ingest(data, modality="image", project=ROOT, store=store, source=source)
    validated = validation.validate(dataset, Validate(), modality="image", reject_at_most=0.01, store=store)
    prepare = {"size": 28, "channels": 1, **options}
    return preprocessing.prepare(validated, prepare, modality="image", store=store)


def _speed(title: str) -> dict[str, float]:
    """Steps a second, and samples drawn a second, of networks that are thrown away."""
    from components import families, loading, modalities, training
    from components.modalities.image.batch import ImageSpec
    from components.store import Store

    contender, store = CONTENDERS[title], Store(STORE)
    assert isinstance(contender, Contender)
    shards = _shards(contender.prepare, store)
    candidate = _candidate(contender, steps=10**6)
    loop = training.Loop(training.build(candidate, ImageSpec.model_validate(shards.spec)), candidate.train)
    split = modalities.part("image", "shards").open_split(store.path(shards.shards), "train")
    rows = loading.batches(split, size=contender.batch_size, seed=0, start=0)
    for _ in range(20):
        loop.advance(next(rows))
    begun, first = time.perf_counter(), loop.step
    while time.perf_counter() - begun < PACE_SECONDS:
        loop.advance(next(rows))
    if loop.accelerator.device.type == "cuda":
        torch.cuda.synchronize()
    steps_per_second = (loop.step - first) / (time.perf_counter() - begun)
    family, batch = loop.family.eval(), next(loading.batches(split, size=TIMED, seed=0, start=0))
    begun = time.perf_counter()
    controls = [families.get(contender.family).Controls()] * TIMED
    family.sample(range(TIMED), controls=controls, conditions=family.spec.given(batch))
    return {"steps_per_second": steps_per_second, "drawn_per_second": TIMED / (time.perf_counter() - begun)}


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["speed", title]:
            print(json.dumps(_speed(title)))
        case ["cell", title, key, speed]:
            print(json.dumps(_measure(title, key, json.loads(speed))))
        case ["public", title, key]:
            print(json.dumps(_measure_public(title, key)))
        case named:
            main(named)
