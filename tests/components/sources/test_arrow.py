"""What the library `datasets` itself writes, read without it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"

import datasets

from components.errors import AtelierError
from components.recipe import HeldOut
from tests.components.sources.ingested import BY_SPLIT, fill, png, run, table

FEATURES = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["zero", "one"])})


@pytest.fixture(autouse=True)
def quiet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets.disable_progress_bars()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def pictures(shades: range) -> datasets.Dataset:
    images = [{"bytes": png(shade), "path": None} for shade in shades]
    return datasets.Dataset.from_dict({"image": images, "label": [s % 2 for s in shades]}, features=FEATURES)


def test_a_saved_data_set_is_read_with_its_classes(tmp_path: Path) -> None:
    pictures(range(40)).save_to_disk(tmp_path / "data/d", num_shards=3)
    dataset = run(tmp_path)
    found = table(tmp_path, dataset)
    assert dataset.classes == ("zero", "one")
    assert found["payload"] == [png(shade) for shade in range(40)]
    assert found["label"] == [shade % 2 for shade in range(40)]


def test_the_splits_of_a_dict_are_the_split(tmp_path: Path) -> None:
    saved = datasets.DatasetDict({"train": pictures(range(4)), "test": pictures(range(4, 6))})
    saved.save_to_disk(tmp_path / "data/d")
    found = table(tmp_path, run(tmp_path, BY_SPLIT))
    assert found["split"] == ["train"] * 4 + ["held_out"] * 2
    assert found["payload"] == [png(shade) for shade in range(6)]


def test_what_the_library_reads_back_is_what_is_ingested(tmp_path: Path) -> None:
    chosen = pictures(range(30)).shuffle(seed=1).select(range(7, 20))  # through indices, which saving applies
    chosen.save_to_disk(tmp_path / "data/d")
    again = datasets.load_from_disk(str(tmp_path / "data/d")).cast_column("image", datasets.Image(decode=False))
    assert table(tmp_path, run(tmp_path))["payload"] == [row["image"]["bytes"] for row in again]


def test_text_and_labels_that_are_not_known(tmp_path: Path) -> None:
    features = datasets.Features({"text": datasets.Value("large_string"), "label": datasets.ClassLabel(names=["a"])})
    rows = {"text": ["one", "twö", None], "label": [0, -1, 0]}
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(tmp_path / "data/d")
    found = table(tmp_path, run(tmp_path, HeldOut(column="label", value="-1"), modality="text"))
    assert found["payload"] == [b"one", "twö".encode(), b""]
    assert found["label"] == [0, None, 0]


def test_parquet_that_the_library_writes_has_its_classes(tmp_path: Path) -> None:
    (tmp_path / "data/d").mkdir(parents=True)
    pictures(range(40)).to_parquet(tmp_path / "data/d/rows.parquet")
    dataset = run(tmp_path)
    assert dataset.classes == ("zero", "one")
    assert table(tmp_path, dataset)["payload"] == [png(shade) for shade in range(40)]
    fill(tmp_path / "data/d", {"README.md": "---\nclasses: [one, zero]\n---\n"})
    with pytest.raises(AtelierError, match="lists the classes one, zero, but its data zero, one"):
        run(tmp_path)


def test_the_library_is_not_imported(tmp_path: Path) -> None:
    pictures(range(40)).save_to_disk(tmp_path / "data/d")
    code = (
        "import sys; from pathlib import Path; from tests.components.sources.ingested import run;"
        f"assert run(Path({str(tmp_path)!r})).count == 40; assert 'datasets' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


@pytest.mark.parametrize("kept", [0, 100, 2000])
def test_a_damaged_file_is_named(tmp_path: Path, kept: int) -> None:
    pictures(range(40)).save_to_disk(tmp_path / "data/d")
    (file,) = (tmp_path / "data/d").glob("*.arrow")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(AtelierError, match=r"\.arrow' of 'data/d' is not a whole Arrow stream"):
        run(tmp_path)


def test_damaged_offsets_are_not_followed(tmp_path: Path) -> None:
    rows = {"text": ["some words"] * 50}
    datasets.Dataset.from_dict(rows).save_to_disk(tmp_path / "data/d")
    (file,) = (tmp_path / "data/d").glob("*.arrow")
    offset = (10 * 17).to_bytes(4, "little")
    assert file.read_bytes().count(offset) == 1
    file.write_bytes(file.read_bytes().replace(offset, b"\xff\xff\xff\x7f"))
    with pytest.raises(AtelierError, match="is not a whole Arrow stream"):
        run(tmp_path, modality="text")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("state.json", None, r"'state\.json' is missing from 'data/d'"),
        ("state.json", "{}", r"'state\.json' of 'data/d' is not what `save_to_disk` writes"),
        ("state.json", '{"_data_files": [{"filename": "../x.arrow"}]}', r"'\.\./x\.arrow' is not a path to a file"),
        ("state.json", '{"_data_files": [{"filename": "x.arrow"}]}', r"names 'x\.arrow', which is not there"),
        ("dataset_dict.json", '{"splits": ["../e"]}', "is missing from"),
        ("dataset_dict.json", "[", "is not what `save_to_disk` writes"),
    ],
)
def test_lists_that_are_wrong_are_named(tmp_path: Path, name: str, content: str | None, told: str) -> None:
    pictures(range(4)).save_to_disk(tmp_path / "data/d")
    (tmp_path / "data/d" / name).unlink(missing_ok=True)
    if content is not None:
        (tmp_path / "data/d" / name).write_text(content)
    with pytest.raises(AtelierError, match=told):
        run(tmp_path)
