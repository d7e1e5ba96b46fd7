"""Facts lie on disk chunk by chunk, and rows are compared with those that are alive, whichever chunk they are in."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components import facts, rows
from components.facts import Facts

UNKNOWN = -1


def among(sides: str, same: list[int], near: list[int] | None = None) -> Facts:
    """Rows given by a letter for the side (t, h, or x for none) and the number of their content."""
    names = {"t": "train", "h": "held_out", "x": None}
    letters = sorted(set(sides))
    return Facts(
        Path("nowhere"),
        np.array([letters.index(side) for side in sides], np.int16),
        np.array(same, np.int32),
        np.array(same if near is None else near, np.int32),
        tuple(names[letter] for letter in letters),
    )


def told(given: Facts, column: str, dead: tuple[int, ...] = ()) -> list[Any]:
    alive = np.ones(len(given), bool)
    alive[list(dead)] = False
    found: list[Any] = given.compared(alive)[column].to_pylist()
    return found


def test_the_second_on_its_side_is_the_duplicate() -> None:
    assert told(among("tthtt", [7, 8, 7, 7, 7]), "duplicate") == [False, False, False, True, True]


def test_the_second_that_is_nearly_the_same_on_its_side_is_the_near_duplicate() -> None:
    given = among("tthtt", [1, 2, 3, 4, UNKNOWN], near=[7, 8, 7, 7, UNKNOWN])
    assert told(given, "near_duplicate") == [False, False, False, True, False]
    assert told(given, "near_duplicate", dead=(0,)) == [False] * 5


def test_a_share_is_that_of_the_rows_with_the_same_fact() -> None:
    table = pd.DataFrame({"language": ["en", "en", None, "fr"], "split": "train"})
    shares = facts.weighed(table, "share_of_language")
    assert shares.dropna().tolist() == pytest.approx([2 / 3, 2 / 3, 1 / 3]) and shares.isna().tolist()[2]


def test_a_dead_row_is_nobodys_first() -> None:
    assert told(among("ttt", [7, 7, 7]), "duplicate", dead=(0,)) == [False, False, True]
    assert told(among("tt", [7, 7]), "duplicate", dead=(1,)) == [False, True]  # of a living one it still is the second


def test_rows_of_unknown_content_are_like_none() -> None:
    given = among("tthh", [UNKNOWN] * 4)
    assert not any(told(given, "duplicate")) and not any(told(given, "leaks"))
    assert told(given, "near_leaks") == [None, None, False, False]


def test_a_held_out_row_leaks_that_is_alive_in_train_too() -> None:
    given = among("thhx", [7, 7, 8, 7])
    assert told(given, "leaks") == [False, True, False, False]
    assert told(given, "leaks", dead=(0,)) == [False] * 4


def test_near_leaks_are_unknown_of_what_is_not_held_out() -> None:
    given = among("thhx", [1, 2, 3, 4], near=[5, 5, 6, 5])
    assert told(given, "near_leaks") == [None, True, False, None]
    assert told(given, "near_leaks", dead=(0,)) == [None, False, False, None]


def test_without_a_training_side_nothing_leaks() -> None:
    assert told(among("hh", [1, 2]), "leaks") == [False, False]


def ingested(directory: Path, count: int) -> Path:
    """Parts of three rows each, whose payloads are no pictures."""
    for start in range(0, count, 3):
        lines = [{"id": f"r{n}", "payload": b"%d" % n, "text": f"t{n}"} for n in range(start, min(start + 3, count))]
        pq.write_table(pa.Table.from_pylist(lines, rows.SCHEMA), directory / f"part-{start:03}.parquet")
    return directory


def test_every_row_is_told_of_in_order_and_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "CHUNK", 7)
    given = facts.gather(ingested(tmp_path, 20), "image", tmp_path / "alone")
    chunks = list(given.chunks(pa.table({})))
    assert [len(chunk) for chunk in chunks] == [6, 6, 6, 2]
    table = pa.concat_tables(chunks)
    assert table["id"].to_pylist() == [f"r{n}" for n in range(20)]
    assert table["text"].to_pylist() == [f"t{n}" for n in range(20)]
    assert table["row"].to_pylist() == list(range(20)) and set(table["decodes"].to_pylist()) == {False}


def test_the_facts_that_are_asked_for_come_alone_with_what_rows_are_beside_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "CHUNK", 7)
    given = facts.gather(ingested(tmp_path, 20), "image", tmp_path / "alone")
    beside = pa.table({"duplicate": [n == 13 for n in range(20)], "leaks": [False] * 20})
    kept = np.arange(20) >= 12
    found = given.whole(beside, {"id", "duplicate", "row"}, kept)
    assert found.column_names == ["id", "row", "duplicate"]
    assert [line["id"] for line in found.to_pylist() if line["duplicate"]] == ["r13"] and len(found) == 8


def test_equal_texts_have_equal_numbers_wherever_they_are() -> None:
    parts = [pa.chunked_array([["b", None, "a"]]), pa.chunked_array([["a", "c", "b", None]])]
    b, none, a, again, c, second, nothing = facts._numbered([facts._keys(part) for part in parts]).tolist()
    assert (a, b) == (again, second) and none == nothing == UNKNOWN
    assert len({a, b, c}) == 3 and min(a, b, c) >= 0
