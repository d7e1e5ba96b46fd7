"""The starter data as it is packed in the repository."""

import hashlib
import importlib.util
import io
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from components import manifest, versioning
from components.ingestion import ingest
from components.modalities.image.rows import near_hash
from components.recipe import Data, HeldOut
from components.store import Store, file_sha256

ROOT = Path(__file__).resolve().parents[2]
PACKED = ROOT / "infra" / "starter-data"


def program() -> ModuleType:
    spec = importlib.util.spec_from_file_location("starter_data", ROOT / "infra" / "starter_data.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["starter_data"] = module
    spec.loader.exec_module(module)
    return module


starter_data = program()


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `git clone` brings: pointers, configuration and the packed data; nothing else."""
    clone = tmp_path_factory.mktemp("clone")
    for name in ("data.dvc", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        (clone / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, clone / name)
    shutil.copytree(PACKED, clone / "infra" / "starter-data")
    return clone


@pytest.fixture(scope="module")
def fashion(clone: Path) -> Path:
    versioning.pull(clone, "data/fashion")
    return clone / "data" / "fashion"


def test_dvc_pull_works_in_a_fresh_clone(clone: Path) -> None:
    subprocess.run(["git", "init", "-q", str(clone)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "pull", "-q"], cwd=clone, check=True)
    assert versioning.version_of(clone, "data") == f"md5:{manifest.name_of(manifest.entries_of(clone / 'data'))}"
    ignored = subprocess.run(["git", "-C", str(clone), "check-ignore", "-q", "data/fashion/README.md"], check=False)
    assert ignored.returncode == 0
    assert (clone / ".gitignore").read_bytes() == (ROOT / ".gitignore").read_bytes()  # dvc leaves it alone


def test_every_packed_object_is_what_its_name_says_and_is_needed() -> None:
    found = {path.parent.name + path.name: path for path in PACKED.rglob("*") if path.is_file()}
    name = manifest.pointer_md5(ROOT / "data.dvc")
    assert {*manifest.parse(found[name].read_bytes(), name).values(), name} == set(found)
    for md5, path in found.items():
        assert hashlib.md5(path.read_bytes()).hexdigest() == md5.removesuffix(".dir")
    assert sum(path.stat().st_size for path in found.values()) < 8 * 10**6


def test_the_card_says_what_the_files_are(fashion: Path) -> None:
    card = (fashion / "README.md").read_text()
    facts = yaml.safe_load(card.split("---\n")[1])
    assert facts["sha256"] == {name: file_sha256(fashion / name) for name in ("train.parquet", "held_out.parquet")}
    assert facts["counts"] == {name: pq.read_metadata(fashion / f"{name}.parquet").num_rows for name in facts["counts"]}
    assert (len(facts["classes"]), facts["licence"]) == (10, "MIT")
    assert "Copyright (c) 2017 Zalando SE" in card
    assert "arXiv:1708.07747" in card


def test_classes_are_balanced_and_no_picture_crosses_the_sides(fashion: Path) -> None:
    near = {}
    for side, count in (("train", 1000), ("held_out", 200)):
        rows = pq.read_table(fashion / f"{side}.parquet")
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
    pictures = starter_data.Pictures(pixels, np.zeros(6, np.uint8))
    assert starter_data._first(pictures, 10) == [0, 2, 3, 4, 5]
    assert starter_data._first(pictures, 3) == [0, 2, 3]
    near = {near_hash(Image.fromarray(grey[2]))}  # brighter by one level is near, not equal
    assert starter_data._first(pictures, 10, equal={grey[1].tobytes()}, near=near) == [0, 5]


def test_the_source_that_is_not_there_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert starter_data.main(["--from", str(tmp_path), "--full", "--to", str(tmp_path / "full")]) == 2
    assert "apt-get install dataset-fashion-mnist" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--full"], ["--to", "x"]])
def test_full_and_its_folder_go_together(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        starter_data.main(arguments)


@pytest.mark.skipif(not starter_data.DEBIAN.is_dir(), reason="Debian's package dataset-fashion-mnist is absent")
def test_rebuilding_gives_what_is_there_byte_for_byte(tmp_path: Path) -> None:
    starter_data.rebuild(starter_data.DEBIAN, tmp_path)
    assert (tmp_path / "data.dvc").read_bytes() == (ROOT / "data.dvc").read_bytes()
    assert manifest.entries_of(tmp_path / "infra" / "starter-data") == manifest.entries_of(PACKED)
