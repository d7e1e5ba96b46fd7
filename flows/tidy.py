"""`atelier tidy`: what nobody needs any more goes, once a person has seen it: roots first, then marks, then the sweep.

Nothing is removed in place: a folder is renamed away and then deleted, so that a kill leaves it whole or gone, and what
lies aside goes with the next tidying. What runs use is swept only while no run is on; runs wait meanwhile.
"""

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from components import process
from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.packaging import bento_model
from components.store import aside, sweep, write_atomically
from flows import disk, durations, rollout, turns
from flows import roots as root_files
from flows.roots import Roots
from flows.workspace import Workspace

BATCH = 100  # of Prefect's runs in one transaction: its server writes in between
FINAL = ("COMPLETED", "FAILED", "CANCELLED", "CRASHED")
YOUNG_SECONDS = 600.0  # whatever is younger may belong to what has only just begun


@dataclass(frozen=True)
class Policy:
    """What is kept: so many of each kind, and all that is younger than so many seconds."""

    keep: int = 5
    seconds: float = 30 * 86400.0
    retire: bool = False  # older versions are given up for good: in the ledger, then their bytes
    dvc_cache: bool = False  # data that no pointer names now go out of DVC's cache, where its remote holds them


@dataclass(frozen=True)
class Item:
    """One thing that may go, and why it does or stays."""

    part: str
    name: str
    bytes: int
    goes: bool
    why: str
    paths: tuple[Path, ...] = field(default=(), repr=False)

    def as_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("part", "name", "bytes", "goes", "why")}


def age(text: str) -> float:
    """The seconds of an age such as 30d; an `AtelierError` where it is none."""
    if not text[:-1].isdigit() or text[-1:] not in durations.UNITS:
        raise AtelierError(f"{text!r} is no age; write a whole number and one of s, m, h, d, as in --older-than 30d")
    return durations.seconds(text)


def plan(place: Workspace, policy: Policy) -> list[Item]:
    """Everything that was looked at, without a change."""
    roots = root_files.find(place, keep=policy.keep, seconds=policy.seconds)
    gone = [*roots.retired, *(roots.idle if policy.retire else [])]
    left = [version for version in roots.versions if version not in gone]
    return [
        *_versions(roots, policy),
        *_results(place, roots),
        *_stored(place, roots, policy),
        *_checkpoints(place, policy),
        *_packaged(place, gone, left),
        *_archived(place, gone, left),
        *_tracked(place, roots, gone, policy),
        *_prefect(place, policy),
        *_requests(place, policy),
        *_files("reports", place.reports.glob("*/v[0-9]*/"), policy, keep=0, group=lambda path: path.parent.name),
        *_files("records", place.records.glob("*.json"), policy, keep=policy.keep, group=_recipe_of),
        *_cached(place, policy),
        *_files("logs", (place.root / "logs").glob("*.log.*"), policy, keep=0, group=lambda path: path.name),
    ]


def apply(place: Workspace, policy: Policy, *, wait_seconds: float = 60.0) -> list[Item]:
    """Do it, and return what went and what stayed.

    While a run is on, what runs use stays, and says so. Marks are made anew under the lock: nothing that was needed
    since is lost.
    """
    with turns.tidying(place.locks, wait_seconds=wait_seconds) as alone:
        if alone and policy.retire:
            _retire(place, policy)
        items = plan(place, replace(policy, retire=policy.retire and not alone))
        if not alone:
            items = [replace(item, goes=False, why="a run is on") if item.part in SHARED else item for item in items]
        else:
            for root in (place.store, place.bentos):
                sweep(root)
        for part in ORDER:
            mine = [item for item in items if item.part == part and item.goes]
            if mine:
                SWEEPS.get(part, _remove)(place, mine, policy)
    return items


def as_json(items: Iterable[Item], *, done: bool) -> dict[str, Any]:
    """The form of `atelier tidy --json`."""
    held = list(items)
    freed = sum(item.bytes for item in held if item.goes)
    return {"schema": 1, "done": done, "bytes": freed, "items": [item.as_dict() for item in held]}


def shown(items: Iterable[Item], *, done: bool) -> RenderableType:
    """The same for a person: of each part what goes, and what stays for which reason."""
    held = list(items)
    rows = Table("part", "went" if done else "would go", "bytes", "stays", "why it stays")
    for part in dict.fromkeys(item.part for item in held):
        goes = [item for item in held if item.part == part and item.goes]
        stays = [item for item in held if item.part == part and not item.goes]
        reasons: dict[str, int] = {}
        for item in stays:
            reasons[item.why] = reasons.get(item.why, 0) + 1
        most = sorted(reasons.items(), key=lambda pair: -pair[1])
        words = "; ".join(f"{count} {why}" for why, count in most[:4]) + ("; ..." if len(most) > 4 else "")
        size = disk.shown(sum(item.bytes for item in goes)) if goes else ""
        rows.add_row(part, str(len(goes) or ""), size, str(len(stays) or ""), words)
    total = disk.shown(sum(item.bytes for item in held if item.goes))
    line = f"{total} freed" if done else f"{total} would be freed: atelier tidy --yes does it"
    return Group(rows, Text(line, "bold"))


def _versions(roots: Roots, policy: Policy) -> Iterator[Item]:
    """Versions beside their bytes, which are items of their own."""
    for version in roots.versions:
        name, why = f"{version.model}@{version.version}", roots.kept.get((version.model, version.version))
        if why is not None:
            yield Item("versions", name, 0, False, why.partition(" is ")[2] or why)
        elif version in roots.idle:
            older = "given up for good" if policy.retire else "may still be promoted; --retire gives it up"
            yield Item("versions", name, 0, policy.retire, f"old: {older}")


def _results(place: Workspace, roots: Roots) -> Iterator[Item]:
    for path in sorted((place.prefect / "storage").glob("*")):
        why = roots.results.get(path.name)
        yield Item("results", path.name, _size(path), why is None, why or "no recipe would use it", (path,))


def _stored(place: Workspace, roots: Roots, policy: Policy) -> Iterator[Item]:
    archived = {path.stem for path in place.dvc.glob("*/*.dvc")}
    own = {part.digest for version in roots.versions for part in version.pointers}
    registered = {digest.removeprefix("sha256:") for digest in own}
    for path in sorted(place.store.glob("*/*")):
        if path.parent.name == "aside":
            continue
        why = roots.digests.get(path.name)
        if why is None and _is_young(path, policy):
            why = "it is young"
        if why is None and path.name in registered and path.name not in archived:
            retired = {part.digest for version in roots.retired for part in version.pointers}
            why = None if f"sha256:{path.name}" in retired else "the archive does not hold it"
        words = why or "nothing names it, or the archive holds it"
        yield Item("store", f"{path.parent.name}/{path.name[:12]}", _size(path), why is None, words, (path,))


def _checkpoints(place: Workspace, policy: Policy) -> Iterator[Item]:
    for path in sorted(place.checkpoints.glob("*/")):
        why = "it is young" if _is_young(path, policy) else ""
        why = why or ("its training is on" if _is_held(path) else "")
        told = why or "its run was never gone on with"
        yield Item("checkpoints", path.name[:16], _size(path), not why, told, (path,))


def _packaged(place: Workspace, gone: list[Version], left: list[Version]) -> Iterator[Item]:
    """Bentos and Bento models of versions that were given up; all others stay as they were proven."""
    needed = {bento_model(version.model, version.bundle) for version in left}
    for version in gone:
        told = f"{version.model}@{version.version} was given up"
        for bento in sorted((place.bentos / "bentos" / version.model).glob(f"v{version.version}-*")):
            yield Item("Bentos", f"{version.model}:{bento.name}", _size(bento), True, told, (bento,))
        tag = bento_model(version.model, version.bundle)
        folder = place.bentos / "models" / tag.replace(":", "/")
        if folder.is_dir() and tag not in needed:
            yield Item("Bentos", f"model {tag[:60]}", _size(folder), True, told, (folder,))
    for version in left:
        for bento in sorted((place.bentos / "bentos" / version.model).glob(f"v{version.version}-*")):
            told = f"{version.model}@{version.version} may be served"
            yield Item("Bentos", f"{version.model}:{bento.name}", _size(bento), False, told)


def _archived(place: Workspace, gone: list[Version], left: list[Version]) -> Iterator[Item]:
    needed = {(part.kind, part.digest) for version in left for part in version.pointers}
    seen = set[tuple[str, str]]()
    for version in [*gone, *left]:
        for part in version.pointers:
            path = place.dvc / part.kind / f"{part.digest.removeprefix('sha256:')}.dvc"
            if (part.kind, part.digest) in seen or not path.is_file():
                continue
            seen.add((part.kind, part.digest))
            stays = (part.kind, part.digest) in needed
            why = "a version that is kept needs it" if stays else f"{version.model}@{version.version} was given up"
            name = f"{part.kind}/{path.stem[:12]}"
            yield Item("archive", name, _pointed_bytes(path), not stays, why, (path,))


def _tracked(place: Workspace, roots: Roots, gone: list[Version], policy: Policy) -> Iterator[Item]:
    """Files of MLflow's runs, not their numbers; and whole models of versions that were given up."""
    if not (place.root / "mlflow.db").is_file():
        return
    models = root_files.mlflow_models(place)
    for version in gone:
        folder = models.get((version.model, version.version))
        if folder is not None and folder.is_dir():
            told = f"{version.model}@{version.version} was given up"
            yield Item("MLflow", f"model of {version.model}@{version.version}", _size(folder), True, told, (folder,))
    left = [version for version in roots.versions if version not in gone]
    of = {version.run: f"{version.model}@{version.version} came of it" for version in left}
    with closing(sqlite3.connect(place.root / "mlflow.db", timeout=30)) as base:
        query = "SELECT run_uuid, experiment_id, status, start_time FROM runs ORDER BY experiment_id, start_time DESC"
        rows = base.execute(query).fetchall()
    before: dict[int, int] = {}
    for run, experiment, status, started in rows:
        rank = before[experiment] = before.get(experiment, 0) + 1
        for folder in place.runs.glob(f"*/{run}/artifacts"):
            why = of.get(run) or ("it has not ended" if status == "RUNNING" else None)
            why = why or (f"it is among the newest {policy.keep} of its recipe" if rank <= policy.keep else None)
            young = (started or 0) / 1000 > time.time() - policy.seconds
            told = why or ("it is young" if young else "old")
            yield Item("MLflow", f"run {run[:12]}", _size(folder), told == "old", told, (folder,))


def _prefect(place: Workspace, policy: Policy) -> Iterator[Item]:
    """Runs that ended long ago; of each flow the newest stay. What is scheduled, or on, is not looked at."""
    if not (place.prefect / "prefect.db").is_file():
        return
    marked = {line for notes in place.locks.glob("*.flows") for line in notes.read_text(errors="replace").split()}
    with closing(sqlite3.connect(place.prefect / "prefect.db", timeout=30)) as base:
        query = (
            "SELECT id, flow_id, state_type, strftime('%s', coalesce(end_time, start_time, created)) FROM flow_run "
            "ORDER BY flow_id, coalesce(end_time, start_time, created) DESC"
        )
        rows = base.execute(query).fetchall()
    before: dict[str, int] = {}
    for run, flow, state, ended in rows:
        rank = before[flow] = before.get(flow, 0) + 1
        why = None
        if state not in FINAL:
            why = "it is scheduled" if state == "SCHEDULED" else "it has not ended"
        elif run in marked:
            why = "a run that is on has begun it"
        elif float(ended or 0) > time.time() - policy.seconds:
            why = "it is young"
        elif rank <= policy.keep:
            why = f"it is among the newest {policy.keep} of its flow"
        yield Item("Prefect", run, 0, why is None, why or "old")


def _requests(place: Workspace, policy: Policy) -> Iterator[Item]:
    path = place.serving / "journal.db"
    if not path.is_file():
        return
    with closing(sqlite3.connect(path, timeout=30)) as base:
        cut = time.time() - policy.seconds
        for table in _tables(base):
            old = base.execute(f"SELECT count(*) FROM {table} WHERE time < ?", (cut,)).fetchone()[0]
            if old:
                yield Item("requests", f"{old} rows of {table}", 0, True, "old", (path,))
    folder = place.serving / "observations"
    yield from _files("requests", folder.rglob("*.parquet"), policy, keep=0, group=lambda path: path.parent.name)


def _files(
    part: str, paths: Iterable[Path], policy: Policy, *, keep: int, group: Callable[[Path], str]
) -> Iterator[Item]:
    """Files and folders by age, of each group the newest `keep` whatever their age."""
    before: dict[str, int] = {}
    for path in sorted(paths, key=lambda path: -path.stat().st_mtime):
        rank = before[group(path)] = before.get(group(path), 0) + 1
        why = f"it is among the newest {keep} of its recipe" if rank <= keep else None
        why = "it is young" if _is_young(path, policy) else why
        yield Item(part, path.name, _size(path), why is None, why or "old", (path,))


def _cached(place: Workspace, policy: Policy) -> Iterator[Item]:
    if policy.dvc_cache:
        from components import versioning

        for name, size in versioning.unused_cache(place.project, remove=False).items():
            yield Item("DVC cache", name, size, True, "no pointer names it, and the remote holds it")


def _sweep_cache(place: Workspace, items: Iterable[Item], policy: Policy) -> None:
    from components import versioning

    versioning.unused_cache(place.project, remove=True)


def _retire(place: Workspace, policy: Policy) -> None:
    """Give old versions up, before their bytes go: from here on none of them can get an alias."""
    ledger = Ledger(place.ledger_url)
    roots = root_files.find(place, keep=policy.keep, seconds=policy.seconds)
    for version in roots.idle:
        try:
            ledger.retire(version.model, version.version, "atelier tidy --retire")
        except AtelierError:  # it got an alias just now
            continue
    if roots.idle:
        rollout.publish(place)


def _remove(place: Workspace, items: Iterable[Item], policy: Policy) -> None:
    """Rename away, then delete."""
    for item in items:
        for path in item.paths:
            with aside(place.bentos if path.is_relative_to(place.bentos) else place.store) as folder:
                try:
                    path.rename(folder / "old")
                except FileNotFoundError:
                    continue


def _sweep_bentos(place: Workspace, items: Iterable[Item], policy: Policy) -> None:
    """Bentos first, since they name their models; `latest` names one that is there."""
    held = sorted(items, key=lambda item: item.name.startswith("model "))
    _remove(place, held, policy)
    for parent in {path.parent for item in held for path in item.paths}:
        left = sorted((path for path in parent.iterdir() if path.is_dir()), key=lambda path: path.stat().st_mtime)
        latest = parent / "latest"
        if left and latest.is_file() and not (parent / latest.read_text()).is_dir():
            write_atomically(latest, left[-1].name.encode())


def _sweep_checkpoints(place: Workspace, items: Iterable[Item], policy: Policy) -> None:
    for item in items:
        for path in item.paths:
            with path.with_name(f"{path.name}.lock").open("a") as lock:
                if process.locked(lock.fileno()):
                    _remove(place, [item], policy)
                    path.with_name(f"{path.name}.lock").unlink(missing_ok=True)


def _sweep_archive(place: Workspace, items: Iterable[Item], policy: Policy) -> None:
    from components import versioning

    versioning.Archive(place.dvc).drop([path for item in items for path in item.paths])


def _sweep_prefect(place: Workspace, items: Iterable[Item], policy: Policy) -> None:
    ids = [item.name for item in items]
    with closing(sqlite3.connect(place.prefect / "prefect.db", timeout=60)) as base:
        base.execute("PRAGMA foreign_keys = ON")
        for start in range(0, len(ids), BATCH):
            some = ids[start : start + BATCH]
            marks = ", ".join("?" * len(some))
            with base:
                for table in ("log", "artifact"):
                    base.execute(f"DELETE FROM {table} WHERE flow_run_id IN ({marks})", some)
                base.execute(
                    f"DELETE FROM flow_run WHERE id IN ({marks}) AND state_type IN ({', '.join('?' * len(FINAL))})",
                    [*some, *FINAL],
                )


def _sweep_requests(place: Workspace, items: Iterable[Item], policy: Policy) -> None:
    held, journal = list(items), place.serving / "journal.db"
    _remove(place, [item for item in held if item.paths != (journal,)], policy)
    if any(item.paths == (journal,) for item in held):
        with closing(sqlite3.connect(journal, timeout=30)) as base, base:
            for table in _tables(base):
                base.execute(f"DELETE FROM {table} WHERE time < ?", (time.time() - policy.seconds,))


def _tables(base: sqlite3.Connection) -> list[str]:
    """The tables of the journal that are there: an older one has fewer."""
    there = {name for (name,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    return [table for table in JOURNAL if table in there]


def _pointed_bytes(pointer: Path) -> int:
    for line in pointer.read_text().splitlines():
        if line.strip().startswith("size:"):
            return int(line.partition(":")[2])
    return 0


def _is_held(checkpoint: Path) -> bool:
    path = checkpoint.with_name(f"{checkpoint.name}.lock")
    if not path.is_file():
        return False
    with path.open("r+") as lock:
        return not process.locked(lock.fileno())


def _recipe_of(record: Path) -> str:
    """A record is called TIME-RECIPE-PROCESS."""
    return record.stem.partition("-")[2].rpartition("-")[0]


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(entry.stat(follow_symlinks=False).st_size for entry in _entries(path))
    return path.stat().st_size


def _entries(path: Path) -> Iterator["os.DirEntry[str]"]:
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _entries(Path(entry.path))
            else:
                yield entry


def _is_young(path: Path, policy: Policy) -> bool:
    """Whether anything in it was written lately, or it got its name only just now: what is copied keeps its times."""
    found, now = path.stat(), time.time()
    written = [found.st_mtime]
    if path.is_dir():
        written += [entry.stat(follow_symlinks=False).st_mtime for entry in _entries(path)]
    return max(written) > now - policy.seconds or found.st_ctime > now - YOUNG_SECONDS


JOURNAL = ("requests", "feedback", "preferences")  # the tables of the endpoints' journal
SHARED = ("versions", "results", "store", "checkpoints", "Bentos", "archive", "MLflow", "DVC cache")
# Whatever names something goes before it.
ORDER = (
    "results", "store", "checkpoints", "Bentos", "archive", "MLflow", "DVC cache", "Prefect", "requests", "reports",
    "records", "logs",
)  # fmt: skip
SWEEPS: Mapping[str, Callable[[Workspace, Iterable[Item], Policy], None]] = {
    "Bentos": _sweep_bentos,
    "checkpoints": _sweep_checkpoints,
    "archive": _sweep_archive,
    "DVC cache": _sweep_cache,
    "Prefect": _sweep_prefect,
    "requests": _sweep_requests,
}
