"""The parts every modality owns: `batch`, `rows`, `shards`, `metrics`, `codec`; each imported when asked for."""

import importlib
import pkgutil
from types import ModuleType


def names() -> tuple[str, ...]:
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def part(modality: str, name: str) -> ModuleType:
    """One part of a modality, by the name of its file."""
    return importlib.import_module(f"{__name__}.{modality}.{name}")
