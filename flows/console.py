"""What a person sees while a flow runs: a line per stage, with a moving bar for those that take a while."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from threading import Event

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from flows.cost import Meter

STOPPING = Event()  # Ctrl-C was pressed: no further stage begins
LOUD_EVERY = 10.0  # seconds between progress lines where there is no terminal to redraw


@dataclass
class Stage:
    """One stage of one run, as the board knows it."""

    name: str
    skipped: bool = False
    seconds: float = 0.0  # with what Prefect adds
    own_seconds: float = 0.0  # the stage's own work
    peak_memory: int | None = None  # bytes, during it
    joules: float | None = None
    note: str = ""
    failed: bool = False
    _advance: Callable[[float, str], None] = lambda share, words: None

    def cost(self, meter: Meter) -> None:
        """Add what an attempt at the stage cost: time and energy add up, of memory the peak counts."""
        self.own_seconds += meter.seconds
        self.peak_memory = max(self.peak_memory or 0, meter.peak_memory or 0) or None
        if meter.joules is not None:
            self.joules = (self.joules or 0.0) + meter.joules

    def advance(self, share: float, words: str) -> None:
        """Move the bar to a share in [0, 1], with a few words on pace and losses."""
        self._advance(share, words)


@dataclass
class Board:
    """The stages of a run in order, printed as they end, well or not."""

    console: Console
    stages: list[Stage] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[Stage]:
        """Show a stage while its block runs; its line stays."""
        if STOPPING.is_set():
            raise KeyboardInterrupt
        stage = Stage(name)
        begun = time.monotonic()
        columns: tuple[ProgressColumn, ...] = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[words]}"),
        )
        shy = not self.console.is_terminal  # a log has no use for a bar that is redrawn
        with Progress(*columns, console=self.console, transient=True, disable=shy) as bar:
            shown = bar.add_task(f"{name:<16}", total=None, words="")
            stage._advance = self._advancer(bar, shown, stage)
            token = _stage.set(stage)
            try:
                yield stage
            except BaseException:
                stage.failed, stage.skipped = True, False
                raise
            finally:
                _stage.reset(token)
                stage.seconds = time.monotonic() - begun
                self.stages.append(stage)
                bar.stop()
                self._line(stage)

    def _line(self, stage: Stage) -> None:
        took = "cached" if stage.skipped else f"{stage.seconds:.1f} s"
        mark = "[red]x[/red]" if stage.failed else "[dim]=[/dim]" if stage.skipped else "[green]+[/green]"
        memory = f"{stage.peak_memory / 2**20:,.0f} MiB" if stage.peak_memory else ""
        self.console.print(
            f"{mark} {stage.name:<16} [dim]{took:>8} {memory:>10}[/dim]  {stage.note}", highlight=False, soft_wrap=True
        )

    def say(self, words: str) -> None:
        """A sentence between the lines of the stages."""
        self.console.print(f"[yellow]![/yellow] {escape(words)}", highlight=False, soft_wrap=True)

    def own_seconds(self) -> float:
        """Seconds that the stages' own work took: what is left of a run is orchestration."""
        return sum(stage.own_seconds for stage in self.stages)

    def _advancer(self, bar: Progress, shown: TaskID, stage: Stage) -> Callable[[float, str], None]:
        last = time.monotonic()

        def advance(share: float, words: str) -> None:
            nonlocal last
            bar.update(shown, total=1.0, completed=share, words=words)
            if not self.console.is_terminal and time.monotonic() - last >= LOUD_EVERY:
                last = time.monotonic()
                self.console.print(f"  {stage.name:<16} {share:>7.0%}  {words}", highlight=False, soft_wrap=True)

        return advance


_board: ContextVar[Board | None] = ContextVar("board", default=None)
_stage: ContextVar[Stage | None] = ContextVar("stage", default=None)


def current() -> Stage:
    """The stage that is running."""
    return _stage.get() or Stage("")


def board() -> Board:
    """The board of this run; a quiet one where nobody is looking, as in a scheduled run."""
    found = _board.get()
    return Board(Console(quiet=True)) if found is None else found


@contextmanager
def showing(board: Board) -> Iterator[Board]:
    """Make `board` the one that the stages of this run report to."""
    token = _board.set(board)
    try:
        yield board
    finally:
        _board.reset(token)


@contextmanager
def quiet_output() -> Iterator[None]:
    """Send what vendors and their child processes print to standard error: a program reads standard output."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)
