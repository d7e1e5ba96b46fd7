"""Parquet files whose rows are of very different sizes."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.sources import contract
from components.sources.listing import Listing
from components.sources.parquet import KIND

SMALL, LARGE = b"x", 50_000


def rows(*counts: tuple[int, int]) -> list[bytes]:
    """So many payloads of so many bytes each, no two large ones equal."""
    return [number.to_bytes(4) * (size // 4) if size > 4 else SMALL for many, size in counts for number in range(many)]


def batches(folder: Path, groups: Sequence[list[bytes]]) -> list[pa.RecordBatch]:
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(folder / "rows.parquet", schema, use_dictionary=False, write_batch_size=8) as writer:
        for group in groups:
            writer.write_batch(pa.record_batch([pa.array(group, pa.binary())], schema=schema))
    read = list(KIND.open(Listing(folder, "d"), "image").read(["image"]))
    assert [value for batch in read for value in batch["image"].to_pylist()] == [
        row for group in groups for row in group
    ]
    return read


@pytest.fixture(autouse=True)
def a_mebibyte(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contract, "BYTES_AT_ONCE", 2**20)


def test_a_group_of_large_rows_behind_many_small_ones_is_read_a_few_at_a_time(tmp_path: Path) -> None:
    read = batches(tmp_path, [rows((50_000, 1)), rows((300, LARGE))])
    assert max(batch.nbytes for batch in read) <= 2**20
    assert max(len(batch) for batch in read) == contract.ROWS_AT_ONCE


def test_a_batch_that_comes_out_larger_than_its_group_promised_is_cut(tmp_path: Path) -> None:
    read = batches(tmp_path, [rows((20_000, 1), (300, LARGE))])
    assert max(batch.nbytes for batch in read) <= 2**20
