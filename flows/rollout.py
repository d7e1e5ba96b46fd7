"""What the endpoints serve: the release record, computed from the ledger alone and written whole or not at all."""

import fcntl
import json
import secrets
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.errors import AtelierError
from components.ledger import Ledger, LedgerUnusable, Move, Version
from components.packaging import ALIASES, bento_model, served
from components.store import write_atomically
from flows import events
from flows.events import Event
from flows.workspace import Workspace

IDENTITY = ("@ledger", "identity", "")  # the pin that holds a ledger's id: no model has an @ in its name


def publish(place: Workspace) -> int:
    """Write what the ledger says now into the release record, and return the number of the record that is there.

    The number is the ledger's newest generation. A record that says the same already stays untouched, so whoever asks
    twice, or beside others, changes nothing. An `AtelierError` where the record comes from another ledger, or from a
    newer state of this one: the endpoints go on serving that, until a person says which one is right.
    """
    with _alone(place):
        record, there = compute(place), _there(place.release)
        if there == record:
            return int(record["number"])
        if there is not None:
            _refuse_foreign(place, there, record)
        _tell(place, there, record)
        write_atomically(place.release, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
        return int(record["number"])


def _tell(place: Workspace, before: dict[str, Any] | None, record: dict[str, Any]) -> None:
    """Tell of every champion that this record brings; told before it is written, and under an id that stays."""
    held = Ledger(place.ledger_url).currents()
    for model, now in record["models"].items():
        champion = held.get(model, {}).get("champion")
        was = ((before or {}).get("models", {}).get(model) or {}).get("champion")
        if champion is None or now["champion"] != champion.version or now["champion"] == was:
            continue
        one = uuid.uuid5(uuid.NAMESPACE_OID, f"{record['ledger']} {model} {champion.generation}")
        facts: dict[str, Any] = {"version": champion.version, "before": champion.previous, "actor": champion.actor}
        time = datetime.now(UTC).isoformat(timespec="microseconds")
        events.append(place, [Event(str(one), time, "champion.moved", model, champion.reason, facts)])


def compute(place: Workspace) -> dict[str, Any]:
    """The record that the ledger calls for: every model, its aliases, and the versions that may be asked for.

    Those are the versions whose verdict passed and whose Bento model is in the Bento store. One that an alias names is
    there though its Bento model is lost: what is in memory goes on being served, and the endpoints say what is missing.
    So an alias of null is one that nothing may serve under: its verdict no longer counts, or, for the champion, too
    few of its approvals do.
    """
    ledger = Ledger(place.ledger_url)
    models, number, retired = {}, 0, ledger.retired()
    for model in sorted({version.model for version in ledger.versions()}):
        aliases = ledger.current(model)  # before the versions: one that is registered meanwhile has no alias here
        number = max([number, *(move.generation for move in aliases.values())])
        named = {move.version for move in aliases.values()}
        versions = {
            version.version: version
            for version in ledger.versions(model)
            if (version.version in named or ((model, version.version) not in retired and _stored(version, place)))
            and _passed(version, ledger)
        }
        pointed = {alias: _pointed(ledger, aliases[alias], versions) if alias in aliases else None for alias in ALIASES}
        models[model] = {**pointed, "versions": {name: served(version) for name, version in versions.items()}}
    return {"schema": 2, "ledger": _identity(ledger), "number": number, "models": models}


def _pointed(ledger: Ledger, move: Move, versions: dict[str, Version]) -> str | None:
    """The version that an alias names, where it may be served under it.

    A champion needs its approvals still; that a key was revoked after it had become champion takes nothing from it.
    """
    if move.version not in versions:
        return None
    if move.alias == "champion" and not _granted(
        lambda: ledger.refuse_unapproved(move.model, move.version, at=move.created)
    ):
        return None
    return move.version


def _stored(version: Version, place: Workspace) -> bool:
    name, _, label = bento_model(version.model, version.bundle).partition(":")
    return (place.bentos / "models" / name / label / "model.yaml").is_file()


def _passed(version: Version, ledger: Ledger) -> bool:
    def check() -> bool:
        verdict = ledger.verdict(version.verdict)
        return verdict is not None and verdict.passed and verdict.bundle.digest == version.bundle

    return _granted(check)


def _granted(check: Callable[[], bool | None]) -> bool:
    """Whether the ledger grants it. What was altered since is granted nothing, and must not stop the other models."""
    try:
        return check() is not False
    except LedgerUnusable:  # it has decided nothing: no champion is withdrawn for that
        raise
    except AtelierError:
        return False


def _identity(ledger: Ledger) -> str:
    """The ledger's random id: it stays with the database, and with every copy of it."""
    return ledger.pinned(*IDENTITY) or ledger.pin(*IDENTITY, secrets.token_hex(16))


def _refuse_foreign(place: Workspace, there: dict[str, Any], record: dict[str, Any]) -> None:
    """Raise an `AtelierError` where the record in place is not an earlier one of the same ledger."""
    other = there.get("ledger")
    another = other is not None and other != record["ledger"]
    if not another and there["number"] <= record["number"]:
        return
    whose = f"another ledger ({str(other)[:8]})" if another else "a newer state of this ledger"
    cause = (
        f"this one, {Ledger(place.ledger_url).shown} ({record['ledger'][:8]}), is at generation {record['number']}"
        if another
        else f"{Ledger(place.ledger_url).shown} is at generation {record['number']}, as after a backup was put back"
    )
    raise AtelierError(
        f"{place.release} is release {there['number']} of {whose}, and {cause}. The endpoints go on serving release "
        f"{there['number']}, and no promotion reaches them. If the ledger is right, move that file away: its release "
        f"{record['number']} is then written by the controller within seconds, or by `atelier up`, and running "
        "endpoints take it up. If it is not, put the right ledger back, or name it by its URL."
    )


def _there(path: Path) -> dict[str, Any] | None:
    """The record that is there; none where there is none of this schema that can be read."""
    try:
        record = json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    known = isinstance(record, dict) and record.get("schema") == 2 and isinstance(record.get("number"), int)
    return record if known else None


@contextmanager
def _alone(place: Workspace) -> Iterator[None]:
    """Hold the lock of the record; the operating system gives it back however the holder ends."""
    place.locks.mkdir(parents=True, exist_ok=True)  # which holds MODEL.lock too: no model has an @ in its name
    with (place.locks / "@release.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
