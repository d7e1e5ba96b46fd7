"""What the environment tells the service, read once when it starts."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from components.errors import AtelierError

BESIDE = Path(__file__).resolve().parents[1] / "release.json"  # where a Bento has its own release


@dataclass(frozen=True, slots=True)
class Settings:
    """Where the service finds what it serves, who may call, and what it keeps; each of them may be absent."""

    release: Path = BESIDE
    live: bool = False  # the release changes while it is served; a Bento's own never does
    keys: Path | None = None
    signing_key: Path | None = None
    journal: Path | None = None
    drain_seconds: float = 0.0  # between turning unready and refusing connections, for a balancer to notice
    log_prompts: bool = False
    standing: Path | None = None  # where the platform writes how things stand
    block_lists: Path | None = None  # words that teams have blocked
    observations: Path | None = None  # the folder of what the monitor reads
    observations_mib: int = 1024  # that they may take

    @classmethod
    def of_environment(cls) -> Self:
        """From the variables `ATELIER_...`; an `AtelierError` names one that cannot be meant."""
        release, drain = os.environ.get("ATELIER_RELEASE"), os.environ.get("ATELIER_DRAIN_SECONDS") or "0"
        try:
            seconds = float(drain)
        except ValueError:
            seconds = -1
        if not 0 <= seconds <= 600:
            raise AtelierError(f"ATELIER_DRAIN_SECONDS is {drain!r}; give the seconds as a number from 0 to 600")
        room = os.environ.get("ATELIER_OBSERVATIONS_MIB") or "1024"
        if not room.isascii() or not room.isdigit() or int(room) < 1:
            raise AtelierError(f"ATELIER_OBSERVATIONS_MIB is {room!r}; give the MiB as a whole number from 1 on")
        return cls(
            release=Path(release) if release else BESIDE,
            live=bool(release),
            keys=_path("ATELIER_KEYS"),
            signing_key=_path("ATELIER_SIGNING_KEY"),
            journal=_path("ATELIER_JOURNAL"),
            drain_seconds=seconds,
            standing=_path("ATELIER_STATUS"),
            block_lists=_path("ATELIER_BLOCK_LISTS"),
            observations=_path("ATELIER_OBSERVATIONS"),
            observations_mib=int(room),
            log_prompts=os.environ.get("ATELIER_LOG_PROMPTS", "") not in ("", "0", "false"),
        )


def _path(name: str) -> Path | None:
    value = os.environ.get(name)
    return Path(value) if value else None
