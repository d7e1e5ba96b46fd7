"""What a workspace still needs: the roots from which `atelier tidy` marks, before anything is swept."""

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from components.ledger import Ledger, Version
from components.tree import walk
from flows import known, runs
from flows.workspace import Workspace

DIGEST = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
READ_BYTES = 2**24  # of a file that may name digests; larger ones hold data
# Folders whose files hold what a mark is about, or that name more than is needed.
UNREAD = ("store", "dvc", "mlruns", "prefect", "bentoml", "records", "reports", "logs", "checkpoints", "keys", "locks")

SERVED = ("release.json", "status.json", "up.json")  # they name what the Bento store holds


@dataclass
class Roots:
    """Versions by what becomes of them, and every digest that is needed with the reason."""

    kept: dict[tuple[str, str], str] = field(default_factory=dict)  # versions, and why
    idle: list[Version] = field(default_factory=list)  # that may still be promoted: the archive holds them
    retired: list[Version] = field(default_factory=list)
    versions: list[Version] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)  # 64 hex digits, and why
    results: dict[str, str] = field(default_factory=dict)  # kept results of stages by name, and why
    busy: set[str] = field(default_factory=set)  # models whose run has not ended

    def need(self, text: str, why: str) -> None:
        """Every digest in a text is needed."""
        for digest in DIGEST.findall(text):
            self.digests.setdefault(digest, why)


def find(place: Workspace, *, keep: int, seconds: float) -> Roots:
    """The roots now: `keep` versions of each model, and whatever is younger than so many seconds."""
    roots, since = Roots(), time.time() - seconds
    last = runs.last(place)
    recipes = known.recipes(place, {model: run.recipe for model, run in last.items()})
    roots.busy = {model for model, run in last.items() if run.ended is None}
    _versions(place, roots, recipes, keep=keep, since=since)
    lively = set(recipes) | {model for model, run in last.items() if _seconds(run.began) >= since}
    _results(place, roots, lively, since)
    for path in _small_files(place):
        with suppress(OSError):
            roots.need(path.read_text(errors="replace"), f"{path.relative_to(place.root)} names it")
    return roots


def _versions(place: Workspace, roots: Roots, recipes: dict[str, known.Known], *, keep: int, since: float) -> None:
    ledger = Ledger(place.ledger_url)
    held, gone = ledger.currents(), ledger.retired()
    roots.versions = ledger.versions()
    begun = {str(init) for recipe in recipes.values() for init in _inits(recipe.raw)}
    of: dict[str, list[Version]] = {}
    for version in roots.versions:
        of.setdefault(version.model, []).append(version)
    for model, versions in of.items():
        aliases = {move.version: alias for alias, move in held.get(model, {}).items()}
        newest = {version.version for version in versions[-keep:]} if keep else set[str]()
        for version in versions:
            name = (model, version.version)
            if alias := aliases.get(version.version):
                roots.kept[name] = f"{model}@{version.version} is {alias}"
            elif name in gone:
                roots.retired.append(version)
            elif f"{model}@{version.version}" in begun:
                roots.kept[name] = f"a recipe begins at {model}@{version.version}"
            elif version.version in newest:
                roots.kept[name] = f"{model}@{version.version} is among the newest {keep}"
            elif _seconds(version.created) >= since:
                roots.kept[name] = f"{model}@{version.version} is young"
            else:
                roots.idle.append(version)
    for version in roots.versions:
        if why := roots.kept.get((version.model, version.version)):
            roots.need(version.bundle, why)
            for pointer in version.pointers:
                roots.need(pointer.digest, why)
    for digest in ledger.pinned_digests():
        roots.need(digest, "the ledger has it pinned")


def _inits(raw: object) -> Iterator[object]:
    candidates = raw.get("candidates") if isinstance(raw, dict) else None
    for candidate in (candidates or {}).values() if isinstance(candidates, dict) else ():
        if isinstance(candidate, dict) and candidate.get("init"):
            yield candidate["init"]


def _results(place: Workspace, roots: Roots, lively: set[str], since: float) -> None:
    """What the next run of a known recipe would find done, with all that it names."""
    for note in place.keys.glob("*/*.json"):
        if note.parent.name in lively or note.stat().st_mtime >= since:
            with suppress(OSError, ValueError, KeyError, TypeError):
                told = note.read_text()
                roots.need(told, f"the next run of {note.parent.name} would use it")
                roots.results[str(json.loads(told)["name"])] = f"the next run of {note.parent.name} would use it"
    for path in (place.prefect / "storage").glob("*"):
        why = roots.results.get(path.name)
        if why is None and path.stat().st_mtime >= since:
            why = roots.results[path.name] = "it is young"
        if why is not None:
            with suppress(OSError):
                roots.need(path.read_text(errors="replace"), why)


def _small_files(place: Workspace) -> Iterator[Path]:
    """Files of other parts of the platform that may name what lies in the store."""
    for top in place.root.iterdir():
        if top.name in UNREAD or top.is_symlink():
            continue
        files = [top] if top.is_file() else [top / entry.name for entry in walk(top) if entry.what == "file"]
        for file in files:
            if file.suffix in (".json", ".jsonl") and file.name not in SERVED and file.stat().st_size <= READ_BYTES:
                yield file


def mlflow_models(place: Workspace) -> dict[tuple[str, str], Path]:
    """Where MLflow keeps the files of each registered version, for those that lie in the workspace."""
    path = place.root / "mlflow.db"
    if not path.is_file():
        return {}
    with closing(sqlite3.connect(path, timeout=30)) as base:
        rows = base.execute("SELECT name, version, source FROM model_versions").fetchall()
    found = {}
    for name, version, source in rows:
        folder = Path(unquote(urlsplit(source or "").path))
        if folder.is_relative_to(place.runs):
            found[name, str(version)] = folder
    return found


def _seconds(time: str) -> float:
    moment = datetime.fromisoformat(time)
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
