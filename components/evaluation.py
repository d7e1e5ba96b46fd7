"""Scores of a bundle: what it generates through the door of serving, against held-out rows."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from components import bundle as bundles
from components import encoders, loading, modalities, references, sampling
from components.contract import Batch
from components.errors import AtelierError
from components.ledger import Ledger
from components.recipe import Evaluate, Recipe
from components.records import Artifact, Pointer, Scores, Shards, fingerprint
from components.store import Store, file_sha256
from components.versioning import Archive

SHOWN = 60  # samples on a sheet


def evaluate(
    bundle: Artifact,
    shards: Shards,
    encoder: Artifact | None,
    settings: Evaluate,
    *,
    modality: str,
    store: Store,
    rejected: Artifact | None = None,
) -> Scores:
    """Every metric of the modality, once per sampling seed, and the sheets of samples a person looks at.

    `encoder` is None for a modality that measures without one; `rejected` are samples that people did not like, in the
    form of the shards, where a gate asks how like them others are.
    """
    _refuse_broken(bundle, store)
    _refuse_other_shape(bundle, shards, store)
    reference = reference_of(shards, encoder, modality=modality, store=store)
    endpoint = sampling.load(store.path(bundle), digest=bundle.digest)
    asked = reference.requests(endpoint.card.controls)
    given = reference.given(settings.samples)
    foretold, parts = reference.likelihood(endpoint.nats)
    like = _likeness(reference, rejected, modality, store)
    rounds: list[dict[str, float]] = []
    evidence: dict[str, bytes] = {}
    for seed in settings.seeds:
        drawn = draw(endpoint, settings.samples, seed=seed, asked=asked, given=given)
        rounds.append(foretold | reference.measure(drawn, asked) | _unsafe(endpoint, drawn) | like(drawn))
        evidence = evidence or reference.evidence(drawn) | _blocked(endpoint, drawn)
    with store.writing("pictures") as pictures:
        shown = draw(endpoint, SHOWN, seed=settings.seeds[0], asked=asked, given=reference.given(SHOWN))
        for name, sheet in (reference.sheets(shown) | evidence).items():
            (pictures.directory / name).write_bytes(sheet)
    return Scores(
        bundle=bundle,
        encoder=None if encoder is None else encoder.digest,
        held_out=shards.shards.digest,
        samples=settings.samples,
        seeds=settings.seeds,
        values={name: tuple(scores[name] for scores in rounds) for name in rounds[0]},
        floor=reference.floor() | (_unsafe(endpoint, reference.held_out) if endpoint.inspects else {}) | like(None),
        parts={name: values for name, values in parts.items() if len(values) > 1},
        pictures=pictures.artifact,
    )


def _likeness(
    reference: Any, rejected: Artifact | None, modality: str, store: Store
) -> Callable[[Batch | None], dict[str, float]]:
    """What tells of rows how like rejected ones they are, of None for real ones; nothing where none are at hand."""
    if rejected is None:
        return lambda rows: {}
    split = modalities.part(modality, "shards").open_split(store.path(rejected), "train")
    disliked = split.batch(torch.arange(len(split)))
    return lambda rows: {"rejected": reference.like_rejected(rows, disliked)}


def _unsafe(endpoint: sampling.Endpoint, rows: Batch) -> dict[str, float]:
    """The share of rows that show what the recipe's moderation names; nothing where no network looks at them."""
    if not endpoint.inspects:
        return {}
    return {"unsafe": sum(map(bool, endpoint.shown(rows))) / len(rows)}


def _blocked(endpoint: sampling.Endpoint, rows: Batch) -> dict[str, bytes]:
    """A sheet of the rows that do, where there are any."""
    which = [place for place, names in enumerate(endpoint.shown(rows)) if names][:SHOWN]
    if not which:
        return {}
    sheet: bytes = modalities.part(endpoint.modality, "codec").grid(rows.rows(torch.tensor(which)), columns=10)
    return {"unsafe.png": sheet}


def _refuse_broken(bundle: Artifact, store: Store) -> None:
    """Raise an `AtelierError` for weights that are no numbers: nothing that they make can be scored."""
    weights = load_file(store.path(bundle) / "model.safetensors")
    broken = [name for name, tensor in weights.items() if not torch.isfinite(tensor).all()]
    if broken:
        raise AtelierError(
            f"the weights {', '.join(broken[:3])} of the bundle {bundle.digest} hold values that are no numbers, so "
            "nothing that it makes can be scored or registered. Train the candidate again, at a lower rate of learning."
        )


def _refuse_other_shape(bundle: Artifact, shards: Shards, store: Store) -> None:
    model, endpoint = bundles.read(store.path(bundle))
    if model.spec != shards.spec:
        old = model.spec
        changed = [f"{name} {old.get(name)} became {new}" for name, new in shards.spec.items() if old.get(name) != new]
        raise AtelierError(
            f"the version of {endpoint.model} that is to be scored was made for other data: {', '.join(changed)}. What "
            "one registered model generates keeps its shape: undo the change, or give the recipe another `model` name."
        )


def encoder_of(
    shards: Shards, recipe: Recipe, *, project: Path, ledger: Ledger, store: Store, archive: Archive
) -> Artifact:
    """The recipe's frozen encoder: the pinned one, or a new one that is pinned and kept in the archive from now on.

    New data do not change it, since verdicts under two encoders do not compare; another `evaluate.encoder`, other
    classes or another picture shape in the recipe do. An `AtelierError` where the pinned one is lost for good.
    """
    encoder = pinned_encoder(shards, recipe, project=project, ledger=ledger)
    if encoder is None:
        given = _given(recipe, project)
        fitted = encoders.fit(shards, modality=recipe.modality, store=store, given=given)
        pointer = archive.keep(fitted, store.path(fitted))
        ledger.pin(recipe.model, "encoder in DVC", fitted.digest, pointer.dvc)
        pinned = ledger.pin(recipe.model, "encoder", _encoder_key(shards, recipe, given), fitted.digest)
        encoder = Artifact(kind="encoder", digest=pinned)
    if not store.holds(encoder):
        bring_back(encoder, recipe.model, ledger=ledger, store=store, archive=archive)
    return encoder


def pinned_encoder(shards: Shards, recipe: Recipe, *, project: Path, ledger: Ledger) -> Artifact | None:
    """The encoder that the recipe's verdicts are made with; None before the first."""
    pinned = ledger.pinned(recipe.model, "encoder", _encoder_key(shards, recipe, _given(recipe, project)))
    return None if pinned is None else Artifact(kind="encoder", digest=pinned)


def _given(recipe: Recipe, project: Path) -> Path | None:
    """The file of an encoder that is handed in; an `AtelierError` where it is not there."""
    if recipe.evaluate.encoder == "classifier":
        return None
    path = project / recipe.evaluate.encoder
    if not path.is_file():
        raise AtelierError(
            f"evaluate.encoder names {recipe.evaluate.encoder}, and there is no such file in {project}. Put it there, "
            "or write `encoder: classifier`."
        )
    return path


def _encoder_key(shards: Shards, recipe: Recipe, given: Path | None) -> str:
    named = recipe.evaluate.encoder if given is None else file_sha256(given)
    return fingerprint([recipe.modality, named, shards.spec])


def bring_back(encoder: Artifact, model: str, *, ledger: Ledger, store: Store, archive: Archive) -> None:
    """Fill the store with a model's encoder that the archive keeps; an `AtelierError` where it is lost for good."""
    dvc = ledger.pinned(model, "encoder in DVC", encoder.digest)
    if dvc is None:
        raise AtelierError(
            f"the encoder {encoder.digest} of {model} is neither in the store nor in the archive, and verdicts "
            "under another one would not compare. Bring the workspace back from a backup, or give the recipe a new "
            "`model:` name to start afresh."
        )
    pointer = Pointer(kind=encoder.kind, digest=encoder.digest, dvc=dvc)
    with store.writing(encoder.kind) as draft:
        archive.bring(pointer, draft.directory)


def draw(
    endpoint: sampling.Endpoint,
    count: int,
    *,
    seed: int,
    asked: Sequence[Mapping[str, Any]] = ({},),
    given: Batch | None = None,
) -> Batch:
    """`count` samples, each from a seed of its own under `seed`; their controls are those of `asked`, over and over.

    `given` holds a row to make each from, where the model edits.
    """
    requests = [asked[i % len(asked)] for i in range(count)]
    return endpoint.sample([loading.seed_of(seed, "sample", i) for i in range(count)], requests, given)


def reference_of(shards: Shards, encoder: Artifact | None, *, modality: str, store: Store) -> Any:
    """What samples are held against, as the metrics of the modality have it."""
    return references.of(
        shards.shards, shards.spec, encoder, modality=modality, classes=shards.validated.dataset.classes, store=store
    )
