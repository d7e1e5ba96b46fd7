"""What the monitor found of a version: a value that its page, its metrics and its events are made of."""

from typing import Literal

from components.records import Record

TITLES = {
    "requests": "what is asked for",
    "controls": "with which controls",
    "outputs": "what is answered, beside the first window",
    "bundle": "what is answered without controls, beside what the bundle draws",
    "latency": "how long it takes",
}
Standing = Literal["steady", "drifted", "too few", "told"]


class Column(Record):
    """One thing that is compared: how far it moved, between what bounds, and the shares of its groups."""

    name: str  # "outputs.mean"
    shift: float
    low: float
    high: float
    before: int  # rows of the reference
    now: int
    standing: Standing
    groups: tuple[tuple[str, float, float], ...]  # the largest: what it is, its share before and now
    quantiles: dict[str, tuple[float, float]] = {}  # before and now, of numbers


class Rate(Record):
    """A share of requests, before and now, and by how much it rose at least; `bound` is what that must not pass."""

    name: str
    before: float
    now: float
    rise: float
    bound: float
    standing: Standing


class Feedback(Record):
    """Thumbs of the window; the share that is up lies below `high`."""

    up: int
    down: int
    share: float | None
    high: float
    bound: float | None
    standing: Standing


class Drift(Record):
    """What the monitor found of a version in a window; times are UTC, ISO 8601."""

    model: str
    version: str
    bundle: str
    since: str
    until: str
    requests: int
    looked_at: int  # of which an output was looked at
    first_window: tuple[str, str] | None  # None while it goes on
    references: dict[str, str]  # the digests of what was compared with
    drift_above: float
    columns: tuple[Column, ...]
    rates: tuple[Rate, ...]
    feedback: Feedback
    false_alarms: float | None = None  # of reports on the first window's own data; None before it is whole
    unreadable: int = 0  # files that are no Parquet

    @property
    def drifted(self) -> tuple[str, ...]:
        """What moved past its bound."""
        return tuple(one.name for one in self._compared if one.standing == "drifted")

    @property
    def alarms(self) -> bool:
        """Whether something drifted, or too many thumbs are down."""
        return bool(self.drifted) or self.feedback.standing == "drifted"

    @property
    def outcome(self) -> str:
        """The report in a sentence."""
        if alarms := [
            *([f"{_listed(self.drifted)} moved past what chance and the bound allow"] if self.drifted else []),
            *(["too many thumbs are down"] if self.feedback.standing == "drifted" else []),
        ]:
            return "; ".join(alarms)
        if self.first_window is None:
            return "the first window, with which later ones are compared, is not whole yet"
        return f"nothing moved, of {self.judged} things" if self.judged else "there are too few requests to judge"

    @property
    def judged(self) -> int:
        """How many things there was enough to judge by."""
        return sum(one.standing in ("steady", "drifted") for one in self._compared)

    @property
    def _compared(self) -> list[Column | Rate]:
        return [*self.columns, *self.rates]


def _listed(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
