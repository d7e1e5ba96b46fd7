"""Prepare: the accepted rows of a validated dataset as the modality's shards, each on the side its facts name."""

from collections.abc import Iterator
from typing import Any

import pyarrow.parquet as pq

from components import modalities, rows
from components.records import Shards, Validated
from components.store import Store

COLUMNS = ["id", "payload", "label", "text"]


def prepare(validated: Validated, options: dict[str, Any], *, modality: str, store: Store) -> Shards:
    """Memory-mapped shards of what passed validation; the same rows and options give the same digest."""
    part = modalities.part(modality, "shards")
    with store.writing("shards") as draft:
        spec = part.write(
            _accepted(validated, store),
            draft.directory,
            prepare=part.Prepare.model_validate(options),
            classes=validated.dataset.classes,
            counts=validated.accepted,
        )
    return Shards(validated=validated, shards=draft.artifact, spec=spec.model_dump(mode="json"))


def _accepted(validated: Validated, store: Store) -> Iterator[rows.Row]:
    """The rows that were not rejected, as a stream, each on the side that its facts name."""
    facts = pq.read_table(store.path(validated.facts) / "facts.parquet", columns=["split", "rejected"])
    number = 0
    for batch in rows.read(store.path(validated.dataset.rows)):
        here = facts.slice(number, len(batch))
        fates = zip(here["split"].to_pylist(), here["rejected"].to_pylist(), strict=True)
        for row, (split, rejected) in zip(batch.select(COLUMNS).to_pylist(), fates, strict=True):
            if rejected is None:
                yield rows.Row(**row, split=split)
        number += len(batch)
