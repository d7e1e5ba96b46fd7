"""The release record: which bundle serves each model, as the numbered JSON file that promotion writes."""

import json
from pathlib import Path
from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from components.errors import AtelierError

ALIASES = ("champion", "challenger", "previous")


class Served(BaseModel):
    """A version that may be asked for: its bundle's digest, and where the bundle lies in the Bento model store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    bento_model: str
    trace: dict[str, str] = {}  # back to the data: of which `data`, `run`, `recipe`, `commit` and `verdict` it came


class Model(BaseModel):
    """A model of a release: its versions, each with a verdict that passed, and those that the aliases name.

    Without a champion nothing answers under the model's bare name: it has none yet, or its was withdrawn.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    champion: str | None = None
    challenger: str | None = None
    previous: str | None = None
    versions: dict[str, Served]

    @model_validator(mode="after")
    def _served(self) -> Self:
        if self.champion is not None and self.champion not in self.versions:
            raise ValueError(f"version {self.champion} is champion, but is not among the versions")
        return self

    @property
    def aliases(self) -> dict[str, str]:
        """The versions that aliases name, of those that may be asked for."""
        named = {alias: getattr(self, alias) for alias in ALIASES}
        return {alias: version for alias, version in named.items() if version in self.versions}


class Release(BaseModel):
    """A release, whole: models by name; `ledger` is the id of the one that decided it, if it follows one."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    format: Literal[2] = Field(2, alias="schema")
    ledger: str | None = None
    number: int = Field(ge=0)
    models: dict[str, Model] = {}


def read(path: Path) -> Release:
    """The record in `path`; an `AtelierError` names what is wrong in it."""
    try:
        return Release.model_validate(json.loads(path.read_bytes()))
    except ValidationError as error:
        wrong = error.errors()[0]
        reason = f"{'.'.join(map(str, wrong['loc']))} is {wrong['input']!r}: {wrong['msg']}"
    except (OSError, ValueError) as error:
        reason = str(error)
    raise AtelierError(f"{path} is no release record: {reason}. Package the release again to write it anew.")
