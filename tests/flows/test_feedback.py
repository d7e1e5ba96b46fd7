"""From the endpoints' journal to a dataset: thumbs down and pairs of one model, and no words of a caller."""

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from components.errors import AtelierError
from flows import feedback
from serving.journal import Entry, Journal

ENTRY = Entry(
    id="req-" + "0" * 32, route="/v1/generate", status=200, team="shop", seconds=0.5, model="fashion", version="2",
    digest="sha256:d", seeds=(4, 5), controls={"truncation": 0.5, "label": "Bag", "prompt": "a red bag"},
    chosen=("label",),
)  # fmt: skip


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "journal.db")
    journal.note(ENTRY)
    journal.note(replace(ENTRY, id="req-" + "1" * 32, version="3", seeds=(9,)))
    journal.note(replace(ENTRY, id="req-" + "2" * 32, model="shoes", seeds=(6,)))
    yield journal
    journal.close()


def test_thumbs_down_of_one_model_are_read_with_seed_and_version(journal: Journal) -> None:
    journal.feedback(ENTRY.id, 1, "down", "ugly", team="shop")
    journal.feedback(ENTRY.id, 0, "up", None, team="shop")
    journal.feedback("req-" + "1" * 32, 0, "down", None, team="shop")
    journal.feedback("req-" + "2" * 32, 0, "down", None, team="shop")
    found = feedback.read(journal.path, "fashion")
    assert [(one.seed, one.version, one.index) for one in found.rejected] == [(5, "2", 1), (9, "3", 0)]
    assert found.judged == {f"{ENTRY.id}:0", f"{ENTRY.id}:1", "req-" + "1" * 32 + ":0"}


def test_the_newest_thumb_counts(journal: Journal) -> None:
    journal.feedback(ENTRY.id, 1, "down", None, team="shop")
    journal.feedback(ENTRY.id, 1, "up", None, team="shop")
    assert not feedback.read(journal.path, "fashion").rejected


def test_choices_are_kept_and_words_of_callers_are_not(journal: Journal) -> None:
    journal.feedback(ENTRY.id, 1, "down", None, team="shop")
    (one,) = feedback.read(journal.path, "fashion").rejected
    assert one.controls == {"truncation": 0.5, "label": "Bag"}
    with closing(sqlite3.connect(journal.path)) as base:
        assert "red bag" not in json.dumps(base.execute("SELECT * FROM requests").fetchall())


def test_without_a_journal_there_is_nothing_to_read(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match="there is no journal"):
        feedback.read(tmp_path / "journal.db", "fashion")


def test_pairs_of_a_model_are_read_with_what_made_both(journal: Journal) -> None:
    other = "req-" + "1" * 32
    journal.preference((ENTRY.id, 1), (other, 0), team="shop")
    (pair,) = feedback.read(journal.path, "fashion").pairs
    assert (pair.better.seed, pair.better.version, pair.better.index) == (5, "2", 1)
    assert (pair.worse.seed, pair.worse.version, pair.worse.request) == (9, "3", other)
    assert not feedback.read(journal.path, "shoes").pairs


def test_a_journal_of_an_older_release_has_thumbs_and_no_pairs(journal: Journal) -> None:
    journal.feedback(ENTRY.id, 1, "down", None, team="shop")
    with closing(sqlite3.connect(journal.path)) as base, base:
        base.execute("DROP TABLE preferences")
    found = feedback.read(journal.path, "fashion")
    assert len(found.rejected) == 1 and not found.pairs
