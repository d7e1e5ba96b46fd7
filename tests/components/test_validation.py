"""Every check of a dataset catches the fault that is planted for it, and clean data pass them all."""

import io
import json
import logging
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components import preprocessing, rows
from components.errors import AtelierError, DataRejected
from components.modalities.image import shards
from components.recipe import Validate
from components.records import Artifact, Dataset, Validated
from components.store import Store
from components.validation import validate

Row = dict[str, Any]
BETWEEN = "expect_column_values_to_be_between"
HEIGHT = {"type": BETWEEN, "column": "height", "min_value": 28, "max_value": 28}


@pytest.fixture(autouse=True)
def no_telemetry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GX_ANALYTICS_ENABLED", "false")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def png(levels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels.astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def pictures(seed: int = 0, *, height: int = 28) -> Iterator[bytes]:
    noise = np.random.default_rng(seed)
    while True:
        yield png(noise.integers(0, 256, (height, 28)))


def clean(train: int = 80, held_out: int = 20) -> list[Row]:
    """Rows that pass every check: noise pictures of two labels, half and half on each side."""
    fresh = pictures()
    return [
        {"id": f"{side}-{i}", "payload": next(fresh), "label": i % 2, "split": side}
        for side, count in (("train", train), ("held_out", held_out))
        for i in range(count)
    ]


def ingested(given: list[Row], store: Store, classes: tuple[str, ...]) -> Dataset:
    with store.writing("rows") as draft:
        pq.write_table(pa.Table.from_pylist(given, schema=rows.SCHEMA), draft.directory / "part-00000.parquet")
    return Dataset(
        source="data/d",
        version="md5:0.dir",
        commit=None,
        rows=draft.artifact,
        count=len(given),
        classes=classes,
        licence="MIT",
    )


def check(
    given: list[Row],
    store: Store,
    *expect: dict[str, Any],
    at_most: float = 0.0,
    classes: tuple[str, ...] = ("a", "b"),
    suite: str | None = None,
) -> Validated:
    checks = Validate(suite=suite, expect=expect)
    dataset = ingested(given, store, classes)
    return validate(dataset, checks, modality="image", reject_at_most=at_most, store=store)


def quarantined(validated: Validated, store: Store) -> list[Row]:
    return pq.read_table(store.path(validated.quarantine) / "quarantine.parquet").to_pylist()


def facts(validated: Validated, store: Store) -> list[Row]:
    return pq.read_table(store.path(validated.facts) / "facts.parquet").to_pylist()


def test_clean_data_pass_and_every_row_keeps_its_side(store: Store) -> None:
    given = clean()
    validated = check(given, store)
    assert validated.accepted == {"held_out": 20, "train": 80} and validated.rejected == {}
    assert quarantined(validated, store) == []
    kept = facts(validated, store)
    assert [(row["id"], row["split"]) for row in kept] == [(row["id"], row["split"]) for row in given]
    assert all(row["rejected"] is None and not row["leaks"] and not row["duplicate"] for row in kept)


def bomb() -> bytes:
    """A small PNG whose header claims 9,000 x 9,000 pixels, few enough for Pillow to only warn."""
    content = bytearray(png(np.zeros((8, 8))))
    content[16:24] = (9_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


def floats() -> bytes:
    """A TIFF of floating-point levels, whose range nobody knows."""
    stream = io.BytesIO()
    Image.fromarray(np.arange(784, dtype=np.float32).reshape(28, 28)).save(stream, "TIFF")
    return stream.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def huge() -> bytes:
    """A PNG of 50,000 x 50,000 pixels, as its header says."""
    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def stuffed(kind: bytes, head: bytes) -> bytes:
    """A sound PNG with one more chunk, that inflates to 100 MB."""
    whole = png(np.arange(784).reshape(28, 28))
    return whole[:33] + chunk(kind, head + zlib.compress(bytes(100 * 2**20), 9)) + whole[33:]


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


PLANTED = {
    "nothing": ({"payload": b""}, "does not decode", "none of PNG, JPEG"),
    "huge": ({"payload": huge()}, "does not decode", "2500000000 pixels"),
    "text bomb": ({"payload": stuffed(b"zTXt", b"k\0\0")}, "does not decode", "Decompressed data too large"),
    "profile bomb": ({"payload": stuffed(b"iCCP", b"k\0\0")}, "does not decode", "Decompressed data too large"),
    "damaged": (
        {"payload": png(np.arange(784).reshape(28, 28))[:-30] + bytes(30)},
        "does not decode",
        "does not decode: ",
    ),
    "truncated": ({"payload": png(np.arange(784).reshape(28, 28))[:60]}, "does not decode", "truncated"),
    "bomb": ({"payload": bomb()}, "does not decode", "9000 x 9000 pixels, over 64 megapixels"),
    "no picture": ({"payload": b"hello"}, "does not decode", "none of PNG, JPEG"),
    "tiny": ({"payload": png(np.eye(3) * 200)}, "width must be between 4 and 8192", "width is 3, must be between 4"),
    "flat": (
        {"payload": png(np.arange(0, 240, 10).reshape(3, 8))},
        "height must be between 4 and 8192",
        "height is 3, must be",
    ),
    "mode": ({"payload": floats()}, "mode must be one of 1, L, LA, P, RGB, RGBA, I;16, CMYK", "mode is F, must be"),
    "blank": ({"payload": png(np.full((28, 28), 9))}, "is blank", "deviate by 0.00, must be at least 1"),
    "label": ({"label": 7}, "has a label outside the classes", "has the label 7, outside the classes"),
    "no label": ({"label": None}, "has no label", "has no label"),
    "no side": ({"split": None}, "is on no side of the split", "is on no side"),
    "other side": ({"split": "test"}, "split must be one of train, held_out", "split is test, must be one of"),
}


@pytest.mark.parametrize("plant", PLANTED)
def test_a_planted_row_alone_goes_to_quarantine_with_its_reason(plant: str, store: Store) -> None:
    change, fault, reason = PLANTED[plant]
    given = clean()
    given[11] |= change
    validated = check(given, store, at_most=0.01)
    (row,) = quarantined(validated, store)
    assert row["id"] == "train-11" and reason in row["reason"] and row["payload"] == given[11]["payload"]
    assert next(iter(validated.rejected)) == fault and sum(validated.rejected.values()) == 1
    assert sum(validated.accepted.values()) == 99


def sheet(seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (28, 28), dtype=np.uint8))


def unusual() -> dict[str, bytes]:
    """Whole pictures of kinds that people have: each may be trained on, an animation by its first frame."""
    one, others = sheet(1000), [sheet(1001), sheet(1002)]
    several = {"save_all": True, "append_images": others}
    palette = one.convert("RGB").quantize(64)
    no_turn = Image.Exif()
    no_turn[0x0112] = 99
    return {
        "animated GIF": saved(one, "GIF", **several),
        "animated WEBP": saved(sheet(1003), "WEBP", **several),
        "TIFF of pages": saved(sheet(1004), "TIFF", **several),
        "CMYK JPEG": saved(sheet(1005).convert("CMYK"), "JPEG"),
        "sixteen bits": saved(Image.fromarray(np.asarray(sheet(1006)).astype(np.uint16) * 257), "PNG"),
        "transparent palette": saved(palette, "PNG", transparency=bytes(range(0, 256, 4))),
        "EXIF that turns nowhere": saved(sheet(1007), "JPEG", exif=no_turn),
        "EXIF that is broken": saved(sheet(1008), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"),
        "more pixel data than pixels": inflating(sheet(1009)),
    }


def inflating(picture: Image.Image) -> bytes:
    """A PNG whose pixel data go on for 100 MB after the last line: they are never unpacked."""
    lines = np.pad(np.asarray(picture), ((0, 0), (1, 0))).tobytes()
    header = struct.pack(">IIBBBBB", *picture.size, 8, 0, 0, 0, 0)
    pixels = zlib.compress(lines + bytes(100 * 2**20), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_unusual_pictures_are_accepted_and_prepared(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    given = clean()
    for row, payload in zip(given, unusual().values(), strict=False):
        row["payload"] = payload
    validated = check(given, store)
    assert validated.rejected == {} and capfd.readouterr() == ("", "")
    prepared = preprocessing.prepare(validated, {"size": 28, "channels": 1}, modality="image", store=store)
    pixels = shards.open_split(store.path(prepared.shards), "train").pixels
    for place, kind in enumerate(unusual()):
        if kind in ("TIFF of pages", "sixteen bits", "more pixel data than pixels"):  # those that lose nothing
            seed = {"TIFF of pages": 1004, "sixteen bits": 1006, "more pixel data than pixels": 1009}[kind]
            assert np.array_equal(pixels[place, 0], np.asarray(sheet(seed)))


def test_a_tiff_reads_no_other_file(tmp_path: Path, store: Store) -> None:
    """Its strips are offsets into its own bytes: beyond their end there is nothing, whatever lies beside it."""
    payload = bytearray(saved(sheet(0), "TIFF"))
    entries = struct.unpack_from("<I", payload, 4)[0]
    for entry in range(struct.unpack_from("<H", payload, entries)[0]):
        place = entries + 2 + 12 * entry
        if struct.unpack_from("<H", payload, place)[0] == 273:  # StripOffsets
            struct.pack_into("<I", payload, place + 8, 10**9)
    given = clean()
    given[0]["payload"] = bytes(payload)
    (row,) = quarantined(check(given, store, at_most=0.01), store)
    assert row["id"] == "train-0" and row["reason"].startswith("does not decode: ")


def test_a_picture_of_another_size_than_the_recipe_asks_is_rejected_and_the_good_ones_go_on(store: Store) -> None:
    given, tall = clean(), pictures(5, height=31)
    given[7]["payload"] = next(tall)
    validated = check(given, store, HEIGHT, at_most=0.01)
    assert validated.rejected == {"height must be between 28 and 28": 1} and sum(validated.accepted.values()) == 99


def test_a_duplicate_of_a_rejected_row_is_kept(store: Store) -> None:
    given = clean()
    given[3]["label"] = 9
    given[5]["payload"] = given[3]["payload"]
    given[6]["payload"] = given[3]["payload"]
    assert [row["id"] for row in quarantined(check(given, store, at_most=0.02), store)] == ["train-3", "train-6"]


def test_chunks_change_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults and twins in different chunks, and every check that compares rows."""
    given = clean(700)
    given[40]["payload"] = given[600]["payload"] = given[3]["payload"]
    given[-1]["payload"], given[500]["payload"], given[650]["label"] = given[4]["payload"], b"no", 9
    given[10]["id"] = given[640]["id"] = "twice"
    expect = [
        HEIGHT,
        {"type": "expect_column_values_to_be_unique", "column": "id", "fault": "shares its id"},
        {"type": "expect_column_values_to_be_in_set", "column": "leaks", "value_set": [False], "fault": "leaks"},
    ]
    whole = check(given, store, *expect, at_most=0.1)
    assert whole.rejected == {
        "does not decode": 1,
        "has a label outside the classes": 1,
        "is the same picture as an earlier row": 2,
        "leaks": 1,
        "shares its id": 2,
    }
    read = rows.read
    monkeypatch.setattr("components.facts.CHUNK", 100)
    monkeypatch.setattr("components.facts.rows.read", lambda directory: read(directory, batch_rows=30))
    chunked = check(given, store, *expect, at_most=0.1)
    assert facts(chunked, store) == facts(whole, store)
    assert quarantined(chunked, store) == quarantined(whole, store)
    assert (chunked.accepted, chunked.rejected) == (whole.accepted, whole.rejected)
    for page in ("index.html", "rows.html", "dataset.html"):
        assert (store.path(chunked.docs) / page).read_text() == (store.path(whole.docs) / page).read_text()


def test_expectations_may_name_what_is_said_of_a_row(store: Store) -> None:
    given = [{**row, "text": "a shirt"} for row in clean()]
    given[4]["text"] = "<b>"
    letters = {"type": "expect_column_values_to_match_regex", "column": "text", "regex": "^[a-z ]+$"}
    (row,) = quarantined(check(given, store, letters, at_most=0.01), store)
    assert row["id"] == "train-4" and row["reason"] == "text is <b>, must be of the form ^[a-z ]+$"


def test_a_condition_on_another_fact_is_asked_with_it(store: Store) -> None:
    given = clean()
    wide = {"type": BETWEEN, "column": "width", "min_value": 30, "condition_parser": "pandas"}
    validated = check(given, store, {**wide, "row_condition": "id == 'train-7'"}, at_most=0.01)
    assert [row["id"] for row in quarantined(validated, store)] == ["train-7"]


def test_a_duplicate_on_its_side_is_rejected_and_the_first_kept(store: Store) -> None:
    given = clean()
    given[5]["payload"] = given[3]["payload"]
    assert [row["id"] for row in quarantined(check(given, store, at_most=0.01), store)] == ["train-5"]


def test_all_of_several_hundred_failing_rows_are_in_quarantine_under_their_own_reason(store: Store) -> None:
    given, tall = clean(700), pictures(1, height=31)
    for row in given[:600]:
        row["payload"] = next(tall)
    given[650]["payload"] = b"no"
    validated = check(given, store, HEIGHT, at_most=0.9)
    found = quarantined(validated, store)
    assert [row["id"] for row in found] == [f"train-{i}" for i in [*range(600), 650]]
    assert {row["reason"] for row in found[:-1]} == {"height is 31, must be between 28 and 28"}
    assert validated.rejected == {"does not decode": 1, "height must be between 28 and 28": 600}
    assert json.loads((store.path(validated.quarantine) / "reasons.json").read_text()) == validated.rejected


def test_a_row_with_two_faults_tells_both_and_counts_once(store: Store) -> None:
    given = clean()
    given[0] |= {"payload": png(np.full((31, 28), 9)), "label": 9}
    validated = check(given, store, HEIGHT, at_most=0.1)
    (row,) = quarantined(validated, store)
    assert row["reason"].count(";") == 2 and sum(validated.rejected.values()) == 1


@pytest.mark.parametrize(("at_most", "stops"), [(0.049, True), (0.05, False)])
def test_the_share_of_rejected_rows_is_bounded(at_most: float, stops: bool, store: Store) -> None:
    given = clean()
    for row in given[:5]:
        row["payload"] = b"no"
    if not stops:
        assert check(given, store, at_most=at_most).rejected == {"does not decode": 5}
        return
    said = r"5 of 100 rows fail, 5\.0%.*does not decode: 5.*train-4 does not"
    with pytest.raises(DataRejected, match=said) as caught:
        check(given, store, at_most=at_most)
    assert "\n" not in str(caught.value)
    for kind in ("docs", "quarantine"):
        assert str(store.root / kind) in str(caught.value)
        assert list((store.root / kind).iterdir())


def unbalanced() -> list[Row]:
    return [{**row, "label": int(i % 50 == 0)} for i, row in enumerate(clean(200, 50))]


def repeated_ids() -> list[Row]:
    return [*clean()[:-1], {**clean()[-1], "id": "train-0"}]


def leaking() -> list[Row]:
    given = clean()
    given[-1]["payload"] = given[0]["payload"]
    return given


def nearly_leaking() -> list[Row]:
    """The same picture on both sides, a little brighter on one."""
    given = clean()
    levels = np.random.default_rng(9).integers(0, 200, (28, 28))
    given[0]["payload"], given[-1]["payload"] = png(levels), png(levels + 20)
    return given


WHOLE = {
    "leak": (leaking, r"held-out pictures are in the training side too \(1: held_out-19\)"),
    "near leak": (nearly_leaking, r"nearly the same as training ones \(1: held_out-19\)"),
    "ids": (repeated_ids, r"ids repeat \(2: train-0; train-0\)"),
    "balance": (unbalanced, "labels are out of balance"),
    "class": (lambda: [{**row, "label": 0} for row in clean()], "a class has no rows"),
    "few": (lambda: clean(30, 10), r"fewer than 50 rows \(40\)"),
    "side": (lambda: [{**row, "split": "train"} for row in clean()], "one side of the split is empty"),
    "swapped": (lambda: clean(20, 80), "larger than the training side, as if they were swapped"),
}


@pytest.mark.parametrize("plant", WHOLE)
def test_a_fault_of_the_whole_dataset_stops_the_run(plant: str, store: Store) -> None:
    make, message = WHOLE[plant]
    with pytest.raises(DataRejected, match=message):
        check(make(), store, at_most=1.0)


def test_leaks_can_be_quarantined_instead(store: Store) -> None:
    expect = [
        {"type": "expect_column_values_to_be_in_set", "column": column, "value_set": [False]}
        for column in ("leaks", "near_leaks")
    ]
    validated = check(leaking(), store, *expect, at_most=0.01)
    assert [row["id"] for row in quarantined(validated, store)] == ["held_out-19"]


def test_rejected_rows_do_not_leak(store: Store) -> None:
    given = clean()
    given[0]["payload"] = given[-1]["payload"] = png(np.full((28, 28), 9))
    assert check(given, store, at_most=0.02).rejected == {"is blank": 2}


def test_a_rejected_training_row_makes_no_leak_of_its_twin(store: Store) -> None:
    given = leaking()
    given[0]["label"] = 9
    assert check(given, store, at_most=0.01).accepted == {"held_out": 20, "train": 79}


def test_near_leaks_are_borne_up_to_their_share_of_the_held_out_rows(store: Store) -> None:
    def fail(near: int) -> Validated:
        given, noise = clean(400, 400), np.random.default_rng(9)
        for i in range(near):
            levels = noise.integers(0, 200, (28, 28))
            given[i]["payload"], given[-1 - i]["payload"] = png(levels), png(levels + 20)
        return check(given, store)

    assert sum(row["near_leaks"] is True for row in facts(fail(2), store)) == 2
    with pytest.raises(DataRejected, match=r"nearly the same as training ones \(3: "):
        fail(3)


def test_a_reason_bears_a_fact_that_the_row_does_not_have(store: Store) -> None:
    given = clean()
    given[3] |= {"payload": b"no"}
    present = {"type": "expect_column_values_to_not_be_null", "column": "width", "reason": "{width:.1f} wide"}
    (row,) = quarantined(check(given, store, present, at_most=0.01), store)
    assert row["reason"].endswith("; unknown wide")


@pytest.mark.parametrize("rejected", [0, 1])
def test_the_facts_have_the_same_columns_whatever_fails(rejected: int, store: Store) -> None:
    given = clean()
    for row in given[:rejected]:
        row["payload"] = b"no"
    schema = pq.read_schema(store.path(check(given, store, at_most=0.01).facts) / "facts.parquet")
    assert str(schema.field("rejected").type) in ("string", "large_string")


def test_a_run_says_nothing_on_the_console_and_leaves_logging_as_it_was(
    store: Store, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    logger = logging.getLogger("great_expectations")
    with caplog.at_level(logging.INFO):
        check(clean(), store)
    assert not [record for record in caplog.records if record.name.startswith("great_expectations")]
    assert capfd.readouterr() == ("", "") and logger.level == logging.NOTSET


def test_nothing_left_is_a_rejection_like_any_other(store: Store) -> None:
    with pytest.raises(DataRejected, match="100 of 100 rows fail") as caught:
        check([{**row, "payload": b"no"} for row in clean()], store, at_most=1.0)
    assert "fewer than 50 rows" not in str(caught.value)
    with pytest.raises(DataRejected, match="it has no rows"):
        check([], store)


def test_unlabelled_data_are_not_asked_for_labels(store: Store) -> None:
    validated = check([{**row, "label": None} for row in clean()], store, classes=())
    assert validated.accepted == {"held_out": 20, "train": 80}


MISTAKES = {
    "type": ({"type": "expect_column_values_to_be_betwen", "column": "width"}, f"did you mean '{BETWEEN}'"),
    "no type": ({"column": "width"}, "has no type"),
    "fact": ({"type": BETWEEN, "column": "widht", "min_value": 1}, "unknown fact 'widht'; did you mean 'width'"),
    "pair": (
        {"type": "expect_column_pair_values_to_be_equal", "column_A": "width", "column_B": "heigth"},
        "did you mean 'height'",
    ),
    "argument": (
        {"type": BETWEEN, "column": "width", "min_val": 1},
        "unknown argument 'min_val'; did you mean 'min_value'",
    ),
    "value": ({"type": BETWEEN, "column": "width", "min_value": "wide"}, "min_value value is not a valid float"),
    "no bound": ({"type": BETWEEN, "column": "width"}, "cannot both be None"),
    "list of facts": ({"type": BETWEEN, "column": ["width"], "min_value": 1}, "unknown fact"),
    "kwargs": ({"type": BETWEEN, "kwargs": 3}, "must be a mapping"),
    "mostly": (
        {"type": BETWEEN, "column": "width", "min_value": 1, "mostly": 0.9},
        "reject_at_most bounds their share",
    ),
    "scope": ({"type": BETWEEN, "column": "width", "min_value": 1, "scope": "row"}, "did you mean 'rows'"),
    "table as rows": ({"type": "expect_table_row_count_to_be_between", "min_value": 1}, "give it scope: dataset"),
    "kind of value": ({"type": BETWEEN, "column": "mode", "min_value": 1}, "cannot be asked of this dataset"),
    "reason": ({"type": BETWEEN, "column": "width", "min_value": 99, "reason": "{widht}"}, "did you mean 'width'"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_in_the_recipe_is_named_with_its_mend(mistake: str, store: Store) -> None:
    expect, message = MISTAKES[mistake]
    with pytest.raises(AtelierError, match=message) as caught:
        check(clean(), store, expect, at_most=1.0)
    assert not isinstance(caught.value, DataRejected)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_an_unknown_suite_is_named(store: Store) -> None:
    with pytest.raises(AtelierError, match="unknown suite 'imag'; did you mean 'image'"):
        check(clean(), store, suite="imag")


def test_an_expectation_may_be_asked_of_the_dataset_and_in_the_vendors_own_form(store: Store) -> None:
    mean = {"type": "expect_column_mean_to_be_between", "column": "mean", "min_value": 250, "scope": "dataset"}
    with pytest.raises(DataRejected, match=r"mean must be as expect_column_mean_to_be_between says .*\(127\."):
        check(clean(), store, mean)
    with pytest.raises(DataRejected, match="width is 28, must be at least 30"):
        check(clean(), store, {"type": BETWEEN, "kwargs": {"column": "width", "min_value": 30}})


def test_the_same_rows_give_the_same_bytes(store: Store) -> None:
    given = clean()
    given[0]["payload"] = b"no"
    first, second = (check(given, store, at_most=0.1) for _ in range(2))
    assert first == second


def test_the_pages_need_no_network_and_show_the_failing_rows_escaped(store: Store) -> None:
    given = clean()
    given[0] |= {"payload": b"no", "id": "<script>x</script>"}
    validated = check(given, store, at_most=0.1)
    pages = {path.name: path.read_text() for path in store.path(validated.docs).iterdir()}
    assert set(pages) == {"index.html", "rows.html", "dataset.html"}
    assert "does not decode" in pages["index.html"] and "&lt;script&gt;x" in pages["index.html"]
    for page in pages.values():
        assert "<script" not in page and "http" not in page


def test_nothing_rejected_reaches_the_shards(store: Store) -> None:
    given = clean()
    given[0]["payload"], given[7]["label"], given[90]["payload"] = b"no", 9, png(np.full((28, 28), 9))
    validated = check(given, store, at_most=0.1)
    prepared = preprocessing.prepare(validated, {"size": 28, "channels": 1}, modality="image", store=store)
    shown = pq.read_table(store.path(prepared.shards) / "rows.parquet").to_pylist()
    names = {side: [row["id"] for row in shown if row["split"] == side] for side in ("train", "held_out")}
    kept = {side: [row["id"] for row in given if row["split"] == side] for side in ("train", "held_out")}
    assert names["train"] == [name for name in kept["train"] if name not in ("train-0", "train-7")]
    assert names["held_out"] == [name for name in kept["held_out"] if name != "held_out-10"]
    assert len(shards.open_split(store.path(prepared.shards), "train")) == 78


def test_the_artifacts_are_of_their_kinds(store: Store) -> None:
    validated = check(clean(), store)
    for kind in ("facts", "quarantine", "docs"):
        artifact: Artifact = getattr(validated, kind)
        assert artifact.kind == kind and store.holds(artifact)
