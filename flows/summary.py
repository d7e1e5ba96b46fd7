"""What a run came to, in words and tables for a person."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from components import modalities, reporting
from components.model_card import curl
from components.records import Artifact, Check, Outcome, Package, Trained, Verdict
from components.store import Store, write_atomically
from flows.console import Board
from flows.workspace import Workspace

PAGE = "report.html"


def reading_line(reading: Mapping[str, Any]) -> str:
    """How far a training is, how fast, and its first losses."""
    losses = "  ".join(f"{title} {value:.3g}" for title, value in list(reading["losses"].items())[:2])
    pace = f"{reading['samples_per_second']:,.0f} samples/s, {reading['seconds_left']:.0f} s left"
    return f"{reading['step']}/{reading['steps']}  {pace}  {losses}"


def training_line(trained: Trained) -> str:
    """What a training came to, in a line."""
    died = f", resumed {trained.resumed} times" if trained.resumed else ""
    warned = "".join(f"; [yellow]alarm: {warning}[/yellow]" for warning in trained.warnings)
    return f"{trained.steps:,} steps, {trained.samples_per_second:,.0f} samples/s{died}{warned}"


def verdict_line(verdict: Verdict) -> str:
    """One line: `passed, 4 of 4 gates hold`."""
    held = sum(check.passed for check in verdict.checks)
    word = "[green]passed[/green]" if verdict.passed else "[red]failed[/red]"
    return f"{word}, {held} of {len(verdict.checks)} gates hold"


def candidates(verdicts: Sequence[Verdict], *, winner: str | None) -> RenderableType:
    """Candidates side by side: every metric with the real-data floor, every gate with its outcome."""
    return Group(_metrics(verdicts, winner), _gates(verdicts))


def _metrics(verdicts: Sequence[Verdict], winner: str | None) -> Table:
    samples, seeds = verdicts[0].scores.samples, len(verdicts[0].scores.seeds)
    table = Table(
        title=f"Candidates of {verdicts[0].model}",
        caption=f"means of {seeds} seeds of {samples} samples; real: half the held-out rows against the rest",
        title_justify="left",
    )
    table.add_column("metric")
    for verdict in verdicts:
        mark = " *" if verdict.candidate == winner else ""
        table.add_column(f"{verdict.candidate}{mark}", justify="right")
    table.add_column("real data", justify="right", style="dim")
    for metric in dict.fromkeys(metric for verdict in verdicts for metric in verdict.scores.values):
        means = [_mean(verdict.scores.values.get(metric, ())) for verdict in verdicts]
        floor = verdicts[0].scores.floor.get(metric)
        table.add_row(metric, *("" if mean is None else f"{mean:.4g}" for mean in (*means, floor)))
    return table


def _gates(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="Gates", title_justify="left")
    table.add_column("gate")
    for verdict in verdicts:
        table.add_column(verdict.candidate)
    for row in zip(*(verdict.checks for verdict in verdicts), strict=True):
        table.add_row(row[0].gate, *(_answer(check) for check in row))
    table.add_section()
    table.add_row(
        "verdict", *(Text("passed", "bold green") if v.passed else Text("failed", "bold red") for v in verdicts)
    )
    return table


def _answer(check: Check) -> Text:
    interval = f"{check.value:.3g} ({check.low:.3g} to {check.high:.3g})"
    reason = f", {check.reason}" if check.reason and check.passed else ""
    return Text(f"{'yes' if check.passed else 'no'}: {interval}{reason}", "green" if check.passed else "red")


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def publish(page: Artifact, verdicts: Sequence[Verdict], place: Workspace) -> None:
    """The page of a run and the sheets on it, out of the store into one folder of the workspace, named by the model."""
    store, folder = Store(place.store), place.reports / verdicts[0].model
    for verdict in verdicts:
        for sheet in store.path(verdict.scores.pictures).iterdir():
            if sheet.stem in ("generated", *reporting.SAME):  # what is not generated is the same for all candidates
                name = verdict.candidate if sheet.stem == "generated" else sheet.stem
                write_atomically(folder / f"{name}{sheet.suffix}", sheet.read_bytes())
    write_atomically(folder / PAGE, (store.path(page) / PAGE).read_bytes())


def publish_sample(package: Package, place: Workspace) -> None:
    """The sample that the packaged model answered with, beside the page of its run."""
    for sample in Store(place.store).path(package.sample).iterdir():
        write_atomically(place.reports / package.model / f"served{sample.suffix}", sample.read_bytes())


def closing(outcome: Outcome, place: Workspace, page: Path, board: Board, seconds: float) -> str:
    """Where things are, and what to do next, a line each."""
    done, model = outcome.registered, outcome.registered.model
    docs = Store(place.store).path(outcome.validated.docs) / "index.html"
    known = "" if done.created else ", registered before"
    card = json.loads((Store(place.store).path(outcome.package.bundle) / "config.json").read_bytes())
    edits = card.get("edits", False)
    suffix = ".json" if edits else modalities.part(card["modality"], "codec").SUFFIX
    ask = f"{curl(model, edits=edits)} -o sample{suffix}"
    return "\n".join(
        [
            f"[bold]registered[/bold]   {model}@{done.version}, {done.alias}{known}",
            f"[bold]bento[/bold]        {outcome.package.tag}",
            f"[bold]report[/bold]       {page}: the candidates side by side",
            f"[bold]data checks[/bold]  {docs}",
            f"[bold]time[/bold]         {seconds:.0f} s, of it {seconds - board.own_seconds():.0f} s orchestration",
            "",
            f"atelier serve {model}     then: {ask}",
            f"atelier show {model}      its gates, numbers and lineage",
            "atelier up"
            + " " * (len(model) + 9)
            + "the endpoints of all champions, a playground, and MLflow to promote in",
        ]
    )


def as_json(path: Path, outcome: Outcome, board: Board, seconds: float) -> dict[str, Any]:
    """A run for a program."""
    return {
        "recipe": str(path),
        "model": outcome.registered.model,
        "version": outcome.registered.version,
        "alias": outcome.registered.alias,
        "created": outcome.registered.created,
        "run": outcome.registered.run,
        "bento": outcome.package.tag,
        "verdicts": [verdict.model_dump(mode="json") for verdict in outcome.verdicts],
        **pace(board, seconds),
    }


def pace(board: Board, seconds: float) -> dict[str, Any]:
    """The seconds of a run, of each stage, and of what is neither."""
    stages = [
        {
            "stage": stage.name,
            "seconds": round(stage.seconds, 2),
            "own_seconds": round(stage.own_seconds, 2),
            "peak_memory": stage.peak_memory,
            "joules": stage.joules,
            "cached": stage.skipped,
            "failed": stage.failed,
        }
        for stage in board.stages
    ]
    return {"seconds": round(seconds, 2), "orchestration": round(seconds - board.own_seconds(), 2), "stages": stages}
