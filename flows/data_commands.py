"""The commands `atelier data ...`: typer at the top, everything heavier inside the command that needs it."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from flows import console, workspace
from flows.workspace import Workspace

app = typer.Typer(help="The data in motion: what they are, how they change, what no run may use.", no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, and nothing else there.")]
ARecipe = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe: a file, or the name of one.")]
Commit = Annotated[bool, typer.Option("--commit/--no-commit", help="Commit data.dvc, and nothing else.")]


@app.command()
def add(
    recipe: ARecipe,
    files: Annotated[list[Path], typer.Argument(help="Files, or folders whose files keep their places.")],
    to: Annotated[str, typer.Option(help="The folder of the source to put them into, as in train/boot.")] = "",
    partial: Annotated[bool, typer.Option("--partial", help="Let in what passes, though other files do not.")] = False,
    commit: Commit = True,
    as_json: AsJson = False,
) -> None:
    """Look at new files as a run would, then let them join a recipe's source, all or none."""

    def act(place: Workspace) -> dict[str, Any]:
        from flows import data_adding

        return data_adding.add(place, _recipe(recipe), files, to=to, partial=partial, commit=commit, say=_say)

    def show(told: dict[str, Any]) -> RenderableType:
        from flows import data_adding

        return data_adding.report(told)

    _answer(act, show, as_json=as_json)


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show what differs from data.dvc, what is in no remote yet, and how much is excluded."""
    from flows import data_versions

    _answer(data_versions.status, data_versions.shown_status, as_json=as_json)


@app.command()
def diff(
    old: Annotated[str | None, typer.Argument(metavar="REV", help="A commit; the last one where left out.")] = None,
    new: Annotated[str | None, typer.Argument(metavar="REV", help="Another; data.dvc as it is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the data of two commits, file by file and in numbers, without bringing them."""
    from flows import data_versions

    _answer(lambda place: data_versions.diff(place, old, new), data_versions.shown_diff, as_json=as_json)


@app.command()
def history(
    limit: Annotated[int, typer.Option(help="How many commits, from the newest on.", min=1)] = 20,
    as_json: AsJson = False,
) -> None:
    """List the commits that changed the data, how, and which versions were trained on each."""
    from flows import data_versions

    _answer(lambda place: data_versions.history(place, limit=limit), data_versions.shown_history, as_json=as_json)


@app.command()
def pull(
    sources: Annotated[list[str] | None, typer.Argument(help="Folders of data/; all where left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """Bring data here as data.dvc names them, from whichever remote has them."""
    from flows import data_versions

    def show(told: dict[str, Any]) -> RenderableType:
        return "\n".join(f"[green]+[/green] {name}  [dim]{version}[/dim]" for name, version in told["pulled"].items())

    _answer(lambda place: data_versions.pull(place, sources or []), show, as_json=as_json)


@app.command()
def push(
    everything: Annotated[bool, typer.Option("--all", help="The data of earlier commits too.")] = False,
    as_json: AsJson = False,
) -> None:
    """Bring the data into the default DVC remote, for others to pull."""
    from flows import data_versions

    def show(told: dict[str, Any]) -> RenderableType:
        return f"[green]+[/green] {told['pushed']:,} objects came into {told['remote']}; {told['there']:,} are there"

    _answer(lambda place: data_versions.push(place, everything=everything), show, as_json=as_json)


@app.command()
def exclude(
    recipe: ARecipe,
    rows: Annotated[list[str], typer.Argument(help="Files of the source, ids of rows, or digests as in their facts.")],
    why: Annotated[str, typer.Option(help="The reason, for those who ask later.")],
    of: Annotated[str | None, typer.Option("--from", help="Another source of the recipe, one of its `more`.")] = None,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="From every source, not this one alone.")] = False,
    retrain: Annotated[bool, typer.Option("--retrain", help="Tell the triggers that the data have changed.")] = False,
    commit: Commit = True,
    as_json: AsJson = False,
) -> None:
    """Keep rows out of every later run, and say which versions were trained on them."""

    def act(place: Workspace) -> dict[str, Any]:
        from flows import data_removal

        return data_removal.exclude(
            place,
            _recipe(recipe),
            rows,
            why=why,
            of=of,
            everywhere=everywhere,
            retrain=retrain,
            commit=commit,
            say=_say,
        )

    def show(told: dict[str, Any]) -> RenderableType:
        from flows import data_removal

        return data_removal.report(told)

    _answer(act, show, as_json=as_json)


@app.command("exclusions")
def list_exclusions(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="All where left out.")] = None,
    as_json: AsJson = False,
) -> None:
    """List what is excluded, why and since when."""

    def act(place: Workspace) -> dict[str, Any]:
        from flows import data_removal

        return data_removal.listed(place, None if recipe is None else _recipe(recipe))

    def show(told: dict[str, Any]) -> RenderableType:
        from flows import data_removal

        return data_removal.table(told)

    _answer(act, show, as_json=as_json)


def _answer(
    act: Callable[[Workspace], dict[str, Any]], show: Callable[[dict[str, Any]], RenderableType], *, as_json: bool
) -> None:
    place = workspace.find(Path.cwd())
    workspace.enter(place, debug="--debug" in sys.argv[1:])
    with console.quiet_output():
        told = act(place)
    if as_json:
        sys.stdout.write(json.dumps(told, indent=2) + "\n")
        sys.stdout.flush()
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(show(told))


def _say(words: str) -> None:
    Console(stderr=True).print(Text(words, "dim"), soft_wrap=True)


def _recipe(path: Path) -> Path:
    """The file of a recipe, which may be named by its stem alone."""
    named = workspace.find(Path.cwd()).project / "flows" / "recipes" / f"{path}.yaml"
    return named if not path.exists() and path.suffix == "" and named.is_file() else path
