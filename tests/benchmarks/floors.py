"""How well the recipes of text and sound foretell held-out rows, beside what needs no network at all.

Texts: bits a byte, beside a Witten-Bell 5-gram of the same training side. Sounds: bits a sample of 256 classes, beside
linear prediction of the 16th order. Each candidate is trained as its recipe says, and scored as a bundle.
"""

import time
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

from components import bundle, evaluation, ingestion, preprocessing, training, validation
from components import recipe as recipes
from components.store import Store

ROOT = Path(__file__).resolve().parents[2]
RECIPES = {"shakespeare": "bits_per_byte", "prompts": "bits_per_sample"}


def main() -> None:
    """Bits a byte and bits a sample of each candidate, and of the floor."""
    for name, metric in RECIPES.items():
        recipe = recipes.load(ROOT / "flows" / "recipes" / f"{name}.yaml")
        with TemporaryDirectory() as folder:
            _measure(recipe, metric, Store(Path(folder) / "store"), Path(folder) / "checkpoints")


def _measure(recipe: recipes.Recipe, metric: str, store: Store, checkpoints: Path) -> None:
    kind = recipe.modality
    source = ingestion.bring(recipe.data, project=ROOT, store=store)
    dataset = ingestion.ingest(recipe.data, modality=kind, project=ROOT, store=store, source=source)
    checked = validation.validate(
        dataset, recipe.validation, modality=kind, reject_at_most=recipe.data.reject_at_most, store=store
    )
    shards = preprocessing.prepare(checked, recipe.prepare, modality=kind, store=store)
    card = bundle.EndpointCard(model=recipe.model, controls=recipe.controls)
    for name, candidate in recipe.candidates.items():
        begun = time.monotonic()
        trained = training.train(
            name, candidate, shards, job=name, modality=kind, store=store, checkpoints=checkpoints,
            report=lambda progress: None,
        )  # fmt: skip
        took = time.monotonic() - begun
        made = bundle.assemble(trained.weights, card, store)
        scores = evaluation.evaluate(made, shards, None, recipe.evaluate, modality=kind, store=store)
        print(
            f"{recipe.model}, {name}: {metric} {mean(scores.values[metric]):.3f} after {trained.steps:,} steps in "
            f"{took:.0f} s; without a network {scores.floor[metric]:.3f}",
            flush=True,
        )
