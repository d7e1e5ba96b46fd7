"""Gates: which of them each planted fault trips, and how often they trip on models without one.

Models are those of the recipes, trained by the real line in a workspace of their own, which is kept: what is there is
not trained again. A fault is planted in what a model draws, in its weights, in its footprint or in its data; the rest
of what is judged is the model's own. False alarms are counted over verdicts on healthy models whose sampling seeds are
drawn by lot, three at a time, from twenty rounds each; half of the rounds are the candidate's and half the champion's,
so that both are the same model in other samples.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from components import evaluation, footprint, gating, ingestion, modalities, preprocessing, sampling, validation
from components import recipe as recipes
from components.contract import Batch
from components.errors import AtelierError, DataRejected
from components.recipe import Recipe
from components.records import Artifact, Footprint, Scores, Shards, Trained, Verdict
from components.store import Store

ROOT = Path(__file__).resolve().parents[2]
WORKSPACE = Path(os.environ.get("ATELIER_WORKSPACE", ROOT / ".atelier" / "gates"))
# what is run of each: one family by label is enough to plant wrong labels in
RUNS: Mapping[str, tuple[str, ...]] = {
    "fashion": (),
    "fashion-classes": ("candidates={cgan: {family: cgan, train: {steps: 4000, batch_size: 32}}}",),
    "shakespeare": (),
    "prompts": (),
}
ROUNDS, CHOSEN, RESAMPLED = 20, 3, 200

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

    def draw(self, seed: int) -> Batch:
        return evaluation.draw(self.endpoint, self.count, seed=seed, asked=self.asked)

    def scored(self, rounds: list[dict[str, float]], *, told: Any = None, bundle: Artifact | None = None) -> Scores:
        values, parts = told or self.foretold
        return Scores(
            bundle=bundle or self.bundle, encoder=None if self.encoder is None else self.encoder.digest,
            held_out=self.shards.shards.digest, samples=self.count, seeds=tuple(range(len(rounds))),
            values={name: tuple((values | one)[name] for one in rounds) for name in values | rounds[0]},
            floor=self.floor, parts=parts, pictures=self.bundle,
        )  # fmt: skip

    def judged(self, scores: Scores, champion: Scores | None, *, taken: Footprint | None = None) -> Verdict:
        trained = Trained(
            candidate=self.name, family=self.endpoint.family, weights=self.bundle, curves=self.bundle, seed=0, steps=1,
            seconds=1, samples_per_second=1, parameters=1, stopped="budget",
        )  # fmt: skip
        return gating.gate(trained, scores, taken or self.footprint, self.recipe, champion)


def main() -> None:
    """The table of planted faults, then how often healthy models are failed."""
    models = [model for name, settings in RUNS.items() for model in _models(name, settings)]
    drawn = {model.bundle.digest: _rounds(model) for model in models}
    for model in models:
        _faults(model, drawn[model.bundle.digest])
    _data_faults()
    _alarms(models, drawn)


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
        yield Model(recipe, f"{name}/{verdict.candidate}", verdict.bundle, shards, encoder, store)


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


def _rounds(model: Model) -> list[dict[str, float]]:
    """The metrics of each sampling seed, measured once and kept beside the workspace."""
    digest = model.bundle.digest.removeprefix("sha256:")
    kept = WORKSPACE / "rounds" / f"{digest}-{model.count}-{modalities_digest(model)}.json"
    if not kept.exists():
        rounds = [model.reference.measure(model.draw(1000 + seed), model.asked) for seed in range(ROUNDS)]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(rounds))
    found: list[dict[str, float]] = json.loads(kept.read_text())
    return found


def modalities_digest(model: Model) -> str:
    """Of the names of all metrics: with another one, rounds are measured again."""
    return "-".join(str(len(name)) for name in modalities.part(model.recipe.modality, "metrics").DIRECTIONS)


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


def _faults(model: Model, rounds: list[dict[str, float]]) -> None:
    """Each fault, judged with the champion that the model without it is, and as the first of its name."""
    print(f"== {model.name}", flush=True)
    champion = model.scored(rounds[:CHOSEN], bundle=Artifact(kind="bundle", digest="sha256:champion"))
    planted = dict(FAULTS[model.recipe.modality])
    if "label" in model.recipe.controls:
        planted["wrong labels"] = _other_labels
    for name, plant in planted.items():
        found = []
        for seed in range(CHOSEN):
            rows = plant(model.draw(2000 + seed), model, random.Random(seed))
            found.append(model.reference.measure(rows, model.asked))
        scores = model.scored(found)
        _print(name, model.judged(scores, champion), model.judged(scores, None))
    _print("training and held-out side swapped", *_swapped(model))
    print(f"  weights that are no numbers: {_broken(model)}", flush=True)
    healthy = model.scored(rounds[CHOSEN : 2 * CHOSEN])
    slow = model.footprint.model_copy(update={"latency_ms": tuple(_slowed(model) for _ in model.recipe.evaluate.seeds)})
    _print("slower than the recipe lets", *(model.judged(healthy, one, taken=slow) for one in (champion, None)))
    itself = model.judged(champion.model_copy(update={"bundle": model.bundle}), model.scored(rounds[:CHOSEN]))
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
    rounds = [swapped.measure(model.draw(2000 + seed), model.asked) for seed in range(CHOSEN)]
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
    fashion = recipes.load(ROOT / "flows" / "recipes" / "fashion.yaml")
    reverse = fashion.data.model_copy(update={"held_out": recipes.HeldOut(column="split", value="train")})
    print(f"the sides of the data named in reverse: {_rejected(fashion, reverse, ROOT)}", flush=True)


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


def _alarms(models: list[Model], drawn: Mapping[str, list[dict[str, float]]]) -> None:
    """How often each gate fails a healthy model, over verdicts on rounds by lot."""
    print(f"== false alarms, {RESAMPLED} verdicts of each model")
    for model in models:
        chance, failed, whole = random.Random(0), Counter[str](), 0
        rounds = drawn[model.bundle.digest]
        for _ in range(RESAMPLED):
            order = chance.sample(range(ROUNDS), 2 * CHOSEN)
            ours, theirs = ([rounds[at] for at in part] for part in (order[:CHOSEN], order[CHOSEN:]))
            champion = model.scored(theirs, bundle=Artifact(kind="bundle", digest="sha256:champion"))
            verdict = model.judged(model.scored(ours), champion)
            failed.update(check.gate for check in verdict.checks if not check.passed)
            whole += not verdict.passed
        told = ", ".join(f"{gate} {count / RESAMPLED:.3f}" for gate, count in failed.most_common()) or "none"
        print(f"  {model.name}: {whole / RESAMPLED:.3f} of the verdicts fail; {told}", flush=True)
