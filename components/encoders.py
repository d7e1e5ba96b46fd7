"""The feature spaces of the metrics: trained once for a recipe, frozen, and known by their digest."""

import json

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from components import modalities
from components.contract import Spec
from components.errors import AtelierError
from components.records import Artifact, Shards
from components.store import Store

ENCODER_SEED = 0  # fixed: the encoder is an instrument, not a candidate


def fit(shards: Shards, *, modality: str, store: Store) -> Artifact:
    """Train the modality's classifier on the training rows, and measure it on the held-out ones."""
    part = modalities.part(modality, "shards")
    directory = store.path(shards.shards)
    trained = modalities.part(modality, "classifier").fit(
        part.open_split(directory, "train"), _spec(shards, modality), seed=ENCODER_SEED
    )
    held_out = part.open_split(directory, "held_out")
    rows = held_out.batch(torch.arange(len(held_out)))
    accuracy = float((trained.labels(trained.features(rows)) == rows.labels).float().mean())
    with store.writing("encoder") as draft:
        save_file(trained.state_dict(), draft.directory / "encoder.safetensors")
        card = {
            "kind": "classifier",
            "modality": modality,
            "spec": shards.spec,
            "held_out_accuracy": round(accuracy, 4),
        }
        (draft.directory / "encoder.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
    return draft.artifact


def load(encoder: Artifact, shards: Shards, *, modality: str, store: Store) -> nn.Module:
    """The frozen encoder, for rows of these shards' shape; an `AtelierError` where it was made for others."""
    network: nn.Module = modalities.part(modality, "classifier").ENCODER(_spec(shards, modality))
    try:
        network.load_state_dict(load_file(store.path(encoder) / "encoder.safetensors"))
    except RuntimeError as error:
        raise AtelierError(
            f"the encoder {encoder.digest} does not fit what this version of Atelier makes of the data "
            f"({' '.join(str(error).split())}). Verdicts under another one would not compare: run the version that "
            "pinned it, or give the recipe a new `model:` name to start afresh."
        ) from None
    return network.eval().requires_grad_(False)


def _spec(shards: Shards, modality: str) -> Spec:
    spec: Spec = modalities.part(modality, "batch").SPEC.model_validate(shards.spec)
    return spec
