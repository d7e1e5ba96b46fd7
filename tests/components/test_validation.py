"""Real runs of Great Expectations over small tables: each planted fault is caught, and named."""

import io
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components import preprocessing, rows
from components.errors import AtelierError, DataRejected
from components.modalities.image.shards import open_split
from components.recipe import Validate
from components.records import Dataset, Validated
from components.store import Store

from components.validation import validate  # isort: skip - the one that is tested

Row = dict[str, Any]
CLASSES = ("light", "dark")
BETWEEN = "expect_column_values_to_be_between"


def png(levels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def picture(seed: int, size: int = 12) -> bytes:
    return png(np.random.default_rng(seed).integers(0, 256, (size, size)))


def good(count: int = 120) -> list[Row]:
    """Noise, every picture its own; two classes in balance; every sixth row held out."""
    return [
        {
            "id": f"r{i:04d}",
            "payload": picture(i),
            "label": (i // 6) % 2,
            "split": "held_out" if i % 6 == 0 else "train",
        }
        for i in range(count)
    ]


def ingested(store: Store, lines: Sequence[Row], classes: tuple[str, ...] = CLASSES) -> Dataset:
    with store.writing("rows") as draft:
        pq.write_table(pa.Table.from_pylist(list(lines), schema=rows.SCHEMA), draft.directory / "part-00000.parquet")
    return Dataset(
        source="data/toys", version="md5:0.dir", commit=None, rows=draft.artifact,
        count=len(lines), classes=classes, licence="MIT",
    )  # fmt: skip


def check(
    store: Store, lines: Sequence[Row], *, at_most: float = 0.5, classes: tuple[str, ...] = CLASSES, **checks: Any
) -> Validated:
    return validate(
        ingested(store, lines, classes), Validate(**checks), modality="image", reject_at_most=at_most, store=store
    )


def quarantined(store: Store, validated: Validated) -> dict[str, str]:
    table = pq.read_table(store.path(validated.quarantine) / "quarantine.parquet")
    return dict(zip(table["id"].to_pylist(), table["reason"].to_pylist(), strict=True))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def bomb(side: int) -> bytes:
    """A PNG whose header claims `side` x `side` pixels and whose body holds none."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_clean_data_pass_whole(store: Store) -> None:
    validated = check(store, good(), at_most=0)
    assert validated.accepted == {"held_out": 20, "train": 100}
    assert validated.rejected == {}
    assert quarantined(store, validated) == {}
    assert (store.path(validated.docs) / "index.html").is_file()


def test_facts_are_the_same_bytes_on_every_run(store: Store) -> None:
    assert check(store, good()).facts == check(store, good()).facts


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"payload": picture(7)[:60]}, "does not decode"),
        ({"payload": b""}, "does not decode"),
        ({"payload": b"GIF89a, it says"}, "does not decode"),
        ({"payload": bomb(10_000)}, "over 64 megapixels"),
        ({"payload": bomb(60_000)}, "decompression bomb"),
        ({"payload": picture(9999, size=2)}, "is 2 pixels wide"),
        ({"payload": png(np.full((12, 12), 40))}, "is blank"),
        ({"payload": picture(1)}, "the same picture as an earlier row"),
        ({"label": 2}, "has the label 2, outside the classes"),
        ({"label": -1}, "has the label -1, outside the classes"),
        ({"label": None}, "has no label"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_faulty_row_goes_to_quarantine_with_its_reason(store: Store, change: Row, reason: str) -> None:
    lines = good()
    lines[8] |= change
    validated = check(store, lines)
    found = quarantined(store, validated)
    assert list(found) == ["r0008"]
    assert reason in found["r0008"]
    assert sum(validated.accepted.values()) == 119
    assert sum(validated.rejected.values()) == 1


def test_a_row_with_two_faults_has_both_reasons(store: Store) -> None:
    lines = good()
    lines[8] |= {"label": 5, "payload": png(np.full((12, 12), 40))}
    reason = quarantined(store, check(store, lines))["r0008"]
    assert "blank" in reason
    assert "outside the classes" in reason


def test_hundreds_of_failing_rows_are_all_in_quarantine(store: Store) -> None:
    lines = good(900)
    for line in lines[1:801:2]:
        line["payload"] = line["payload"][:40]
    validated = check(store, lines, at_most=0.6)
    assert set(quarantined(store, validated)) == {line["id"] for line in lines[1:801:2]}
    assert sum(json.loads((store.path(validated.quarantine) / "reasons.json").read_text()).values()) == 400


def test_more_rejected_rows_than_allowed_stop_the_run_and_are_named(store: Store) -> None:
    lines = good()
    for line in lines[10:20]:
        line["payload"] = b"no picture"
    assert sum(check(store, lines, at_most=0.1).accepted.values()) == 110
    with pytest.raises(
        DataRejected, match=r"10 of 120 rows fail, 8\.3%, over the 5\.0% allowed: r0010 does not"
    ) as caught:
        check(store, lines, at_most=0.05)
    assert "and 5 more" in str(caught.value)
    assert "\n" not in str(caught.value)
    page = Path(str(caught.value).split("Every check is on ")[1].split(" ")[0].rstrip("."))
    assert page.is_file()


def test_nothing_is_left_of_rows_that_all_fail(store: Store) -> None:
    with pytest.raises(DataRejected, match="no row is left"):
        check(store, [line | {"payload": b"x"} for line in good()], at_most=1.0)


def leak(lines: list[Row]) -> None:
    lines[6]["payload"] = lines[7]["payload"]


def near_leak(lines: list[Row]) -> None:
    for i in range(0, 60, 6):
        levels = np.asarray(Image.open(io.BytesIO(lines[i + 1]["payload"])).convert("L"), np.int64)
        lines[i]["payload"] = png(levels // 2)  # darker: other pixels, the same picture


def unbalanced(lines: list[Row]) -> None:
    for i, line in enumerate(lines):
        line["label"] = int(i % 40 == 0)


def one_class(lines: list[Row]) -> None:
    for line in lines:
        line["label"] = 0


def same_id(lines: list[Row]) -> None:
    lines[3]["id"] = lines[4]["id"]


def few(lines: list[Row]) -> None:
    del lines[30:]


def one_side(lines: list[Row]) -> None:
    for line in lines:
        line["split"] = "train"


@pytest.mark.parametrize(
    ("plant", "words"),
    [
        (leak, r"held-out pictures are in the training side too \(1: r0006\)"),
        (near_leak, "nearly the same as training ones"),
        (unbalanced, "labels are out of balance"),
        (one_class, "a class has no rows"),
        (same_id, "ids repeat"),
        (few, "too few rows"),
        (one_side, "one side of the split is empty"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_a_faulty_dataset_stops_the_run(store: Store, plant: Any, words: str) -> None:
    lines = good()
    plant(lines)
    with pytest.raises(DataRejected, match=words) as caught:
        check(store, lines)
    assert caught.value.exit_code == 3


def test_the_recipe_adds_expectations_of_rows_and_of_the_dataset(store: Store) -> None:
    lines = good()
    lines[8]["payload"] = picture(8, size=16)
    wide = {"type": "expect_column_values_to_be_between", "column": "width", "min_value": 12, "max_value": 12}
    found = quarantined(store, check(store, lines, expect=[{**wide, "reason": "is {width} pixels wide, not 12"}]))
    assert found == {"r0008": "is 16 pixels wide, not 12"}
    assert "width is 16" in quarantined(store, check(store, lines, expect=[wide]))["r0008"]
    with pytest.raises(DataRejected, match=r"expect_column_values_to_be_between.*r0008"):
        check(store, lines, expect=[{**wide, "scope": "dataset"}])


@pytest.mark.parametrize(
    ("checks", "words"),
    [
        ({"expect": [{"type": BETWEEN[:-3] + "en", "column": "width"}]}, f"did you mean '{BETWEEN}'"),
        ({"expect": [{"type": BETWEEN, "column": "widht"}]}, "unknown fact 'widht'; did you mean 'width'"),
        ({"expect": [{"type": BETWEEN, "column": "width", "min_valeu": 3}]}, "min_valeu"),
        ({"expect": [{"column": "width"}]}, "unknown expectation"),
        ({"suite": "pictures"}, "unknown suite 'pictures'"),
    ],
)  # fmt: skip
def test_a_wrong_expectation_is_named_with_its_mend(store: Store, checks: dict[str, Any], words: str) -> None:
    with pytest.raises(AtelierError, match=words):
        check(store, good(), **checks)


def test_data_without_labels_pass_without_the_rules_on_labels(store: Store) -> None:
    validated = check(store, [line | {"label": None} for line in good()], classes=())
    assert sum(validated.accepted.values()) == 120


def test_nothing_rejected_reaches_the_shards_and_no_row_changes_its_side(store: Store) -> None:
    lines = good()
    lines[7] |= {"payload": b"broken"}
    lines[12] |= {"label": 9}
    validated = check(store, lines)
    shards = preprocessing.prepare(validated, {"size": 12, "channels": 1}, modality="image", store=store)
    directory = store.path(shards.shards)
    ids = json.loads((directory / "index.json").read_text())["ids"]
    kept = [line for i, line in enumerate(lines) if i not in (7, 12)]
    for side in ("train", "held_out"):
        mine = [line for line in kept if line["split"] == side]
        assert ids[side] == [line["id"] for line in mine]
        split = open_split(directory, side)
        assert len(split) == len(mine)
        assert split.labels is not None
        assert split.labels.tolist() == [line["label"] for line in mine]
        first = np.asarray(Image.open(io.BytesIO(mine[0]["payload"])))
        assert np.array_equal(split.pixels[0, 0], first)
