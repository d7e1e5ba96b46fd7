"""A small project whose source is ingested for real, and what came of it."""

import io
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from components import rows
from components.ingestion import ingest
from components.recipe import Data, HeldOut
from components.records import Dataset
from components.store import Store

HALF = HeldOut(share=0.5, by="digest")
BY_SPLIT = HeldOut(column="split", value="test")


def png(shade: int) -> bytes:
    """A picture of its own for each shade."""
    written = io.BytesIO()
    Image.new("L", (4, 4), shade).save(written, "png")
    return written.getvalue()


def fill(folder: Path, files: dict[str, bytes | str]) -> Path:
    """Write files by their relative names."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def run(
    project: Path, held_out: HeldOut = HALF, *, source: str = "data/d", modality: str = "image", kind: str | None = None
) -> Dataset:
    """Ingest a source of a project into a store beside it."""
    data = Data(source=source, held_out=held_out, kind=kind)
    return ingest(data, modality=modality, project=project, store=Store(project / ".atelier"))


def table(project: Path, dataset: Dataset) -> dict[str, list[Any]]:
    """The columns of what was ingested."""
    batches = rows.read(Store(project / ".atelier").path(dataset.rows))
    found: dict[str, list[Any]] = pa.Table.from_batches(batches, rows.SCHEMA).to_pydict()
    return found
