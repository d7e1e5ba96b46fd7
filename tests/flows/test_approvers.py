"""Approvers are enrolled, with or without their private key, and revoked; and what they approve counts once each."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.errors import AtelierError
from components.ledger import Ledger
from components.provenance import Signer, new_key
from flows import approvers, promotion
from flows.cli import app
from flows.workspace import Workspace
from tests.flows.test_promotion import place_with


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def pair(folder: Path, name: str) -> tuple[Path, Path]:
    """A private and a public key as their owner makes them, elsewhere."""
    folder.mkdir(exist_ok=True)
    private, public = folder / f"{name}.pem", folder / f"{name}.pub"
    private.write_bytes(new_key())
    public.write_text(Signer.read(private).public_pem)
    return private, public


def held_by(place: Workspace) -> bytes:
    """Everything that lies in a workspace."""
    return b"".join(path.read_bytes() for path in place.root.rglob("*") if path.is_file())


def test_approvers_are_enrolled_and_two_of_them_make_a_champion(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1", "2")
    ledger = Ledger(place.ledger_url)
    ledger.pin("toy", "approvals", "2", "2")
    ana = approvers.init(place, "ana")
    assert ana["made"] and not approvers.init(place, "ana")["made"] and mode(Path(ana["private"])) == "0o600"
    approvers.init(place, "ben")
    told = approvers.approve(place, "toy@2", name="ana")
    assert (len(told["given"]), told["needed"]) == (1, 2) and approvers.approve(place, "toy@2", name="ana") == told
    elsewhere = tmp_path / "copy.pem"
    elsewhere.write_bytes(Path(ana["private"]).read_bytes())
    with pytest.raises(AtelierError, match="is enrolled with the key"):
        approvers.approve(place, "toy@2", name="ben", key=elsewhere)
    with pytest.raises(AtelierError, match="has 1 of the 2 approvals"):
        promotion.promote(place, "toy@2", reason="test")
    assert len(approvers.approve(place, "toy@2", name="ben")["given"]) == 2
    version = ledger.versions("toy")[1]
    generation = ledger.generation("toy")
    ledger.move(
        "toy", "champion", "2", verdict=version.verdict, expected_generation=generation, actor="ana", reason="approved"
    )
    assert ledger.current("toy")["champion"].version == "2"


def test_an_approver_whose_key_was_lost_needs_a_new_name(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1")
    lost = Path(approvers.init(place, "ana")["private"])
    lost.unlink()
    with pytest.raises(AtelierError, match="under a new name"):
        approvers.init(place, "ana")
    assert not lost.exists()
    with pytest.raises(AtelierError, match="there is no key"):
        approvers.approve(place, "toy@1", name="ana")
    with pytest.raises(AtelierError, match="name the version"):
        approvers.approve(place, "toy", name="ana")
    with pytest.raises(AtelierError, match="cannot be called so"):
        approvers.init(place, "../../ana")


def test_an_approver_is_enrolled_by_a_public_key_and_the_private_one_stays_outside(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1", "2")
    Ledger(place.ledger_url).pin("toy", "approvals", "2", "1")
    private, public = pair(tmp_path / "home", "ana")
    added = approvers.add(place, "ana", public)
    assert added == approvers.add(place, "ana", public) and added["revoked"] is None
    with pytest.raises(AtelierError, match=r"--key FILE names the private key"):
        approvers.approve(place, "toy@2", name="ana")
    told = approvers.approve(place, "toy@2", name="ana", key=private)
    assert [given["key_id"] for given in told["given"]] == [added["key_id"]]
    secret = private.read_bytes().splitlines()[1]
    assert secret not in held_by(place) and not (place.secrets / "approvers").exists()
    with pytest.raises(AtelierError, match="under a new name"):  # and makes no key for a name that has one elsewhere
        approvers.init(place, "ana")
    assert not (place.secrets / "approvers" / "ana.pem").exists()


def test_only_the_public_key_of_a_file_is_kept_and_a_file_without_one_is_refused(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1")
    private, public = pair(tmp_path / "home", "ana")
    for content in (private.read_bytes(), b"", b"junk", b"\xff\xfe", b"ssh-ed25519 AAAA ana"):
        wrong = tmp_path / "wrong.pem"
        wrong.write_bytes(content)
        with pytest.raises(AtelierError, match="holds no public Ed25519 key"):
            approvers.add(place, "ana", wrong)
    with pytest.raises(AtelierError, match="cannot be read"):
        approvers.add(place, "ana", tmp_path / "nowhere.pem")
    public.write_bytes(public.read_bytes() + private.read_bytes())  # both in one file, as some tools write them
    approvers.add(place, "ana", public)
    assert private.read_bytes().splitlines()[1] not in held_by(place)


def test_two_names_with_one_key_are_not_two_approvers(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1")
    _, public = pair(tmp_path / "home", "ana")
    approvers.add(place, "ana", public)
    public.write_text(public.read_text().strip() + "\n\n")  # the same key, in other bytes
    with pytest.raises(AtelierError, match="is enrolled as ana already"):
        approvers.add(place, "ben", public)


def test_a_revoked_approver_no_longer_counts(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1", "2")
    Ledger(place.ledger_url).pin("toy", "approvals", "2", "1")
    private, public = pair(tmp_path / "home", "ana")
    approvers.add(place, "ana", public)
    approvers.approve(place, "toy@2", name="ana", key=private)
    assert approvers.revoke(place, "ana")["revoked"]
    with pytest.raises(AtelierError, match="has 0 of the 1 approvals"):
        promotion.promote(place, "toy@2", reason="test")
    with pytest.raises(AtelierError, match="approves nothing"):
        approvers.approve(place, "toy@2", name="ana", key=private)
    with pytest.raises(AtelierError, match="unknown approver 'anna'; did you mean 'ana'"):
        approvers.revoke(place, "anna")


def test_the_commands_print_json_for_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = place_with(tmp_path, "1")
    monkeypatch.setenv("ATELIER_WORKSPACE", str(place.root))
    private, public = pair(tmp_path / "home", "ben")
    run = CliRunner().invoke
    assert json.loads(run(app, ["keys", "init-approver", "ana", "--json"]).stdout)["name"] == "ana"
    assert json.loads(run(app, ["keys", "add-approver", "ben", str(public), "--json"]).stdout)["name"] == "ben"
    assert "ben may approve" in run(app, ["keys", "add-approver", "ben", str(public)]).stdout
    assert json.loads(run(app, ["approve", "toy@1", "--as", "ana", "--json"]).stdout)["needed"] == 0
    assert "toy@1 is approved by ben" in run(app, ["approve", "toy@1", "--as", "ben", "--key", str(private)]).stdout
    assert json.loads(run(app, ["keys", "revoke-approver", "ben", "--json"]).stdout)["revoked"]
    assert "ana may no longer approve" in run(app, ["keys", "revoke-approver", "ana"]).stdout
