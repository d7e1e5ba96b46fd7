"""The process that trains one candidate: a job as JSON on standard input, progress as JSON lines on standard output.

It is started and watched by `supervision.py`. When its standard input closes, because it is told to stop or because
whoever started it is gone, it saves a checkpoint at the next step and ends.
"""

import contextlib
import faulthandler
import json
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from components import process
from components.errors import AtelierError

BEAT_SECONDS = 2.0
STOPPED = 75  # EX_TEMPFAIL: the same job goes on from its checkpoint


def main() -> int:
    """Train the job on standard input; the last line says what came of it."""
    faulthandler.enable()
    for number in (signal.SIGINT, signal.SIGTERM):  # a terminal's Ctrl-C reaches this process too: its parent decides
        signal.signal(number, signal.SIG_IGN)
    channel = _Channel(process.own_standard_output())
    job = json.loads(sys.stdin.readline())
    stop = threading.Event()
    threading.Thread(target=_until_closed, args=(stop,), daemon=True).start()
    try:
        trained = _train(job, channel, stop)
    except AtelierError as error:
        channel.say(error=str(error), kind="mistake")
    except MemoryError as error:
        channel.say(error=str(error) or "out of memory", kind="memory", **_cost())
    except OSError as error:
        channel.say(error=error.strerror or str(error), kind="refused", errno=error.errno, **_cost())
    except Exception as error:  # noqa: BLE001 - whatever it is, the one who watches must hear of it
        kind = "memory" if _is_memory(error) else "code"
        channel.say(error=_sentence(error), kind=kind, traceback=traceback.format_exc(), **_cost())
    else:
        if trained is None:
            return STOPPED
        channel.say(trained=trained, **_cost())
    return 0


def _train(job: dict[str, Any], channel: "_Channel", stop: threading.Event) -> dict[str, Any] | None:
    """The record of the training, as JSON; None where it was stopped."""
    from components import training
    from components.recipe import Candidate
    from components.records import Artifact, Beginning, Shards
    from components.store import Store

    def report(progress: training.Progress) -> None:
        channel.say(
            progress={
                "step": progress.step,
                "steps": progress.steps,
                "samples_per_second": progress.samples_per_second,
                "seconds_left": progress.seconds_left,
                "losses": dict(progress.losses),
            }
        )

    with channel.beating():
        try:
            trained = training.train(
                job["name"],
                Candidate.model_validate(job["candidate"]),
                Shards.model_validate(job["shards"]),
                job=job["job"],
                modality=job["modality"],
                store=Store(Path(job["store"])),
                checkpoints=Path(job["checkpoints"]),
                report=report,
                encoder=None if job["encoder"] is None else Artifact.model_validate(job["encoder"]),
                beginning=None if job["beginning"] is None else Beginning.model_validate(job["beginning"]),
                alive=channel.note,
                stop=stop.is_set,
            )
        except training.Stopped:
            return None
    return trained.model_dump(mode="json")


class _Channel:
    """Lines of JSON to whoever watches, from several threads, one at a time."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()
        self._step = -1  # before the first: the data are being opened

    def say(self, **message: Any) -> None:
        with self._lock, contextlib.suppress(BrokenPipeError):  # nobody listens any more: standard input says so too
            self._stream.write(json.dumps(message).encode() + b"\n")
            self._stream.flush()

    def note(self, step: int) -> None:
        self._step = step

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """Tell the step every few seconds, so that a loop that hangs can be told from one that is slow."""
        done = threading.Event()

        def beat() -> None:
            while not done.wait(BEAT_SECONDS):
                self.say(beat=self._step)

        threading.Thread(target=beat, daemon=True).start()
        try:
            yield
        finally:
            done.set()


def _until_closed(stop: threading.Event) -> None:
    with contextlib.suppress(OSError, ValueError):
        sys.stdin.read()
    stop.set()


def _is_memory(error: Exception) -> bool:
    import torch

    words = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in words or "not enough memory" in words


def _cost() -> dict[str, Any]:
    """Peak memory of this process and, where it used one, of the GPU, in bytes."""
    import torch

    taken = {"peak_memory": process.peak_memory() or 0}
    if torch.cuda.is_available():
        taken["peak_gpu_memory"] = torch.cuda.max_memory_allocated()
    return {"cost": taken}


def _sentence(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


if __name__ == "__main__":
    sys.exit(main())
