"""The release record: what the ledger says, never half written, never older than what is there."""

import json
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from components.errors import AtelierError
from components.ledger import Ledger, LedgerUnusable, Version
from components.ledger_schema import APPROVALS, VERDICTS
from components.packaging import bento_model
from components.provenance import Signer, new_key
from components.records import Artifact, Scores, Verdict
from flows import events, rollout
from flows.workspace import Workspace
from serving.batching import Batcher
from serving.residents import LOOK_SECONDS, Residents
from tests.serving.live import until
from tests.serving.shop import Shop


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path / "workspace")


def register(
    place: Workspace,
    number: str,
    *,
    model: str = "toy",
    stored: bool = True,
    passed: bool = True,
    digest: str | None = None,
) -> Version:
    """A version in the ledger, its Bento model in the store unless it is said not to be."""
    ledger = Ledger(place.ledger_url)
    bundle = Artifact(kind="bundle", digest=digest or f"sha256:{number * 64}")
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
    record = published(place)
    assert len(record.pop("ledger")) == 32 and record == {"schema": 2, "number": 0, "models": {}}


def test_a_version_without_its_bento_model_is_left_out_unless_an_alias_names_it(place: Workspace) -> None:
    """So that what is in memory goes on being served, and the endpoints say what is missing."""
    for number, stored in (("1", True), ("2", False)):
        point(place, "champion", register(place, number, stored=stored))
    register(place, "3", stored=False)
    toy = published(place)["models"]["toy"]
    assert (toy["champion"], toy["previous"], list(toy["versions"])) == ("2", "1", ["1", "2"])


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


def approver(place: Workspace, name: str) -> Signer:
    signer = Signer.of(new_key())
    Ledger(place.ledger_url).enrol(name, signer.public_pem)
    return signer


def test_a_champion_whose_approvals_were_forged_is_withdrawn(place: Workspace) -> None:
    ledger, ana = Ledger(place.ledger_url), approver(place, "ana")
    version = register(place, "1")
    ledger.pin("toy", "approvals", "1", "1")
    ledger.approve("toy", "1", name="ana", signer=ana)
    point(place, "champion", version)
    assert published(place)["models"]["toy"]["champion"] == "1"
    engine = sa.create_engine(place.ledger_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP TRIGGER approvals_UPDATE")
        connection.execute(sa.update(APPROVALS).values(signature="AAAA"))
    toy = published(place)["models"]["toy"]
    assert (toy["champion"], list(toy["versions"])) == (None, ["1"]), "as one that waits for approvals"


def test_a_key_that_is_revoked_later_leaves_the_champion_that_it_approved(place: Workspace) -> None:
    ledger, ana = Ledger(place.ledger_url), approver(place, "ana")
    version = register(place, "1")
    ledger.pin("toy", "approvals", "1", "1")
    ledger.approve("toy", "1", name="ana", signer=ana)
    point(place, "champion", version)
    ledger.revoke("ana")
    assert published(place)["models"]["toy"]["champion"] == "1"
    with pytest.raises(AtelierError, match="0 of the 1"):
        ledger.refuse_unapproved("toy", "1")


def test_a_ledger_that_cannot_be_read_withdraws_no_champion(place: Workspace) -> None:
    point(place, "champion", register(place, "1"))
    rollout.publish(place)
    before = place.release.read_bytes()
    engine = sa.create_engine(place.ledger_url)
    with engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE verdicts RENAME COLUMN record TO lost")
    with pytest.raises(LedgerUnusable):
        rollout.publish(place)
    assert place.release.read_bytes() == before


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


def test_a_ledger_put_back_from_a_backup_is_told_apart_until_the_record_is_moved_away(place: Workspace) -> None:
    first, second = (register(place, number) for number in "12")
    point(place, "champion", first)
    shutil.copy(place.root / "ledger.db", place.root / "backup.db")  # before anything was published
    rollout.publish(place)
    shutil.copy(place.root / "ledger.db", place.root / "later.db")
    point(place, "champion", second)
    assert rollout.publish(place) == 2
    newer = place.release.read_bytes()
    for backup, words in (("later.db", "a newer state of this ledger"), ("backup.db", "another ledger")):
        put_back(place, backup)
        for _ in range(2):
            with pytest.raises(AtelierError, match=words) as told:
                rollout.publish(place)
        for word in ("release 2", "generation 1", "ledger.db", "move that file away", str(place.release)):
            assert word in str(told.value)
        assert place.release.read_bytes() == newer, "what is served stays"
    place.release.rename(place.root / "aside.json")
    assert published(place)["models"]["toy"]["champion"] == "1"
    point(place, "champion", second)
    assert rollout.publish(place) == 2, "and promotions go on"


def test_a_ledger_that_took_the_place_of_another_is_told_apart_though_its_numbers_are_higher(
    place: Workspace, tmp_path: Path
) -> None:
    other = Workspace(tmp_path, tmp_path / "other")
    for home, numbers in ((place, "1"), (other, "12")):
        for number in numbers:
            point(home, "champion", register(home, number))
        rollout.publish(home)
    shutil.copy(other.root / "ledger.db", place.root / "backup.db")
    put_back(place, "backup.db")
    with pytest.raises(AtelierError, match=r"release 1 of another ledger.* generation 2"):
        rollout.publish(place)


def test_a_record_of_before_ledgers_had_ids_is_taken_for_its_own(place: Workspace) -> None:
    point(place, "champion", register(place, "1"))
    record = published(place)
    del record["ledger"]
    place.release.write_text(json.dumps(record))
    assert "ledger" in published(place)
    place.release.write_text(json.dumps(record | {"number": 9}))
    with pytest.raises(AtelierError, match="release 9"):
        rollout.publish(place)


def test_running_endpoints_follow_a_ledger_that_was_put_back_once_the_record_is_moved_away(
    place: Workspace, tmp_path: Path
) -> None:
    shop = Shop(tmp_path / "shop")
    first, second = (register(place, n, digest=shop.served(model="toy", latent_dim=int(n)).digest) for n in "12")
    point(place, "champion", first)
    rollout.publish(place)
    shutil.copy(place.root / "ledger.db", place.root / "backup.db")
    point(place, "champion", second)
    rollout.publish(place)
    residents = Residents(batcher := Batcher(), shop.place)
    champion = lambda: residents.view.champions["toy"].version if residents.view.champions else None  # noqa: E731
    residents.watch(place.release)
    until(lambda: champion() == "2")
    put_back(place, "backup.db")
    with pytest.raises(AtelierError, match="move that file away"):
        rollout.publish(place)
    time.sleep(3 * LOOK_SECONDS)
    assert champion() == "2"
    place.release.rename(tmp_path / "aside.json")
    rollout.publish(place)
    until(lambda: champion() == "1")
    assert residents.view.release.ledger == json.loads(place.release.read_bytes())["ledger"]
    residents.close()
    batcher.close()


def put_back(place: Workspace, backup: str) -> None:
    for rest in ("ledger.db-wal", "ledger.db-shm"):
        (place.root / rest).unlink(missing_ok=True)
    (place.root / backup).replace(place.root / "ledger.db")


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


def test_a_new_champion_is_told_once_however_often_the_record_is_written(place: Workspace) -> None:
    first, second = register(place, "1"), register(place, "2")
    point(place, "champion", first)
    rollout.publish(place)
    rollout.publish(place)
    point(place, "champion", second)
    place.release.unlink()  # moved away by hand: all champions are new to a record that begins
    rollout.publish(place)
    told = events.since(place)
    assert [(event.kind, event.model, event.facts["version"], event.facts["before"]) for event in told] == [
        ("champion.moved", "toy", "1", None), ("champion.moved", "toy", "2", "1"),
    ]  # fmt: skip
    place.release.unlink()
    rollout.publish(place)
    assert len({event.id for event in events.since(place)}) == 2
