"""What `ls`, `show` and `restore` tell: read from the ledger, so that neither MLflow nor Prefect is imported."""

import re
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from components.errors import AtelierError
from components.ledger import ALIASES, Alias, Ledger, Move, Version
from components.spelling import unknown
from flows import summary
from flows.workspace import Workspace


def models(place: Workspace) -> dict[str, Any]:
    """Every registered model with its aliases and versions, in the form of `atelier ls --json`."""
    ledger = Ledger(place.ledger_url)
    held, of = ledger.currents(), dict[str, list[Version]]()
    for version in ledger.versions():
        of.setdefault(version.model, []).append(version)
    gone = ledger.retired()
    return {"schema": 1, "models": [_model(name, held.get(name, {}), mine, gone) for name, mine in sorted(of.items())]}


def _model(name: str, aliases: dict[Alias, Move], mine: list[Version], gone: set[tuple[str, str]]) -> dict[str, Any]:
    pointed: dict[str, Any] = {alias: aliases[alias].version if alias in aliases else None for alias in ALIASES}
    return {
        "name": name,
        "modality": mine[-1].modality,
        **pointed,
        "versions": [_version(version, gone) for version in mine],
    }


def _version(version: Version, gone: set[tuple[str, str]]) -> dict[str, Any]:
    return {
        "version": version.version,
        "family": version.family,
        "verdict": "passed",  # nothing else is ever registered
        "created": version.created,
        "data": version.data,
        "model": version.bundle,
        "run": version.run,
        "retired": (version.model, version.version) in gone,  # its bytes are gone, and it can get no alias
    }


def table(found: dict[str, Any], *, most: int | None = None) -> RenderableType:
    """The models as a table, a row per version: of each model those with an alias and the newest `most` others."""
    if not found["models"]:
        return "No model is registered yet. Run a recipe: atelier run fashion"
    rows, left = Table(), 0
    for title in ("model", "version", "alias", "family", "created", "data", "bundle"):
        rows.add_column(title, no_wrap=True)
    for model in found["models"]:
        shown = _chosen(model, most)
        left += len(model["versions"]) - len(shown)
        for version in shown:
            aliases = [a for a in ALIASES if model[a] == version["version"]]
            short = (version["data"][:14], version["model"][:14])
            rows.add_row(
                model["name"],
                version["version"],
                ", ".join(aliases) or ("given up" if version["retired"] else ""),
                version["family"],
                version["created"][:16],
                *short,
            )
    return Group(rows, f"[dim]and {left:,} older versions: atelier ls --all[/dim]") if left else rows


def _chosen(model: dict[str, Any], most: int | None) -> list[dict[str, Any]]:
    pointed = {model[alias] for alias in ALIASES}
    free = [version["version"] for version in model["versions"] if version["version"] not in pointed]
    newest = set(free if most is None else free[max(0, len(free) - most) :])
    return [version for version in model["versions"] if version["version"] in pointed | newest]


def only(place: Workspace, model: str | None) -> str:
    """That model, or the only one there is; an `AtelierError` names the choices."""
    known = sorted({version.model for version in Ledger(place.ledger_url).versions()})
    if not known:
        raise AtelierError("no model is registered yet, so there is none to serve. Run a recipe: atelier run fashion")
    if model is None and len(known) > 1:
        raise AtelierError(f"there are several models: name the one to serve, of {', '.join(known)}")
    if model not in (None, *known):
        raise AtelierError(unknown("model", str(model), known))
    return model or known[0]


def recipe(place: Workspace, model: str) -> Path:
    """The file of the recipe that makes a model; an `AtelierError` where none does, or several do."""
    files = sorted((place.project / "flows" / "recipes").glob("*.yaml"))
    line = re.compile(rf"^model: *[\"']?{re.escape(model)}[\"']? *(#.*)?$", re.MULTILINE)
    found = [file for file in files if line.search(file.read_text(encoding="utf-8"))]
    if len(found) != 1:
        told = f"{len(found)} of them make it ({', '.join(file.name for file in found)})" if found else "none makes it"
        raise AtelierError(
            f"the recipe of {model} is not to be found among those in flows/recipes/: {told}. Name it with "
            "--recipe FILE."
        )
    return found[0]


def find(place: Workspace, named: str) -> Version:
    """The version that `MODEL`, `MODEL@VERSION` or `MODEL@ALIAS` names; the champion, else the newest, by default."""
    name, _, wanted = named.partition("@")
    ledger = Ledger(place.ledger_url)
    versions = {version.version: version for version in ledger.versions(name)}
    if not versions:
        known = sorted({version.model for version in ledger.versions()})
        raise AtelierError(
            unknown("model", name, known) if known else f"no model is registered yet, so no {name!r} either"
        )
    aliases: dict[str, str] = {alias: move.version for alias, move in ledger.current(name).items()}
    if not wanted:
        return versions[aliases["champion"]] if "champion" in aliases else list(versions.values())[-1]
    number = aliases.get(wanted, wanted)
    if number not in versions:
        raise AtelierError(f"{name}: {unknown('version', wanted, [*versions, *aliases])}")
    return versions[number]


def version(place: Workspace, named: str) -> dict[str, Any]:
    """One version whole: where it comes from, its verdict, and where its parts lie."""
    found = find(place, named)
    verdict = Ledger(place.ledger_url).verdict(found.verdict)
    assert verdict is not None, "the ledger keeps every verdict that it registered"
    aliases = [
        alias for alias, move in Ledger(place.ledger_url).current(found.model).items() if move.version == found.version
    ]
    pinned = {name: Ledger(place.ledger_url).pinned(found.model, name, found.version) for name in ("init", "synthetic")}
    told = {**found.model_dump(mode="json"), **pinned, "aliases": aliases}
    return {"schema": 1, **told, "record": verdict.model_dump(mode="json")}


def card(found: dict[str, Any]) -> RenderableType:
    """A version for a person: lineage on top, its metrics and gates below."""
    from components.records import Verdict

    lines = Table.grid(padding=(0, 2))
    for key in (
        "model",
        "version",
        "aliases",
        "family",
        "init",
        "created",
        "data",
        "synthetic",
        "commit",
        "recipe",
        "run",
        "bundle",
        "verdict",
    ):
        value = found[key]
        if value is not None:
            lines.add_row(f"[dim]{key}[/dim]", ", ".join(value) if isinstance(value, list) else str(value))
    verdict = Verdict.model_validate(found["record"])
    return Group(lines, "", summary.candidates([verdict], winner=None))


def report(place: Workspace, named: str) -> Path:
    """The page of a model's last run, or of the run that made a version, which MLflow keeps."""
    from components.tracking import Tracking

    model, _, version = named.partition("@")
    if not version:
        page = place.reports / model / summary.PAGE
        if page.exists():
            return page
        known = sorted(folder.parent.name for folder in place.reports.glob(f"*/{summary.PAGE}"))
        told = unknown("model", model, known) if known else f"no recipe was run here yet, so no {model!r} either"
        raise AtelierError(f"{told}. Run a recipe: atelier run fashion")
    found = find(place, named)
    folder = place.reports / model / f"v{found.version}"
    folder.mkdir(parents=True, exist_ok=True)
    return Tracking(place.tracking_uri).attached(found.run, summary.PAGE, folder)


def restore(place: Workspace, named: str, to: Path) -> dict[str, Any]:
    """Bring the parts of a version back from DVC into `to/data`, `to/shards` and `to/bundle`."""
    from components import versioning

    found = find(place, named)
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise AtelierError(f"{to} is not empty, and nothing there is overwritten. Name a new folder with --to.")
    try:
        to.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AtelierError(
            f"{to} cannot be made: {error.strerror}. Name a folder you can write to with --to."
        ) from None
    archive = versioning.Archive(place.dvc)
    for pointer in found.pointers:
        archive.bring(pointer, to / pointer.kind)
    parts = [
        {"kind": pointer.kind, "digest": pointer.digest, "dvc": pointer.dvc, "path": str(to / pointer.kind)}
        for pointer in found.pointers
    ]
    return {"schema": 1, "model": found.model, "version": found.version, "parts": parts}
