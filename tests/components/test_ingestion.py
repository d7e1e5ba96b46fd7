"""Ingestion of small real Parquet sources into a real store."""

import hashlib
import shutil
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import ingestion, labels, manifest, rows, sources, versioning
from components.errors import AtelierError
from components.ingestion import ingest
from components.recipe import Data, HeldOut
from components.records import Dataset, Source
from components.sources import contract
from components.sources.kinds import KINDS
from components.store import Store

BY_COLUMN = HeldOut(column="split", value="held_out")
BY_DIGEST = HeldOut(share=0.5, by="digest")
CARD = "---\nname: d\nlicence: MIT\nclasses: [shirt, boot]\n---\n# D\n"


def source(project: Path, columns: dict[str, Any], *, card: str | None = None, file: str = "rows.parquet") -> None:
    folder = project / "data" / "d"
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), folder / file)
    if card is not None:
        (folder / "README.md").write_text(card)


def columns(count: int = 8, **changed: Any) -> dict[str, Any]:
    """Rows with ids, bytes, labels and sides; a change to None leaves a column out."""
    given = {
        "id": [f"r{number}" for number in range(count)],
        "image": [b"payload %d" % number for number in range(count)],
        "label": [number % 2 for number in range(count)],
        "split": ["held_out" if number % 4 == 3 else "train" for number in range(count)],
    }
    return {name: values for name, values in (given | changed).items() if values is not None}


def run(project: Path, held_out: HeldOut = BY_COLUMN, *, name: str = "data/d", modality: str = "image") -> Dataset:
    data = Data(source=name, held_out=held_out)
    return ingest(data, modality=modality, project=project, store=Store(project / ".atelier"))


def table(project: Path, dataset: Dataset) -> dict[str, list[Any]]:
    batches = rows.read(Store(project / ".atelier").path(dataset.rows))
    found: dict[str, list[Any]] = pa.Table.from_batches(batches, rows.SCHEMA).to_pydict()
    return found


def files(folder: Path) -> dict[Path, bytes | None]:
    """All that lies below a folder, with its bytes."""
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


class TestRows:
    def test_are_the_sources_in_order_in_the_one_form(self, tmp_path: Path) -> None:
        source(tmp_path, columns(), card=CARD)
        dataset = run(tmp_path)
        given = columns()
        assert table(tmp_path, dataset) == {
            "id": given["id"],
            "payload": given["image"],
            "label": given["label"],
            "text": [None] * 8,
            "split": given["split"],
        }
        assert (dataset.count, dataset.classes, dataset.licence) == (8, ("shirt", "boot"), "MIT")
        assert dataset.source == "data/d"
        assert dataset.version.startswith("sha256:")  # DVC does not track it
        assert dataset.commit is None

    def test_the_same_source_gives_the_same_artifact_and_another_another(self, tmp_path: Path) -> None:
        for project, label in (("a", [0, 1] * 4), ("b", [0, 1] * 4), ("c", [1] * 8)):
            source(tmp_path / project, columns(label=label), card=CARD)
        first, same, other = (run(tmp_path / project) for project in "abc")
        assert first == same
        assert first.rows != other.rows
        assert first.version != other.version

    def test_many_files_are_one_source_in_the_order_of_their_names(self, tmp_path: Path) -> None:
        source(tmp_path, columns(image=[b"z%d" % i for i in range(8)]), file="z.parquet")
        source(tmp_path, columns(), file="a.parquet")
        assert table(tmp_path, run(tmp_path))["payload"][7:9] == [b"payload 7", b"z0"]

    def test_a_single_file_is_a_source(self, tmp_path: Path) -> None:
        source(tmp_path, columns())
        assert run(tmp_path, name="data/d/rows.parquet").count == 8

    def test_row_groups_and_parts_are_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ingestion, "ROWS_A_PART", 2048)
        source(tmp_path, columns(5000, label=None))
        dataset = run(tmp_path)
        parts = sorted(Store(tmp_path / ".atelier").path(dataset.rows).iterdir())
        groups = [
            pq.ParquetFile(p).metadata.row_group(i).num_rows
            for p in parts
            for i in range(pq.ParquetFile(p).num_row_groups)
        ]
        assert len(parts) == 3
        assert max(groups) <= 1024
        assert sum(groups) == 5000
        assert table(tmp_path, dataset)["id"] == [f"r{number}" for number in range(5000)]

    def test_memory_is_bounded_however_large_the_source_and_its_row_groups(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(contract, "BYTES_AT_ONCE", 2**20)
        payloads = [number.to_bytes(4) * 25_000 for number in range(400)]  # 40 MB, one row group
        (tmp_path / "data/d").mkdir(parents=True)
        large = pa.table({"image": payloads, "split": ["train", "held_out"] * 200})
        pq.write_table(large, tmp_path / "data/d/rows.parquet", use_dictionary=False, write_batch_size=8)
        del payloads, large
        default, counted = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(counted)
        tracemalloc.start()
        try:
            run(tmp_path)
            _, python_peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(default)
        assert python_peak < 8 * 2**20
        assert counted.max_memory() < 20 * 2**20

    @pytest.mark.parametrize("name", ["image", "payload", "bytes"])
    def test_the_payload_is_found_by_its_names(self, tmp_path: Path, name: str) -> None:
        given = columns()
        source(tmp_path, {name: given.pop("image"), **given})
        assert table(tmp_path, run(tmp_path))["payload"] == columns()["image"]

    def test_the_payload_of_another_modality_is_named_after_it(self, tmp_path: Path) -> None:
        source(tmp_path, columns(image=None, text=[f"líne {number}" for number in range(8)]))
        assert table(tmp_path, run(tmp_path, modality="text"))["payload"][0] == "líne 0".encode()

    def test_a_struct_with_bytes_is_unpacked(self, tmp_path: Path) -> None:
        images = [{"bytes": payload, "path": "p"} for payload in columns()["image"]]
        source(tmp_path, columns(image=images))
        assert table(tmp_path, run(tmp_path))["payload"] == columns()["image"]

    @pytest.mark.parametrize(
        "kind",
        [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int32(), pa.string()), pa.large_binary()],
    )
    def test_any_type_of_text_or_bytes_is_a_payload(self, tmp_path: Path, kind: pa.DataType) -> None:
        texts = ["one", "twö", None, "one"]
        given = pa.array(texts).cast(pa.binary()).cast(kind) if pa.types.is_large_binary(kind) else pa.array(texts)
        source(tmp_path, columns(4, image=None, text=given.cast(kind)))
        assert table(tmp_path, run(tmp_path, modality="text"))["payload"] == [b"one", "twö".encode(), b"", b"one"]

    @pytest.mark.parametrize("kind", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())])
    def test_ids_labels_and_splits_may_be_text_of_any_type(self, tmp_path: Path, kind: pa.DataType) -> None:
        words = {"id": ["a", "b"], "label": ["x", "y"], "text": ["p", "q"], "split": ["held_out", "train"]}
        source(tmp_path, columns(2, **{name: pa.array(values).cast(kind) for name, values in words.items()}))
        found = table(tmp_path, run(tmp_path))
        assert {name: found[name] for name in ("id", "text", "split")} == {n: words[n] for n in ("id", "text", "split")}
        assert found["label"] == [0, 1]

    def test_a_row_without_bytes_stays_for_the_checks_to_reject(self, tmp_path: Path) -> None:
        source(tmp_path, columns(image=[None, *columns()["image"][1:]]))
        assert table(tmp_path, run(tmp_path))["payload"][0] == b""


class TestIds:
    def test_missing_ids_are_the_payloads_digest_and_an_ordinal_at_repeats(self, tmp_path: Path) -> None:
        source(tmp_path, columns(3, id=None, image=[b"x", b"y", b"x"], split=["train", "held_out", "train"]))
        x, y = (hashlib.sha256(payload).hexdigest()[:16] for payload in (b"x", b"y"))
        assert table(tmp_path, run(tmp_path))["id"] == [x, y, f"{x}-2"]

    def test_whole_numbers_are_ids_and_a_null_is_a_missing_one(self, tmp_path: Path) -> None:
        source(tmp_path, columns(2, id=[7, None], split=["train", "held_out"]))
        assert table(tmp_path, run(tmp_path))["id"] == ["7", hashlib.sha256(b"payload 1").hexdigest()[:16]]


class TestLabels:
    def test_names_become_indices_into_the_cards_classes(self, tmp_path: Path) -> None:
        source(tmp_path, columns(label=["boot", "shirt", None, *["boot"] * 5]), card=CARD)
        assert table(tmp_path, run(tmp_path))["label"] == [1, 0, None, 1, 1, 1, 1, 1]

    def test_names_without_a_card_are_classes_in_order(self, tmp_path: Path) -> None:
        source(tmp_path, columns(label=pa.array(["b", "a", None, *["c"] * 5]).dictionary_encode()))
        dataset = run(tmp_path)
        assert dataset.classes == ("a", "b", "c")
        assert table(tmp_path, dataset)["label"] == [1, 0, None, 2, 2, 2, 2, 2]
        assert dataset.licence == "unknown"

    def test_numbers_without_a_card_are_names_in_their_own_order(self, tmp_path: Path) -> None:
        source(tmp_path, columns(label=[10, 9, *[10] * 6]))
        dataset = run(tmp_path)
        assert dataset.classes == ("9", "10")
        assert table(tmp_path, dataset)["label"] == [1, 0, 1, 1, 1, 1, 1, 1]

    def test_an_index_outside_the_classes_stays_for_the_checks_to_reject(self, tmp_path: Path) -> None:
        source(tmp_path, columns(label=[7, *[0] * 7]), card=CARD)
        assert table(tmp_path, run(tmp_path))["label"][0] == 7

    def test_no_labels_are_no_classes(self, tmp_path: Path) -> None:
        source(tmp_path, columns(label=None))
        dataset = run(tmp_path)
        assert dataset.classes == ()
        assert table(tmp_path, dataset)["label"] == [None] * 8

    def test_an_unknown_name_is_answered_with_the_nearest(self, tmp_path: Path) -> None:
        source(tmp_path, columns(label=["bot", *["shirt"] * 7]), card=CARD)
        with pytest.raises(AtelierError, match="unknown class 'bot'; did you mean 'boot'"):
            run(tmp_path)

    @pytest.mark.parametrize(
        ("given", "names", "found"),
        [
            ([10.0, 9.0, None, 10.0], ("9", "10"), [1, 0, None, 1]),  # as pandas writes integers beside a null
            (pa.array([2.0, 1.0, float("nan"), 2.0], pa.float32()), ("1", "2"), [1, 0, None, 1]),
            ([2.0, 10.5, 2.0, -1.0], ("-1", "2", "10.5"), [1, 2, 1, 0]),
            ([True, False, None, True], ("false", "true"), [1, 0, None, 1]),
            ([b"y", "ÿ".encode(), None, b"y"], ("y", "ÿ"), [0, 1, None, 0]),
            (pa.array([10, 9, None, 10]).dictionary_encode(), ("9", "10"), [1, 0, None, 1]),
            ([Decimal("10.00"), Decimal("9.00"), None, Decimal("9.50")], ("9", "9.5", "10"), [2, 0, None, 1]),
            (pa.array([2**64 - 1, 2**63, None, 3], pa.uint64()), ("3", f"{2**63}", f"{2**64 - 1}"), [2, 1, None, 0]),
            (pa.array([18262, 18261, None, 18262], pa.date32()), ("2019-12-31", "2020-01-01"), [1, 0, None, 1]),
            ([None] * 4, (), [None] * 4),
        ],
    )
    def test_labels_of_any_type_of_one_value_are_classes(
        self, tmp_path: Path, given: Any, names: tuple[str, ...], found: list[int | None]
    ) -> None:
        source(tmp_path, columns(4, label=given))
        dataset = run(tmp_path)
        assert dataset.classes == names
        assert table(tmp_path, dataset)["label"] == found

    def test_text_in_one_file_and_integers_in_another_are_the_same_names(self, tmp_path: Path) -> None:
        source(tmp_path, columns(4, label=["7", "b", None, "b"]), file="a.parquet")
        source(tmp_path, columns(4, label=[10, 7, None, 7.0]), file="b.parquet")
        dataset = run(tmp_path)
        assert dataset.classes == ("10", "7", "b")  # not all are numbers, so they stand as text
        assert table(tmp_path, dataset)["label"] == [1, 2, None, 2, 0, 1, None, 1]

    def test_whole_floats_are_indices_where_a_card_lists_the_classes(self, tmp_path: Path) -> None:
        source(tmp_path, columns(4, label=[1.0, 0.0, None, float("nan")]), card=CARD)
        assert table(tmp_path, run(tmp_path))["label"] == [1, 0, None, None]

    def test_the_classes_of_a_card_are_spelt_as_labels_are(self, tmp_path: Path) -> None:
        source(tmp_path, columns(4, label=[True, False, True, None]), card="---\nclasses: [true, false]\n---\n")
        dataset = run(tmp_path)
        assert (dataset.classes, table(tmp_path, dataset)["label"]) == (("true", "false"), [0, 1, 0, None])

    @pytest.mark.parametrize(
        ("given", "card", "told"),
        [
            ([[1], [2], [1], [2]], None, r"the column 'label' of 'data/d' is list<.*: a label is one value"),
            ([{"a": 1}] * 4, None, "the column 'label' of 'data/d' is struct<a: int64>"),
            (
                [b"\xff", b"a"] * 2,
                None,
                "the column 'label' of 'data/d' is binary, or holds what does not read as UTF-8",
            ),
            ([float("inf"), 1.0] * 2, None, "the column 'label' of 'data/d' holds an infinite number"),
            ([0.5, 1.0] * 2, CARD, "the column 'label' of 'data/d' holds 0.5: where the classes are listed"),
            ([0, 1] * 2, "---\nclasses: [a, null]\n---\n", "the card of 'data/d' lists None among its `classes`"),
        ],
    )
    def test_what_cannot_be_a_label_is_told(self, tmp_path: Path, given: Any, card: str | None, told: str) -> None:
        source(tmp_path, columns(4, label=given), card=card)
        with pytest.raises(AtelierError, match=told):
            run(tmp_path)


class TestSides:
    def test_rows_of_the_value_are_held_out_and_all_others_train(self, tmp_path: Path) -> None:
        source(tmp_path, columns(4, split=["test", "train", "extra", None]))
        dataset = run(tmp_path, HeldOut(column="split", value="test"))
        assert table(tmp_path, dataset)["split"] == ["held_out", "train", "train", "train"]

    def test_a_row_stays_on_its_side_as_data_grows(self, tmp_path: Path) -> None:
        source(tmp_path / "small", columns(200, split=None))
        source(tmp_path / "large", columns(400, split=None))
        small, large = (
            dict(zip(rows["payload"], rows["split"], strict=True))
            for project in (tmp_path / "small", tmp_path / "large")
            for rows in [table(project, run(project, BY_DIGEST))]
        )
        assert small.items() <= large.items()

    def test_a_larger_share_only_adds(self, tmp_path: Path) -> None:
        source(tmp_path, columns(1000, split=None))
        held_out = {}
        for share in (0.15, 0.5):
            found = table(tmp_path, run(tmp_path, HeldOut(share=share, by="digest")))
            held_out[share] = {n for n, split in zip(found["id"], found["split"], strict=True) if split == "held_out"}
            assert len(held_out[share]) == pytest.approx(1000 * share, abs=50)
        assert held_out[0.15] < held_out[0.5]

    def test_equal_payloads_go_to_one_side(self, tmp_path: Path) -> None:
        source(tmp_path, columns(100, image=[b"%d" % (number % 50) for number in range(100)], split=None))
        split = table(tmp_path, run(tmp_path, BY_DIGEST))["split"]
        assert split[:50] == split[50:]

    @pytest.mark.parametrize(("value", "told"), [("test", "none"), ("train", "every one")])
    def test_an_empty_side_is_told_with_the_values_there_are(self, tmp_path: Path, value: str, told: str) -> None:
        source(tmp_path, columns(split=["train"] * 8))
        with pytest.raises(AtelierError, match=f"that is {told} of them. The values there are: train"):
            run(tmp_path, HeldOut(column="split", value=value))
        assert not (tmp_path / ".atelier" / "rows").exists()

    def test_a_share_that_leaves_none_is_told(self, tmp_path: Path) -> None:
        source(tmp_path, columns(2))
        with pytest.raises(AtelierError, match="leaves none held out"):
            run(tmp_path, HeldOut(share=1e-9, by="digest"))


class TestKnown:
    """What `bring` would say, without doing it."""

    @staticmethod
    def known(project: Path, name: str = "data/d") -> Source | None:
        before = files(project)
        found = ingestion.known(Data(source=name, held_out=BY_COLUMN), project=project)
        assert files(project) == before
        return found

    @staticmethod
    def track(project: Path, target: str = "data") -> None:
        """A pointer, its manifest in DVC's cache and no bytes anywhere: whatever pulls, fails."""
        entries = manifest.entries_of(project / target)
        name = manifest.name_of(entries)
        text = manifest.pointer_text(name, size=1, files=len(entries), path=Path(target).name)
        (project / f"{target}.dvc").write_text(text)
        cached = project / ".dvc/cache" / manifest.place_of(name)
        cached.parent.mkdir(parents=True)
        cached.write_bytes(manifest.content_of(entries))

    def test_of_a_plain_source_it_is_what_bring_says(self, tmp_path: Path) -> None:
        source(tmp_path, columns())
        data = Data(source="data/d", held_out=BY_COLUMN)
        brought = ingestion.bring(data, project=tmp_path, store=Store(tmp_path / ".atelier"))
        assert self.known(tmp_path) == brought
        (tmp_path / "data/d/passwd").symlink_to("/etc/passwd")
        with pytest.raises(AtelierError, match="is a link out of the folder"):
            self.known(tmp_path)

    def test_of_a_tracked_source_it_is_what_bring_says_and_nothing_is_pulled(self, tmp_path: Path) -> None:
        source(tmp_path, columns())
        self.track(tmp_path)
        data = Data(source="data/d", held_out=BY_COLUMN)
        brought = ingestion.bring(data, project=tmp_path, store=Store(tmp_path / ".atelier"))
        assert brought.version == versioning.version_of(tmp_path, "data/d") != ""
        assert self.known(tmp_path) == brought
        shutil.rmtree(tmp_path / "data/d")
        assert self.known(tmp_path) == brought

    def test_what_only_a_download_tells_is_not_known(self, tmp_path: Path) -> None:
        source(tmp_path, columns())
        self.track(tmp_path)
        shutil.rmtree(tmp_path / ".dvc")
        assert self.known(tmp_path) is None
        assert self.known(tmp_path, "http://127.0.0.1:9/rows.parquet") is None

    def test_a_source_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        source(tmp_path, columns())
        with pytest.raises(AtelierError, match="does not exist"):
            self.known(tmp_path, "data/e")


class TestKinds:
    def test_the_names_a_recipe_takes_are_those_of_the_table(self) -> None:
        assert set(sources.NAMES) == set(KINDS)

    def test_a_recipe_with_an_unknown_kind_is_answered_with_the_nearest(self) -> None:
        with pytest.raises(ValueError, match="unknown kind of source 'image'; did you mean 'images'"):
            Data(source="data/d", kind="image")

    def test_more_labels_than_there_can_be_classes_are_told(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(labels, "MOST_CLASSES", 5)
        source(tmp_path, columns(label=[f"a caption {number}" for number in range(8)]))
        with pytest.raises(AtelierError, match="more than 5 different values, so it does not name classes"):
            run(tmp_path)


class TestMistakes:
    def test_a_missing_payload_lists_the_columns(self, tmp_path: Path) -> None:
        source(tmp_path, columns(image=None))
        with pytest.raises(AtelierError, match=r"name it 'image', 'payload' or 'bytes'; there are: id, label, split"):
            run(tmp_path)

    def test_a_missing_held_out_column_names_the_nearest(self, tmp_path: Path) -> None:
        source(tmp_path, columns())
        with pytest.raises(AtelierError, match="unknown column 'splt'; did you mean 'split'"):
            run(tmp_path, HeldOut(column="splt", value="x"))

    def test_a_file_that_lacks_a_column_of_its_neighbours_is_named(self, tmp_path: Path) -> None:
        source(tmp_path, columns(), file="a.parquet")
        source(tmp_path, columns(split=None), file="b.parquet")
        with pytest.raises(AtelierError, match=r"b\.parquet has no column 'split'"):
            run(tmp_path)

    @pytest.mark.parametrize(("column", "values"), [("label", [[1]] * 8), ("image", [1.5] * 8), ("split", [[1]] * 8)])
    def test_a_column_of_the_wrong_type_is_named(self, tmp_path: Path, column: str, values: list[Any]) -> None:
        source(tmp_path, columns() | {column: values}, card=CARD)
        with pytest.raises(AtelierError, match=f"the column '{column}' of 'data/d'"):
            run(tmp_path)

    @pytest.mark.parametrize("kept", [20, 300])
    def test_a_damaged_file_is_named(self, tmp_path: Path, kept: int) -> None:
        source(tmp_path, columns())
        file = tmp_path / "data/d/rows.parquet"
        content = bytearray(file.read_bytes())
        file.write_bytes(content[:kept] if kept == 20 else bytes(kept) + content[kept:])
        with pytest.raises(AtelierError, match=r"rows\.parquet is not a whole Parquet file"):
            run(tmp_path)

    def test_an_unknown_kind_lists_the_known(self, tmp_path: Path) -> None:
        (tmp_path / "data/d").mkdir(parents=True)
        (tmp_path / "data/d/rows.csv").write_text("id\n")
        with pytest.raises(AtelierError, match=r"of no known kind: \.csv; known: parquet \(\.parquet\)"):
            run(tmp_path)

    def test_an_empty_folder_and_an_empty_table_are_told(self, tmp_path: Path) -> None:
        (tmp_path / "data/d").mkdir(parents=True)
        (tmp_path / "data/d/README.md").write_text(CARD)
        with pytest.raises(AtelierError, match="holds no files"):
            run(tmp_path)
        source(tmp_path, columns(0))
        with pytest.raises(AtelierError, match="has no rows"):
            run(tmp_path)

    @pytest.mark.parametrize(
        "card", ["---\nclasses: [a\n---\n", "---\nclasses: shirt\n---\n", "---\njust words\n---\n"]
    )
    def test_a_broken_card_is_named(self, tmp_path: Path, card: str) -> None:
        source(tmp_path, columns(), card=card)
        with pytest.raises(AtelierError, match=r"the front matter of .*README\.md"):
            run(tmp_path)

    def test_a_card_without_front_matter_says_nothing(self, tmp_path: Path) -> None:
        source(tmp_path, columns(label=None), card="# Only words\n")
        assert run(tmp_path).licence == "unknown"

    def test_a_source_that_is_not_there_names_the_nearest(self, tmp_path: Path) -> None:
        source(tmp_path, columns())
        (tmp_path / "data/fashion").mkdir()
        with pytest.raises(AtelierError, match="did you mean 'fashion'"):
            run(tmp_path, name="data/fashoin")

    @pytest.mark.parametrize("name", ["../d", "data/../../d", "/etc"])
    def test_a_source_outside_the_project_is_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(AtelierError, match="not a path inside the project"):
            run(tmp_path, name=name)
