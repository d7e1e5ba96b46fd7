"""Scores of a bundle: what it generates through the door of serving, against held-out rows."""

from typing import Any

from components import encoders, loading, modalities, sampling
from components.contract import Batch
from components.ledger import Ledger
from components.recipe import Evaluate, Recipe
from components.records import Artifact, Scores, Shards, fingerprint
from components.store import Store

SHOWN = 60  # samples on a sheet


def evaluate(
    bundle: Artifact, shards: Shards, encoder: Artifact, settings: Evaluate, *, modality: str, store: Store
) -> Scores:
    """Every metric of the modality, once per sampling seed, and the sheets of samples a person looks at."""
    reference = _reference(shards, encoder, modality=modality, store=store)
    endpoint = sampling.load(store.path(bundle), digest=bundle.digest)
    rounds = [reference.measure(draw(endpoint, settings.samples, seed=seed)) for seed in settings.seeds]
    with store.writing("pictures") as pictures:
        for name, sheet in reference.sheets(draw(endpoint, SHOWN, seed=settings.seeds[0])).items():
            (pictures.directory / f"{name}.png").write_bytes(sheet)
    return Scores(
        bundle=bundle,
        encoder=encoder.digest,
        held_out=shards.shards.digest,
        samples=settings.samples,
        seeds=settings.seeds,
        values={name: tuple(scores[name] for scores in rounds) for name in rounds[0]},
        floor=reference.floor(),
        pictures=pictures.artifact,
    )


def encoder_of(shards: Shards, recipe: Recipe, *, ledger: Ledger, store: Store) -> Artifact:
    """The recipe's frozen encoder: the pinned one, or a new one that is pinned from now on.

    New data do not change it, since verdicts under two encoders do not compare; another `evaluate.encoder`, other
    classes or another picture shape in the recipe do.
    """
    key = fingerprint([recipe.modality, recipe.evaluate.encoder, shards.spec])
    pinned = ledger.pinned(recipe.model, "encoder", key)
    if pinned is not None and store.holds(artifact := Artifact(kind="encoder", digest=pinned)):
        return artifact
    fitted = encoders.fit(shards, modality=recipe.modality, store=store)
    return Artifact(kind="encoder", digest=ledger.pin(recipe.model, "encoder", key, fitted.digest))


def draw(endpoint: sampling.Endpoint, count: int, *, seed: int) -> Batch:
    """`count` samples at the endpoint's default controls, each from a seed of its own under `seed`."""
    return endpoint.sample([loading.seed_of(seed, "sample", i) for i in range(count)])


def _reference(shards: Shards, encoder: Artifact, *, modality: str, store: Store) -> Any:
    part = modalities.part(modality, "shards")
    directory = store.path(shards.shards)
    return modalities.part(modality, "metrics").Reference.of(
        part.open_split(directory, "train"),
        part.open_split(directory, "held_out"),
        encoders.load(encoder, shards, modality=modality, store=store),
        classes=len(shards.validated.dataset.classes),
    )
