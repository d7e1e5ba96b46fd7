"""What a run would do, without doing it: which stages would be skipped, and which part of a key changed for the rest.

While a plan is on, a cached stage answers with its kept result; any other answers `Unknown`, and so does whatever
takes an unknown argument. The flow's own statements are walked, so that there is no second account of their order.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal

from rich.table import Table
from rich.text import Text

from flows.caching import Key

Fate = Literal["cached", "runs", "waits", "always", "stops"]
SHOWN = 6  # changes that a person is shown of one stage
MARKS: Mapping[Fate, tuple[str, str, str]] = {
    "cached": ("=", "skipped", "dim"),
    "runs": ("+", "would run", "green"),
    "waits": ("?", "depends", "yellow"),  # what comes before may make the same bytes as last time
    "always": ("~", "always looked at", "dim"),
    "stops": ("x", "would end the run", "red"),
}


class Unknown:
    """Stands for a record that is not there until a stage has run; so do its fields."""

    def __init__(self, stage: str) -> None:
        self.stage = stage

    def __getattr__(self, name: str) -> "Unknown":
        if name.startswith("__"):
            raise AttributeError(name)
        return self


@dataclass(frozen=True)
class Line:
    """What would happen to one stage, and why."""

    stage: str
    fate: Fate
    why: tuple[str, ...] = ()


@dataclass
class Plan:
    """The stages in the order of the flow."""

    lines: list[Line] = field(default_factory=list)

    def says(self, stage: str, fate: Fate, *why: str) -> None:
        self.lines.append(Line(stage, fate, why))

    def as_json(self) -> list[dict[str, Any]]:
        return [{"stage": line.stage, "fate": line.fate, "why": list(line.why)} for line in self.lines]

    def table(self) -> Table:
        """A row per stage."""
        rows = Table.grid(padding=(0, 2))
        for line in self.lines:
            mark, word, style = MARKS[line.fate]
            shown = [*line.why[:SHOWN], *([f"and {len(line.why) - SHOWN} more"] if len(line.why) > SHOWN else [])]
            rows.add_row(Text(mark, style), line.stage, Text(word, style), Text("\n".join(shown)))
        return rows


_plan: ContextVar[Plan | None] = ContextVar("plan", default=None)


def plan() -> Plan | None:
    """The plan that is being made; None in a run."""
    return _plan.get()


@contextmanager
def planning() -> Iterator[Plan]:
    """Make a plan of what is called in this block instead of doing it."""
    made = Plan()
    token = _plan.set(made)
    try:
        yield made
    finally:
        _plan.reset(token)


def missing(values: Iterable[Any]) -> list[str]:
    """The stages that would have to run before these values are known."""
    found: dict[str, None] = {}
    for value in values:
        if isinstance(value, Unknown):
            found[value.stage] = None
        elif isinstance(value, list | tuple):
            found.update(dict.fromkeys(missing(value)))
    return list(found)


def changes(before: Mapping[str, Any] | None, now: Key) -> tuple[str, ...]:
    """Which parts of a key are not what they were when the stage was last done."""
    if before is None:
        return ("it has not been done here before",)
    told = [_told(f"{path}: ", old, new) for path, old, new in _differences(before.get("asked"), now.parts["asked"])]
    told += [f"the code {name} {_how(old, new)}" for name, old, new in _entries(before, now, "source")]
    told += [_told(f"the library {name} ", old, new) for name, old, new in _entries(before, now, "libraries")]
    return tuple(told)


def _entries(before: Mapping[str, Any], now: Key, part: str) -> list[tuple[str, Any, Any]]:
    old, new = before.get(part), now.parts[part]
    old = old if isinstance(old, dict) else {}
    return [(name, old.get(name), new.get(name)) for name in sorted({*old, *new}) if old.get(name) != new.get(name)]


def _differences(old: Any, new: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        if old.keys() == new.keys() == {"kind", "digest"}:  # an artifact: its digest says it
            old, new = old["digest"][:14], new["digest"][:14]
        else:
            for name in dict.fromkeys([*old, *new]):
                yield from _differences(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
            return
    if isinstance(old, list) and isinstance(new, list):
        places = max(len(old), len(new))
        for index, (one, other) in enumerate(zip(_filled(old, places), _filled(new, places), strict=True)):
            yield from _differences(one, other, f"{path}.{index}")
    elif old != new:
        yield path, old, new


def _filled(values: list[Any], length: int) -> list[Any]:
    return [*values, *[None] * (length - len(values))]


def _told(what: str, old: Any, new: Any) -> str:
    if old is None:
        return f"{what}is new, {_short(new)}"
    return f"{what}{_short(old)} is gone" if new is None else f"{what}{_short(old)} became {_short(new)}"


def _how(old: Any, new: Any) -> str:
    return "is new" if old is None else "is gone" if new is None else "changed"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
