"""One run of a recipe as the command line makes it: the stages as they happen, then what came of them."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from components import recipe as recipes
from components.errors import AtelierError, GateFailed
from flows import console as consoles
from flows import summary, workspace


@dataclass(frozen=True)
class Result:
    """What a run came to: its summary as JSON, and the mistake that ended it, where one did."""

    summary: dict[str, Any]
    error: AtelierError | None = None


def run(path: Path, settings: tuple[str, ...], console: Console) -> Result:
    """Run one recipe and show it; a person's mistake is told and returned, so that the next recipe still runs."""
    begun = time.monotonic()
    board = consoles.Board(console)
    try:
        recipe = recipes.load(path, settings)  # refused before anything starts
        place = workspace.find(path.parent)
        workspace.enter(place)
        console.print(f"[bold]{recipe.model}[/bold]  {path}", highlight=False)
        with board.stage("start Prefect"):
            from flows.train import train
        with consoles.showing(board):
            outcome = train(str(path), settings)
    except AtelierError as error:
        return _told(error, path, board, console, time.monotonic() - begun)
    seconds = time.monotonic() - begun
    pages = summary.publish(outcome, place)
    winner = next(v.candidate for v in outcome.verdicts if v.bundle == outcome.registered.bundle)
    console.print(summary.candidates(outcome.verdicts, winner=winner))
    console.print(summary.closing(outcome, place, pages, board, seconds), highlight=False, soft_wrap=True)
    return Result(summary.as_json(path, outcome, board, seconds))


def _told(error: AtelierError, path: Path, board: consoles.Board, console: Console, seconds: float) -> Result:
    if isinstance(error, GateFailed):
        console.print(summary.candidates(error.verdicts, winner=None))
    console.print(Text.assemble((f"{path}: ", "bold red"), str(error)), soft_wrap=True)
    told = {"recipe": str(path), "error": str(error), "exit_code": error.exit_code, **summary.pace(board, seconds)}
    return Result(told, error)
