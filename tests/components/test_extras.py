"""Further sources bring rows to the training side: capped, by lot, never held out, and told in the dataset's record."""

import hashlib
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from components import exclusions, ingestion, rows
from components.errors import AtelierError
from components.recipe import Data, HeldOut, More
from components.records import Dataset
from components.store import Store

CLASSES = ("shirt", "boot")
SYNTHETIC = "---\nlicence: MIT\nmade_by: fashion@3\nclasses: [boot, shirt]\n---\n# S\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Ninety real training rows and ten held out, and sixty more in another source."""
    real = {
        "id": [f"r{at}" for at in range(100)],
        "image": [b"real %d" % at for at in range(100)],
        "label": [CLASSES[at % 2] for at in range(100)],
        "split": ["held_out" if at % 10 == 9 else "train" for at in range(100)],
    }
    written(tmp_path / "data/d", real, "---\nlicence: MIT\nclasses: [shirt, boot]\n---\n")
    written(tmp_path / "data/s", made(60), SYNTHETIC)
    return tmp_path


def made(count: int) -> dict[str, Any]:
    return {
        "id": [str(at) for at in range(count)],
        "image": [b"made %d" % at for at in range(count)],
        "label": [CLASSES[at % 3 // 2] for at in range(count)],
        "split": ["held_out"] * count,  # whatever it says of itself
    }


def written(folder: Path, columns: dict[str, Any], card: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    (folder / "README.md").write_text(card)


def ingested(project: Path, *more: More) -> tuple[Dataset, list[dict[str, Any]]]:
    data = Data(source="data/d", held_out=HeldOut(column="split", value="held_out"), more=more)
    store = Store(project / "store")
    dataset = ingestion.ingest(data, modality="image", project=project, store=store)
    return dataset, [row for batch in rows.read(store.path(dataset.rows)) for row in batch.to_pylist()]


def extra(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in found if row["payload"].startswith(b"made")]


def test_no_more_rows_than_their_share_of_the_training_side(project: Path) -> None:
    dataset, found = ingested(project, More(source="data/s", at_most=0.25))
    assert len(extra(found)) == 30 and dataset.count == 130, "thirty beside ninety are a quarter"
    _, all_of_them = ingested(project, More(source="data/s", at_most=0.9))
    assert len(extra(all_of_them)) == 60
    _, none = ingested(project, More(source="data/s", at_most=0.001))
    assert not extra(none)


def test_they_are_to_train_on_whatever_the_source_says_and_the_held_out_side_stays(project: Path) -> None:
    _, plain = ingested(project)
    _, found = ingested(project, More(source="data/s", at_most=0.5))
    assert {row["split"] for row in extra(found)} == {"train"}
    assert found[:100] == plain
    assert len({row["id"] for row in found}) == len(found) and extra(found)[0]["id"].startswith("s/")


def test_labels_go_by_their_names(project: Path) -> None:
    _, found = ingested(project, More(source="data/s", at_most=0.5))
    for row in extra(found):
        assert CLASSES[row["label"]] == CLASSES[int(row["id"].removeprefix("s/")) % 3 // 2]


def test_which_they_are_hangs_on_what_they_hold(project: Path) -> None:
    _, first = ingested(project, More(source="data/s", at_most=0.25))
    assert extra(first) == extra(ingested(project, More(source="data/s", at_most=0.25))[1])
    fewer = {name: values[:50] for name, values in made(60).items()}
    written(project / "data/s", fewer, SYNTHETIC)
    _, second = ingested(project, More(source="data/s", at_most=0.25))
    kept = {row["payload"] for row in extra(first)} & set(fewer["image"])
    assert kept <= {row["payload"] for row in extra(second)}, "who was chosen before is chosen among fewer"


def test_the_record_says_what_came_from_where_and_which_model_made_it(project: Path) -> None:
    dataset, _ = ingested(project, More(source="data/s", at_most=0.25))
    (one,) = dataset.more
    assert (one.source, one.rows, one.made_by, one.licence) == ("data/s", 30, "fashion@3", "MIT")
    assert dataset.synthetic == f"30 rows of fashion@3 (data/s {one.version})"


def test_without_any_records_and_keys_are_what_they_were(project: Path) -> None:
    dataset, _ = ingested(project)
    assert "more" not in dataset.model_dump() and dataset.synthetic is None
    assert "more" not in Data(source="data/d").model_dump()
    source = ingestion.bring(Data(source="data/d"), project=project, store=Store(project / "store"))
    assert "more" not in source.model_dump()


def test_a_label_that_the_data_do_not_know_is_refused(project: Path) -> None:
    strange = made(6) | {"label": ["boot", "shirt", "sock"] * 2}
    written(project / "data/s", strange, "---\nlicence: MIT\n---\n")
    with pytest.raises(AtelierError, match="a label of 'data/s': unknown class 'sock'"):
        ingested(project, More(source="data/s", at_most=0.5))


def test_a_source_that_is_all_of_the_training_side_or_none_is_no_extra() -> None:
    for share in (0, 1):
        with pytest.raises(ValidationError):
            More(source="data/s", at_most=share)


def test_what_is_excluded_is_in_no_further_source_either(project: Path) -> None:
    gone = exclusions.Exclusion(
        source="data/s", digest=hashlib.sha256(b"made 7").hexdigest(), why="its licence ended"
    )  # fmt: skip
    before = ingestion.bring(
        Data(source="data/d", more=(More(source="data/s", at_most=0.5),)),
        project=project,
        store=Store(project / "store"),
    )
    exclusions.write(project / exclusions.file_of("data/s"), [gone])
    dataset, found = ingested(project, More(source="data/s", at_most=0.9))
    assert len(extra(found)) == 59 and b"made 7" not in {row["payload"] for row in found}
    assert dataset.excluded == {"its licence ended": 1}
    after = ingestion.bring(
        Data(source="data/d", more=(More(source="data/s", at_most=0.5),)),
        project=project,
        store=Store(project / "store"),
    )
    assert before.more[0].excluded is None and after.more[0].excluded is not None and after.excluded is None
