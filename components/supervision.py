"""Training in a process of its own: watched, its death told apart, and gone on with where that can help.

| death | how it is known | the answer |
|---|---|---|
| a mistake, an alarm | the process says so itself | an `AtelierError` with its words |
| out of memory | torch's or Python's own error | one with the mend |
| killed for memory | the kernel's count of such kills rose | resumed once, then as above |
| refused by the disk | `OSError`, as of a full one | the same error, for the flow to tell |
| killed, crashed | the signal it died of | resumed from the last checkpoint |
| stalled | no step for `STALLED_SECONDS`, or no word for `SILENT_SECONDS` | killed and resumed |
| code error | any other exception | `TrainingFailed`, with the traceback |
"""

import json
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from components.closure import ROOT
from components.errors import AtelierError
from components.recipe import Candidate
from components.records import Artifact, Beginning, Shards, Trained
from components.server import last_lines
from components.store import Store

STALLED_SECONDS = 900.0
SILENT_SECONDS = 120.0  # a process that runs at all tells its step every 2 seconds
STOP_SECONDS = 60.0  # for the step at hand and a checkpoint
# How often training is resumed after each kind of death without a step gained in between.
RESUMED = {"killed": 3, "crashed": 1, "stalled": 1, "out of memory": 1}

Progressed = Callable[[Mapping[str, Any]], None]


class TrainingFailed(RuntimeError):
    """Training ended by a fault of the code, or died again and again; its note holds what the process said last."""

    def __init__(self, message: str, said: str) -> None:
        super().__init__(message)
        self.add_note(said)


@dataclass
class _Attempt:
    """What one process said before it ended."""

    step: int = -1
    said: dict[str, Any] = field(default_factory=dict)  # its last word: `trained` or `error`
    stalled: bool = False
    code: int = 0
    words: str = ""  # the end of its standard error


def train(
    name: str,
    candidate: Candidate,
    shards: Shards,
    *,
    job: str,
    modality: str,
    store: Store,
    checkpoints: Path,
    report: Progressed,
    encoder: Artifact | None = None,
    beginning: Beginning | None = None,
    told: Callable[[str], None] = lambda words: None,
) -> Trained:
    """Train one candidate in a process of its own, to the same bytes however often that process dies.

    `report` gets each reading (`step`, `steps`, `samples_per_second`, `seconds_left`, `losses`), `told` a sentence for
    each death that is answered by going on. Raises `AtelierError` for what a person can mend, else `TrainingFailed`.
    """
    message = {
        "name": name,
        "candidate": candidate.model_dump(mode="json"),
        "shards": shards.model_dump(mode="json"),
        "job": job,
        "modality": modality,
        "store": str(store.root),
        "checkpoints": str(checkpoints),
        "encoder": None if encoder is None else encoder.model_dump(mode="json"),
        "beginning": None if beginning is None else beginning.model_dump(mode="json"),
    }
    resumed, fruitless, best = 0, 0, -1
    while True:
        kills = _memory_kills()
        attempt = _attempt(message, report)
        if "trained" in attempt.said:
            cost = attempt.said["cost"]
            return Trained.model_validate({**attempt.said["trained"], **cost, "resumed": resumed})
        _raise_told(name, candidate, attempt)
        death = "out of memory" if _memory_kills() > kills else _death(attempt)
        fruitless = 0 if attempt.step > best else fruitless + 1
        best = max(best, attempt.step)
        if fruitless > RESUMED[death]:
            raise _final(name, candidate, death, attempt)
        resumed += 1
        told(f"training was {_past(death)} at step {max(attempt.step, 0)}: going on from its last checkpoint")


def _attempt(message: Mapping[str, Any], report: Progressed) -> _Attempt:
    """One process from its start to its end; on Ctrl-C it saves a checkpoint before this returns by the exception."""
    attempt = _Attempt()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "components.trainee"],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors,
        )  # fmt: skip
        assert process.stdin is not None and process.stdout is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(message).encode() + b"\n")
                process.stdin.flush()
            _listen(process, attempt, report)
        finally:
            _end(process)
            attempt.code = process.returncode
            errors.seek(0)
            attempt.words = last_lines(errors.read()[-20_000:].decode(errors="replace"))
    return attempt


def _listen(process: "subprocess.Popen[bytes]", attempt: _Attempt, report: Progressed) -> None:
    """Take every line down until the process closes its output, or makes no step for too long."""
    assert process.stdout is not None
    lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_pump, args=(process.stdout, lines), daemon=True).start()
    moved = heard = time.monotonic()
    while True:
        try:
            line = lines.get(timeout=1.0)
            heard = time.monotonic()
        except queue.Empty:
            line = b"{}"
        if line is None:
            return
        said = _parsed(line)
        step = said["progress"]["step"] if "progress" in said else said.get("beat", attempt.step)
        if step > attempt.step:
            attempt.step, moved = step, time.monotonic()
        if "progress" in said:
            report(said["progress"])
        elif "trained" in said or "error" in said:
            attempt.said = said
        if time.monotonic() - moved > STALLED_SECONDS or time.monotonic() - heard > SILENT_SECONDS:
            attempt.stalled = True
            process.kill()
            return


def _pump(stream: BinaryIO, lines: "queue.SimpleQueue[bytes | None]") -> None:
    with suppress(OSError, ValueError):
        for line in stream:
            lines.put(line)
    lines.put(None)


def _parsed(line: bytes) -> dict[str, Any]:
    """A line as its message; one cut off by the death of its writer says nothing."""
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Close the process's input, which tells it to save and stop; kill it where it does not in time."""
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    try:
        process.wait(STOP_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):  # a second Ctrl-C does not wait for the checkpoint
        process.kill()
        process.wait()
    process.stdout.close()


def _raise_told(name: str, candidate: Candidate, attempt: _Attempt) -> None:
    """Raise what the process itself said of its end, where it did: going on would end the same way."""
    kind, error = attempt.said.get("kind"), attempt.said.get("error")
    if kind == "mistake":
        raise AtelierError(f"candidates.{name}: {error}")
    if kind == "memory":
        raise _final(name, candidate, "out of memory", attempt)
    if kind == "refused":
        raise OSError(attempt.said["errno"], f"training of candidates.{name}: {error}")
    if kind == "code":
        where = f"training of candidates.{name} ended by an error in the code at step {max(attempt.step, 0)}"
        raise TrainingFailed(f"{where}: {error}", attempt.said["traceback"])


def _death(attempt: _Attempt) -> str:
    if attempt.stalled:
        return "stalled"
    return "killed" if attempt.code in (-signal.SIGKILL, -signal.SIGTERM) else "crashed"


def _past(death: str) -> str:
    return "killed for want of memory" if death == "out of memory" else death


def _final(name: str, candidate: Candidate, death: str, attempt: _Attempt) -> Exception:
    """What is raised for a death that going on does not help."""
    where = f"training of candidates.{name} at step {max(attempt.step, 0)} of {candidate.train.steps}"
    if death == "out of memory":
        peak = attempt.said.get("cost", {}).get("peak_gpu_memory") or attempt.said.get("cost", {}).get("peak_memory")
        taken = f" after it had taken {peak / 2**20:,.0f} MiB" if peak else ""
        return AtelierError(
            f"{where} ran out of memory{taken}. Lower train.batch_size (it is {candidate.train.batch_size}) or the "
            f"sizes in candidates.{name}.config, or free memory and run the same command again: it goes on from the "
            "last checkpoint."
        )
    how = f"signal {-attempt.code}" if attempt.code < 0 else f"exit code {attempt.code}"
    return TrainingFailed(
        f"{where} was {_past(death)} ({how}) again and again without a step gained. Its last words: {attempt.words}",
        attempt.words,
    )


def _memory_kills() -> int:
    """How often the kernel has killed for want of memory: in this control group, or else on the whole machine."""
    for path, key in ((_group() / "memory.events", "oom_kill"), (Path("/proc/vmstat"), "oom_kill")):
        with suppress(OSError, ValueError):
            counts = dict(line.split() for line in path.read_text().splitlines())
            if key in counts:
                return int(counts[key])
    return 0


def _group() -> Path:
    """The folder of this process's control group, where the system has such (version 2)."""
    with suppress(OSError):
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            if line.startswith("0::"):
                return Path("/sys/fs/cgroup") / line[3:].lstrip("/")
    return Path("/sys/fs/cgroup")
