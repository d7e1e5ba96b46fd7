"""Prepare: the accepted rows of a validated dataset as the modality's shards, each on the side its facts name."""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from components import modalities, rows
from components.errors import AtelierError
from components.recipe import Recipe
from components.records import Beginning, Shards, Validated
from components.store import Store

COLUMNS = ["id", "payload", "label", "text"]
KEPT = pa.schema([pa.field("id", pa.string(), nullable=False), pa.field("split", pa.string(), nullable=False)])
KEPT_AT_ONCE = 16 * 1024  # rows of `rows.parquet` that are written together


def prepare(validated: Validated, options: dict[str, Any], *, modality: str, store: Store) -> Shards:
    """Shards of what passed validation; the same rows and options give the same digest.

    `rows.parquet` names the rows that went in, in order: the n-th of a side is the n-th row of that side's arrays.
    """
    part = modalities.part(modality, "shards")
    with store.writing("shards") as draft, pq.ParquetWriter(draft.directory / "rows.parquet", KEPT) as writer:
        spec = part.write(
            _accepted(validated, store, writer),
            draft.directory,
            prepare=part.Prepare.model_validate(options),
            classes=validated.dataset.classes,
            counts=validated.accepted,
        )
    return Shards(validated=validated, shards=draft.artifact, spec=spec.model_dump(mode="json"))


def options(recipe: Recipe, beginnings: Mapping[str, Beginning]) -> dict[str, Any]:
    """What a recipe's `prepare` says; candidates that go on from a version read texts by its tokenizer.

    An `AtelierError` where two such versions have different ones.
    """
    own = {
        beginning.name: beginning.spec["tokenizer"]
        for beginning in beginnings.values()
        if "tokenizer" in beginning.spec
    }
    if not own:
        return recipe.prepare
    if any(tokenizer != next(iter(own.values())) for tokenizer in own.values()):
        raise AtelierError(
            f"{' and '.join(own)} cut texts by different tokenizers, and the candidates of a recipe share one. Give "
            "each `init` a recipe of its own."
        )
    return recipe.prepare | {"tokenizer": next(iter(own.values()))}


def _accepted(validated: Validated, store: Store, writer: pq.ParquetWriter) -> Iterator[rows.Row]:
    """The rows that were not rejected, as a stream, each on the side that its facts name and told to the writer."""
    facts = pq.read_table(store.path(validated.facts) / "facts.parquet", columns=["split", "rejected"])
    number, kept = 0, []
    for batch in rows.read(store.path(validated.dataset.rows)):
        here = facts.slice(number, len(batch))
        number += len(batch)
        accepted = here["rejected"].combine_chunks().is_null()
        sides = here["split"].combine_chunks().filter(accepted)
        batch = batch.select(COLUMNS).filter(accepted)
        kept.append(pa.Table.from_arrays([batch["id"], sides], schema=KEPT))
        if sum(map(len, kept)) >= KEPT_AT_ONCE:
            writer.write_table(pa.concat_tables(kept))
            kept = []
        for row, side in zip(batch.to_pylist(), sides.to_pylist(), strict=True):
            yield rows.Row(**row, split=side)
    if kept:
        writer.write_table(pa.concat_tables(kept))
