"""The release record: which bundle serves each model, as the numbered JSON file that promotion writes."""

import json
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from components.errors import AtelierError


class Served(BaseModel):
    """One model of a release: its version, its bundle's digest, and where the bundle lies in the Bento model store."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    version: str
    digest: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    bento_model: str
    trace: dict[str, str] = {}  # back to the data: of which `data`, `run`, `recipe`, `commit` and `verdict` it came


class Release(BaseModel):
    """A release, whole: models by name."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    format: Literal[1] = Field(alias="schema")
    number: int = Field(ge=1)
    models: dict[str, Served] = Field(min_length=1)


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
