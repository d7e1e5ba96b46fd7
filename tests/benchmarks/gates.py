"""Gates: which of them each planted fault trips, and how often they trip on models without one.

Models are those of the recipes, trained by the real line in a workspace of their own, which is kept: what is there is
not trained again. A fault is planted in what a model draws, in its weights, in its footprint or in its data; the rest
of what is judged is the model's own.

False alarms are counted over verdicts on healthy models, 200 of each. In each of twenty scenes half of the held-out
rows count, by lot (half-samples: McCarthy, 1969, whose spread is that of a fresh held-out side), and nine rounds of
samples, by lot from a pool of twice as many that are drawn afresh; parts of a likelihood are drawn with replacement.
Ten verdicts of a scene each take their rounds by lot, as many as the recipe has seeds, for the candidate and as many
others for the champion: both are the same model in other samples.
"""

import copy
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from components import evaluation, footprint, gating, ingestion, modalities, preprocessing, sampling, validation
from components import recipe as recipes
from components.contract import Batch
from components.errors import AtelierError, DataRejected
from components.estimates import Estimate
from components.recipe import Recipe
from components.records import Artifact, Check, Footprint, Scores, Shards, Trained, Verdict
from components.store import Store

ROOT = Path(__file__).resolve().parents[2]
WORKSPACE = Path(os.environ.get("ATELIER_WORKSPACE", ROOT / ".atelier" / "gates"))
# what is run of each, in steps that suffice for the gates, however slow the machine: one family by label is enough to
# plant wrong labels in
RUNS: Mapping[str, tuple[str, ...]] = {
    "fashion": (),
    "fashion-classes": ("candidates={cgan: {family: cgan, train: {steps: 2000, batch_size: 32}}}",),
    "shakespeare": (
        "candidates={lstm: {family: lstm, train: {steps: 3000, batch_size: 16, warmup: 50, time_limit: 60m}}}",
    ),
    "prompts": (
        "candidates={wavenet: {family: wavenet, train: {steps: 2000, batch_size: 4, warmup: 50, time_limit: 60m}}}",
    ),
}
SCENES, ROUNDS, VERDICTS = 20, 9, 10  # 200 verdicts of a model
ALARMED = ("fashion", "fashion-classes", "shakespeare", "prompts")  # whose models are the healthy ones

Rows = Any
Planted = Callable[[Rows, "Model", random.Random], Rows]


@dataclass(frozen=True)
class Model:
    """A trained candidate with all that a verdict on it rests on."""

    recipe: Recipe
    name: str
    bundle: Artifact
    shards: Shards
    encoder: Artifact | None
    store: Store
    passed: bool  # in its own run

    @cached_property
    def reference(self) -> Any:
        return evaluation.reference_of(self.shards, self.encoder, modality=self.recipe.modality, store=self.store)

    @cached_property
    def endpoint(self) -> sampling.Endpoint:
        return sampling.load(self.store.path(self.bundle), digest=self.bundle.digest)

    @cached_property
    def asked(self) -> Any:
        return self.reference.requests(self.endpoint.card.controls)

    @cached_property
    def foretold(self) -> Any:
        return self.reference.likelihood(self.endpoint.nats)

    @cached_property
    def floor(self) -> dict[str, float]:
        floor: dict[str, float] = self.reference.floor()
        return floor

    @cached_property
    def footprint(self) -> Footprint:
        return footprint.measure(self.bundle, self.recipe.evaluate, store=self.store)

    @cached_property
    def training(self) -> Rows:
        """Rows of the training side, as many as a round has."""
        part = modalities.part(self.recipe.modality, "shards")
        side = part.open_split(self.store.path(self.shards.shards), "train")
        return side.batch(torch.randperm(len(side), generator=torch.Generator().manual_seed(0))[: self.count])

    @property
    def count(self) -> int:
        return self.recipe.evaluate.samples

    @property
    def seeds(self) -> int:
        return len(self.recipe.evaluate.seeds)

    def draw(self, seed: int) -> Batch:
        return evaluation.draw(self.endpoint, self.count, seed=seed, asked=self.asked)

    def scored(
        self, rounds: Sequence[Mapping[str, float]], *, told: Any = None, bundle: Artifact | None = None,
        floor: Mapping[str, float] | None = None,
    ) -> Scores:  # fmt: skip
        values, parts = told or self.foretold
        return Scores(
            bundle=bundle or self.bundle, encoder=None if self.encoder is None else self.encoder.digest,
            held_out=self.shards.shards.digest, samples=self.count, seeds=tuple(range(len(rounds))),
            values={name: tuple({**values, **one}[name] for one in rounds) for name in {**values, **rounds[0]}},
            floor=floor or self.floor, parts=parts, pictures=self.bundle,
        )  # fmt: skip

    def judged(self, scores: Scores, champion: Scores | None, *, taken: Footprint | None = None) -> Verdict:
        trained = Trained(
            candidate=self.name, family=self.endpoint.family, weights=self.bundle, curves=self.bundle, seed=0, steps=1,
            seconds=1, samples_per_second=1, parameters=1, stopped="budget",
        )  # fmt: skip
        return gating.gate(trained, scores, taken or self.footprint, self.recipe, champion)


def main() -> None:
    """The table of planted faults, then how often healthy models are failed."""
    models = {name: list(_models(name, settings)) for name, settings in RUNS.items()}
    for model in (model for one in models.values() for model in one):
        _faults(model)
    _data_faults()
    _alarms([model for name in ALARMED for model in models[name]])


def _models(name: str, settings: tuple[str, ...]) -> Iterator[Model]:
    """Every candidate of a recipe that was run, whatever its verdict."""
    told = _run_before(name) or _run(name, settings)
    if "verdicts" not in told:
        raise AtelierError(f"the recipe {name} came to no verdict: {told['error']}")
    recipe, store = recipes.load(ROOT / "flows" / "recipes" / f"{name}.yaml", settings), Store(WORKSPACE / "store")
    shards = _shards(recipe, store)
    for one in told["verdicts"]:
        verdict = Verdict.model_validate(one)
        digest = verdict.scores.encoder
        encoder = None if digest is None else Artifact(kind="encoder", digest=digest)
        yield Model(recipe, f"{name}/{verdict.candidate}", verdict.bundle, shards, encoder, store, verdict.passed)


def _run_before(name: str) -> dict[str, Any] | None:
    """The newest run of a recipe in the workspace that came to a verdict."""
    for record in sorted((WORKSPACE / "records").glob(f"*-{name}-*.json"), reverse=True):
        told: dict[str, Any] = json.loads(record.read_text())
        if "verdicts" in told and Path(told["recipe"]).stem == name:
            return told
    return None


def _run(name: str, settings: tuple[str, ...]) -> dict[str, Any]:
    given = [part for setting in settings for part in ("--set", setting)]
    environment = {**os.environ, "ATELIER_WORKSPACE": str(WORKSPACE)}
    command = [str(Path(sys.executable).parent / "atelier"), "run", name, "--json", *given]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=False)
    (told,) = json.loads(done.stdout)["runs"]
    return dict(told)


def _shards(recipe: Recipe, store: Store) -> Shards:
    kind = recipe.modality
    source = ingestion.bring(recipe.data, project=ROOT, store=store)
    dataset = ingestion.ingest(recipe.data, modality=kind, project=ROOT, store=store, source=source)
    checked = validation.validate(
        dataset, recipe.validation, modality=kind, reject_at_most=recipe.data.reject_at_most, store=store
    )
    return preprocessing.prepare(checked, recipe.prepare, modality=kind, store=store)


def _scenes(model: Model) -> list[dict[str, Any]]:
    """What each scene measures of a model: the rounds, and what real rows score; once, and kept in the workspace."""
    digest = model.bundle.digest.removeprefix("sha256:")
    kept = WORKSPACE / "scenes" / f"{digest}-{model.count}-{SCENES}-{ROUNDS}.json"
    if not kept.exists():
        assert model.floor  # what scenes share is measured before they are copies
        pool, chance = sampling.join([model.draw(1000 + seed) for seed in range(2 * ROUNDS)]), random.Random(0)
        scenes = [_scene(model, pool, chance) for _ in range(SCENES)]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(scenes))
    found: list[dict[str, Any]] = json.loads(kept.read_text())
    return found


def _scene(model: Model, pool: Rows, chance: random.Random) -> dict[str, Any]:
    """Half of the held-out rows, and half of the pool in rounds; `asked` of a row goes with its place in its round."""
    reference = _halved(model.reference, chance)
    order = chance.sample(range(len(pool)), ROUNDS * model.count)
    rounds = [pool.rows(torch.tensor(order[at * model.count : (at + 1) * model.count])) for at in range(ROUNDS)]
    return {"rounds": [reference.measure(rows, model.asked) for rows in rounds], "floor": reference.floor()}


def _halved(reference: Any, chance: random.Random) -> Any:
    """The reference as it would be with half of the real rows that generated ones are compared with."""
    halved = copy.copy(reference)
    if hasattr(reference, "held_out_MD"):
        kept = _half(len(reference.held_out), chance)
        vars(halved).update(held_out=reference.held_out.rows(kept), held_out_MD=reference.held_out_MD[kept])
    else:
        real = reference._real
        kept = _half(len(real), chance)
        vars(halved)["_real"] = [real[at] for at in kept] if isinstance(real, list) else real.rows(kept)
    return halved


def _half(size: int, chance: random.Random) -> torch.Tensor:
    return torch.tensor(sorted(chance.sample(range(size), size // 2)))


def _some(rows: Rows, other: Rows, share: float, chance: random.Random) -> Rows:
    """The rows with a share of them taken from others, field by field that both have."""
    chosen = torch.tensor([chance.random() < share for _ in range(len(rows))])
    changed = {}
    for name in ("pixels", "tokens", "samples", "lengths"):
        if hasattr(rows, name):
            mine, theirs = getattr(rows, name), getattr(other, name)[: len(rows)]
            if mine.ndim > 1 and mine.shape[1] > theirs.shape[1]:
                theirs = torch.cat([theirs, mine[:, theirs.shape[1] :]], dim=1)
            elif mine.ndim > 1:
                theirs = theirs[:, : mine.shape[1]]
            view = chosen.view(-1, *[1] * (mine.ndim - 1))
            changed[name] = torch.where(view, theirs.to(mine.dtype), mine)
    return replace(rows, **changed)


def _copies(share: float) -> Planted:
    return lambda rows, model, chance: _some(rows, model.training, share, chance)


def _collapsed(rows: Rows, model: Model, chance: random.Random) -> Rows:
    """Everything is one of four samples."""
    return rows.rows(torch.arange(len(rows)) % 4)


def _blurred(rows: Rows, model: Model, chance: random.Random) -> Rows:
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    window = (kernel[:, None] * kernel / kernel.sum() ** 2)[None, None]
    padded = torch.nn.functional.pad(rows.pixels, (2, 2, 2, 2), mode="replicate")
    return replace(rows, pixels=torch.nn.functional.conv2d(padded, window))


def _other_labels(rows: Rows, model: Model, chance: random.Random) -> Rows:
    """Each row says to be of the class after its own."""
    return replace(rows, labels=(rows.labels + 1) % len(model.shards.validated.dataset.classes))


def _looping(rows: Rows, model: Model, chance: random.Random) -> Rows:
    """From the fortieth token on, each text says its first forty again."""
    length = rows.tokens.shape[1]
    return replace(rows, tokens=rows.tokens[:, torch.arange(length) % 40])


def _clipped(rows: Rows, model: Model, chance: random.Random) -> Rows:
    return replace(rows, samples=(rows.samples * 10).clamp(-1, 1))


def _silent(rows: Rows, model: Model, chance: random.Random) -> Rows:
    return replace(rows, samples=torch.zeros_like(rows.samples))


REVERSED: Mapping[str, recipes.HeldOut] = {
    "fashion": recipes.HeldOut(column="split", value="train"),
    "shakespeare": recipes.HeldOut(share=0.9, by="block"),
    "prompts": recipes.HeldOut(share=0.85, by="digest"),
}
EVERYWHERE: Mapping[str, Planted] = {
    "training rows in 1% of the samples": _copies(0.01),
    "training rows in 5% of the samples": _copies(0.05),
    "collapsed to four samples": _collapsed,
}
FAULTS: Mapping[str, Mapping[str, Planted]] = {
    "image": {**EVERYWHERE, "blurred": _blurred},
    "text": {**EVERYWHERE, "looping": _looping},
    "audio": {**EVERYWHERE, "clipped": _clipped, "silent": _silent},
}


def _faults(model: Model) -> None:
    """Each fault, judged with the champion that the model without it is, and as the first of its name."""
    print(f"== {model.name}", flush=True)
    rounds = [model.reference.measure(model.draw(1000 + seed), model.asked) for seed in range(2 * model.seeds)]
    champion = model.scored(rounds[: model.seeds], bundle=Artifact(kind="bundle", digest="sha256:champion"))
    planted = dict(FAULTS[model.recipe.modality])
    if "label" in model.recipe.controls:
        planted["wrong labels"] = _other_labels
    for name, plant in planted.items():
        found = []
        for seed in range(model.seeds):
            rows = plant(model.draw(2000 + seed), model, random.Random(seed))
            found.append(model.reference.measure(rows, model.asked))
        scores = model.scored(found)
        _print(name, model.judged(scores, champion), model.judged(scores, None))
    _print("training and held-out side swapped", *_swapped(model))
    print(f"  weights that are no numbers: {_broken(model)}", flush=True)
    healthy = model.scored(rounds[model.seeds :])
    slow = model.footprint.model_copy(update={"latency_ms": tuple(_slowed(model) for _ in model.recipe.evaluate.seeds)})
    _print("slower than the recipe lets", *(model.judged(healthy, one, taken=slow) for one in (champion, None)))
    itself = model.judged(champion.model_copy(update={"bundle": model.bundle}), model.scored(rounds[: model.seeds]))
    told = {check.reason for check in itself.checks if "champion" in check.gate}
    print(f"  the champion's own weights again: {'; '.join(sorted(told)) or 'no gate compares with it'}", flush=True)


def _slowed(model: Model) -> float:
    """A sample's milliseconds where each forward pass waits for longer than the recipe lets a sample take."""
    import time

    begun = time.perf_counter()
    time.sleep(1.2 * model.recipe.serve.latency_ms / 1e3)
    model.endpoint.generate([0])
    return 1e3 * (time.perf_counter() - begun)


def _swapped(model: Model) -> tuple[Verdict, Verdict]:
    """What was trained on one side is judged as if it had been trained on the other."""
    part = modalities.part(model.recipe.modality, "shards")
    folder = model.store.path(model.shards.shards)
    encoder = model.reference.encoder if hasattr(model.reference, "encoder") else None
    swapped = type(model.reference).of(
        part.open_split(folder, "held_out"), part.open_split(folder, "train"), encoder,
        classes=model.shards.validated.dataset.classes,
    )  # fmt: skip
    rounds = [swapped.measure(model.draw(2000 + seed), model.asked) for seed in range(model.seeds)]
    scores = model.scored(rounds, told=swapped.likelihood(model.endpoint.nats))
    scores = scores.model_copy(update={"floor": swapped.floor()})
    return model.judged(scores, None), model.judged(scores, None)


def _broken(model: Model) -> str:
    """A weight in a hundred is no number."""
    with model.store.writing("bundle") as draft:
        for path in model.store.path(model.bundle).iterdir():
            (draft.directory / path.name).write_bytes(path.read_bytes())
        weights = load_file(draft.directory / "model.safetensors")
        for tensor in weights.values():
            if tensor.is_floating_point():
                tensor.flatten()[::100] = float("nan")
        save_file(weights, draft.directory / "model.safetensors")
    given = (draft.artifact, model.shards, model.encoder, model.recipe.evaluate)
    try:
        evaluation.evaluate(*given, modality=model.recipe.modality, store=model.store)
    except AtelierError as refused:
        return f"refused before it is scored: {refused}"
    return "NOT CAUGHT"


def _print(fault: str, beside: Verdict, alone: Verdict) -> None:
    failed = [
        ", ".join(dict.fromkeys(check.gate for check in verdict.checks if not check.passed)) or "NOT CAUGHT"
        for verdict in (alone, beside)
    ]
    more = "" if failed[0] == failed[1] else f"; beside a champion: {failed[1]}"
    print(f"  {fault}: {failed[0]}{more}", flush=True)


def _data_faults() -> None:
    """Texts of which a part is profane, whose rows are set aside until they are too many; sides named in reverse."""
    recipe = recipes.load(ROOT / "flows" / "recipes" / "shakespeare.yaml")
    with tempfile.TemporaryDirectory() as aside:
        project = Path(aside)
        texts = project / "data" / "texts"
        texts.mkdir(parents=True)
        plays = sorted((ROOT / "data" / "shakespeare").glob("*.txt"))[:2]
        (texts / "plays.txt").write_text("\n\n".join(path.read_text() for path in plays))
        (texts / "other.txt").write_text(("what shit is this fucking shit " * 12 + "\n") * 200)
        data = recipe.data.model_copy(update={"source": "data/texts"})
        print(f"profanity in the corpus: {_rejected(recipe, data, project)}", flush=True)
    for name, reverse in REVERSED.items():
        told = recipes.load(ROOT / "flows" / "recipes" / f"{name}.yaml")
        data = told.data.model_copy(update={"held_out": reverse})
        print(f"the sides of {name} in reverse: {_rejected(told, data, ROOT)}", flush=True)


def _rejected(recipe: Recipe, data: recipes.Data, project: Path) -> str:
    with tempfile.TemporaryDirectory() as aside:
        store = Store(Path(aside))
        dataset = ingestion.ingest(data, modality=recipe.modality, project=project, store=store)
        try:
            validation.validate(
                dataset, recipe.validation, modality=recipe.modality, reject_at_most=data.reject_at_most, store=store
            )
        except DataRejected as rejected:
            return str(rejected).partition(" Rejected rows")[0]
    return "NOT CAUGHT"


def _alarms(models: Sequence[Model]) -> None:
    """How often each gate fails a healthy model, each share with its interval of 95%."""
    print(f"== false alarms, {SCENES * VERDICTS} verdicts of each model")
    whole, failed = Counter[bool](), Counter[str]()
    for model in models:
        if not model.passed:
            print(f"  {model.name} did not pass its own run, and is no healthy model", flush=True)
            continue
        verdicts = [
            verdict for at, scene in enumerate(_scenes(model)) for verdict in _verdicts(model, scene, random.Random(at))
        ]
        own = Counter(check.gate for verdict in verdicts for check in _failed(verdict))
        whole.update(verdict.passed for verdict in verdicts)
        failed.update(own)
        count = sum(not verdict.passed for verdict in verdicts)
        told = "".join(f"; {gate}: {_share(found, len(verdicts))}" for gate, found in own.most_common())
        print(f"  {model.name}: {_share(count, len(verdicts))} fail{told}", flush=True)
    total = whole.total()
    print(f"  all: {_share(whole[False], total)} fail", flush=True)
    for gate, found in failed.most_common():
        print(f"    {gate}: {_share(found, total)}", flush=True)


def _verdicts(model: Model, scene: Mapping[str, Any], chance: random.Random) -> Iterator[Verdict]:
    """Verdicts of a scene on the model, with itself in other samples as the champion."""
    _, parts = model.foretold
    for _ in range(VERDICTS):
        order = chance.sample(scene["rounds"], 2 * model.seeds)
        lots = [chance.random() for _ in next(iter(parts.values()), ())]
        again = {name: tuple(found[int(lot * len(found))] for lot in lots) for name, found in parts.items()}
        told = {name: fmean(found) for name, found in again.items()}, again
        champion = model.scored(
            order[model.seeds :], told=told, floor=scene["floor"],
            bundle=Artifact(kind="bundle", digest="sha256:champion"),
        )  # fmt: skip
        yield model.judged(model.scored(order[: model.seeds], told=told, floor=scene["floor"]), champion)


def _failed(verdict: Verdict) -> list[Check]:
    """The first check of each gate that failed."""
    return list({check.gate: check for check in verdict.checks if not check.passed}.values())


def _share(count: int, of: int) -> str:
    low, high = Estimate.of_shares((count / of,), of).limits(0.975)
    return f"{count / of:.3f} ({low:.3f} to {high:.3f})"
