"""Keys that the platform makes: API keys of teams, and the key that signs samples.

Of an API key only its hash is kept. Private keys lie in the workspace's `secrets/`, for its owner's eyes only.
"""

import hashlib
import json
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from components import provenance
from components.errors import AtelierError
from components.process import locked
from components.provenance import Signer
from components.spelling import unknown
from components.store import write_atomically
from flows.workspace import Workspace

NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
PARTS = {"id", "team", "sha256", "models", "created", "revoked"}  # of a key in keys.json
EVERY_MODEL = ("*",)
PRIVATE = 0o600
PATIENCE = 30.0  # seconds that a change of the keys waits for another one


def make(place: Workspace, team: str, *, models: Sequence[str] = EVERY_MODEL) -> dict[str, Any]:
    """A new API key of a team, for the named models or for all; what is returned holds the key itself, once."""
    for kind, name in (("team", team), *(("model", model) for model in models if model != "*")):
        refuse_odd(kind, name)
    if not models:
        raise AtelierError("a key for no model opens nothing: name them, as in --models fashion,toy, or leave it out")
    with _changing(place) as keys:
        known = {key["id"] for key in keys}
        named = next(drawn for drawn in iter(lambda: secrets.token_hex(4), None) if drawn not in known)
        whole = f"atl_{named}_{secrets.token_urlsafe(32)}"
        key = {
            "id": named,
            "team": team,
            "sha256": hashlib.sha256(whole.encode()).hexdigest(),
            "models": list(dict.fromkeys(models)),
            "created": _now(),
            "revoked": None,
        }
        keys.append(key)
    return {"schema": 1, **_shown(key), "key": whole}


def found(place: Workspace) -> dict[str, Any]:
    """Every API key that was ever made, without what would open anything, in the form of `atelier keys list --json`."""
    return {"schema": 1, "keys": [_shown(key) for key in _read(_file(place))]}


def usable(path: Path) -> bool:
    """Whether a file of API keys holds one that opens something."""
    return any(key["revoked"] is None for key in _read(path))


def revoke(place: Workspace, named: str) -> dict[str, Any]:
    """Let a key open nothing from now on; one that was revoked stays as it was."""
    with _changing(place) as keys:
        key = next((key for key in keys if key["id"] == named), None)
        if key is None:
            ids = [key["id"] for key in keys]
            raise AtelierError(unknown("key", named, ids) if ids else "there are no keys yet: `atelier keys make TEAM`")
        key["revoked"] = key["revoked"] or _now()
    return {"schema": 1, **_shown(key)}


def init_signing(place: Workspace, *, rotate: bool = False) -> dict[str, Any]:
    """The key that signs samples and Bentos, made where there is none; `rotate` makes a new one.

    The public keys of all that there ever were are kept, so that what they signed can still be checked.
    """
    private = signing_key(place)
    with turn(place):
        made = rotate or not private.is_file()
        pem = provenance.new_key() if made else private.read_bytes()
        signer = signer_of(private, pem)
        public = place.secrets / "signing" / f"{signer.key_id}.pub"
        shut(place.secrets)
        write_atomically(public, signer.public_pem.encode())  # first: nothing is signed that cannot be checked
        if made:
            write_atomically(private, pem, mode=PRIVATE)
    return {"schema": 1, "key_id": signer.key_id, "made": made, "private": str(private), "public": str(public)}


def signing_key(place: Workspace) -> Path:
    """Where the private key that signs lies, if there is one."""
    return place.secrets / "signing.pem"


def public_keys(place: Workspace) -> dict[str, str]:
    """Every public key that ever signed here, by its id; a file that holds none is left out."""
    known: dict[str, str] = {}
    for path in sorted((place.secrets / "signing").glob("*.pub")):
        pem = path.read_text(errors="replace")
        try:
            known[provenance.key_id(pem)] = pem  # as the key says, not as the file is called
        except ValueError:
            continue
    return known


def table(known: dict[str, Any]) -> RenderableType:
    """The API keys as a table, a row each."""
    if not known["keys"]:
        return "There are no keys: the endpoints are open, to this machine only. Make one: atelier keys make TEAM"
    rows = Table()
    for title in ("id", "team", "models", "created", "revoked"):
        rows.add_column(title, no_wrap=title != "models")
    for key in known["keys"]:
        rows.add_row(key["id"], key["team"], ", ".join(key["models"]), key["created"][:16], (key["revoked"] or "")[:16])
    return rows


def _file(place: Workspace) -> Path:
    return place.serving / "keys.json"


def _shown(key: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name != "sha256"}


def _read(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        kept = json.loads(path.read_bytes())
        keys: list[dict[str, Any]] = kept["keys"]
        if kept["schema"] != 1 or any(PARTS - key.keys() for key in keys):
            raise ValueError("a part of it is missing, or it is of another schema")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AtelierError(
            f"the file of API keys {path} is damaged ({error}), so every call to the endpoints is refused. Bring it "
            "back from a backup; or move it away, and make new keys with `atelier keys make TEAM`."
        ) from None
    return keys


@contextmanager
def _changing(place: Workspace) -> Iterator[list[dict[str, Any]]]:
    """The keys, to be changed by one process at a time; they are written when the block ends well."""
    with turn(place):
        keys = _read(_file(place))
        yield keys
        content = json.dumps({"schema": 1, "keys": keys}, indent=2) + "\n"
        write_atomically(_file(place), content.encode(), mode=PRIVATE)


@contextmanager
def turn(place: Workspace) -> Iterator[None]:
    """The block changes keys, of whatever kind, and nobody else does meanwhile."""
    place.locks.mkdir(parents=True, exist_ok=True)
    with (place.locks / "keys").open("a") as lock:
        until = time.monotonic() + PATIENCE
        while not locked(lock.fileno()):
            if time.monotonic() > until:
                raise AtelierError(f"another command has held {lock.name} for {PATIENCE:.0f} s; try again once it ends")
            time.sleep(0.01)
        yield


def shut(folder: Path) -> None:
    """Make a folder that its owner alone can open."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)


def signer_of(path: Path, pem: bytes) -> Signer:
    """The private key that `path` holds; an `AtelierError` where it is none."""
    try:
        return Signer.of(pem)
    except ValueError as error:
        raise AtelierError(
            f"{path} is no Ed25519 private key in PEM: {error}. Move it away, and the same command makes a new one."
        ) from None


def refuse_odd(kind: str, name: str) -> None:
    """Raise an `AtelierError` where a name could not be that of a file."""
    if not re.fullmatch(NAME, name):
        raise AtelierError(
            f"the {kind} {name!r} cannot be called so: use up to 64 letters, digits, dots, hyphens and underscores, "
            "beginning with a letter or a digit."
        )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
