"""The starter data of text and speech pass the checks of their modalities, and come out as shards to train on."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components import ingestion, modalities, preprocessing, validation
from components.recipe import Data, HeldOut, Validate
from components.store import Store

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "modality", "held_out", "prepare", "rows"),
    [
        ("shakespeare", "text", {"share": 0.1, "by": "block"}, {"context": 128}, 1909),
        ("prompts", "audio", {"share": 0.15, "by": "digest"}, {"rate": 8000}, 549),
    ],
)
def test_starter_data_go_through_ingestion_checks_and_preparation(
    name: str, modality: str, held_out: dict[str, Any], prepare: dict[str, Any], rows: int, tmp_path: Path
) -> None:
    store = Store(tmp_path)
    data = Data(source=f"data/{name}", held_out=HeldOut.model_validate(held_out))
    dataset = ingestion.ingest(data, modality=modality, project=ROOT, store=store)
    checked = validation.validate(dataset, Validate(), modality=modality, reject_at_most=0, store=store)
    shards = preprocessing.prepare(checked, prepare, modality=modality, store=store)
    assert dataset.count == rows == sum(checked.accepted.values()) and not checked.rejected
    assert 0.05 < checked.accepted["held_out"] / rows < 0.2
    part = modalities.part(modality, "shards")
    for side in ("train", "held_out"):
        split = part.open_split(store.path(shards.shards), side)
        batch = split.batch(torch.arange(4))
        assert len(batch) == 4 and len(split) > 50
