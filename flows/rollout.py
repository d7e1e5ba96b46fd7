"""What the endpoints serve: the release record, computed from the ledger alone and written whole or not at all."""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.packaging import ALIASES, bento_model, served
from components.store import write_atomically
from flows.workspace import Workspace


def publish(place: Workspace) -> int:
    """Write what the ledger says now into the release record, and return the number of the record that is there.

    The number is the ledger's newest generation. A record that says the same already stays untouched, as does one with
    a higher number, which someone with a newer ledger has written. Whoever asks twice, or beside others, changes
    nothing.
    """
    with _alone(place):
        record, there = compute(place), _there(place.release)
        if there is not None and (there == record or there["number"] > record["number"]):
            return int(there["number"])
        write_atomically(place.release, (json.dumps(record, indent=2, sort_keys=True) + "\n").encode())
        return int(record["number"])


def compute(place: Workspace) -> dict[str, Any]:
    """The record that the ledger calls for: every model, its aliases, and the versions that may be asked for.

    Those are the versions whose verdict passed and whose Bento model is in the Bento store; an alias of another one
    points nowhere.
    """
    ledger = Ledger(place.ledger_url)
    models, number = {}, 0
    for model in sorted({version.model for version in ledger.versions()}):
        aliases = ledger.current(model)  # before the versions: one that is registered meanwhile has no alias here
        number = max([number, *(move.generation for move in aliases.values())])
        versions = {
            version.version: version for version in ledger.versions(model) if _may_serve(version, ledger, place)
        }
        pointed = {alias: aliases[alias].version if alias in aliases else None for alias in ALIASES}
        models[model] = {
            **{alias: version if version in versions else None for alias, version in pointed.items()},
            "versions": {name: served(version) for name, version in versions.items()},
        }
    return {"schema": 2, "number": number, "models": models}


def _may_serve(version: Version, ledger: Ledger, place: Workspace) -> bool:
    name, _, label = bento_model(version.model, version.bundle).partition(":")
    if not (place.bentos / "models" / name / label / "model.yaml").is_file():
        return False
    try:
        verdict = ledger.verdict(version.verdict)
    except AtelierError:  # altered since: it entitles to nothing, and must not stop the other models
        return False
    return verdict is not None and verdict.passed and verdict.bundle.digest == version.bundle


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
