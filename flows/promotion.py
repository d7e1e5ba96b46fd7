"""Promotion and rollback as a person asks for them: one compare-and-set on the ledger, rolled out, shown in MLflow."""

import getpass
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Table

from components import display
from components.errors import AtelierError
from components.ledger import Ledger, Move, Version
from flows import champions, listing, rollout
from flows.workspace import Workspace


@dataclass(frozen=True)
class Promoted:
    """A move of `champion`, and the Bento of what is champion now."""

    move: Move
    bento: str

    def as_dict(self) -> dict[str, Any]:
        return {"schema": 1, **self.move.model_dump(mode="json"), "bento": self.bento}


def promote(place: Workspace, named: str, *, reason: str) -> Promoted:
    """Make `MODEL@VERSION`, or the challenger of `MODEL`, its champion.

    An `AtelierError` where there is none, its verdict does not entitle it, it waits for approvals, or someone else has
    moved an alias of the model meanwhile.
    """
    ledger = Ledger(place.ledger_url)
    model = named.partition("@")[0]
    generation = ledger.generation(model)
    if "@" not in named and "challenger" not in ledger.current(model):
        listing.find(place, named)  # an unknown model is told first
        raise AtelierError(f"{model} has no challenger to promote. Name a version: atelier promote {model}@VERSION")
    version = listing.find(place, named if "@" in named else f"{named}@challenger")
    return _move(place, ledger, version, generation, reason)


def rollback(place: Workspace, model: str, *, reason: str) -> Promoted:
    """Make the previous champion of a model its champion again; an `AtelierError` where there is none."""
    ledger = Ledger(place.ledger_url)
    generation = ledger.generation(model)
    if "previous" not in ledger.current(model):
        listing.find(place, model)
        raise AtelierError(f"{model} has no previous champion to go back to: it has had one champion only.")
    return _move(place, ledger, listing.find(place, f"{model}@previous"), generation, reason)


def _move(place: Workspace, ledger: Ledger, version: Version, generation: int, reason: str) -> Promoted:
    held = ledger.current(version.model).get("champion")
    if held is not None and held.version == version.version:
        rollout.publish(place)  # whoever moved it may have been cut off before that
        raise AtelierError(f"{version.model}@{version.version} is the champion already.")
    ledger.refuse_unapproved(version.model, version.version)  # before the work, and again as it is moved
    tag = champions.ready(version, place)  # no champion is in the ledger whose Bento cannot be made
    move = ledger.move(
        version.model,
        "champion",
        version.version,
        verdict=version.verdict,
        expected_generation=generation,
        actor=getpass.getuser(),
        reason=reason,
    )
    rollout.publish(place)  # what is served does not wait for MLflow
    show(place, ledger, version)
    return Promoted(move, tag)


def show(place: Workspace, ledger: Ledger, champion: Version) -> None:
    """Have MLflow show a new champion; an `AtelierError` where it does not answer, which undoes nothing."""
    try:
        display.show(place.tracking_uri, champion.model, ledger)
    except AtelierError as error:
        raise AtelierError(
            f"{champion.model}@{champion.version} is champion in the ledger and in the release, but MLflow does not "
            f"show it yet, and `atelier up` will see to it: {error}"
        ) from error


def history(place: Workspace, model: str) -> dict[str, Any]:
    """Every move of a model's aliases, oldest first, in the form of `atelier history --json`."""
    moves = Ledger(place.ledger_url).history(model)
    if not moves:
        listing.find(place, model)
    return {"schema": 1, "model": model, "moves": [move.model_dump(mode="json") for move in moves]}


def table(found: dict[str, Any]) -> RenderableType:
    """The moves as a table, a row each."""
    rows = Table()
    for title in ("when", "alias", "version", "before", "who", "why"):
        rows.add_column(title, no_wrap=title != "why")
    for move in found["moves"]:
        rows.add_row(
            move["created"][:19], move["alias"], move["version"], move["previous"] or "", move["actor"], move["reason"]
        )
    return rows
