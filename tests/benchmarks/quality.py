"""What each image family reaches for what it costs: one cell of the README's table at a time.

A cell is a contender at a budget: trained on the pictures of `data/fashion` by the loop of the product, scored through
the door of serving, in a process of its own. Cells are kept in `quality.json` beside this file and not measured again;
name some to measure them anew (`python -m tests.benchmarks.quality vae flow_matching`). The number of steps follows
from a short run before, so that a schedule knows its end; that run is not counted. Public implementations compete
with the same pictures, budgets and scores (`public.py`). `ATELIER_BENCH_KEPT` names another file to keep cells in.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

from tests.benchmarks import public

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(os.environ.get("ATELIER_BENCH_KEPT") or Path(__file__).with_suffix(".json"))
STORE = ROOT / ".atelier" / "quality"
SAMPLES, SEEDS = 2048, (0, 1, 2)
PACE_SECONDS = 5.0
TIMED = 512  # samples whose drawing is timed


@dataclass(frozen=True)
class Budget:
    """What a contender may spend: `seconds` of each of `threads` threads."""

    seconds: float
    threads: int
    told: str


BUDGETS = {
    "60s": Budget(60, 1, "60 CPU-seconds"),
    "10min": Budget(600, 2, "10 minutes on 2 cores"),
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
    "vae, perceptron": Contender("vae", 64, {"network": "perceptron", "hidden": 512}),
    "dcgan": Contender("dcgan", 32, {"width": 16, "lr": 0.001}),
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
    for title in _missing(named):
        command = [sys.executable, "-m", "tests.benchmarks.quality", "cell", *title]
        threads = str(BUDGETS[title[1]].threads)
        environment = {**os.environ, "OMP_NUM_THREADS": threads, "OMP_WAIT_POLICY": "passive"}
        print(f"{title[0]}, {BUDGETS[title[1]].told} ...", flush=True)
        done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        cell = json.loads(done.stdout.splitlines()[-1])
        kept = [other for other in cells() if (other["contender"], other["budget"]) != title]
        lines = ",\n".join(json.dumps(each, sort_keys=True) for each in sorted([*kept, cell], key=_place))
        KEPT.write_text(f"[\n{lines}\n]\n")
        print(_row(cell), flush=True)
    print(table(cells()))


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
        for contender in CONTENDERS:
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


def _measure(title: str, key: str) -> dict[str, Any]:
    """One cell, in this process and on as many threads as it was given."""
    import torch

    from components import bundle, encoders, evaluation, sampling, training
    from components.recipe import Candidate, Evaluate, Train
    from components.store import Store

    contender, budget, store = CONTENDERS[title], BUDGETS[key], Store(STORE)
    torch.set_num_threads(budget.threads)
    if isinstance(contender, public.Arm):
        return _measure_public(title, contender, key, store)
    shards = _shards(contender.prepare, store)
    encoder = encoders.fit(shards, modality="image", store=store)
    settings = {"batch_size": contender.batch_size, **contender.train}
    candidate = Candidate(family=contender.family, config=dict(contender.config), train=Train(**settings))
    steps = max(1, round(budget.seconds * _pace(candidate, shards, store)))
    candidate = candidate.model_copy(
        update={"train": candidate.train.model_copy(update={"steps": steps, "checkpoint_every": steps})}
    )
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
    endpoint = sampling.load(store.path(made))
    begun = time.perf_counter()
    endpoint.sample(range(TIMED), given=_given(endpoint))
    drawn = TIMED / (time.perf_counter() - begun)
    for sheet in store.path(scores.pictures).glob("*.png"):
        sheets = STORE / "sheets" / f"{title}, {key}"
        sheets.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(sheet, sheets / sheet.name)
    return {
        "contender": title, "budget": key, "steps": trained.steps, "seconds": round(trained.seconds, 1),
        "cpu_seconds": round(spent, 1), "parameters": trained.parameters,
        "samples_per_second": round(trained.samples_per_second, 1), "drawn_per_second": round(drawn, 1),
        "values": {name: [round(value, 4) for value in values] for name, values in scores.values.items()},
        "floor": {name: round(value, 4) for name, value in scores.floor.items()},
        "rows": shards.validated.accepted, "torch": torch.__version__, "day": time.strftime("%Y-%m-%d"),
        "config": dict(contender.config), "train": settings,
    }  # fmt: skip


def _measure_public(title: str, arm: public.Arm, key: str, store: Any) -> dict[str, Any]:
    budget, shards = BUDGETS[key], _shards({}, store)
    told = public.measure(
        arm, shards, seconds=budget.seconds, threads=budget.threads, samples=SAMPLES, seeds=SEEDS, store=store,
        workspace=STORE / "public", sheets=STORE / "sheets" / f"{title}, {key}",
    )  # fmt: skip
    values = {name: [round(value, 4) for value in values] for name, values in told["values"].items()}
    return {
        **told, "contender": title, "budget": key, "values": values,
        "floor": {name: round(value, 4) for name, value in told["floor"].items()},
        "rows": shards.validated.accepted, "day": time.strftime("%Y-%m-%d"),
        "config": dict(arm.settings), "train": {"batch_size": arm.batch_size},
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


def _pace(candidate: Any, shards: Any, store: Any) -> float:
    """Steps a second of CPU time of a thread, of a network that is thrown away."""
    from components import loading, modalities, training
    from components.modalities.image.batch import ImageSpec

    family = training.build(candidate, ImageSpec.model_validate(shards.spec))
    loop = training.Loop(family, candidate.train.model_copy(update={"steps": 10**6}))
    split = modalities.part("image", "shards").open_split(store.path(shards.shards), "train")
    rows = loading.batches(split, size=candidate.train.batch_size, seed=0, start=0)
    for _ in range(20):
        loop.advance(next(rows))
    begun, first = time.perf_counter(), loop.step
    while time.perf_counter() - begun < PACE_SECONDS:
        loop.advance(next(rows))
    return (loop.step - first) / (time.perf_counter() - begun)


def _given(endpoint: Any) -> Any:
    """What each timed sample is made from, where the model edits."""
    import torch

    return endpoint.example().rows(torch.zeros(TIMED, dtype=torch.long)) if endpoint.edits else None


if __name__ == "__main__":
    if sys.argv[1:2] == ["cell"]:
        print(json.dumps(_measure(*sys.argv[2:4])))
    else:
        main(sys.argv[1:])
