"""The servers of `atelier up` as processes: started, watched, started again with back-off, and ended whole.

A server's own children are known by a mark in their environment, whatever process group they chose.
"""

import os
import shutil
import signal
import subprocess
import time
import urllib.request
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from typing import Any

from components.errors import AtelierError
from components.process import born
from components.server import last_lines
from flows import leash

MARK = "ATELIER_PART"
LOOK_SECONDS = 0.25
PROBE_SECONDS = 2.0  # between two questions to a server that is well
ANSWER_SECONDS = 2.0
UNWELL_SECONDS = 30.0  # that a server which was well may be silent, before it is started again
FIRST_TRIES = 3  # before a server that was never well is given up
LONGEST_WAIT = 30.0
STEADY_SECONDS = 60.0  # a server that ran this long starts again at once
GRACE_SECONDS = 15.0  # what is served now may be finished
LARGEST_LOG = 2**23


@dataclass(frozen=True)
class Part:
    """One server: how it is started and where it answers. `health` is answered with 200 once it is well."""

    name: str
    title: str
    url: str
    health: str
    command: Sequence[str]
    folder: Path
    environment: dict[str, str]
    log: Path
    after: str | None = None  # the part that must be well first
    watch: Callable[["subprocess.Popen[bytes]"], Callable[[], None]] | None = None  # raises where a part of it is gone


@dataclass
class Kept:
    """A part and its process."""

    part: Part
    process: "subprocess.Popen[bytes] | None" = None
    since: str | None = None
    healthy: bool = False
    ever: bool = False
    restarts: int = 0
    tries: int = 0
    mark: str = ""
    started: float = 0.0
    due: float = 0.0
    probed: float = 0.0
    answered: float = 0.0
    check: Callable[[], None] = field(default=lambda: None)

    def as_dict(self) -> dict[str, Any]:
        pid = self.process.pid if self.process else None
        return {
            "title": self.part.title, "url": self.part.url, "health": self.part.health, "pid": pid,
            "born": born(pid) if pid else None, "since": self.since, "restarts": self.restarts,
            "healthy": self.healthy, "log": str(self.part.log),
        }  # fmt: skip


class Supervisor:
    """Keeps parts running; `say` tells a person, `changed` is called whenever what `as_dict` gives has changed."""

    def __init__(
        self, parts: Sequence[Part], *, say: Callable[[str], None], changed: Callable[[dict[str, Any]], None]
    ) -> None:
        self.kept = {part.name: Kept(part) for part in parts}
        self._say, self._changed = say, changed
        self._told: dict[str, Any] = {}
        self._trouble = ""  # of the disk, told once

    def start(self, *, within: float) -> None:
        """Start all of them and wait until each is well; an `AtelierError` with its last words where one is not."""
        until = time.monotonic() + within
        while not all(kept.healthy for kept in self.kept.values()):
            self.look()
            for kept in self.kept.values():
                if not kept.ever and (kept.tries > FIRST_TRIES or time.monotonic() > until):
                    raise AtelierError(f"{kept.part.title} does not start. {_words(kept.part.log)}")
            time.sleep(LOOK_SECONDS)

    def keep(self) -> None:
        """Watch them until something interrupts."""
        while True:
            self.look()
            time.sleep(LOOK_SECONDS)

    def look(self) -> None:
        """One look at every part: what has ended, or is silent for too long, starts again when its time has come."""
        for kept in self.kept.values():
            if kept.process is not None:
                self._examine(kept)
            elif time.monotonic() >= kept.due and self._may_start(kept):
                self._try(kept)
        self._tell()

    def stop(self) -> None:
        """End all of them and whatever they started."""
        running = [kept for kept in self.kept.values() if kept.process is not None]
        for kept in running:
            _signal(kept, signal.SIGTERM)
        until = time.monotonic() + GRACE_SECONDS
        for kept in running:
            _end(kept, until)
        self._tell()

    def _may_start(self, kept: Kept) -> bool:
        before = self.kept.get(kept.part.after or "")
        return before is None or before.ever

    def _try(self, kept: Kept) -> None:
        """Start a part; where the system will not have it now, such as on a full disk, again later."""
        try:
            self._launch(kept)
        except OSError as error:
            kept.tries += 1
            kept.due = time.monotonic() + _wait(kept)
            self._say(f"{kept.part.title} cannot be started: {error}; again in {_wait(kept):g} s")

    def _launch(self, kept: Kept) -> None:
        part = kept.part
        part.log.parent.mkdir(parents=True, exist_ok=True)
        kept.mark, kept.started, kept.since = uuid.uuid4().hex, time.monotonic(), _now()
        with part.log.open("ab") as log:
            log.write(f"--- {kept.since} {' '.join(part.command)}\n".encode())
            log.flush()
            kept.process = subprocess.Popen(
                part.command, cwd=part.folder, env={**part.environment, MARK: kept.mark},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        kept.check = part.watch(kept.process) if part.watch else lambda: None
        kept.tries += 1
        kept.answered = kept.started
        if kept.ever:
            kept.restarts += 1

    def _examine(self, kept: Kept) -> None:
        assert kept.process is not None
        now = time.monotonic()
        if (code := kept.process.poll()) is not None:
            self._lost(kept, f"ended with {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}")
            return
        try:
            kept.check()
        except AtelierError as error:
            self._lost(kept, str(error))
            return
        if now - kept.probed < (PROBE_SECONDS if kept.healthy else LOOK_SECONDS):
            return
        well = answers(kept.part.url + kept.part.health)
        kept.probed = time.monotonic()
        if well:
            if kept.restarts and not kept.healthy:
                self._say(f"{kept.part.title} is well again")
            kept.ever = kept.healthy = True
            kept.answered = kept.probed
        elif kept.ever and kept.probed - kept.answered > UNWELL_SECONDS:
            self._lost(kept, f"has not answered for {UNWELL_SECONDS:.0f} s")
        else:
            kept.healthy = False

    def _lost(self, kept: Kept, why: str) -> None:
        """Clear away what is left of a part, and set the time of its next start."""
        _signal(kept, signal.SIGTERM)
        _end(kept, time.monotonic() + 2.0)
        if time.monotonic() - kept.started > STEADY_SECONDS:
            kept.tries = 0
        wait = _wait(kept)
        kept.healthy, kept.due = False, time.monotonic() + wait
        self._say(f"{kept.part.title} {why}; it starts again{f' in {wait:g} s' if wait else ''} ({kept.part.log})")

    def _tell(self) -> None:
        """Pass on what changed, and keep the logs short; a disk that takes neither now is no reason to stop."""
        told = {name: kept.as_dict() for name, kept in self.kept.items()}
        try:
            for kept in self.kept.values():
                _trim(kept.part.log)
            if told != self._told:
                self._changed(told)
                self._told = told
            self._trouble = ""
        except OSError as error:
            if self._trouble != str(error):
                self._say(f"what runs where cannot be written down for now: {error}")
            self._trouble = str(error)


def answers(url: str, *, seconds: float = ANSWER_SECONDS) -> bool:
    """Whether a server says that it is well."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, whatever proxy there is
    try:
        with opener.open(url, timeout=seconds) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError, HTTPException):
        return False


def _wait(kept: Kept) -> float:
    """Seconds until the next start of a part, the longer the more often it was tried."""
    return min(LONGEST_WAIT, 0.25 * 2**kept.tries) if kept.tries > 1 else 0.0


def _signal(kept: Kept, number: signal.Signals) -> None:
    if kept.process is not None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(kept.process.pid, number)


def _end(kept: Kept, until: float) -> None:
    """Wait for a part that was told to end; from then on nothing that carries its mark lives."""
    assert kept.process is not None
    with suppress(subprocess.TimeoutExpired):
        kept.process.wait(timeout=max(0.1, until - time.monotonic()))
    for number, patience in ((signal.SIGTERM, 2.0), (signal.SIGKILL, 5.0)):
        left = leash.marked(kept.mark, name=MARK)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, number)
        waited = time.monotonic() + patience
        while left and leash.marked(kept.mark, name=MARK) and time.monotonic() < waited:
            kept.process.poll()  # one that has ended is no longer marked once it is waited for
            time.sleep(0.05)
    kept.process.wait()
    kept.process, kept.healthy = None, False


def _trim(log: Path) -> None:
    """Put a log that has grown aside; its server goes on writing into the emptied file, which it only appends to."""
    with suppress(FileNotFoundError):
        if log.stat().st_size > LARGEST_LOG:
            shutil.copyfile(log, log.with_name(f"{log.name}.1"))
            os.truncate(log, 0)


def _words(log: Path) -> str:
    with suppress(OSError):
        told = log.read_bytes()[-20_000:].decode(errors="replace")
        return f"Its last words, of {log}: {last_lines(told)}"
    return f"It wrote nothing into {log}."


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
