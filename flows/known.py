"""The recipes that a workspace knows: those of the project, and those that were run; read without torch, as YAML alone.

A recipe is checked where it is run. Here one that cannot be read is left out, so that status and notices of the others
go on.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from flows.workspace import Workspace

FOLDER = Path("flows", "recipes")
Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where PyYAML has it


@dataclass(frozen=True)
class Known:
    """A recipe as it stands in its file, unchecked."""

    model: str
    path: Path
    raw: Mapping[str, Any]


def recipes(place: Workspace, ran: Mapping[str, str] | None = None) -> dict[str, Known]:
    """The recipe of each model: the one that `ran` names as its last run's, else the project's first by name."""
    paths = [place.project / path for path in (ran or {}).values()]
    found: dict[str, Known] = {}
    for recipe in _read(dict.fromkeys([*paths, *sorted((place.project / FOLDER).glob("*.yaml"))])):
        found.setdefault(recipe.model, recipe)
    return found


def _read(paths: Iterable[Path]) -> list[Known]:
    found = []
    for path in paths:
        try:
            raw = yaml.load(path.read_text(encoding="utf-8"), Loader)
        except (OSError, ValueError, yaml.YAMLError, RecursionError):
            continue
        if isinstance(raw, dict) and isinstance(raw.get("model"), str):
            found.append(Known(raw["model"], path, raw))
    return found
