"""The parts every modality owns: `batch`, `rows`, `shards`, `metrics`, `codec`, `features`; each imported when asked
for.

Some have more: `classifier`, the encoder of their metrics.
"""

import importlib
import pkgutil
from importlib.util import find_spec
from types import ModuleType


def names() -> tuple[str, ...]:
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def has(modality: str, name: str) -> bool:
    """Whether a modality has a part that others do without."""
    return find_spec(f"{__name__}.{modality}.{name}") is not None


def part(modality: str, name: str) -> ModuleType:
    """One part of a modality, by the name of its file."""
    return importlib.import_module(f"{__name__}.{modality}.{name}")
