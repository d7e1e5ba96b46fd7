"""Who may call: API keys of teams, each for some models, known by their hashes only."""

import hashlib
import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.errors import Refusal

MEND = "Send the header `Authorization: Bearer KEY`; whoever runs this platform makes keys with `atelier keys make`."


class Key(BaseModel):
    """A key as it is kept: `sha256` is that of the whole key, in hex; `models` are names, or `*` for all."""

    model_config = ConfigDict(frozen=True)

    id: str
    team: str
    sha256: str
    models: tuple[str, ...]
    created: str
    revoked: str | None = None


class KeyFile(BaseModel):
    """`keys.json`, as `atelier keys` writes it."""

    model_config = ConfigDict(frozen=True)

    format: Literal[1] = Field(alias="schema")
    keys: tuple[Key, ...]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: a team, and the models that its key is for."""

    team: str
    models: tuple[str, ...]

    def may(self, model: str) -> bool:
        return "*" in self.models or model in self.models


EVERYONE = Caller(team="", models=("*",))


class Keys:
    """The keys of a file, read again whenever it changes; once there were any, a file that is gone lets nobody in."""

    def __init__(self, path: Path | None, *, warn: Callable[[str], None] = lambda told: None) -> None:
        self._path, self._warn = path, warn
        self._lock = threading.Lock()
        self._stamp: tuple[int, ...] | None = None
        self._known: dict[str, Key] = {}
        self.required = False
        self._refresh()

    def caller(self, authorization: str | None) -> Caller:
        """Whose request this is; a `Refusal` where keys are asked for and this is none, or no longer one."""
        self._refresh()
        if not self.required:
            return EVERYONE
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Refusal(
                f"this server asks for an API key, and the request has none. {MEND}", status=401, code="no_api_key"
            )
        key = self._known.get(hashlib.sha256(token.strip().encode()).hexdigest())
        if key is None:
            raise Refusal(f"that is no API key of this server. {MEND}", status=401, code="invalid_api_key")
        if key.revoked is not None:
            raise Refusal(f"the API key {key.id} of {key.team} was revoked. {MEND}", status=401, code="revoked_api_key")
        return Caller(key.team, key.models)

    def _refresh(self) -> None:
        if self._path is None:
            return
        stamp: tuple[int, ...] = ()
        try:
            found = os.stat(self._path)  # noqa: PTH116 - at every request, and a third of the price
            stamp = (found.st_mtime_ns, found.st_ino, found.st_size)
        except FileNotFoundError:
            pass
        except OSError as error:  # seen as a change, so that it is told once, and the file read again after it
            stamp = (-(error.errno or 1),)
        if stamp == self._stamp:
            return
        with self._lock:
            self._read(stamp)

    def _read(self, stamp: tuple[int, ...]) -> None:
        assert self._path is not None
        self._stamp = stamp
        if not stamp:
            if self.required:
                self._fall_silent("it is gone")
            return
        try:
            held = KeyFile.model_validate_json(self._path.read_bytes()).keys
        except (OSError, ValueError) as error:
            self._fall_silent(" ".join(str(error).split()))
            return
        self._known = {key.sha256: key for key in held}
        self.required = self.required or bool(held)

    def _fall_silent(self, why: str) -> None:
        """Let nobody in: a file of keys that cannot be read is no reason to open the door."""
        self._known, self.required = {}, True
        self._warn(f"the API keys in {self._path} cannot be read, so every call is refused: {why}")
