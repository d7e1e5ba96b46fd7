"""What the monitor is told of requests: a row each, numbers only, whatever the disk does, and within bounds."""

import errno
import json
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from starlette.testclient import TestClient

from components.controls import PublicControl
from serving import observations
from serving.journal import Entry
from serving.observations import Observations, Seen
from tests.serving.shop import Shop, application, close

ENTRY = Entry(
    id="req-" + "0" * 32, route="/v1/generate", status=200, team="shop", seconds=0.5, model="fashion", version="2",
    digest="sha256:d", seeds=(4, 5), controls={"truncation": 0.5, "style": "red", "prompt": "a red bag"}, queued=0.1,
    moderated=[("request", "profanity", "count"), ("answer", "words", "block")],
)  # fmt: skip


class Card:
    controls = {
        "truncation": PublicControl(default=1.0),
        "style": PublicControl(default="red", choices=("red", "blue")),
        "prompt": PublicControl(default=""),
    }


class Drawer:
    """An endpoint that tells of a sample how long it is; one of b"bad" cannot be read."""

    card = Card()

    def checked(self, asked):
        return {"truncation": 0.5, "style": "red", "prompt": "a red bag"}

    def features(self, sample):
        if sample == b"bad":
            raise ValueError("it is no sample")
        return {"length": float(len(sample))}


@pytest.fixture
def counts():
    return {"failed": 0, "requests": 0, "files": 0}


@pytest.fixture
def kept(tmp_path, counts):
    """Makes one with options of its own; all are closed at the end."""
    made = []

    def make(**options):
        def dropped(what, count):
            counts[what] += count

        def failed():
            counts["failed"] += 1

        made.append(Observations(tmp_path / "seen", failed=failed, dropped=dropped, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


def files(kept):
    return sorted(kept.folder.rglob("part-*.parquet"))


def rows(kept):
    kept.settle()
    return [row for path in files(kept) for row in pq.read_table(path, partitioning=None).to_pylist()]


def test_a_request_is_a_row_of_numbers_under_its_model_and_day(kept):
    kept = kept()
    kept.note(ENTRY, Seen(Drawer(), b"12345"))
    (row,) = rows(kept)
    assert (row["id"], row["version"], row["team"], row["status"]) == (ENTRY.id, "2", "shop", 200)
    assert (row["seconds"], row["queued"], row["first"], row["count"]) == (0.5, 0.1, None, 2)
    assert (row["flagged"], row["blocked"], row["plain"]) == (2, 1, True)
    assert (row["control.truncation"], row["choice.style"], row["output.length"]) == (0.5, "red", 5.0)
    assert row["time"].timestamp() == pytest.approx(ENTRY.time, abs=1e-3)
    (path,) = files(kept)
    assert [part.partition("=")[0] for part in path.relative_to(kept.folder).parts[:2]] == ["model", "date"]


@pytest.mark.parametrize("texts", [False, True])
def test_of_a_text_of_a_caller_its_length_is_kept_and_the_text_only_where_that_is_asked_for(kept, texts):
    kept = kept(texts=texts)
    kept.note(ENTRY, Seen(Drawer()))
    (row,) = rows(kept)
    assert row["control.prompt.length"] == 9 and row.get("text.prompt") == ("a red bag" if texts else None)
    assert (b"red bag" in files(kept)[0].read_bytes()) is texts


def test_what_names_no_model_has_no_row_and_what_was_refused_has_one_without_outputs(kept):
    kept = kept()
    kept.note(replace(ENTRY, model="", version=""), None)
    kept.note(replace(ENTRY, status=429, seeds=(), controls={}), None)
    (row,) = rows(kept)
    assert row["status"] == 429 and row["count"] == 0
    assert not [name for name in row if name.startswith(("output", "control"))]


def test_every_request_has_a_row_and_some_of_them_chosen_by_lot_are_looked_at(kept, monkeypatch):
    monkeypatch.setattr(observations, "LOOK_SECONDS", 0.2)
    kept = kept()
    for number in range(400):
        kept.note(replace(ENTRY, id=f"req-{number:032}"), Seen(Drawer(), b"x" * (number + 1)))
    seen = rows(kept)
    looked = [row["output.length"] for row in seen if row["output.length"] is not None]
    assert len(seen) == 400 and 1 <= len(looked) <= 3 * observations.LOOKED_AT
    assert max(looked) > 200, "not only the first of them"


def test_a_sample_that_cannot_be_looked_at_costs_nothing_but_its_outputs(kept, counts):
    kept = kept()
    kept.note(ENTRY, Seen(Drawer(), b"bad"))
    kept.note(ENTRY, Seen(Drawer(), b"good"))
    assert {row["output.length"] for row in rows(kept)} == {None, 4.0}
    assert counts["failed"] == 1


def test_a_part_grows_whole_and_the_next_begins_when_it_is_full(kept, monkeypatch):
    monkeypatch.setattr(observations, "PART_ROWS", 5)
    kept = kept()
    for count, expected in ((3, [3]), (3, [6]), (2, [6, 2])):
        for _ in range(count):
            kept.note(ENTRY, None)
        kept.settle()
        assert sorted(pq.read_metadata(path).num_rows for path in files(kept)) == sorted(expected)
        assert not list(kept.folder.rglob("*.aside"))


def test_a_full_disk_costs_no_row_while_it_is_short_and_the_oldest_when_it_is_not(kept, counts, monkeypatch, caplog):
    monkeypatch.setattr(observations, "MOST_HELD", 10)
    renew = observations._renew

    def refuse(part):
        raise OSError(errno.ENOSPC, "No space left on device")

    kept = kept()
    monkeypatch.setattr(observations, "_renew", refuse)
    for number in range(3):
        for _ in range(6):
            kept.note(replace(ENTRY, id=str(number)), None)
        kept.settle()
    assert counts["failed"] == 3 and counts["requests"] == 12 and not files(kept)
    assert len([record for record in caplog.records if "No space left" in record.message]) == 1, "told once"
    monkeypatch.setattr(observations, "_renew", renew)
    kept.note(replace(ENTRY, id="3"), None)
    assert [row["id"] for row in rows(kept)] == ["2"] * 6 + ["3"]


def test_a_disk_that_really_refuses_leaves_nothing_half_written(kept, counts, tmp_path):
    """A file lies where the folder should be."""
    (tmp_path / "seen").write_text("in the way")
    kept = kept()
    kept.note(ENTRY, None)
    kept.settle()
    assert counts["failed"] == 1
    (tmp_path / "seen").unlink()
    kept.note(ENTRY, None)
    assert len(rows(kept)) == 2


def test_the_oldest_parts_go_by_age_and_by_size_and_are_counted(kept, counts, tmp_path):
    old, middle, new = (
        tmp_path / "seen" / "model=fashion" / f"date={day}" / "part-1.parquet"
        for day in ("2020-01-01", time.strftime("%Y-%m-%d", time.gmtime(time.time() - 86400)), "2999-01-01")
    )
    for path in (old, middle, new):
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * 1000)
    kept = kept(most_bytes=1500)
    kept._trim()
    assert [path.exists() for path in (old, middle, new)] == [False, False, True]
    assert counts["files"] == 2 and not old.parent.exists()


def test_no_request_waits_and_memory_is_bounded_while_the_thread_is_held_up(kept, counts, monkeypatch):
    monkeypatch.setattr(observations, "MOST_WAITING", 50)
    monkeypatch.setattr(observations, "MOST_BYTES_WAITING", 2500)
    monkeypatch.setattr(observations, "LOOK_SECONDS", 0.0)
    held, entered = threading.Event(), threading.Event()

    class Slow(Drawer):
        def features(self, sample):
            entered.set()
            held.wait(10)
            return super().features(sample)

    kept = kept()
    kept.note(ENTRY, Seen(Slow(), b"x" * 100))
    assert entered.wait(10)
    samples = [Seen(Drawer(), b"x" * 100) for _ in range(60)]
    began = time.monotonic()
    for seen in samples:
        kept.note(ENTRY, seen)
    assert time.monotonic() - began < 0.1
    assert sum(len(seen.sample) for seen in samples[:50]) <= 2400
    held.set()
    assert len(rows(kept)) == 51 and counts["requests"] == 10


PROGRAM = """
import json, sys
from pathlib import Path
from serving.journal import Entry
from serving.observations import Observations
kept = Observations(Path(sys.argv[1]))
before = "pyarrow" in sys.modules
kept.note(Entry("r", "/", 200, "t", 0.1, model="fashion", version="1"), None)
kept.close()
print(json.dumps([before, "pyarrow" in sys.modules]))
"""


def test_pyarrow_comes_with_the_first_part_alone(tmp_path):
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, True]


def test_the_routes_show_what_they_made(tmp_path):
    shop = Shop(tmp_path)
    parts = shop.parts(
        shop.release(fashion={"champion": "7", "versions": {"7": shop.served()}}), observed=tmp_path / "seen"
    )
    try:
        client = TestClient(application(parts))
        answers = [
            client.post("/v1/generate", json={"model": "fashion", "seed": 3, **more})
            for more in ({}, {"controls": {"truncation": 0.5}, "n": 2}, {"n": 99}, {"model": "none"})
        ]
        plain, asked = rows(parts.observations)
    finally:
        close(parts)
    assert [answer.status_code for answer in answers] == [200, 200, 400, 404]
    assert (plain["version"], plain["plain"], plain["count"], plain["control.truncation"]) == ("7", True, 1, 1.0)
    assert (asked["plain"], asked["count"], asked["control.truncation"]) == (False, 2, 0.5)
    assert 0 < plain["output.mean"] < 1 and 0 < asked["output.entropy"] <= 8


def test_nothing_is_done_without_a_folder():
    before = threading.active_count()
    kept = Observations(None)
    kept.note(ENTRY, Seen(Drawer(), b"x"))
    kept.settle()
    kept.close()
    assert threading.active_count() == before and kept.folder is None
    assert not Path("None").exists()
