"""What is served of a version: weights, their config, and the endpoint that they answer for, in one folder.

`model.safetensors` and `config.json` come from `Family.save`; `endpoint.json` names the registered model, its public
controls and its limits, so that a bundle explains itself wherever it lies: in MLflow, in DVC or in a Bento. The network
that looks at pictures, where the recipe names one, lies beside them.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field

from components import inspection
from components.contract import BUNDLE_FORMAT
from components.controls import PublicControl
from components.errors import AtelierError
from components.moderation import Moderation
from components.records import Artifact, Strict
from components.store import Store


class EndpointCard(Strict):
    """What callers may ask of a registered model, whichever family is behind it."""

    model: str
    controls: dict[str, PublicControl] = {}
    max_samples: int = Field(16, ge=1)
    latency_ms: int = Field(500, ge=1)  # what a request may wait in the queue; one that would wait longer is refused
    # left out where it is the default: bundles that were made before stay what they are
    moderation: Moderation = Field(Moderation(), exclude_if=lambda policy: policy == Moderation())


class ModelCard(Strict):
    """What the weights are: `config.json`, as `Family.save` writes it."""

    format: int
    family: str
    modality: str
    config: dict[str, Any]
    spec: dict[str, Any]
    edits: bool = False  # whether each sample is made from a row that is given


def assemble(weights: Artifact, endpoint: EndpointCard, store: Store, *, project: Path = Path()) -> Artifact:
    """A bundle of trained weights and the endpoint's card, as a new artifact of kind `bundle`.

    What the card's moderation names lies in `project`.
    """
    source = store.path(weights)
    with store.writing("bundle") as draft:
        shutil.copyfile(source / "config.json", draft.directory / "config.json")
        _link(source / "model.safetensors", draft.directory / "model.safetensors")
        card = json.dumps(endpoint.model_dump(mode="json", exclude_none=True), indent=2, sort_keys=True)
        (draft.directory / "endpoint.json").write_text(card + "\n")
        inspection.keep(endpoint.moderation.images, project, draft.directory)
    return draft.artifact


def read(directory: Path) -> tuple[ModelCard, EndpointCard]:
    """Both cards of a bundle; an `AtelierError` where the folder is no bundle of this format."""
    try:
        model = ModelCard.model_validate_json((directory / "config.json").read_bytes())
        endpoint = EndpointCard.model_validate_json((directory / "endpoint.json").read_bytes())
    except (OSError, ValueError) as error:
        raise AtelierError(f"{directory} is not a bundle: {' '.join(str(error).split())}") from None
    if model.format != BUNDLE_FORMAT:
        raise AtelierError(
            f"{directory} is a bundle of format {model.format}; this version reads format {BUNDLE_FORMAT}. "
            "Serve it with the version of Atelier that made it, or train it again."
        )
    return model, endpoint


def _link(source: Path, target: Path) -> None:
    """A second name for the same bytes where the file system allows it, else a copy."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
