"""The ledger keeps what it is given, lets nobody rewrite it, and lets one promoter win.

`ATELIER_TEST_LEDGER_URL` runs the same tests against another database, such as PostgreSQL.
"""

import os
import re
import sqlite3
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest
import sqlalchemy as sa

from components.errors import AtelierError
from components.ledger import Ledger, Superseded, Version
from components.ledger_schema import connect
from components.provenance import Signer, new_key
from components.records import Artifact, Check, Pointer, Scores, Verdict

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def url(tmp_path: Path) -> str:
    return os.environ.get("ATELIER_TEST_LEDGER_URL") or f"sqlite:///{tmp_path / 'not' / 'yet' / 'ledger.db'}"


@pytest.fixture
def ledger(url: str) -> Ledger:
    return Ledger(url)


@pytest.fixture
def model() -> str:
    return f"fashion-{uuid.uuid4().hex[:8]}"


def verdict_of(model: str, bundle: str, *, passed: bool = True, value: float = 12.5) -> Verdict:
    artifact = Artifact(kind="bundle", digest=f"sha256:{bundle}")
    scores = Scores(
        bundle=artifact,
        encoder="sha256:e",
        held_out="sha256:h",
        samples=64,
        seeds=(0, 1),
        values={"fd": (value, value)},
        floor={"fd": 1.0},
        pictures=Artifact(kind="pictures", digest="sha256:p"),
    )
    check = Check(gate="fd at most 60", metric="fd", value=value, low=value, high=value, bound=60.0, passed=passed)
    return Verdict(
        model=model,
        candidate="vae",
        family="vae",
        bundle=artifact,
        scores=scores,
        checks=(check,),
        rank=value,
        passed=passed,
    )


def version_of(verdict: Verdict, version: str) -> Version:
    return Version(
        model=verdict.model,
        version=version,
        modality="image",
        family=verdict.family,
        bundle=verdict.bundle.digest,
        verdict=verdict.fingerprint(),
        data="md5:d.dir",
        commit=None,
        recipe="sha256:r",
        run="run-1",
        pointers=(Pointer(kind="bundle", digest=verdict.bundle.digest, dvc="md5:b.dir"),),
        created=f"2026-11-22T10:00:0{version}.000000Z",
    )


def registered(ledger: Ledger, model: str, count: int) -> list[str]:
    """The verdicts of that many versions, all passed: version "1" is the first."""
    verdicts = [verdict_of(model, f"{model}-b{n}") for n in range(1, count + 1)]
    for number, verdict in enumerate(verdicts, 1):
        ledger.record(verdict, run=f"run-{number}")
        ledger.enter(version_of(verdict, str(number)))
    return [verdict.fingerprint() for verdict in verdicts]


def promote(ledger: Ledger, model: str, version: str, verdict: str, expected: int | None = None) -> int:
    generation = ledger.generation(model) if expected is None else expected
    move = ledger.move(
        model, "champion", version, verdict=verdict, expected_generation=generation, actor="ana", reason="better"
    )
    return move.generation


def pointing(ledger: Ledger, model: str) -> dict[str, str]:
    return {alias: move.version for alias, move in ledger.current(model).items()}


def test_a_verdict_comes_back_whole_and_once(ledger: Ledger, model: str) -> None:
    verdict = verdict_of(model, "b", passed=False, value=float("inf"))
    digest = ledger.record(verdict, run="run-1")
    assert digest == verdict.fingerprint() == ledger.record(verdict, run="another run")
    assert ledger.verdict(digest) == verdict
    assert ledger.run_of(digest) == "run-1"
    assert ledger.verdict("sha256:unknown") is None and ledger.run_of("sha256:unknown") is None


def test_only_a_verdict_that_passed_is_passing(ledger: Ledger, model: str) -> None:
    failed = verdict_of(model, "b", passed=False)
    ledger.record(failed, run="run-1")
    assert ledger.passing(model, "sha256:b") is None
    passed = ledger.record(verdict_of(model, "b", value=3.0), run="run-2")
    ledger.record(verdict_of(model, "b", passed=False, value=99.0), run="run-3")
    assert ledger.passing(model, "sha256:b") == passed
    assert ledger.passing(model, "sha256:other") is None
    assert ledger.passing("another", "sha256:b") is None


def test_a_version_is_entered_once_for_its_bundle(ledger: Ledger, model: str) -> None:
    registered(ledger, model, 2)
    first, second = ledger.versions(model)
    assert (first.version, second.version) == ("1", "2")
    assert first.pointers[0].dvc == "md5:b.dir"
    assert ledger.enter(first.model_copy(update={"version": "7"})) == first
    assert ledger.versions(model) == [first, second]
    assert {first, second} <= set(ledger.versions())


def test_a_new_champion_makes_the_old_one_previous(ledger: Ledger, model: str) -> None:
    one, two = registered(ledger, model, 2)
    assert ledger.generation(model) == 0 and ledger.current(model) == {}
    first = promote(ledger, model, "1", one)
    ledger.move(model, "challenger", "2", verdict=two, expected_generation=None, actor="train", reason="registered")
    assert {alias: move.version for alias, move in ledger.current(model).items()} == {
        "champion": "1",
        "challenger": "2",
    }
    second = promote(ledger, model, "2", two)
    assert second > first and ledger.generation(model) == second
    assert pointing(ledger, model) == {"champion": "2", "previous": "1"}
    current = ledger.current(model)
    assert current["champion"].previous == "1" and current["previous"].verdict == one
    promote(ledger, model, "1", one)  # a rollback
    assert pointing(ledger, model) == {"champion": "1", "previous": "2"}
    assert [(move.alias, move.version) for move in ledger.history(model)] == [
        ("champion", "1"),
        ("challenger", "2"),
        ("champion", "2"),
        ("champion", "1"),
    ]


def test_a_move_to_where_the_alias_is_adds_nothing(ledger: Ledger, model: str) -> None:
    (one,) = registered(ledger, model, 1)
    generation = promote(ledger, model, "1", one)
    assert promote(ledger, model, "1", one) == generation
    assert len(ledger.history(model)) == 1


def test_generations_grow_over_all_models(ledger: Ledger, model: str) -> None:
    other = f"{model}-other"
    (one,), (two,) = registered(ledger, model, 1), registered(ledger, other, 1)
    first, second = promote(ledger, model, "1", one), promote(ledger, other, "1", two)
    assert second > first and ledger.generation(model) == first


def test_a_late_promoter_is_told_who_was_first(ledger: Ledger, model: str) -> None:
    one, two = registered(ledger, model, 2)
    promote(ledger, model, "1", one)
    with pytest.raises(Superseded, match=r"ana moved champion to version 1 .*better"):
        promote(ledger, model, "2", two, expected=0)
    assert ledger.current(model)["champion"].version == "1"


def test_champion_needs_a_passing_verdict_about_that_version(ledger: Ledger, model: str) -> None:
    one, two = registered(ledger, model, 2)
    failed = verdict_of(model, f"{model}-b1", passed=False)
    with pytest.raises(AtelierError, match="holds no verdict"):
        promote(ledger, model, "1", failed.fingerprint())
    ledger.record(failed, run="run-9")
    with pytest.raises(AtelierError, match=r"its verdict failed \(fd at most 60\)"):
        promote(ledger, model, "1", failed.fingerprint())
    with pytest.raises(AtelierError, match="about another bundle"):
        promote(ledger, model, "1", two)
    with pytest.raises(AtelierError, match="knows no such version"):
        promote(ledger, model, "3", one)
    assert ledger.history(model) == []


def test_champion_is_never_moved_blindly_nor_previous_by_hand(ledger: Ledger, model: str) -> None:
    (one,) = registered(ledger, model, 1)
    for alias in ("champion", "previous"):
        with pytest.raises(AtelierError, match="cannot be moved to version 1 like this"):
            ledger.move(model, alias, "1", verdict=one, expected_generation=None, actor="ana", reason="x")
    assert ledger.history(model) == []


def test_the_first_pin_stays(ledger: Ledger, model: str) -> None:
    assert ledger.pinned(model, "encoder", "k") is None
    assert ledger.pin(model, "encoder", "k", "sha256:1") == "sha256:1"
    assert ledger.pin(model, "encoder", "k", "sha256:2") == "sha256:1" == ledger.pinned(model, "encoder", "k")
    assert ledger.pin(model, "encoder", "other", "sha256:2") == "sha256:2"


def signer() -> Signer:
    return Signer.of(new_key())


def approved(ledger: Ledger, model: str, version: str, name: str, key: Signer) -> None:
    ledger.enrol(name, key.public_pem)
    ledger.approve(model, version, name=name, signer=key)


def under_a_second_name(url: str, first: str, second: str) -> None:
    """Enrol a key twice, as a ledger of before that was refused may hold it."""
    again = (
        f"INSERT INTO approvers SELECT '{second}', key_id, public_pem, created FROM approvers WHERE name = '{first}'"
    )
    with connect(url).begin() as connection:
        connection.exec_driver_sql(again)


def test_a_champion_needs_the_approvals_that_were_pinned_each_with_a_key_of_its_own(
    ledger: Ledger, model: str, url: str
) -> None:
    one, two = registered(ledger, model, 2)
    ledger.pin(model, "approvals", "2", "2")
    promote(ledger, model, "1", one)  # which asked for none
    ana, ben = signer(), signer()
    names = {name: f"{name}-{model}" for name in ("ana", "ben", "ana again")}
    with pytest.raises(AtelierError, match=r"has 0 of the 2 approvals .*`atelier approve .*@2 --as NAME` gives one"):
        promote(ledger, model, "2", two)
    approved(ledger, model, "2", names["ana"], ana)
    approved(ledger, model, "2", names["ana"], ana)
    with pytest.raises(AtelierError, match=rf"is enrolled as {names['ana']} already, and one key is one approver"):
        ledger.enrol(names["ana again"], ana.public_pem)
    under_a_second_name(url, names["ana"], names["ana again"])
    ledger.approve(model, "2", name=names["ana again"], signer=ana)
    approved(ledger, model, "1", names["ben"], ben)  # of the other version
    assert [approval.approver for approval in ledger.approvals(model, "2")] == [names["ana"]]
    with pytest.raises(AtelierError, match=rf"has 1 of the 2 approvals .*\(of {names['ana']}\)"):
        promote(ledger, model, "2", two)
    assert ledger.current(model)["champion"].version == "1"
    approved(ledger, model, "2", names["ben"], ben)
    promote(ledger, model, "2", two)
    assert pointing(ledger, model) == {"champion": "2", "previous": "1"}


def test_an_approval_with_a_key_that_is_not_enrolled_is_refused(ledger: Ledger, model: str) -> None:
    registered(ledger, model, 1)
    ana, name = signer(), f"ana-{model}"
    with pytest.raises(AtelierError, match="is not enrolled as an approver"):
        ledger.approve(model, "1", name=name, signer=ana)
    enrolled = ledger.enrol(name, ana.public_pem)
    assert ledger.enrol(name, ana.public_pem) == enrolled and ledger.approvers().count(enrolled) == 1
    with pytest.raises(AtelierError, match="enrol a new key under a new name"):
        ledger.enrol(name, signer().public_pem)
    with pytest.raises(AtelierError, match=f"is enrolled with the key {ana.key_id}"):
        ledger.approve(model, "1", name=name, signer=signer())
    with pytest.raises(AtelierError, match="knows no version 7"):
        ledger.approve(model, "7", name=name, signer=ana)
    assert ledger.approvals(model, "1") == []


def test_a_revoked_key_approves_nothing_more_and_what_it_approved_no_longer_counts(ledger: Ledger, model: str) -> None:
    one, two = registered(ledger, model, 2)
    ledger.pin(model, "approvals", "1", "1")
    ledger.pin(model, "approvals", "2", "1")
    ana, ben, names = signer(), signer(), {name: f"{name}-{model}" for name in ("ana", "ben")}
    for version in ("1", "2"):
        approved(ledger, model, version, names["ana"], ana)
    promote(ledger, model, "1", one)
    revoked = ledger.revoke(names["ana"])
    assert revoked.revoked and ledger.revoke(names["ana"]) == revoked and revoked in ledger.approvers()
    with pytest.raises(AtelierError, match="has 0 of the 1 approvals"):
        promote(ledger, model, "2", two)
    with pytest.raises(AtelierError, match=r"was revoked at .*, so it approves nothing"):
        ledger.approve(model, "2", name=names["ana"], signer=ana)
    for name in (names["ana"], names["ben"]):
        with pytest.raises(AtelierError, match=r"was revoked at .*, for good"):
            ledger.enrol(name, ana.public_pem)
    assert ledger.current(model)["champion"].version == "1", "what it made is history"
    approved(ledger, model, "2", names["ben"], ben)
    promote(ledger, model, "2", two)
    with pytest.raises(AtelierError, match=r"unknown approver|nobody"):
        ledger.revoke("eve")


def test_a_key_is_revoked_under_each_of_its_names(ledger: Ledger, model: str, url: str) -> None:
    registered(ledger, model, 1)
    ana, names = signer(), [f"ana-{model}", f"again-{model}"]
    ledger.enrol(names[0], ana.public_pem)
    under_a_second_name(url, *names)
    ledger.approve(model, "1", name=names[1], signer=ana)
    assert len(ledger.approvals(model, "1")) == 1
    ledger.revoke(names[0])
    assert ledger.approvals(model, "1") == []
    with pytest.raises(AtelierError, match="approves nothing"):
        ledger.approve(model, "1", name=names[1], signer=ana)


@pytest.mark.parametrize(
    "forged",
    [
        "INSERT INTO approvals SELECT model, '2', signature, key_id, bundle, verdict, approver, created FROM approvals",
        "UPDATE versions SET bundle = 'sha256:other' WHERE version = '1'",
        "UPDATE versions SET verdict = 'sha256:other' WHERE version = '1'",
        "UPDATE approvals SET signature = 'AAAA'",
        "UPDATE approvals SET signature = 'no base64 at all'",
        "UPDATE approvals SET approver = 'ben'",
        "UPDATE approvers SET public_pem = (SELECT public_pem FROM approvers WHERE name = 'ben')",
        "UPDATE approvers SET public_pem = 'no key'",
    ],
)
def test_an_approval_forged_behind_the_ledger_does_not_count(tmp_path: Path, model: str, forged: str) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}")
    registered(ledger, model, 2)
    ledger.enrol("ben", signer().public_pem)
    approved(ledger, model, "1", "ana", ana := signer())
    assert len(ledger.approvals(model, "1")) == 1  # what the forgery below has to change
    with sqlite3.connect(path) as connection:
        for table in ("versions", "approvals", "approvers"):
            connection.execute(f"DROP TRIGGER {table}_UPDATE")
        connection.execute(forged)
    about = "2" if forged.startswith("INSERT") else "1"
    assert ledger.approvals(model, about) == []
    if "SET signature" in forged:  # and it keeps no true one out
        ledger.approve(model, "1", name="ana", signer=ana)
        assert len(ledger.approvals(model, "1")) == 1


def test_a_ledger_of_before_there_were_approvals_gets_their_tables(tmp_path: Path, model: str) -> None:
    path = tmp_path / "ledger.db"
    registered(Ledger(f"sqlite:///{path}"), model, 1)
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TABLE approvals")
        connection.execute("DROP TABLE approvers")
        connection.execute("DROP TABLE revocations")
    ledger = Ledger(f"sqlite:///{path}")
    assert ledger.approvals(model, "1") == []
    approved(ledger, model, "1", "ana", signer())
    with sqlite3.connect(path) as connection, pytest.raises(sqlite3.DatabaseError, match="append-only"):
        connection.execute("DELETE FROM approvals")
    assert len(ledger.approvals(model, "1")) == 1


PROMOTER = """
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from components.ledger import Ledger, Superseded
url, model, verdict, version, go = sys.argv[1:]
ledger = Ledger(url)
generation = ledger.generation(model)
Path(f"{{go}}.{{version}}").touch()
while not Path(go).exists():
    time.sleep(0.001)
try:
    ledger.move(
        model, "champion", version, verdict=verdict, expected_generation=generation, actor=version, reason="race"
    )
    print("won")
except Superseded:
    print("superseded")
"""


def test_of_several_processes_one_wins(ledger: Ledger, model: str, url: str, tmp_path: Path) -> None:
    verdicts, go = registered(ledger, model, 4), tmp_path / "go"
    script = PROMOTER.format(root=str(ROOT))
    racers = [
        subprocess.Popen(
            [sys.executable, "-c", script, url, model, verdict, str(n), str(go)], stdout=subprocess.PIPE, text=True
        )
        for n, verdict in enumerate(verdicts, 1)
    ]
    try:
        while len(list(tmp_path.glob("go.*"))) < len(racers):
            assert all(racer.poll() is None for racer in racers), "a promoter died before the race"
        go.touch()
        outcomes = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    finally:
        for racer in racers:
            racer.kill()
    assert sorted(outcomes) == ["superseded"] * 3 + ["won"]
    winner = str(outcomes.index("won") + 1)
    assert [(move.version, move.actor) for move in ledger.history(model)] == [(winner, winner)]


def test_of_several_threads_one_wins_and_the_first_use_may_be_at_once(url: str, model: str) -> None:
    barrier = threading.Barrier(6)
    outcomes: list[tuple[str, str]] = []

    def promoter() -> None:
        mine = Ledger(url)  # six of them make the tables at the same moment
        (verdict,) = registered(mine, model, 1)
        pinned = mine.pin(model, "encoder", "k", threading.current_thread().name)
        barrier.wait()
        try:
            promote(mine, model, "1", verdict, expected=0)
            outcomes.append(("won", pinned))
        except Superseded:
            outcomes.append(("superseded", pinned))

    threads = [threading.Thread(target=promoter) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcome for outcome, _ in outcomes) == ["superseded"] * 5 + ["won"]
    assert len({pinned for _, pinned in outcomes}) == 1
    assert len(Ledger(url).history(model)) == 1


@pytest.mark.parametrize("table", ["verdicts", "versions", "moves", "pins", "approvers", "approvals", "revocations"])
def test_no_row_can_be_changed_or_taken_away(ledger: Ledger, model: str, url: str, table: str) -> None:
    (one,) = registered(ledger, model, 1)
    promote(ledger, model, "1", one)
    ledger.pin(model, "encoder", "k", "sha256:1")
    approved(ledger, model, "1", f"ana-{model}", signer())
    ledger.revoke(f"ana-{model}")
    statements = [f"UPDATE {table} SET created = 'x'", f"DELETE FROM {table}"]
    if url.startswith("sqlite"):
        statements.append(f"INSERT OR REPLACE INTO {table} SELECT * FROM {table}")
        if table == "versions":  # under another number, for a bundle that there is already
            columns = 'modality, family, bundle, verdict, data, "commit", recipe, run, pointers, created'
            statements.append(f"INSERT OR REPLACE INTO versions SELECT model, '9', {columns} FROM versions")
    engine = connect(url)
    for statement in statements:
        with pytest.raises(sa.exc.DBAPIError, match="append-only"), engine.begin() as connection:
            connection.exec_driver_sql(statement)
    assert ledger.current(model)["champion"].version == "1"


def test_a_verdict_altered_behind_the_ledger_is_noticed(tmp_path: Path, model: str) -> None:
    path = tmp_path / "ledger.db"
    ledger = Ledger(f"sqlite:///{path}")
    failed = verdict_of(model, f"{model}-b1", passed=False)
    digest = ledger.record(failed, run="run-1")
    ledger.enter(version_of(failed, "1"))
    with sqlite3.connect(path) as connection:
        connection.execute("DROP TRIGGER verdicts_UPDATE")
        connection.execute(
            """UPDATE verdicts SET passed = 1, record = replace(record, '"passed": false', '"passed": true')"""
        )
    assert ledger.passing(model, failed.bundle.digest) == digest  # the column lies ...
    with pytest.raises(AtelierError, match="was altered"):  # ... but the record is held against its digest
        promote(ledger, model, "1", digest)


def test_what_the_database_refuses_is_one_paragraph(tmp_path: Path) -> None:
    broken = tmp_path / "ledger.db"
    broken.write_bytes(b"not a database at all" * 100)
    for url in (f"sqlite:///{broken}", "postgresql+nosuchdriver://ana:secret@localhost/x", f"sqlite:///{broken}/x.db"):
        with pytest.raises(AtelierError, match=r"the ledger .* cannot be used") as raised:
            Ledger(url).versions()
        assert "secret" not in str(raised.value) and "\n" not in str(raised.value)


def test_reading_needs_no_heavy_vendor() -> None:
    script = "import components.ledger, sys; print(*sorted(name.split('.')[0] for name in sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "sqlalchemy" in loaded
    assert not re.search(r"\b(torch|mlflow|numpy|pandas|prefect|dvc)\b", loaded)
