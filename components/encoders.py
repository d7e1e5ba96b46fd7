"""The feature spaces of the metrics: trained once for a recipe or handed in, frozen, and known by their digest."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import JsonValue
from safetensors.torch import load_file, save_file
from torch import nn

from components import handed, modalities
from components.contract import Spec
from components.errors import AtelierError
from components.records import Artifact, Shards
from components.store import Store

GIVEN = "given"  # a file that a team handed in
ENCODER_SEED = 0  # fixed: the encoder is an instrument, not a candidate


def fit(shards: Shards, *, modality: str, store: Store, given: Path | None = None) -> Artifact:
    """Train the modality's classifier on the training rows, and measure it on the held-out ones.

    `given` is a file whose features distances are to be measured in; labels are the classifier's all the same.
    """
    part = modalities.part(modality, "shards")
    directory = store.path(shards.shards)
    trained = modalities.part(modality, "classifier").fit(
        part.open_split(directory, "train"), _spec(shards.spec, modality), seed=ENCODER_SEED
    )
    held_out = part.open_split(directory, "held_out")
    rows = held_out.batch(torch.arange(len(held_out)))
    width = None if given is None else handed.opened(given)(rows.pixels[:2]).shape[1]
    accuracy = float((trained.labels(trained.features(rows)) == rows.labels).float().mean())
    with store.writing("encoder") as draft:
        save_file(trained.state_dict(), draft.directory / "encoder.safetensors")
        card = {
            "kind": "classifier",
            "modality": modality,
            "spec": shards.spec,
            "held_out_accuracy": round(accuracy, 4),
            **({} if given is None else {"given": given.name, "features": width}),
        }
        if given is not None:
            shutil.copyfile(given, draft.directory / f"{GIVEN}{given.suffix}")
        (draft.directory / "encoder.json").write_text(json.dumps(card, indent=2, sort_keys=True) + "\n")
    return draft.artifact


def load(encoder: Artifact, spec: Mapping[str, JsonValue], *, modality: str, store: Store) -> nn.Module:
    """The frozen encoder, for rows of that shape; an `AtelierError` where it was made for others."""
    network: nn.Module = modalities.part(modality, "classifier").ENCODER(_spec(spec, modality))
    try:
        network.load_state_dict(load_file(store.path(encoder) / "encoder.safetensors"))
    except RuntimeError as error:
        raise AtelierError(
            f"the encoder {encoder.digest} does not fit what this version of Atelier makes of the data "
            f"({' '.join(str(error).split())}). Verdicts under another one would not compare: run the version that "
            "pinned it, or give the recipe a new `model:` name to start afresh."
        ) from None
    for path in store.path(encoder).glob(f"{GIVEN}.*"):
        vars(network)["space"] = handed.opened(path)  # a plain function, no part of the module
    return network.eval().requires_grad_(False)


def _spec(told: Mapping[str, JsonValue], modality: str) -> Spec:
    spec: Spec = modalities.part(modality, "batch").SPEC.model_validate(told)
    return spec
