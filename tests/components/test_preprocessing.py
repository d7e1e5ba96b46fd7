"""Preparation reads accepted rows only, leaves each on its side, and gives the same bytes for the same rows."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components import preprocessing, rows, workers
from components.records import Artifact, Dataset, Shards, Validated
from components.store import Store

Fate = tuple[str, str | None]  # a row's side, and why it was rejected
FATES: list[Fate] = [("train", None), ("held_out", None), ("train", "is blank"), ("train", None), ("held_out", "late")]


def level(value: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def validated(store: Store, fates: list[Fate], *, parts: int = 2) -> Validated:
    """A dataset of flat grey pictures, row i at level i, in several Parquet parts; every source side says `train`."""
    lines: list[dict[str, Any]] = [
        {"id": f"row-{i}", "payload": level(i), "label": i % 2, "split": "train"} for i in range(len(fates))
    ]
    with store.writing("rows") as source:
        for part in range(parts):
            table = pa.Table.from_pylist(
                lines[part * len(lines) // parts : (part + 1) * len(lines) // parts], rows.SCHEMA
            )
            pq.write_table(table, source.directory / f"part-{part}.parquet")
    with store.writing("facts") as facts:
        told = {"split": [side for side, _ in fates], "rejected": pa.array([why for _, why in fates], pa.string())}
        pq.write_table(pa.table(told), facts.directory / "facts.parquet")
    nothing = Artifact(kind="docs", digest="sha256:0")
    dataset = Dataset(
        source="d", version="v", commit=None, rows=source.artifact, count=len(fates), classes=("a", "b"), licence="MIT"
    )
    sides = [side for side, why in fates if why is None]
    return Validated(
        dataset=dataset,
        facts=facts.artifact,
        quarantine=nothing,
        docs=nothing,
        accepted={side: sides.count(side) for side in set(sides)},
        rejected={},
    )


def prepared(store: Store, fates: list[Fate] = FATES) -> tuple[Shards, Path]:
    record = preprocessing.prepare(validated(store, fates), {"size": 8, "channels": 1}, modality="image", store=store)
    return record, store.path(record.shards)


def test_rejected_rows_are_left_out_and_sides_are_those_of_the_facts(tmp_path: Path) -> None:
    record, directory = prepared(Store(tmp_path))
    assert pq.read_table(directory / "rows.parquet").to_pydict() == {
        "id": ["row-0", "row-1", "row-3"],
        "split": ["train", "held_out", "train"],
    }
    assert np.load(directory / "train.pixels.npy")[:, 0, 0, 0].tolist() == [0, 3]
    assert np.load(directory / "train.labels.npy").tolist() == [0, 1]
    assert np.load(directory / "held_out.pixels.npy")[:, 0, 0, 0].tolist() == [1]
    assert record.spec == {"channels": 1, "size": 8, "classes": ["a", "b"]}


@pytest.mark.parametrize("turned", range(len(FATES)))
def test_a_fate_that_changes_changes_the_shards(turned: int, tmp_path: Path) -> None:
    store = Store(tmp_path)
    side, why = FATES[turned]
    changed = [*FATES[:turned], (side, "blank" if why is None else None), *FATES[turned + 1 :]]
    if not any(fate == ("held_out", None) for fate in changed):
        changed[4] = ("held_out", None)
    assert prepared(store)[0].shards != prepared(store, changed)[0].shards


def test_the_same_rows_give_the_same_digest(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert prepared(store)[0] == prepared(store)[0]


def test_workers_make_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(tmp_path)
    fates: list[Fate] = [("train" if n % 3 else "held_out", "is late" if n % 7 == 5 else None) for n in range(40)]
    alone = prepared(store, fates)[0]
    monkeypatch.setattr("components.modalities.image.shards.ROWS_AT_ONCE", 4)
    monkeypatch.setitem(workers.mapped.__kwdefaults__, "alone", 0)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    assert prepared(store, fates)[0] == alone


def test_arrays_are_as_numpy_writes_them(tmp_path: Path) -> None:
    _, directory = prepared(Store(tmp_path))
    for path in directory.glob("*.npy"):
        np.save(tmp_path / "again.npy", np.load(path))
        assert (tmp_path / "again.npy").read_bytes() == path.read_bytes()
