"""Prepared pictures in a store, few enough to train an encoder on within seconds."""

import io

import numpy as np
from PIL import Image

from components import modalities
from components.records import Artifact, Dataset, Shards, Validated
from components.rows import Row
from components.store import Store

CLASSES = ("light", "dark")
NONE = Artifact(kind="none", digest="sha256:0")


def prepared(store: Store, *, train: int = 256, held_out: int = 64, size: int = 12, seed: int = 0) -> Shards:
    """Noise around a bright or a dark level, the same for the same seed; the level is the label."""
    noise = np.random.default_rng(seed)
    counts = {"train": train, "held_out": held_out}
    part = modalities.part("image", "shards")
    rows = [
        Row(f"{side}{i}", _png(noise.integers(0, 120, (size, size)) + 130 * (i % 2)), 1 - i % 2, None, side)
        for side, count in counts.items()
        for i in range(count)
    ]
    with store.writing("shards") as draft:
        prepare = part.Prepare(size=size, channels=1)
        spec = part.write(rows, draft.directory, prepare=prepare, classes=CLASSES, counts=counts)
    dataset = Dataset(
        source="data/d", version="md5:0.dir", commit=None, rows=NONE, count=len(rows), classes=CLASSES, licence="MIT"
    )
    validated = Validated(dataset=dataset, facts=NONE, quarantine=NONE, docs=NONE, accepted=counts, rejected={})
    return Shards(validated=validated, shards=draft.artifact, spec=spec.model_dump(mode="json"))


def _png(levels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
