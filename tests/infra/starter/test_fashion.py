"""The packed part of Fashion-MNIST."""

import gzip
import io
import struct
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from components import manifest, versioning
from components.errors import AtelierError
from components.ingestion import ingest
from components.modalities.image.rows import near_hash
from components.recipe import Data, HeldOut
from components.store import Store, file_sha256
from infra import starter_data
from infra.starter import fashion

PACKED_VERSION = "md5:3257dd4bc563ed8839e5962b44df7045.dir"  # models are registered with it: it must never change


@pytest.fixture(scope="module")
def folder(clone: Path) -> Path:
    versioning.pull(clone, "data/fashion")
    return clone / "data" / "fashion"


def test_it_stays_what_models_were_trained_on(clone: Path) -> None:
    assert versioning.version_of(clone, "data/fashion") == PACKED_VERSION


def test_the_card_says_what_the_files_are(folder: Path) -> None:
    card = (folder / "README.md").read_text()
    facts = yaml.safe_load(card.split("---\n")[1])
    assert facts["sha256"] == {name: file_sha256(folder / name) for name in ("train.parquet", "held_out.parquet")}
    assert facts["counts"] == {name: pq.read_metadata(folder / f"{name}.parquet").num_rows for name in facts["counts"]}
    assert (len(facts["classes"]), facts["licence"]) == (10, "MIT")
    assert "Copyright (c) 2017 Zalando SE" in card
    assert "arXiv:1708.07747" in card


def test_classes_are_balanced_and_no_picture_crosses_the_sides(folder: Path) -> None:
    near = {}
    for side, count in (("train", 1000), ("held_out", 200)):
        rows = pq.read_table(folder / f"{side}.parquet")
        pictures = [Image.open(io.BytesIO(payload)) for payload in rows["image"].to_pylist()]
        assert {(picture.mode, picture.size, picture.format) for picture in pictures} == {("L", (28, 28), "PNG")}
        assert Counter(rows["label"].to_pylist()) == dict.fromkeys(range(10), count)
        assert len({picture.tobytes() for picture in pictures}) == len(set(rows["id"].to_pylist())) == rows.num_rows
        assert set(rows["split"].to_pylist()) == {side}
        near[side] = {near_hash(picture) for picture in pictures}
    assert near["train"].isdisjoint(near["held_out"])


def test_it_is_ingested(clone: Path, tmp_path: Path) -> None:
    data = Data(source="data/fashion", held_out=HeldOut(column="split", value="held_out"))
    dataset = ingest(data, modality="image", project=clone, store=Store(tmp_path))
    assert (dataset.count, dataset.licence, dataset.classes[9]) == (12_000, "MIT", "Ankle boot")
    assert dataset.version == versioning.version_of(clone, "data/fashion")


def test_repeated_and_near_pictures_are_passed_over() -> None:
    grey = np.random.default_rng(0).integers(0, 200, (4, 28, 28), np.uint8)
    pixels = np.stack([grey[0], grey[0], grey[1], grey[2], grey[2] + 1, grey[3]])
    pictures = fashion.Pictures(pixels, np.zeros(6, np.uint8))
    assert fashion._first(pictures, 10) == [0, 2, 3, 4, 5]
    assert fashion._first(pictures, 3) == [0, 2, 3]
    near = {near_hash(Image.fromarray(grey[2]))}  # brighter by one level is near, not equal
    assert fashion._first(pictures, 10, equal={grey[1].tobytes()}, near=near) == [0, 5]


def idx_files(folder: Path, counts: dict[str, int]) -> dict[str, np.ndarray]:
    """The four files of a source as small as that; the pixels of each side."""
    folder.mkdir(parents=True)
    pixels = {
        name: np.random.default_rng(count).integers(0, 256, (count, 28, 28), np.uint8) for name, count in counts.items()
    }
    for name, count in counts.items():
        labels = bytes(number % 10 for number in range(count))
        images = struct.pack(">BBBBIII", 0, 0, 8, 3, count, 28, 28) + pixels[name].tobytes()
        (folder / f"{name}-images-idx3-ubyte.gz").write_bytes(gzip.compress(images))
        (folder / f"{name}-labels-idx1-ubyte.gz").write_bytes(
            gzip.compress(struct.pack(">BBBBI", 0, 0, 8, 1, count) + labels)
        )
    return pixels


def test_all_of_it_is_built_repeats_too_and_trained_on_as_its_own_files_would_be(tmp_path: Path) -> None:
    pixels = idx_files(tmp_path / "data/idx", {"train": 20, "t10k": 10})
    to = tmp_path / "data/fashion-full"
    assert starter_data.main(["--full", "--from", f"fashion={tmp_path / 'data/idx'}", "--to", str(to)]) == 0
    found = {}
    for source, side in (("data/fashion-full", "held_out"), ("data/idx", "t10k")):
        data, store = Data(source=source, held_out=HeldOut(column="split", value=side)), Store(tmp_path / "store")
        dataset = ingest(data, modality="image", project=tmp_path, store=store)
        (part,) = store.path(dataset.rows).glob("*.parquet")
        found[source] = pq.read_table(part).sort_by("id").select(["id", "label", "split"]).to_pylist()
        decoded = [
            np.asarray(Image.open(io.BytesIO(row))) for row in pq.read_table(part).sort_by("id")["payload"].to_pylist()
        ]
        assert np.stack(decoded).tobytes() == pixels["t10k"].tobytes() + pixels["train"].tobytes()
    assert found["data/fashion-full"] == found["data/idx"]
    assert Counter(row["split"] for row in found["data/idx"]) == {"train": 20, "held_out": 10}
    assert yaml.safe_load((to / "README.md").read_text().split("---\n")[1])["counts"] == {"train": 20, "held_out": 10}


def test_all_of_it_needs_the_source_too(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match="apt-get install dataset-fashion-mnist"):
        fashion.build_full(tmp_path, tmp_path / "full")


@pytest.mark.skipif(not fashion.SOURCE.is_dir(), reason="Debian's package dataset-fashion-mnist is absent")
def test_rebuilding_gives_what_is_there_byte_for_byte(folder: Path, tmp_path: Path) -> None:
    fashion.build(fashion.SOURCE, tmp_path / "fashion")
    assert manifest.entries_of(tmp_path / "fashion") == manifest.entries_of(folder)
