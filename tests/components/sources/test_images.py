"""Folders of pictures, as people have them."""

import os
import resource
import stat
import tempfile
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo

from components.errors import AtelierError
from components.recipe import HeldOut
from components.sources.listing import Listing
from tests.components.sources.ingested import BY_SPLIT, HALF, fill, png, run, table

PICTURES = {f"{name}.png": png(shade) for shade, name in enumerate("abcdefgh")}


def folder(project: Path, files: dict[str, bytes | str] = PICTURES) -> Path:  # type: ignore[assignment]
    return fill(project / "data" / "d", files)


class TestRows:
    def test_a_flat_folder_has_no_classes_and_names_are_ids(self, tmp_path: Path) -> None:
        folder(tmp_path)
        dataset = run(tmp_path)
        found = table(tmp_path, dataset)
        assert found["id"] == list(PICTURES)
        assert found["payload"] == list(PICTURES.values())
        assert found["label"] == found["text"] == [None] * 8
        assert dataset.classes == ()

    def test_a_sub_folder_is_a_class_whatever_lies_deeper_in_it(self, tmp_path: Path) -> None:
        folder(tmp_path, {"shoes/a.png": png(1), "hats/b.PNG": png(2), "hats/old/c.JpEg": png(3), "hats/d.png": png(4)})
        dataset = run(tmp_path)
        found = table(tmp_path, dataset)
        assert dataset.classes == ("hats", "shoes")
        assert dict(zip(found["id"], found["label"], strict=True)) == {
            "hats/b.PNG": 0,
            "hats/d.png": 0,
            "hats/old/c.JpEg": 0,
            "shoes/a.png": 1,
        }

    def test_the_card_orders_the_classes(self, tmp_path: Path) -> None:
        card = "---\nlicence: MIT\nclasses: [shoes, hats, gloves]\n---\n"
        folder(tmp_path, {"README.md": card} | {f"{c}/{s}.png": png(s) for s in range(8) for c in ("shoes", "hats")})
        dataset = run(tmp_path)
        assert dataset.classes == ("shoes", "hats", "gloves")
        assert set(table(tmp_path, dataset)["label"]) == {0, 1}

    def test_folders_called_like_splits_are_splits_and_classes_lie_below(self, tmp_path: Path) -> None:
        folder(
            tmp_path, {"train/x/a.png": png(1), "train/y/b.png": png(2), "test/x/c.png": png(3), "val/y/d.png": png(4)}
        )
        dataset = run(tmp_path, BY_SPLIT)
        found = table(tmp_path, dataset)
        assert dataset.classes == ("x", "y")
        assert dict(zip(found["id"], found["split"], strict=True)) == {
            "test/x/c.png": "held_out",
            "train/x/a.png": "train",
            "train/y/b.png": "train",
            "val/y/d.png": "train",
        }

    def test_what_lies_beside_pictures_is_left_alone(self, tmp_path: Path) -> None:
        beside = {"LICENSE": "MIT", "License.txt": "MIT", ".gitignore": "*", ".cache/x.png": b"", "sums.sha256": "0"}
        folder(tmp_path, PICTURES | beside)
        assert run(tmp_path).count == 8

    def test_a_picture_of_no_bytes_stays_for_the_checks_to_reject(self, tmp_path: Path) -> None:
        folder(tmp_path, PICTURES | {"a.png": b""})
        assert table(tmp_path, run(tmp_path))["payload"][0] == b""

    def test_any_name_is_an_id(self, tmp_path: Path) -> None:
        names = ["a\nb.png", "with space.png", "ünïcødé.png", "ü" * 125 + ".png", "A.png", "a.png", "'q\".png", "-.png"]
        folder(tmp_path, {name: png(shade) for shade, name in enumerate(names)})
        assert sorted(table(tmp_path, run(tmp_path))["id"]) == sorted(names)

    def test_a_change_is_another_version_of_other_rows(self, tmp_path: Path) -> None:
        before = run(tmp_path) if folder(tmp_path) else None
        assert run(tmp_path) == before
        folder(tmp_path, {"a.png": png(99)})
        after = run(tmp_path)
        assert before is not None and after.version != before.version and after.rows != before.rows

    def test_a_link_inside_the_folder_is_fine(self, tmp_path: Path) -> None:
        place = folder(tmp_path, {f"x/{name}": content for name, content in PICTURES.items()})
        (place / "x" / "z.png").symlink_to("a.png")
        (place / "y").symlink_to("x")  # its files are read where they lie
        dataset = run(tmp_path)
        assert (dataset.count, dataset.classes) == (9, ("x",))

    def test_what_dvc_keeps_as_links_into_its_cache_is_read(self, tmp_path: Path) -> None:
        project = tmp_path / "project"
        folder(project)
        Repo.init(str(project), no_scm=True).close()
        with (project / ".dvc/config").open("a") as config:
            config.write(f"[cache]\n    type = symlink\n    dir = {tmp_path}/cache\n")
        with chdir(project), Repo(str(project)) as repo:
            repo.add("data")
        assert (project / "data/d/a.png").is_symlink()
        dataset = run(project)
        assert dataset.version.startswith("md5:")
        assert table(project, dataset)["payload"] == list(PICTURES.values())
        (project / "data/d/z.png").symlink_to("/etc/passwd")
        with pytest.raises(AtelierError, match=r"z\.png"):
            run(project)


class TestMetadata:
    CSV = 'file_name,text,label,split\nb.png,a hat,hat,test\na.png,"a shoe, and a lace",shoe,train\nc.png,,,train\n'

    def test_says_text_label_and_split_in_its_own_order(self, tmp_path: Path) -> None:
        folder(tmp_path, {"metadata.csv": self.CSV, "a.png": png(1), "b.png": png(2), "c.png": png(3)})
        dataset = run(tmp_path, BY_SPLIT)
        assert dataset.classes == ("hat", "shoe")
        assert table(tmp_path, dataset) == {
            "id": ["b.png", "a.png", "c.png"],
            "payload": [png(2), png(1), png(3)],
            "label": [0, 1, None],
            "text": ["a hat", "a shoe, and a lace", None],
            "split": ["held_out", "train", "train"],
        }

    def test_may_lie_in_each_folder_and_name_files_beside_it(self, tmp_path: Path) -> None:
        rows = {side: f'{{"file_name": "x/a.png", "id": "{side}-1", "label": 1}}\n' for side in ("train", "test")}
        folder(tmp_path, {f"{side}/metadata.jsonl": rows[side] for side in rows} | {"README.md": "# none"})
        folder(tmp_path, {"train/x/a.png": png(1), "test/x/a.png": png(2)})
        dataset = run(tmp_path, BY_SPLIT)
        found = table(tmp_path, dataset)
        assert found["id"] == ["test-1", "train-1"]
        assert found["split"] == ["held_out", "train"]
        assert dataset.classes == ("1",)

    def test_any_of_its_columns_may_hold_rows_out(self, tmp_path: Path) -> None:
        said = "file_name,artist\na.png,Ann\nb.png,Bob\n"
        folder(tmp_path, {"metadata.csv": said, "a.png": png(1), "b.png": png(2)})
        found = table(tmp_path, run(tmp_path, HeldOut(column="artist", value="Bob")))
        assert found["split"] == ["train", "held_out"]

    @pytest.mark.parametrize(
        ("name", "content", "told"),
        [
            ("metadata.csv", b"file_name,text\na.png,caf\xe9\n", r"'metadata\.csv' of 'data/d', line 2 is not UTF-8"),
            ("metadata.jsonl", b'{"file_name": "a.png", "text": "\xff"}\n', "line 1 is not UTF-8: byte 33 .* 0xff"),
            ("metadata.jsonl", b'{"file_name": "a.png"}\n{"file_name": \n', "line 2 is not valid JSON"),
            ("metadata.jsonl", b'["a.png"]\n', r"line 1 must be an object .*, not \[\"a\.png\"\]"),
            ("metadata.csv", b"file_name,text\na.png,one,two\n", "line 2 has 3 cells, but the header has 2"),
            ("metadata.csv", b'file_name,text\na.png,"one\n', "is not valid CSV"),
            ("metadata.csv", b"file_name,text,text\n", "names a column twice"),
            ("metadata.csv", b"name\na.png\n", "line 2 has no 'file_name'"),
            ("metadata.csv", b"file_name\na.png\nb.png\n", "line 3 names 'b.png', which is not there"),
            ("metadata.csv", b"file_name\n../d/a.png\n", "line 2: '../d/a.png' is not a path to a file inside"),
            ("metadata.csv", b"file_name\n/etc/passwd\n", "line 2: '/etc/passwd' is not a path to a file inside"),
            ("metadata.csv", b"file_name\na.png\n./a.png\n", r"names '(\./)?a\.png', which another row names too"),
            ("metadata.jsonl", b'{"file_name": "a.png", "label": [1]}\n', r"'label' must be text .*, not \[1\]"),
            ("metadata.jsonl", b'{"file_name": "a.png", "text": "\\ud800"}\n', "cannot be written as UTF-8"),
        ],
    )
    def test_its_mistakes_are_named_with_file_and_line(
        self, tmp_path: Path, name: str, content: bytes, told: str
    ) -> None:
        folder(tmp_path, {"a.png": png(1), name: content})
        with pytest.raises(AtelierError, match=told):
            run(tmp_path)

    def test_a_picture_that_no_row_names_is_refused(self, tmp_path: Path) -> None:
        folder(tmp_path, {"metadata.csv": "file_name\na.png\n", "a.png": png(1), "x/b.png": png(2)})
        with pytest.raises(AtelierError, match=r"no row of metadata\.csv in 'data/d' names 'x/b\.png'"):
            run(tmp_path)

    def test_two_of_one_folder_are_refused(self, tmp_path: Path) -> None:
        folder(tmp_path, {"metadata.csv": "file_name\na.png\n", "metadata.jsonl": "{}", "a.png": png(1)})
        with pytest.raises(AtelierError, match=r"has both 'metadata\.csv' and 'metadata\.jsonl'"):
            run(tmp_path)

    def test_a_label_outside_the_listed_classes_is_answered_with_the_nearest(self, tmp_path: Path) -> None:
        card = "---\nclasses: [shoe, hat]\n---\n"
        folder(tmp_path, {"README.md": card, "metadata.csv": "file_name,label\na.png,hut\n", "a.png": png(1)})
        with pytest.raises(AtelierError, match="unknown class 'hut'; did you mean 'hat'"):
            run(tmp_path)


class TestMistakes:
    def test_a_link_out_of_the_folder_is_refused_before_it_is_read(self, tmp_path: Path) -> None:
        place = folder(tmp_path)
        fill(tmp_path / "elsewhere", {"secret.png": png(1)})
        for target, name in (("../../elsewhere/secret.png", "z.png"), ("../../elsewhere", "z"), ("/etc", ".hidden")):
            (place / name).symlink_to(target)
            with pytest.raises(AtelierError, match=f"'{name}' in 'data/d' is a link out of the folder"):
                run(tmp_path)
            (place / name).unlink()
        assert not (tmp_path / ".atelier" / "rows").exists()

    def test_metadata_cannot_lead_out_through_a_link(self, tmp_path: Path) -> None:
        place = folder(tmp_path, {"metadata.csv": "file_name\nx/secret.png\n", "a.png": png(1)})
        fill(tmp_path / "elsewhere", {"secret.png": png(1)})
        (place / "x").symlink_to("../../elsewhere")
        with pytest.raises(AtelierError, match="a link out of the folder"):
            run(tmp_path)

    def test_a_link_to_nothing_and_a_pipe_are_refused(self, tmp_path: Path) -> None:
        place = folder(tmp_path)
        (place / "z.png").symlink_to("gone.png")
        with pytest.raises(AtelierError, match=r"'z\.png' in 'data/d' is a link to nothing"):
            run(tmp_path)
        (place / "z.png").unlink()
        os.mkfifo(place / "z.png")
        with pytest.raises(AtelierError, match=r"'z\.png' in 'data/d' is neither a file nor a folder"):
            run(tmp_path)

    def test_a_class_without_pictures_is_named(self, tmp_path: Path) -> None:
        place = folder(tmp_path, {"shoes/a.png": png(1), "hats/notes.pdf": "no picture"})
        with pytest.raises(
            AtelierError, match="'hats' of the source 'data/d' is that of a class, but holds no pictures"
        ):
            run(tmp_path)
        (place / "hats/notes.pdf").unlink()
        with pytest.raises(AtelierError, match="'hats'"):
            run(tmp_path)

    def test_a_picture_beside_folders_of_classes_is_named(self, tmp_path: Path) -> None:
        folder(tmp_path, {"shoes/a.png": png(1), "b.png": png(2)})
        with pytest.raises(AtelierError, match=r"folders of classes \('shoes'\), but 'b\.png' lies in none"):
            run(tmp_path)

    @pytest.mark.parametrize(("train", "other"), [("train", "more"), ("train", "valid"), ("Train", "test")])
    def test_a_folder_beside_train_that_is_no_split_is_refused(self, train: str, other: str, tmp_path: Path) -> None:
        folder(tmp_path, {f"{train}/a.png": png(1), f"{other}/b.png": png(2)})
        with pytest.raises(AtelierError, match=f"a folder '{train}', which names a split, and '({other}|{train})'"):
            run(tmp_path)

    @pytest.mark.parametrize("name", ["Metadata.csv", "METADATA.CSV"])
    def test_metadata_under_another_name_are_refused_and_not_left_out(self, name: str, tmp_path: Path) -> None:
        folder(tmp_path, PICTURES | {name: "file_name,label\n"})
        with pytest.raises(AtelierError, match="in small letters"):
            run(tmp_path)

    def test_a_column_in_capitals_is_refused_and_spaces_in_a_header_do_not_count(self, tmp_path: Path) -> None:
        lines = "".join(f"{name},{i % 2}\n" for i, name in enumerate(PICTURES))
        folder(tmp_path, PICTURES | {"metadata.csv": f"file_name, Label\n{lines}"})
        with pytest.raises(AtelierError, match="a column 'Label': write it in small letters"):
            run(tmp_path)
        (tmp_path / "data" / "d" / "metadata.csv").write_text(f"file_name, label\n{lines}")
        assert run(tmp_path).classes == ("0", "1")

    def test_a_huge_file_is_refused_by_its_size_before_it_is_read(self, tmp_path: Path) -> None:
        with (folder(tmp_path) / "z.png").open("wb") as stream:
            stream.truncate(64 * 2**20 + 1)  # a hole: it takes no room
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with pytest.raises(AtelierError, match=r"'z\.png' of the source 'data/d' has 67,108,865 bytes, more than"):
            run(tmp_path)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024

    def test_two_kinds_are_refused_with_both_unless_the_recipe_names_one(self, tmp_path: Path) -> None:
        folder(tmp_path, PICTURES | {"z.wav": b"RIFF"})
        with pytest.raises(AtelierError, match=r"holds pictures \('a\.png'\) and recordings \('z\.wav'\)"):
            run(tmp_path)
        assert run(tmp_path, kind="images").count == 8

    def test_a_kind_that_is_not_there_is_told(self, tmp_path: Path) -> None:
        folder(tmp_path)
        with pytest.raises(
            AtelierError, match=r"says that 'data/d' holds text files \(\.txt, \.md\), but it holds pic"
        ):
            run(tmp_path, kind="text")

    def test_another_modality_is_told(self, tmp_path: Path) -> None:
        folder(tmp_path)
        with pytest.raises(AtelierError, match=r"holds pictures, .* but the recipe is of modality 'audio'"):
            run(tmp_path, modality="audio")

    def test_blocks_are_for_text(self, tmp_path: Path) -> None:
        folder(tmp_path)
        with pytest.raises(AtelierError, match=r"`by: block`, .* write \{share: 0\.1, by: digest\}"):
            run(tmp_path, HeldOut(share=0.1, by="block"))

    def test_an_empty_folder_is_told(self, tmp_path: Path) -> None:
        (tmp_path / "data/d/empty").mkdir(parents=True)
        with pytest.raises(AtelierError, match="'data/d' holds no files"):
            run(tmp_path)

    def test_a_name_that_is_not_utf8_is_told(self, tmp_path: Path) -> None:
        place = folder(tmp_path)
        Path(os.fsdecode(os.fsencode(place) + b"/\xff.png")).write_bytes(png(1))
        with pytest.raises(AtelierError, match=r"the name of '\\udcff\.png' in 'data/d' is not UTF-8"):
            run(tmp_path)

    def test_a_file_that_may_not_be_read_is_named(self) -> None:
        with tempfile.TemporaryDirectory() as open_to_all:  # not pytest's folder, which only its owner enters
            project = Path(open_to_all)
            project.chmod(stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO)
            (folder(project) / "c.png").chmod(0)
            root = os.geteuid() == 0
            try:
                if root:  # who may read anything
                    os.seteuid(65534)
                with pytest.raises(AtelierError, match=r"c\.png' of the source 'data/d' cannot be read: Permission"):
                    run(project)
            finally:
                if root:
                    os.seteuid(0)

    def test_a_file_that_vanishes_is_named(self, tmp_path: Path) -> None:
        place = folder(tmp_path)
        listing = Listing(place, "data/d")
        names = listing.files()
        first = next(names)
        (place / first).unlink()
        with pytest.raises(AtelierError, match=r"'a\.png' of the source 'data/d' cannot be read: .* It vanished"):
            listing.content(first, at_most=100)

    def test_the_default_held_out_draws_by_content(self, tmp_path: Path) -> None:
        folder(tmp_path, {f"{name}/{shade}.png": png(shade) for shade in range(100) for name in "xy"})
        found = table(tmp_path, run(tmp_path, HALF))
        by_content = dict(zip(found["payload"], found["split"], strict=True))
        assert [by_content[payload] for payload in found["payload"]] == found["split"]
        assert {"train", "held_out"} == set(found["split"])
