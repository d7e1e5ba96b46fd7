"""What is remembered of requests: in the log, in the database, and what is not."""

import io
import json
import sqlite3
import threading
import time
from contextlib import closing
from dataclasses import replace

import pytest

from serving import journal as journals
from serving.journal import Entry, Journal, Unknown, Unlike

ENTRY = Entry(
    id="req-" + "0" * 32, route="/v1/generate", status=200, team="shop", seconds=0.5, model="fashion", version="2",
    digest="sha256:d", seeds=(4, 5), controls={"truncation": 0.5, "prompt": "a red bag"}, queued=0.1,
)  # fmt: skip


@pytest.fixture
def log():
    return io.StringIO()


@pytest.fixture
def failures():
    return []


@pytest.fixture
def journal(tmp_path, log, failures):
    journal = Journal(tmp_path / "deep" / "journal.db", log=log, failed=lambda: failures.append(1))
    yield journal
    journal.close()


def rows(journal, table="requests"):
    journal.settle()
    with closing(sqlite3.connect(journal.path)) as base:
        base.row_factory = sqlite3.Row
        return [dict(row) for row in base.execute(f"SELECT * FROM {table}")]


def test_a_request_with_samples_is_a_row_and_a_line_and_one_without_a_line(journal, log):
    journal.note(ENTRY)
    journal.note(replace(ENTRY, id="req-" + "1" * 32, status=404, seeds=()))
    (row,) = rows(journal)
    assert (row["id"], row["team"], row["model"], row["version"]) == (ENTRY.id, "shop", "fashion", "2")
    assert json.loads(row["seeds"]) == [4, 5] and row["samples"] == 2 and row["status"] == 200
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert [line["status"] for line in lines] == [200, 404] and lines[0]["samples"] == 2


@pytest.mark.parametrize("texts", [False, True])
def test_text_of_a_caller_is_kept_only_where_that_is_asked_for(tmp_path, log, texts):
    journal = Journal(tmp_path / "journal.db", log=log, texts=texts)
    journal.note(ENTRY)
    (row,) = rows(journal)
    journal.close()
    assert json.loads(row["controls"])["truncation"] == 0.5
    assert ("red bag" in row["controls"]) is ("red bag" in log.getvalue()) is texts


def test_the_newest_thumb_about_a_sample_takes_the_place_of_the_one_before(journal):
    journal.note(ENTRY)
    for thumb, comment in [("up", None), ("down", "a shoe"), ("down", "\ud7ff\0 '; DROP TABLE feedback")]:
        journal.feedback(ENTRY.id, 1, thumb, comment, team="shop")
    journal.feedback(ENTRY.id, 0, "up", None, team="shop")
    kept = {row["index"]: (row["thumb"], row["comment"]) for row in rows(journal, "feedback")}
    assert kept == {0: ("up", None), 1: ("down", "\ud7ff\0 '; DROP TABLE feedback")}
    assert len(rows(journal, "feedback")) == 2, "a flood of thumbs takes no more room than the samples"


@pytest.mark.parametrize(
    ("request_id", "index", "team"), [(ENTRY.id, 2, "shop"), (ENTRY.id, 0, "lab"), ("req-" + "9" * 32, 0, "shop")]
)
def test_what_another_team_asked_for_and_what_nobody_did_are_equally_unknown(journal, request_id, index, team):
    journal.note(ENTRY)
    with pytest.raises(Unknown):
        journal.feedback(request_id, index, "up", None, team=team)


def test_the_newest_preference_about_a_pair_counts_whichever_way_round(journal):
    journal.note(ENTRY)
    journal.note(replace(ENTRY, id="req-" + "1" * 32))
    one, other = (ENTRY.id, 0), ("req-" + "1" * 32, 1)
    assert journal.preference(one, other, team="shop") == "fashion"
    journal.preference(other, one, team="shop")
    journal.preference((ENTRY.id, 0), (ENTRY.id, 1), team="shop")
    kept = [
        (row["better"], row["better_index"], row["worse"], row["worse_index"]) for row in rows(journal, "preferences")
    ]
    assert kept == [(*other, *one), (ENTRY.id, 0, ENTRY.id, 1)]


def test_only_two_samples_of_one_model_and_one_team_are_a_choice(journal):
    journal.note(ENTRY)
    journal.note(replace(ENTRY, id="req-" + "1" * 32, model="shoes"))
    journal.note(replace(ENTRY, id="req-" + "2" * 32, team="lab"))
    for other in [("req-" + "1" * 32, 0), (ENTRY.id, 0)]:
        with pytest.raises(Unlike):
            journal.preference((ENTRY.id, 0), other, team="shop")
    for other in [("req-" + "2" * 32, 0), ("req-" + "9" * 32, 0), (ENTRY.id, 2)]:
        with pytest.raises(Unknown):
            journal.preference((ENTRY.id, 0), other, team="shop")
        with pytest.raises(Unknown):
            journal.preference(other, (ENTRY.id, 0), team="shop")
    assert not rows(journal, "preferences")


def test_what_is_old_is_let_go_with_its_thumbs(journal):
    journal.note(ENTRY)
    journal.feedback(ENTRY.id, 0, "up", None, team="shop")
    journal.preference((ENTRY.id, 0), (ENTRY.id, 1), team="shop")
    with closing(sqlite3.connect(journal.path)) as base, base:
        for table in ("requests", "feedback", "preferences"):
            base.execute(f"UPDATE {table} SET time = ?", (time.time() - journals.KEEP_SECONDS - 1,))
    journal._pruned = 0.0
    journal.note(replace(ENTRY, id="req-" + "2" * 32))
    assert [row["id"][-1] for row in rows(journal)] == ["2"] and not rows(journal, "feedback")
    assert not rows(journal, "preferences")


def test_a_journal_that_cannot_be_written_is_counted_told_once_and_taken_up_again(journal, failures, caplog):
    journal.path.parent.mkdir()
    journal.path.mkdir()  # where the file should be
    for _ in range(3):
        journal.note(ENTRY)
        journal.settle()
    assert len(failures) == 3 and len(caplog.records) == 1 and str(journal.path) in caplog.text
    with pytest.raises(OSError, match=r"journal\.db"):
        journal.feedback(ENTRY.id, 0, "up", None, team="shop")
    journal.path.rmdir()
    journal.note(ENTRY)
    assert len(rows(journal)) == 1


def test_a_log_that_is_full_or_closed_stops_nothing(journal, log, failures):
    log.close()
    journal.note(ENTRY)
    assert len(rows(journal)) == 1 and failures


def test_where_the_disk_hangs_entries_are_let_go_beyond_a_bound(tmp_path, failures, monkeypatch):
    go, writing = threading.Event(), threading.Event()

    class Hanging(io.StringIO):
        def write(self, text):
            writing.set()
            go.wait(10)
            return len(text)

    monkeypatch.setattr(journals, "MOST_WAITING", 10)
    journal = Journal(None, log=Hanging(), failed=lambda: failures.append(1))
    journal.note(ENTRY)
    assert writing.wait(5)
    for _ in range(25):
        journal.note(ENTRY)
    assert len(failures) == 15
    go.set()
    journal.close()


def test_without_a_file_there_is_a_log_and_no_feedback(log):
    journal = Journal(None, log=log)
    journal.note(ENTRY)
    with pytest.raises(Unknown):
        journal.feedback(ENTRY.id, 0, "up", None, team="shop")
    journal.close()
    assert ENTRY.id in log.getvalue()


def test_a_request_that_cannot_be_written_down_costs_no_other_and_no_thread(journal, log, failures, caplog):
    journal.settle()  # so that the three are taken together
    for number, controls in enumerate([{}, {"odd": object()}, {}]):
        journal.note(replace(ENTRY, id=f"req-{number:032x}", controls=controls))
    assert [row["id"][-1] for row in rows(journal)] == ["0", "2"]
    assert [json.loads(line)["id"][-1] for line in log.getvalue().splitlines()] == ["0", "2"]
    assert len(failures) == 2 and all(f"req-{1:032x}" in record.getMessage() for record in caplog.records)
    journal.feedback(f"req-{0:032x}", 0, "up", None, team="shop")


class Closing(io.StringIO):
    """A log after whose next line the journal's database is closed, in the journal's own thread."""

    def __init__(self):
        super().__init__()
        self.base = None

    def write(self, text):
        if self.base is not None:
            self.base.close()
            self.base = None
        return super().write(text)


def test_a_database_that_was_closed_is_opened_again_for_the_next_request(tmp_path, failures, caplog):
    log = Closing()
    journal = Journal(tmp_path / "journal.db", log=log, failed=lambda: failures.append(1))
    journal.note(ENTRY)
    assert len(rows(journal)) == 1
    log.base = journal._base
    journal.note(replace(ENTRY, id="req-" + "1" * 32))
    assert len(rows(journal)) == 1 and failures and "closed database" in caplog.text
    journal.note(replace(ENTRY, id="req-" + "2" * 32))
    assert [row["id"][-1] for row in rows(journal)] == ["0", "2"]
    journal.close()
