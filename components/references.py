"""What samples of a model are held against: both sides of the data it was made for, in its metrics' own space."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from components import encoders, modalities
from components.records import Artifact
from components.store import Store


def of(
    shards: Artifact,
    spec: Mapping[str, JsonValue],
    encoder: Artifact | None,
    *,
    modality: str,
    classes: Sequence[str],
    store: Store,
) -> Any:
    """The `Reference` of the modality's metrics; `encoder` is None for one that measures without."""
    part = modalities.part(modality, "shards")
    directory = store.path(shards)
    return modalities.part(modality, "metrics").Reference.of(
        part.open_split(directory, "train"),
        part.open_split(directory, "held_out"),
        None if encoder is None else encoders.load(encoder, spec, modality=modality, store=store),
        classes=tuple(classes),
    )
