"""Keys are made once, kept as hashes or for their owner's eyes only, and none is lost when two are made at once."""

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from components.errors import AtelierError
from components.provenance import Signer
from flows import keys
from flows.cli import app
from flows.workspace import Workspace
from tests.flows.test_promotion import place_with

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path, tmp_path / "workspace")


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def test_a_key_is_shown_once_and_kept_as_its_hash(place: Workspace) -> None:
    made = keys.make(place, "web", models=["fashion", "toy", "fashion"])
    assert re.fullmatch(rf"atl_{made['id']}_[\w-]{{43}}", made["key"]) and re.fullmatch("[0-9a-f]{8}", made["id"])
    path = place.serving / "keys.json"
    assert mode(path) == "0o600" and made["key"] not in path.read_text()
    (kept,) = json.loads(path.read_bytes())["keys"]
    assert kept["sha256"] == hashlib.sha256(made["key"].encode()).hexdigest()
    assert kept["models"] == ["fashion", "toy"] and kept["team"] == "web" and kept["revoked"] is None
    (shown,) = keys.found(place)["keys"]
    assert shown == {name: value for name, value in kept.items() if name != "sha256"}


def test_a_revoked_key_stays_revoked_since_then(place: Workspace) -> None:
    one, other = keys.make(place, "web")["id"], keys.make(place, "web")["id"]
    revoked = keys.revoke(place, one)
    assert revoked["revoked"] and keys.revoke(place, one) == revoked
    assert {key["id"]: bool(key["revoked"]) for key in keys.found(place)["keys"]} == {one: True, other: False}
    with pytest.raises(AtelierError, match="unknown key 'ffff'"):
        keys.revoke(place, "ffff")


@pytest.mark.parametrize(("team", "models"), [("a/b", ["*"]), ("", ["*"]), ("a", []), ("a", ["x y"]), ("../a", ["*"])])
def test_odd_names_are_refused(place: Workspace, team: str, models: list[str]) -> None:
    with pytest.raises(AtelierError):
        keys.make(place, team, models=models)
    assert keys.found(place)["keys"] == []


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"schema": 1, "keys": [{}]}', '{"schema": 2, "keys": []}', "[" * 10**5]
)
def test_a_damaged_file_of_keys_is_told_and_left_as_it_is(place: Workspace, content: str) -> None:
    place.serving.mkdir(parents=True)
    path = place.serving / "keys.json"
    path.write_text(content)
    with pytest.raises(AtelierError, match="is damaged"):
        keys.make(place, "web")
    assert path.read_text() == content


MAKER = """
import sys
from pathlib import Path
from flows import keys
from flows.workspace import Workspace
sys.stdin.read()
for _ in range(5):
    keys.make(Workspace(Path(sys.argv[1]), Path(sys.argv[1])), sys.argv[2])
"""


def test_of_several_makers_at_once_none_loses_a_key(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MAKER, str(tmp_path)]
    makers = [subprocess.Popen([*command, f"team{n}"], cwd=ROOT, stdin=subprocess.PIPE) for n in range(4)]
    for maker in makers:
        assert maker.stdin is not None
        maker.stdin.close()
    assert [maker.wait(60) for maker in makers] == [0, 0, 0, 0]
    held = keys.found(Workspace(tmp_path, tmp_path))["keys"]
    assert len(held) == len({key["id"] for key in held}) == 20


def test_the_signing_key_is_made_once_and_a_new_one_leaves_the_old_ones_known(place: Workspace) -> None:
    first = keys.init_signing(place)
    again = keys.init_signing(place)
    assert first["made"] and not again["made"] and first["key_id"] == again["key_id"]
    second = keys.init_signing(place, rotate=True)
    assert second["made"] and second["key_id"] != first["key_id"]
    assert keys.public_keys(place).keys() == {first["key_id"], second["key_id"]}
    signer = Signer.read(keys.signing_key(place))
    assert signer.key_id == second["key_id"] and keys.public_keys(place)[signer.key_id] == signer.public_pem
    assert mode(keys.signing_key(place)) == "0o600" and mode(place.secrets) == "0o700"


def test_a_public_key_is_known_by_what_it_is_and_not_by_its_file(place: Workspace) -> None:
    made = keys.init_signing(place)
    public = Path(made["public"])
    public.rename(public.with_name("0000000000000000.pub"))
    (public.parent / "junk.pub").write_bytes(b"\xff junk")
    assert keys.public_keys(place).keys() == {made["key_id"]}


def test_a_key_that_is_none_is_told(place: Workspace) -> None:
    place.secrets.mkdir(parents=True)
    keys.signing_key(place).write_text("junk")
    with pytest.raises(AtelierError, match="no Ed25519 private key"):
        keys.init_signing(place)
    assert keys.signing_key(place).read_text() == "junk"


def test_the_commands_print_json_for_programs_and_the_key_alone_on_standard_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_with(tmp_path, "1")
    monkeypatch.setenv("ATELIER_WORKSPACE", str(place.root))
    run = CliRunner().invoke
    told = run(app, ["keys", "make", "web", "--models", "toy, fashion", "--json"])
    made = json.loads(told.stdout)
    assert made["models"] == ["toy", "fashion"] and made["key"].startswith("atl_")
    plain = run(app, ["keys", "make", "web"])
    assert re.fullmatch(r"atl_[0-9a-f]{8}_[\w-]{43}\n", plain.stdout) and "shown this once" in plain.stderr
    assert made["id"] in run(app, ["keys", "list"]).stdout
    assert json.loads(run(app, ["keys", "revoke", made["id"], "--json"]).stdout)["revoked"]
    assert [bool(key["revoked"]) for key in json.loads(run(app, ["keys", "list", "--json"]).stdout)["keys"]] == [
        True,
        False,
    ]
    assert json.loads(run(app, ["keys", "init-signing", "--json"]).stdout)["made"]
    assert json.loads(run(app, ["keys", "init-signing", "--rotate", "--json"]).stdout)["made"]
