"""The release record: what the ledger says, never half written, never older than what is there."""

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from components.ledger import Ledger, Version
from components.ledger_schema import MOVES, VERDICTS
from components.packaging import bento_model
from components.records import Artifact, Scores, Verdict
from flows import rollout
from flows.workspace import Workspace


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path / "workspace")


def register(place: Workspace, number: str, *, model: str = "toy", stored: bool = True, passed: bool = True) -> Version:
    """A version in the ledger, its Bento model in the store unless it is said not to be."""
    ledger = Ledger(place.ledger_url)
    bundle = Artifact(kind="bundle", digest=f"sha256:{number * 64}")
    scores = Scores(
        bundle=bundle, encoder="e", held_out="h", samples=16, seeds=(0, 1), values={"fd": (1.0, 2.0)},
        floor={}, pictures=bundle,
    )  # fmt: skip
    verdict = Verdict(
        model=model, candidate="c", family="vae", bundle=bundle, scores=scores, checks=(), rank=1.0, passed=passed
    )
    version = ledger.enter(
        Version(
            model=model, version=number, modality="image", family="vae", bundle=bundle.digest,
            verdict=ledger.record(verdict, run="r"), data="md5:0", commit=None, recipe="sha256:0", run="r",
            pointers=(), created=f"2026-01-0{number}T00:00:00Z",
        )
    )  # fmt: skip
    if stored:
        folder = place.bentos / "models" / bento_model(model, bundle.digest).replace(":", "/")
        folder.mkdir(parents=True)
        (folder / "model.yaml").write_text("name: toy\n")
    return version


def point(place: Workspace, alias: Any, version: Version) -> None:
    ledger = Ledger(place.ledger_url)
    generation = ledger.generation(version.model)
    ledger.move(
        version.model, alias, version.version, verdict=version.verdict, expected_generation=generation,
        actor="test", reason="test",
    )  # fmt: skip


def published(place: Workspace) -> dict[str, Any]:
    rollout.publish(place)
    return dict(json.loads(place.release.read_bytes()))


def test_the_record_says_what_the_ledger_says(place: Workspace) -> None:
    first, second, third = (register(place, number) for number in "123")
    for version in (first, second):
        point(place, "champion", version)
    point(place, "challenger", third)
    record = published(place)
    toy = record["models"]["toy"]
    assert (record["schema"], record["number"]) == (2, 3)
    assert (toy["champion"], toy["challenger"], toy["previous"]) == ("2", "3", "1")
    assert toy["versions"]["3"] == {
        "digest": third.bundle,
        "bento_model": f"toy:{'3' * 32}",
        "trace": {"data": "md5:0", "run": "r", "recipe": "sha256:0", "commit": "none", "verdict": third.verdict},
    }
    assert set(toy["versions"]) == {"1", "2", "3"}


def test_serving_reads_what_is_written(place: Workspace) -> None:
    from serving import release

    point(place, "champion", register(place, "1"))
    rollout.publish(place)
    assert release.read(place.release).number == 1


def test_an_empty_ledger_serves_nothing(place: Workspace) -> None:
    assert published(place) == {"schema": 2, "number": 0, "models": {}}


def test_a_version_without_its_bento_model_is_left_out_and_no_alias_names_it(place: Workspace) -> None:
    for number, stored in (("1", True), ("2", False)):
        point(place, "champion", register(place, number, stored=stored))
    toy = published(place)["models"]["toy"]
    assert (toy["champion"], toy["previous"], list(toy["versions"])) == (None, "1", ["1"])


def test_a_version_that_waits_for_approvals_may_be_asked_for_and_is_no_champion(place: Workspace) -> None:
    point(place, "challenger", register(place, "1"))
    toy = published(place)["models"]["toy"]
    assert (toy["champion"], toy["challenger"], list(toy["versions"])) == (None, "1", ["1"])


def test_a_version_whose_verdict_failed_or_was_altered_is_never_served(place: Workspace) -> None:
    good, altered = register(place, "1"), register(place, "2")
    register(place, "3", passed=False)
    point(place, "champion", altered)
    engine = sa.create_engine(place.ledger_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER verdicts_UPDATE")
        worse = sa.func.replace(VERDICTS.c.record, "2.0", "1.5")
        connection.execute(sa.update(VERDICTS).where(VERDICTS.c.digest == altered.verdict).values(record=worse))
    toy = published(place)["models"]["toy"]
    assert (toy["champion"], list(toy["versions"])) == (None, [good.version])


def test_models_are_counted_together(place: Workspace) -> None:
    point(place, "champion", register(place, "1", model="a"))
    point(place, "champion", register(place, "1", model="b"))
    point(place, "challenger", register(place, "2", model="a"))
    record = published(place)
    assert record["number"] == 3 and set(record["models"]) == {"a", "b"}


def test_a_record_that_says_the_same_is_not_written_again(place: Workspace) -> None:
    point(place, "champion", register(place, "1"))
    rollout.publish(place)
    before = place.release.stat()
    assert rollout.publish(place) == 1
    after = place.release.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_a_version_that_gets_its_bento_later_enters_under_the_same_number(place: Workspace) -> None:
    point(place, "champion", register(place, "1"))
    rollout.publish(place)
    register(place, "2")
    assert rollout.publish(place) == 1
    assert list(published(place)["models"]["toy"]["versions"]) == ["1", "2"]


def test_an_older_ledger_never_overwrites_a_newer_record(place: Workspace) -> None:
    for number in "12":
        point(place, "champion", register(place, number))
    assert rollout.publish(place) == 2
    newer = place.release.read_bytes()
    engine = sa.create_engine(place.ledger_url)
    with engine.begin() as connection:  # a backup of the ledger was put back
        connection.exec_driver_sql("DROP TRIGGER moves_DELETE")
        connection.execute(sa.delete(MOVES).where(MOVES.c.generation == 2))
    assert rollout.publish(place) == 2
    assert place.release.read_bytes() == newer


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"schema": 1, "number": 99}', b'{"schema": 2, "number": "9"}'])
def test_a_record_that_cannot_be_read_is_replaced(place: Workspace, damage: bytes) -> None:
    point(place, "champion", register(place, "1"))
    place.release.parent.mkdir(parents=True)
    place.release.write_bytes(damage)
    assert rollout.publish(place) == 1
    assert json.loads(place.release.read_bytes())["models"]["toy"]["champion"] == "1"


def test_publishers_beside_promotions_end_with_what_the_ledger_says_last(place: Workspace) -> None:
    versions = [register(place, number) for number in "123456"]
    point(place, "champion", versions[0])
    rollout.publish(place)
    seen: list[int] = []
    faults: list[BaseException] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            try:
                seen.append(json.loads(place.release.read_bytes())["number"])
            except BaseException as error:  # noqa: BLE001 - told by the test
                faults.append(error)

    def go_on() -> None:
        try:
            for _ in range(5):
                rollout.publish(place)
        except BaseException as error:  # noqa: BLE001 - told by the test
            faults.append(error)

    threads = [threading.Thread(target=work) for work in (watch, go_on, go_on)]
    for thread in threads:
        thread.start()
    for version in versions[1:]:
        point(place, "champion", version)
        rollout.publish(place)
    for thread in threads[1:]:
        thread.join()
    done.set()
    threads[0].join()
    assert not faults and seen == sorted(seen)
    record = json.loads(place.release.read_bytes())
    assert record == rollout.compute(place)
    assert (record["number"], record["models"]["toy"]["champion"]) == (6, "6")
