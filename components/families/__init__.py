"""Every module in this package is one generator family, named by its file."""

import importlib
import pkgutil
from typing import Any, Protocol, cast

from components.contract import Config, Controls, Family
from components.errors import AtelierError
from components.spelling import unknown


class FamilyModule(Protocol):
    """What a file in this package defines."""

    Config: type[Config]
    Controls: type[Controls]
    Model: type[Family[Any, Any, Any, Any]]


def names() -> tuple[str, ...]:
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def get(name: str) -> FamilyModule:
    """The family of that name; an `AtelierError` names the nearest known one otherwise."""
    if name not in names():
        raise AtelierError(unknown("family", name, names()))
    return cast(FamilyModule, importlib.import_module(f"{__name__}.{name}"))
