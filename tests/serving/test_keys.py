"""Who may call: what a file of keys lets in, and what happens when it changes, breaks or goes."""

import hashlib
import json

import pytest

from serving.errors import Refusal
from serving.keys import EVERYONE, Keys

TOKEN = "atl_0000000a_" + "s" * 43
OTHER = "atl_0000000b_" + "t" * 43


def entry(token=TOKEN, *, team="shop", models=("*",), revoked=None):
    digest = hashlib.sha256(token.encode()).hexdigest()
    named = {"id": token[4:12], "team": team, "models": list(models), "revoked": revoked}
    return named | {"sha256": digest, "created": "2026-11-22T10:00:00Z"}


def write(path, *keys):
    """As `atelier keys` does: whole, in place of the old one."""
    aside = path.with_suffix(".aside")
    aside.write_text(json.dumps({"schema": 1, "keys": keys}))
    aside.replace(path)


@pytest.fixture
def path(tmp_path):
    write(tmp_path / "keys.json", entry())
    return tmp_path / "keys.json"


@pytest.fixture
def told():
    return []


@pytest.fixture
def keys(path, told):
    return Keys(path, warn=told.append)


def refused(keys, authorization):
    with pytest.raises(Refusal) as refusal:
        keys.caller(authorization)
    assert refusal.value.status == 401
    return refusal.value.code


def test_a_key_is_its_team_and_its_models(path, keys):
    write(path, entry(models=["fashion"]))
    caller = keys.caller(f"Bearer {TOKEN}")
    assert caller.team == "shop" and caller.may("fashion") and not caller.may("shoes")


@pytest.mark.parametrize("given", [f"bearer {TOKEN}", f"BEARER  {TOKEN} "])
def test_the_scheme_is_known_in_any_case(keys, given):
    assert keys.caller(given).team == "shop"


@pytest.mark.parametrize("given", [None, "", "Bearer", "Bearer ", f"Basic {TOKEN}", TOKEN, f"Bearer\t{TOKEN}"])
def test_without_a_bearer_token_there_is_no_key(keys, given):
    assert refused(keys, given) == "no_api_key"


@pytest.mark.parametrize(
    "given", [OTHER, TOKEN[:-1], f"{TOKEN} {TOKEN}", f"{TOKEN},", TOKEN.upper(), entry()["sha256"], "ÿ"]
)
def test_what_is_nearly_a_key_is_none(keys, given):
    assert refused(keys, f"Bearer {given}") == "invalid_api_key"


def test_a_token_is_looked_up_by_its_hash_and_never_compared(keys):
    """Time tells of a comparison how far it came; of a hash it tells nothing that helps to guess its input."""
    assert TOKEN not in repr(vars(keys)) and set(keys._known) == {hashlib.sha256(TOKEN.encode()).hexdigest()}


def test_a_key_that_is_revoked_or_made_counts_from_the_next_request(path, keys):
    write(path, entry(revoked="2026-11-22T11:00:00Z"), entry(OTHER, team="lab"))
    assert refused(keys, f"Bearer {TOKEN}") == "revoked_api_key"
    assert keys.caller(f"Bearer {OTHER}").team == "lab"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"schema": 2, "keys": []}', '{"schema": 1, "keys": [{}]}', "\0"])
def test_a_broken_file_lets_nobody_in_and_a_mended_one_does_again(path, keys, told, content):
    path.write_text(content)
    for _ in range(3):
        assert refused(keys, f"Bearer {TOKEN}") == "invalid_api_key"
    assert len(told) == 1 and str(path) in told[0]
    write(path, entry())
    assert keys.caller(f"Bearer {TOKEN}").team == "shop"


def test_a_file_that_is_gone_or_empty_of_keys_lets_nobody_in(path, keys, told):
    path.unlink()
    assert refused(keys, f"Bearer {TOKEN}") == "invalid_api_key" and refused(keys, None) == "no_api_key"
    assert len(told) == 1
    write(path)
    assert refused(keys, f"Bearer {TOKEN}") == "invalid_api_key"


def test_a_file_that_cannot_be_looked_at_for_a_while_is_told_once_and_read_again(path, keys, told):
    aside = path.rename(path.with_suffix(".aside"))
    path.symlink_to(path)  # a loop: neither there nor gone
    for _ in range(3):
        assert refused(keys, f"Bearer {TOKEN}") == "invalid_api_key"
    aside.replace(path)
    assert keys.caller(f"Bearer {TOKEN}").team == "shop", "the same file as before, unchanged"
    assert len(told) == 1 and "symbolic links" in told[0]


def test_without_any_key_everyone_may_call_until_there_is_one(tmp_path):
    path = tmp_path / "keys.json"
    keys = Keys(path)
    assert keys.caller(None) is EVERYONE and not keys.required
    write(path)
    assert keys.caller("Basic x") is EVERYONE
    write(path, entry())
    assert refused(keys, None) == "no_api_key"
    path.unlink()
    assert refused(keys, None) == "no_api_key", "once there were any, a file that is gone opens nothing"


def test_a_file_that_is_broken_from_the_start_lets_nobody_in(tmp_path):
    (tmp_path / "keys.json").write_text("{")
    assert refused(Keys(tmp_path / "keys.json"), None) == "no_api_key"
