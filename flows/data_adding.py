"""`atelier data add`: new files are looked at in quarantine, join their source in one step, and in one commit."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from components import changes, commits, exclusions, incoming, manifest, versioning
from components import recipe as recipes
from components.data_card import Difference
from components.errors import AtelierError, DataRejected
from components.incoming import Looked, Offer
from components.recipe import Recipe
from components.sources.urls import is_url, shown
from components.store import Store, aside, sweep
from flows import events
from flows.workspace import Workspace

SHOWN = 5  # files and reasons that a message names


def add(
    place: Workspace,
    path: Path,
    files: Sequence[Path],
    *,
    to: str = "",
    partial: bool = False,
    commit: bool = True,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Let files join the source of a recipe, all of them or, where `partial`, those that pass; as `--json` tells it.

    `DataRejected` names those that do not pass, and where they are kept with their reasons; then nothing has changed.
    """
    recipe = recipes.load(path)
    source = _source(recipe)
    with changes.turn(place.project, say=say):
        finish(place)
        pointer = changes.pointer_of(place.project, source).pointer
        if commit:
            commits.refuse_unfit(place.project, pointer)
        _bring(place.project, source)
        sweep(place.incoming)
        with aside(place.incoming) as folder:
            given = incoming.gather(files, to=to, source=source, project=place.project, aside=folder / "files")
            if not given.files:
                return _told(source, given, {}, None, None, None)
            say(f"looking at {_count(len(given.files))} beside what is in {source}")
            offer, looked, kept = _let_in(place, recipe, given, folder, partial=partial)
            change = _difference(place.project, offer, looked)
            made = _apply(place, offer, change, commit=commit)
    return _told(source, offer, kept[1], kept[0], change, made)


def _count(files: int) -> str:
    return "a new file" if files == 1 else f"{files:,} new files"


def _source(recipe: Recipe) -> str:
    source = recipe.data.source
    if is_url(source):
        raise AtelierError(
            f"the source of {recipe.model} lies elsewhere, at {shown(source)}: add files there, and the next run "
            "brings them. Or make it a folder of the project: `dvc import-url URL data/NAME`."
        )
    return source.rstrip("/")


def _bring(project: Path, source: str) -> None:
    """The source and its exclusions as their pointer names them; an `AtelierError` where work is saved nowhere."""
    for wanted in (exclusions.FOLDER, source):
        versioning.pull(project, wanted)
        folder = versioning.locate(project, wanted)
        if not versioning.is_tracked(project, wanted) and folder.is_dir() and any(folder.iterdir()):
            raise AtelierError(
                f"{wanted!r} holds files that no .dvc pointer names. Let DVC track them first: `dvc add "
                f"{wanted.split('/')[0]}`, and commit the pointer; or move them elsewhere, and name them here."
            )


def _let_in(
    place: Workspace, recipe: Recipe, offer: Offer, folder: Path, *, partial: bool
) -> tuple[Offer, Looked, tuple[Path | None, Mapping[str, Sequence[str]]]]:
    """What may join, as it was looked at; and the quarantine of the rest, with the reasons."""
    store, out = Store(place.store), dict[str, Sequence[str]]()
    quarantine = place.incoming / "quarantine" / f"{datetime.now(UTC):%Y%m%dT%H%M%S.%f}-{recipe.model}"
    count = len(offer.files)
    while True:
        looked = incoming.look(offer, recipe, project=place.project, store=store, aside=folder)
        if not looked.rejected:
            break
        out |= looked.rejected
        incoming.keep(looked.rejected, offer, quarantine)
        rest = {name: path for name, path in offer.files.items() if name not in looked.rejected}
        if not partial or not rest:
            raise _refused(offer.source, out, count, quarantine, partial=partial)
        offer = Offer(offer.source, rest, offer.same)
    if looked.problems:
        raise DataRejected(
            f"the files cannot join {offer.source!r}, as no run could train on it with them: "
            f"{'. '.join(looked.problems)}. Nothing was changed; every check is on {looked.docs}."
        )
    return offer, looked, (quarantine if out else None, out)


def _refused(
    source: str, rejected: Mapping[str, Sequence[str]], count: int, quarantine: Path, *, partial: bool
) -> DataRejected:
    named = "; ".join(f"{name}: {', '.join(reasons[:SHOWN])}" for name, reasons in list(rejected.items())[:SHOWN])
    more = f" and {len(rejected) - SHOWN} more" if len(rejected) > SHOWN else ""
    rest = "" if partial or len(rejected) == count else " With --partial the others join without them."
    return DataRejected(
        f"{len(rejected)} of {count} files do not pass the checks of {source!r}, and nothing was changed: "
        f"{named}{more}. They are kept with their reasons in {quarantine}.{rest}"
    )


def _difference(project: Path, offer: Offer, looked: Looked) -> Difference:
    before = versioning.entries(project, offer.source)
    after = before | {name: manifest.md5_of(path) for name, path in offer.files.items()}
    return Difference(
        source=offer.source,
        old=f"md5:{manifest.name_of(before)}" if before else None,
        new=f"md5:{manifest.name_of(after)}",
        before=looked.before,
        after=looked.after,
    )


def _apply(place: Workspace, offer: Offer, difference: Difference, *, commit: bool) -> str | None:
    models = users(place, offer.source)
    why = f"data: {difference.line()}"
    facts: dict[str, JsonValue] = {"source": offer.source, "version": difference.new}
    told = [_event("data.changed", model, why, facts) for model in models]
    return apply(
        place,
        changes.Change(
            source=offer.source,
            files={f"{offer.source}/{name}": path for name, path in offer.files.items()},
            message=difference.message() if commit else None,
            note={"events": told},
        ),
    )


def _event(kind: events.Kind, model: str, why: str, facts: dict[str, JsonValue]) -> JsonValue:
    return {"kind": kind, "model": model, "why": why, "facts": facts}


def apply(place: Workspace, change: changes.Change) -> str | None:
    """Make a change and tell the events of its note; the commit. Call while holding the turn."""
    made = changes.apply(place.project, change)
    _follow(place, dict(change.note))
    changes.settle(place.project)
    return made


def finish(place: Workspace) -> None:
    """Do what a change that was cut off had still to do. Call while holding the turn."""
    note = changes.finish(place.project)
    if note is not None:
        _follow(place, note)
        changes.settle(place.project)


def _follow(place: Workspace, note: Mapping[str, Any]) -> None:
    for event in note.get("events", ()):
        events.tell(place, event["kind"], model=event["model"], why=event["why"], facts=event["facts"])


def users(place: Workspace, source: str) -> dict[str, Path]:
    """The models whose recipes take data from a source, or from a part of it, with their recipes."""
    found = {}
    for path in sorted((place.project / "flows" / "recipes").glob("*.yaml")):
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
            data = raw["data"]
            named = [data["source"], *(more["source"] for more in data.get("more", ()))]
            if any(exclusions.overlap(exclusions.named(str(name)), exclusions.named(source)) for name in named):
                found[str(raw["model"])] = path
        except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError):
            continue  # no recipe, which a run of it says better
    return found


def _told(
    source: str,
    offer: Offer,
    rejected: Mapping[str, Sequence[str]],
    quarantine: Path | None,
    difference: Difference | None,
    commit: str | None,
) -> dict[str, Any]:
    return {
        "schema": 1,
        "source": source,
        "added": list(offer.files) if difference else [],
        "same": list(offer.same),
        "rejected": {name: list(reasons) for name, reasons in rejected.items()},
        "quarantine": None if quarantine is None else str(quarantine),
        "difference": None if difference is None else difference.model_dump(mode="json"),
        "commit": commit,
    }


def report(told: Mapping[str, Any]) -> RenderableType:
    """The same for a person."""
    if told["difference"] is None:
        return f"nothing to add: all {len(told['same']):,} files are in {told['source']} already, byte for byte"
    difference = Difference.model_validate(told["difference"])
    parts: list[RenderableType] = [Text.assemble(("+ ", "green"), difference.line()), table(difference)]
    if told["rejected"]:
        named = "\n".join(f"- {name}: {', '.join(why[:SHOWN])}" for name, why in told["rejected"].items())
        parts.append(Text(f"kept in quarantine, {told['quarantine']}:\n{named}", "yellow"))
    parts.append(Text(committed(told["commit"]), "dim"))
    return Group(*parts)


def committed(commit: str | None) -> str:
    return f"committed as {commit[:12]}; `atelier data push` shares it" if commit else "data.dvc is yours to commit"


def table(difference: Difference) -> Table:
    """The numbers before and after."""
    lines = Table.grid(padding=(0, 2))
    for column in ("left", "right", "right"):
        lines.add_column(justify=column)
    for name, before, after in difference.table():
        lines.add_row(name, before, after, style=None if before != after else "dim")
    return lines
