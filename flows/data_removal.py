"""`atelier data exclude` and `exclusions`: rows that no later run uses, and the versions that were trained on them."""

import hashlib
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from pydantic import JsonValue
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from components import changes, commits, exclusions, ingestion, manifest, modalities, versioning
from components import recipe as recipes
from components.data_card import Difference
from components.errors import AtelierError
from components.exclusions import EVERYWHERE, Exclusion
from components.ledger import Ledger, Version
from components.recipe import Data, Recipe
from components.records import Artifact, Pointer
from components.sources.urls import is_url
from components.spelling import unknown
from components.store import Store, aside, sweep
from components.versioning import Archive
from flows import data_adding
from flows.workspace import Workspace

HEX = set("0123456789abcdef")
TRAINED, MEASURED, UNUSED, NEVER, UNKNOWN = "trained", "measured", "unused", "no", "unknown"
SEVEREST = (TRAINED, MEASURED, UNKNOWN, UNUSED, NEVER)


@dataclass(frozen=True)
class Row:
    """A row that is to be excluded; its bytes are not known where a digest alone was named."""

    name: str
    digest: str | None
    content: str | None
    md5: str | None  # as DVC names a file of the same bytes


def exclude(
    place: Workspace,
    path: Path,
    named: Sequence[str],
    *,
    why: str,
    of: str | None = None,
    everywhere: bool = False,
    retrain: bool = False,
    commit: bool = True,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Exclude rows of a recipe's source from every later run, and tell which versions were trained on them.

    A row is named by a file of the source, by its id, or by a digest as its facts have it; `of` names another one of
    the recipe's sources. As `--json` tells it.
    """
    recipe = recipes.load(path)
    data = _data(recipe, of)
    source = exclusions.named(data.source)
    why = " ".join(why.split())
    if not why:
        raise AtelierError("--why says nothing: an exclusion needs its reason, for those who ask later.")
    _refuse_unfit(place, source)
    with changes.turn(place.project, say=say):
        data_adding.finish(place)
        pointer = changes.pointer_of(place.project, exclusions.FOLDER).pointer
        if commit:
            commits.refuse_unfit(place.project, pointer)
        brought = ingestion.bring(data, project=place.project, store=Store(place.store))
        rows = _find(place, data, recipe.modality, named, brought if is_url(data.source) else None)
        target = EVERYWHERE if everywhere else source
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        wanted = [
            Exclusion(source=target, digest=row.digest, content=row.content, row=row.name, why=why, time=now)
            for row in rows
        ]
        file = exclusions.file_of(target)
        whole, fresh = exclusions.with_more(exclusions.read(place.project / file), wanted)
        asked = retrain or (recipe.retrain is not None and recipe.retrain.data)
        made = _apply(place, recipe, file, whole, fresh, why, commit=commit, retrain=asked) if fresh else None
    return {
        "schema": 1,
        "source": target,
        "excluded": [one.model_dump(mode="json") for one in fresh],
        "already": len(wanted) - len(fresh),
        "commit": made,
        "retrain": asked and bool(fresh),
        "versions": trained_on(place, rows),
    }


def _data(recipe: Recipe, of: str | None) -> Data:
    """The recipe's own source, or the one of its `more` that is named, to be read by itself."""
    if of is None or exclusions.named(of) == exclusions.named(recipe.data.source):
        return recipe.data.model_copy(update={"more": ()})
    more = {exclusions.named(one.source): one for one in recipe.data.more}
    if exclusions.named(of) not in more:
        known = [exclusions.named(recipe.data.source), *more]
        raise AtelierError(f"--from: {recipe.model} takes no rows from it: {unknown('source', of, known)}")
    found = more[exclusions.named(of)]
    return Data(source=found.source, kind=found.kind)


def _refuse_unfit(place: Workspace, source: str) -> None:
    if not is_url(source) and exclusions.FOLDER.startswith(f"{source}/"):
        raise AtelierError(
            f"the source {source!r} holds the folder {exclusions.FOLDER} itself, where exclusions lie. Give the data a "
            "folder of their own below it, and name that in the recipe."
        )


def _apply(
    place: Workspace,
    recipe: Recipe,
    file: str,
    whole: Collection[Exclusion],
    fresh: Sequence[Exclusion],
    why: str,
    *,
    commit: bool,
    retrain: bool,
) -> str | None:
    told: list[JsonValue] = []
    target = fresh[0].source
    models = data_adding.users(place, target) or {recipe.model: Path()}
    words = f"{len(fresh)} {'row' if len(fresh) == 1 else 'rows'} excluded from {_spelt(target)}: {why}"
    facts: dict[str, JsonValue] = {"source": target, "rows": len(fresh)}
    for model in models:
        told.append({"kind": "row.excluded", "model": model, "why": words, "facts": facts})
    if retrain:
        told.append({"kind": "data.changed", "model": recipe.model, "why": words, "facts": facts | {"asked": True}})
    sweep(place.incoming)
    with aside(place.incoming) as folder:
        path = folder / "exclusions.jsonl"
        exclusions.write(path, whole)
        before = versioning.entries(place.project, exclusions.FOLDER)
        name = file.removeprefix(f"{exclusions.FOLDER}/")
        after = before | {name: manifest.md5_of(path)}
        change = Difference(
            source=_spelt(target), old=None, new=f"md5:{manifest.name_of(after)}", before=None, after=None,
            excluded=len(fresh),
        )  # fmt: skip
        return data_adding.apply(
            place,
            changes.Change(
                source=exclusions.FOLDER,
                files={file: path},
                message=change.message(why=why) if commit else None,
                note={"events": told},
            ),
        )


def _spelt(source: str) -> str:
    return "every source" if source == EVERYWHERE else source


def _find(place: Workspace, data: Data, modality: str, named: Sequence[str], brought: Any) -> list[Row]:
    """The rows that are named; an `AtelierError` names one that is not there."""
    wanted = [_below(name, data.source) for name in named]
    told = modalities.part(modality, "rows")
    found: list[Row] = []
    met: set[str] = set()
    for name in wanted:
        if name in met:
            continue
        files = _rows_of_file(place, data, modality, name, brought)
        found += [_row(row, payload, told) for row, payload in files]
        if files:
            met.add(name)
    left = [name for name in dict.fromkeys(wanted) if name not in met]
    if left:
        near: list[str] = []
        batches = ingestion.stream(
            data, modality=modality, project=place.project, store=Store(place.store), source=brought
        )
        for batch in batches:
            for row, payload in zip(batch["id"].to_pylist(), batch["payload"].to_pylist(), strict=True):
                keys = {row, hashlib.sha256(payload).hexdigest()} & set(left)
                if not keys and any(_is_digest(name) for name in left) and (content := told.content_digest(payload)):
                    keys = {content} & set(left)
                if keys:
                    met |= keys
                    found.append(_row(row, payload, told))
                elif len(near) < 10_000:
                    near.append(row)
        for name in left:
            if name not in met and not _is_digest(name):
                raise AtelierError(
                    f"{data.source!r} has no file and no row of that name: {unknown('row', name, near)}. Or "
                    "name it by the digest of its bytes or of its content, 64 hexadecimal digits."
                )
            if name not in met:  # none is there now: it is kept out if it comes back
                found += [Row(name, name, None, None), Row(name, None, name, None)]
    return found


def _is_digest(name: str) -> bool:
    return len(name) == 64 and set(name) <= HEX


def _below(name: str, source: str) -> str:
    """A name relative to the source, where it was given relative to the project."""
    return name.removeprefix(f"{source.rstrip('/')}/") if not is_url(source) else name


def _rows_of_file(place: Workspace, data: Data, modality: str, name: str, brought: Any) -> list[tuple[str, bytes]]:
    """The rows that a file of the source holds; none where there is no such file."""
    store = Store(place.store)
    root = (
        versioning.locate(place.project, data.source)
        if brought is None
        else store.path(Artifact(kind="source", digest=brought.version))
    )
    if not (root / name).is_file() or not (root / name).resolve().is_relative_to(root.resolve()):
        return []
    whole = hashlib.sha256((root / name).read_bytes()).hexdigest()
    batches = ingestion.stream(
        data, modality=modality, project=place.project, store=store, source=brought, files=[name]
    )
    rows = []
    for batch in batches:
        for row, payload in zip(batch["id"].to_pylist(), batch["payload"].to_pylist(), strict=True):
            rows.append((row, payload))
    own = [(row, payload) for row, payload in rows if hashlib.sha256(payload).hexdigest() == whole]
    return own[:1] or rows  # with metadata all rows come: the file is one of them, or holds them


def _row(name: str, payload: bytes, told: Any) -> Row:
    return Row(
        name, hashlib.sha256(payload).hexdigest(), told.content_digest(payload), hashlib.md5(payload).hexdigest()
    )


def trained_on(place: Workspace, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Of each registered version whether it was trained on any of the rows, and how that is known.

    `trained`, `measured` (among its held-out rows), `unused` (its checks left it out), `no`, or `unknown`; one that
    went on from another's weights was trained on what that one was.
    """
    ledger = Ledger(place.ledger_url)
    facts: dict[str, dict[str, str]] = {}
    told: dict[str, dict[str, Any]] = {}
    for version in ledger.versions():
        name = f"{version.model}@{version.version}"
        try:
            fate, how = _fate(place, version, rows, facts)
        except AtelierError as error:
            fate, how = UNKNOWN, str(error)
        begun = ledger.pinned(version.model, "init", version.version)
        if begun in told and SEVEREST.index(told[begun]["fate"]) < SEVEREST.index(fate):
            fate, how = told[begun]["fate"], f"it went on from {begun}"
        aliases = [alias for alias, move in ledger.current(version.model).items() if move.version == version.version]
        told[name] = {"model": version.model, "version": version.version, "aliases": aliases, "fate": fate, "how": how}
    return [one for one in told.values() if one["fate"] != NEVER]


def _fate(place: Workspace, version: Version, rows: Sequence[Row], known: dict[str, dict[str, str]]) -> tuple[str, str]:
    """What one version has to do with the rows, by the facts of its own rows, or by the files that it was made from."""
    pointers = {pointer.kind: pointer for pointer in version.pointers}
    if (pointer := pointers.get("facts")) is not None:
        if pointer.digest not in known:
            known[pointer.digest] = _fates(place, pointer, rows)
        fates = {known[pointer.digest].get(key, NEVER) for row in rows for key in (row.digest, row.content) if key}
        return min(fates, key=SEVEREST.index), "by the facts of its rows"
    if (pointer := pointers.get("data")) is None:
        return UNKNOWN, "the ledger does not say what it was trained on"
    files = set(Archive(place.dvc).manifest(pointer).values())
    if any(row.md5 in files for row in rows):
        return TRAINED, "a file of the same bytes is in its data"
    return UNKNOWN, f"no such file is in its data; `atelier restore {version.model}@{version.version}` brings its rows"


def _fates(place: Workspace, pointer: Pointer, rows: Sequence[Row]) -> dict[str, str]:
    """What became of each digest in a version's facts, from the store or the archive."""
    store, wanted = Store(place.store), {key for row in rows for key in (row.digest, row.content) if key}
    artifact = Artifact(kind=pointer.kind, digest=pointer.digest)
    with tempfile.TemporaryDirectory() as folder:
        place_of = store.path(artifact) if store.holds(artifact) else Path(folder) / "facts"
        if not store.holds(artifact):
            Archive(place.dvc).bring(pointer, place_of)
        found: dict[str, str] = {}
        with pq.ParquetFile(place_of / "facts.parquet") as file:
            for batch in file.iter_batches(columns=["digest", "content_digest", "split", "rejected"]):
                for row in batch.to_pylist():
                    for key in {row["digest"], row["content_digest"]} & wanted:
                        fate = UNUSED if row["rejected"] else TRAINED if row["split"] == "train" else MEASURED
                        found[key] = min(found.get(key, NEVER), fate, key=SEVEREST.index)
    return found


def report(told: Mapping[str, Any]) -> RenderableType:
    """The same for a person."""
    lines: list[RenderableType] = []
    for one in told["excluded"]:
        lines.append(Text.assemble(("+ ", "green"), f"{one['row']} is excluded from {_spelt(one['source'])}"))
    if told["already"]:
        lines.append(f"{told['already']:,} were excluded already")
    if told["versions"]:
        table = Table(title="Versions that have to do with them", title_justify="left")
        for title in ("version", "aliases", "", "how that is known"):
            table.add_column(title)
        for one in told["versions"]:
            style = "red" if one["fate"] == TRAINED else ""
            words = {TRAINED: "trained on it", MEASURED: "measured with it", UNUSED: "in its data, unused"}
            fate = Text(words.get(one["fate"], "cannot be told"), style)
            table.add_row(f"{one['model']}@{one['version']}", ", ".join(one["aliases"]), fate, one["how"])
        lines.append(table)
    else:
        lines.append("no registered version has to do with them")
    if told["retrain"]:
        hint = "the triggers are told: a run starts where `retrain: {data: true}` is applied, else by `atelier run`"
        lines.append(Text(hint, "dim"))
    if told["excluded"]:
        lines.append(Text(data_adding.committed(told["commit"]), "dim"))
    return Group(*lines)


def listed(place: Workspace, path: Path | None) -> dict[str, Any]:
    """The exclusions of a project, or those that hold for a recipe's source."""
    versioning.pull(place.project, exclusions.FOLDER)
    if path is None:
        found = exclusions.every(place.project)
    else:
        found = exclusions.holding(place.project, recipes.load(path).data.source)
    return {"schema": 1, "exclusions": [one.model_dump(mode="json") for one in found]}


def table(told: Mapping[str, Any]) -> RenderableType:
    """The same for a person."""
    if not told["exclusions"]:
        return "nothing is excluded"
    rows = Table()
    for title in ("source", "row", "content", "why", "when"):
        rows.add_column(title)
    for one in told["exclusions"]:
        key = one["content"] or one["digest"] or ""
        rows.add_row(_spelt(one["source"]), Text(one["row"]), key[:12], Text(one["why"]), one["time"][:16])
    return rows
