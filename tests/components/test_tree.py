"""The order in which a folder is walked."""

import hashlib
import json
from pathlib import Path

import pytest

from components.store import digest_of
from components.tree import walk


def test_the_order_is_that_of_sorted_paths(tmp_path: Path) -> None:
    for name in ("a/b/c", "a-b", "a.x/y", "a b/z", "B", "é/ü", "a/b.c", "new\nline", "zz/" * 300 + "end"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("")
    (tmp_path / "to").symlink_to("a")
    found = list(walk(tmp_path))
    expected = sorted(tmp_path.rglob("*"))
    assert [entry.name for entry in found] == [path.relative_to(tmp_path).as_posix() for path in expected]
    for entry, path in zip(found, expected, strict=True):
        assert entry.what == ("link" if path.is_symlink() else "folder" if path.is_dir() else "file")


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(walk(tmp_path / "gone"))


def test_the_digest_of_a_folder_is_that_of_its_whole_list(tmp_path: Path) -> None:
    for name in ("a/b", "a-b", "a b/ü", "c/d/e"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link").symlink_to("a-b")
    files = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    listing = [[path.relative_to(tmp_path).as_posix(), hashlib.sha256(path.read_bytes()).hexdigest()] for path in files]
    assert digest_of(tmp_path) == "sha256:" + hashlib.sha256(json.dumps(listing).encode()).hexdigest()
    assert len(listing) == 5
