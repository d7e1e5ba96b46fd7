"""JSON Lines with text, with files beside them, and with bytes inside."""

import base64
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from components.errors import AtelierError
from tests.components.sources.ingested import BY_SPLIT, fill, png, run, table


def lines(*rows: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def test_text_is_the_payload_of_text(tmp_path: Path) -> None:
    rows = [
        {"text": "ein Satz\nund nöch einer", "id": "a", "split": "train"},
        {"text": "two", "id": 7, "split": "test"},
    ]
    fill(tmp_path / "data/d", {"rows.jsonl": lines(*rows) + b"\n  \n"})
    found = table(tmp_path, run(tmp_path, BY_SPLIT, modality="text"))
    assert found == {
        "id": ["a", "7"],
        "payload": ["ein Satz\nund nöch einer".encode(), b"two"],
        "label": [None, None],
        "text": [None, None],
        "split": ["train", "held_out"],
    }


def test_gzipped_files_and_columns_that_come_late_are_read(tmp_path: Path) -> None:
    fill(
        tmp_path / "data/d",
        {
            "a.jsonl.gz": gzip.compress(lines({"text": "one"})),
            "b.jsonl": lines({"text": "two", "label": "x", "split": "test"}, {"text": None, "label": "y"}),
        },
    )
    dataset = run(tmp_path, BY_SPLIT, modality="text")
    found = table(tmp_path, dataset)
    assert found["payload"] == [b"one", b"two", b""]
    assert (dataset.classes, found["label"]) == (("x", "y"), [None, 0, 1])


@pytest.mark.parametrize("column", ["image", "file_name", "file", "path"])
def test_a_path_names_a_file_beside_it(tmp_path: Path, column: str) -> None:
    rows = [{column: f"p/{n}.png", "text": f"the {n}", "split": side} for n, side in enumerate(("train", "test"))]
    fill(tmp_path / "data/d", {"x/rows.jsonl": lines(*rows), "x/p/0.png": png(0), "x/p/1.png": png(1)})
    found = table(tmp_path, run(tmp_path, BY_SPLIT))
    assert (found["payload"], found["text"]) == ([png(0), png(1)], ["the 0", "the 1"])


def test_bytes_may_stand_inside(tmp_path: Path) -> None:
    rows = [{"bytes": base64.b64encode(png(n)).decode(), "label": n, "split": "test" if n else "a"} for n in (0, 1)]
    fill(tmp_path / "data/d", {"README.md": "---\nclasses: [zero, one]\n---\n", "rows.jsonl": lines(*rows)})
    dataset = run(tmp_path, BY_SPLIT)
    found = table(tmp_path, dataset)
    assert (found["payload"], found["label"], dataset.classes) == ([png(0), png(1)], [0, 1], ("zero", "one"))


def test_labels_of_words_and_numbers_are_words(tmp_path: Path) -> None:
    rows = [{"text": "a", "label": 1, "split": "test"}, {"text": "b", "label": "x"}]
    fill(tmp_path / "data/d", {"rows.jsonl": lines(*rows)})
    assert run(tmp_path, BY_SPLIT, modality="text").classes == ("1", "x")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (lines({"image": "a.png"}) + b'{"image": "a.p', r"'rows\.jsonl' of 'data/d', line 2 is not valid JSON"),
        (b"[" * 100_000, "line 1 is not valid JSON"),
        (b"\xff\n", "line 1 is not UTF-8"),
        (lines({"image": "../../secret"}), r"line 1: '../../secret' is not a path to a file inside the folder"),
        (lines({"image": "https://host/a.png"}), "is not a path to a file inside"),
        (lines({"image": "gone.png"}), r"line 1 names 'gone\.png', which is not there"),
        (lines({"image": "a" * 5000}), r"line 1 names 'aaa.*', which is not there"),
        (lines({"image": "x"}), "line 1 names 'x', which is not there"),
        (lines({"image": ["a.png"]}), r"line 1: 'image' must be text or a whole number, not \[\"a\.png\"\]"),
        (lines({"bytes": "no base64!"}), "line 1: 'bytes' is not base64"),
        (lines({"words": "a"}), "no line of 'data/d' says where the image .* there are: words"),
        (b"", "there are: no rows"),
        (lines({"image": "a.png", "id": 1.5}), "'id' must be text or a whole number, not 1.5"),
    ],
)
def test_mistakes_are_named_with_file_and_line(tmp_path: Path, content: bytes, told: str) -> None:
    fill(tmp_path / "data/d", {"rows.jsonl": content, "a.png": png(1), "x/b.png": png(2)})
    with pytest.raises(AtelierError, match=told):
        run(tmp_path)
    assert not (tmp_path / ".atelier/rows").exists()


def test_a_broken_gzip_file_is_named(tmp_path: Path) -> None:
    fill(tmp_path / "data/d", {"rows.jsonl.gz": gzip.compress(lines({"text": "a" * 5000}))[:-9]})
    with pytest.raises(AtelierError, match=r"'rows\.jsonl\.gz' of 'data/d' is not a whole gzip file"):
        run(tmp_path, modality="text")


def test_a_single_file_cannot_name_others_for_they_would_have_no_version(tmp_path: Path) -> None:
    fill(tmp_path / "data/d", {"rows.jsonl": lines({"file": "a.png"}), "a.png": png(1)})
    with pytest.raises(AtelierError, match="Name the folder as the source"):
        run(tmp_path, source="data/d/rows.jsonl")


def test_two_kinds_of_rows_are_refused(tmp_path: Path) -> None:
    fill(tmp_path / "data/d", {"rows.jsonl": lines({"text": "a"}), "b.txt": "b"})
    with pytest.raises(AtelierError, match=r"JSON Lines \('rows\.jsonl'\)"):
        run(tmp_path, modality="text")
