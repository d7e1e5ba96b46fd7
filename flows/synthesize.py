"""The flow that makes a dataset of a version's samples: one statement per stage, from the bundle to a DVC version."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefect import flow
from rich.console import Console, Group, RenderableType
from rich.table import Table

from components import recipe as recipes
from components.errors import AtelierError
from components.recipe import Recipe
from components.records import Artifact, Dataset, Drawn, Maker, Source, Validated
from components.store import Store
from components.synthesis import CARD, MEANING, Wish
from flows import champions, console, events, leash, listing, running, turns, unclosed, workspace
from flows.stage import stage, store_of
from flows.workspace import Workspace

NAME = re.compile("[a-z0-9][a-z0-9-]{0,63}")


@stage("version", note=lambda maker: f"{maker.name}, bundle {maker.bundle.digest[:14]}")
def bring(named: str, workspace: Workspace) -> Maker:
    return champions.maker(named, workspace)


@stage(
    "draw samples",
    asked=lambda maker, wish, recipe, workspace: {
        "bundle": maker.bundle,
        "shards": maker.shards,
        "encoder": maker.encoder,
        "wish": wish,
    },
    reaches=lambda maker, wish, recipe, workspace: [
        "components.synthesis",
        f"components.families.{maker.family}",
        *_modality(maker, "batch", "shards", "metrics", "codec", "classifier"),
    ],
    note=lambda drawn: f"{drawn.kept:,} of {drawn.drawn:,}, {_dropped(drawn.dropped)}",
)
def draw(maker: Maker, wish: Wish, recipe: Recipe, workspace: Workspace) -> Drawn:
    from components import synthesis

    return synthesis.draw(maker, wish, store=store_of(workspace))


@stage(
    "check samples",
    asked=lambda drawn, maker, source, recipe, workspace: {
        "rows": drawn.rows,
        "classes": drawn.classes,
        "data.reject_at_most": recipe.data.reject_at_most,
        "validate": recipe.validation,
    },
    reaches=lambda drawn, maker, source, recipe, workspace: ["components.validation", *_modality(maker, "rows")],
    note=lambda valid: f"{valid.accepted.get('train', 0):,} accepted beside real held-out rows",
)
def check(drawn: Drawn, maker: Maker, source: str, recipe: Recipe, workspace: Workspace) -> Validated:
    from components import validation

    dataset = Dataset(
        source=source,
        version=drawn.rows.digest,
        commit=None,
        rows=drawn.rows,
        count=drawn.kept + drawn.real,
        classes=drawn.classes,
        licence=maker.licence,
    )
    return validation.validate(
        dataset,
        recipe.validation,
        modality=recipe.modality,
        reject_at_most=recipe.data.reject_at_most,
        store=store_of(workspace),
    )


@stage("write samples", note=lambda made: f"as {made.digest[:14]}")
def write(drawn: Drawn, validated: Validated, maker: Maker, wish: Wish, source: str, workspace: Workspace) -> Artifact:
    from components import synthesis

    name = source.removeprefix("data/")
    return synthesis.write(drawn, validated, maker, wish, name=name, store=store_of(workspace))


@stage("add to DVC", note=lambda source: f"{source.name}, version {source.version[:14]}")
def keep(made: Artifact, source: str, workspace: Workspace) -> Source:
    from components import changes, versioning

    version = changes.put(workspace.project, source, store_of(workspace).path(made), say=console.board().say)
    return Source(name=source, version=version, commit=versioning.commit_of(workspace.project, source))


@flow(
    name="synthesize", flow_run_name="{named}", validate_parameters=False, persist_result=False,
    on_running=[unclosed.note],
)  # fmt: skip
def synthesize(named: str, source: str, wish: Wish, recipe: Recipe, root: str) -> tuple[Source, Artifact]:
    """A dataset at `source`, a path in the project at `root`, of samples of the version that is named."""
    return line(named, source, wish, recipe, workspace.find(Path(root)))


def line(named: str, source: str, wish: Wish, recipe: Recipe, place: Workspace) -> tuple[Source, Artifact]:
    """The straight line."""
    maker = bring(named, place)
    drawn = draw(maker, wish, recipe, place)
    validated = check(drawn, maker, source, recipe, place)
    made = write(drawn, validated, maker, wish, source, place)
    return keep(made, source, place), made


def run(
    place: Workspace, named: str, wish: Wish, *, name: str | None, path: Path | None, shown: Console
) -> dict[str, Any]:
    """Make the dataset and say what it came to, in the form of `atelier synthesize --json`."""
    model = listing.find(place, named).model
    if name is not None and not NAME.fullmatch(name):
        raise AtelierError(f"{name!r} is no name for a dataset: use small letters, digits and dashes, 64 at most.")
    source = f"data/synthetic-{name or model}"
    recipe = recipes.load(path or listing.recipe(place, model))
    workspace.refuse_full(place)
    board = console.Board(shown)
    with board.stage("start Prefect"):
        workspace.keep_log(place)
        leash.tie()
        workspace.refuse_damaged(place)
        running.start_api()
    lock = source.replace("/", "-")
    with turns.turn(place.locks, lock, say=board.say), console.showing(board):
        unclosed.close(place.locks, lock)
        with unclosed.noting(place.locks, lock):
            kept, made = synthesize(named, source, wish, recipe, str(place.project))
    card = json.loads((Store(place.store).path(made) / CARD).read_bytes())
    why = f"{card['rows']:,} samples of {card['made_by']} became {kept.name}"
    events.tell(place, "dataset.made", model=model, why=why, facts={"source": kept.name, "version": kept.version})
    return {"schema": 1, "source": kept.name, "version": kept.version, "card": card}


def told(made: Mapping[str, Any]) -> RenderableType:
    """What was made, and what to do with it."""
    card = made["card"]
    table = Table(title=f"{made['source']}: {card['rows']:,} samples of {card['made_by']}", title_justify="left")
    table.add_column("dropped because it is")
    table.add_column("samples", justify="right")
    for reason, meaning in MEANING.items():
        table.add_row(meaning, f"{card['dropped'][reason]:,}")
    worth = "  ".join(f"{name} {value:+.4f}" for name, value in card["worth"].items())
    return Group(
        table,
        *([f"[bold]worth[/bold]    {worth}"] if worth else []),
        f"[bold]version[/bold]  {made['version']}; commit data.dvc to keep it",
        f"[bold]use it[/bold]   data: {{more: [{{source: {made['source']}, at_most: 0.5}}]}} in a recipe",
    )


def _modality(maker: Maker, *parts: str) -> list[str]:
    return [f"components.modalities.{maker.modality}.{part}" for part in parts]


def _dropped(dropped: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
