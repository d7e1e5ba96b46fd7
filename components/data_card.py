"""The numbers of a dataset at one version, and how two versions differ: what a commit of data says of itself."""

import json
from collections.abc import Mapping

from pydantic import Field

from components.records import Record

TRAILER = "Data-Card: "


class Card(Record):
    """What a source holds: its files, and its rows as the checks of a recipe have left them."""

    files: int = 0
    bytes: int = 0
    rows: int = 0  # accepted
    sides: dict[str, int] = Field({})  # accepted rows by split
    classes: dict[str, int] = Field({})  # accepted rows by the names of their labels; empty where there are none
    duplicates: int = 0  # rows that came before on their side
    quarantine: int = 0  # rows that the checks reject, duplicates among them
    excluded: int = 0


class Difference(Record):
    """A change of a source: its versions as DVC names them, and its numbers, where somebody counted them."""

    source: str
    old: str | None  # None where it was not there
    new: str
    before: Card | None
    after: Card | None
    excluded: int = 0  # rows that this change excludes

    def line(self) -> str:
        """The change in a few words."""
        told = [f"{self.excluded:,} {'row' if self.excluded == 1 else 'rows'} excluded"] if self.excluded else []
        if self.before is not None and self.after is not None:
            for name in ("files", "rows"):
                if change := getattr(self.after, name) - getattr(self.before, name):
                    told.append(f"{abs(change):,} {_counted(name, change)} {'more' if change > 0 else 'less'}")
        return f"{self.source.removeprefix('data/')}: {', '.join(told) or 'changed'}"

    def table(self) -> list[tuple[str, str, str]]:
        """Each number with what it was and is; those of sides and classes below that of the rows."""
        if self.before is None or self.after is None:
            return []
        one, other = self.before, self.after
        lines = [("files", one.files, other.files), ("bytes", one.bytes, other.bytes), ("rows", one.rows, other.rows)]
        for name in dict.fromkeys([*one.sides, *other.sides]):
            lines.append((f"  {name}", one.sides.get(name, 0), other.sides.get(name, 0)))
        for name in dict.fromkeys([*one.classes, *other.classes]):
            lines.append((f"  class {name}", one.classes.get(name, 0), other.classes.get(name, 0)))
        lines.append(("duplicates", one.duplicates, other.duplicates))
        lines.append(("in quarantine", one.quarantine, other.quarantine))
        if one.excluded or other.excluded:
            lines.append(("excluded", one.excluded, other.excluded))
        return [(name, f"{before:,}", f"{after:,}") for name, before, after in lines]

    def message(self, *, why: str = "") -> str:
        """The message of the commit: a line, the table, and all of it once more for programs."""
        told = [f"data: {self.line()}", *([why] if why else [])]
        if rows := self.table():
            wide = [max(len(row[column]) for row in rows) for column in range(3)]
            told.append("\n".join(f"{n:<{wide[0]}}  {b:>{wide[1]}} -> {a:>{wide[2]}}" for n, b, a in rows))
        told.append(TRAILER + json.dumps(self.model_dump(mode="json"), sort_keys=True))
        return "\n\n".join(told) + "\n"


def told(body: str) -> Difference | None:
    """What a commit message says of a change of data; None where it says nothing that can be read."""
    for line in body.splitlines():
        if line.startswith(TRAILER):
            try:
                return Difference.model_validate_json(line.removeprefix(TRAILER))
            except ValueError:  # written by another hand
                return None
    return None


def _counted(name: str, count: int) -> str:
    return name if abs(count) != 1 else name.removesuffix("s")


def files_line(one: Mapping[str, str], other: Mapping[str, str]) -> str:
    """How two manifests differ, in a few words."""
    change = compare(one, other)
    return ", ".join(f"{len(names):,} {what}" for what, names in change.items() if names) or "nothing"


def compare(one: Mapping[str, str], other: Mapping[str, str]) -> dict[str, list[str]]:
    """The files that came, went, changed and were renamed, the last as "old -> new"."""
    added = sorted(set(other) - set(one))
    removed = sorted(set(one) - set(other))
    changed = sorted(name for name in set(one) & set(other) if one[name] != other[name])
    gone: dict[str, list[str]] = {}
    for name in removed:
        gone.setdefault(one[name], []).append(name)
    renamed = []
    for name in list(added):
        if before := gone.get(other[name]):
            old = before.pop(0)
            renamed.append(f"{old} -> {name}")
            added.remove(name)
            removed.remove(old)
    return {"added": added, "removed": removed, "changed": changed, "renamed": renamed}
