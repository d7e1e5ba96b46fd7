"""A function over batches of rows, in order, on all cores where that pays: in worker processes of our own.

A worker is `python -m components.workers MODULE:FUNCTION OPTIONS`: Arrow batches come in on its standard input, and
what the function makes of each goes out on its standard output. So nothing is forked from a process with threads, the
main program is not imported again, and a worker ends with the one that asked it, however that ends.

An answer is an Arrow stream of its own, of one batch; or of none, with what the function raised in the metadata of its
schema.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa

from components import process
from components.errors import AtelierError

ALONE_SECONDS = 3.0  # starting workers takes about one
DYING_SECONDS = 5.0  # from the end of a worker's answers to its own
BYTES_AT_ONCE = 8 * 2**20  # of a piece of work; where rows are large, a batch is several pieces
FAILURE = b"failure"  # the key of what was raised

Work = Callable[..., pa.RecordBatch]


def mapped(
    work: Work, batches: Iterable[pa.RecordBatch], *, options: Mapping[str, Any], alone: float = ALONE_SECONDS
) -> Iterator[pa.RecordBatch]:
    """What `work` makes of each batch, in order; a large batch may come as several.

    It is a function of a module that is cheap to import, called with a batch and the options, which must be JSON. For
    the first `alone` seconds it works in this process, so that little work starts no other one; then in one process a
    core, with a few pieces of work ahead.
    """
    begun = time.monotonic()
    pieces = (piece for batch in batches for piece in _pieces(batch))
    for piece in pieces:
        yield work(piece, **options)
        if time.monotonic() - begun >= alone:
            break
    if (cores := len(os.sched_getaffinity(0))) > 1:
        yield from _in_workers(f"{work.__module__}:{work.__name__}", pieces, options, cores)
    else:
        yield from (work(piece, **options) for piece in pieces)


def _in_workers(
    name: str, pieces: Iterator[pa.RecordBatch], options: Mapping[str, Any], count: int
) -> Iterator[pa.RecordBatch]:
    idle: SimpleQueue[_Worker] = SimpleQueue()

    def ask(piece: pa.RecordBatch) -> pa.RecordBatch:
        worker = idle.get()
        try:
            return worker.ask(piece)
        finally:
            idle.put(worker)

    with ExitStack() as stack:
        ahead: deque[Future[pa.RecordBatch]] = deque()
        threads = stack.enter_context(ThreadPoolExecutor(count, thread_name_prefix="workers"))
        for piece in pieces:
            if not ahead and idle.empty():
                for _ in range(count):
                    worker = _Worker(name, options)
                    stack.callback(worker.end)  # before the threads are waited for, so that none waits for an answer
                    idle.put(worker)
            ahead.append(threads.submit(ask, piece))
            if len(ahead) > 2 * count:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class _Worker:
    """One worker process, asked one piece at a time."""

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        command = [sys.executable, "-m", "components.workers", name, json.dumps(options)]
        root = Path(__file__).resolve().parent.parent
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root)
        self._writer: Any = None

    def ask(self, piece: pa.RecordBatch) -> pa.RecordBatch:
        """What the function makes of a piece.

        An `AtelierError` of the function comes as it is, and anything else as a `RuntimeError` with the worker's
        traceback as a note, since it is a fault of the code. An `AtelierError` too where the worker was killed.
        """
        assert self._process.stdin and self._process.stdout
        try:
            self._writer = self._writer or pa.ipc.new_stream(self._process.stdin, piece.schema)
            self._writer.write_batch(piece)
            self._process.stdin.flush()
            with pa.ipc.open_stream(self._process.stdout) as reader:
                answered, found = list(reader), reader.schema.metadata
        except (OSError, pa.ArrowException) as error:
            raise self._lost() from error
        if not answered:
            raise _raised(**json.loads(found[FAILURE]))
        return answered[0]

    def _lost(self) -> Exception:
        """Why no answer came; the process is over afterwards."""
        try:
            status = self._process.wait(DYING_SECONDS)
        except subprocess.TimeoutExpired:  # what it wrote is no answer, and it would wait for the next piece for ever
            self._process.kill()
            self._process.wait()
            return RuntimeError("a worker process answered with something else than rows")
        if status >= 0:
            return RuntimeError(
                f"a worker process ended with status {status} before it answered; see its message above"
            )
        return AtelierError(
            f"a worker process was killed by {signal.Signals(-status).name} while it read rows. Memory may have run "
            "out: free some, and run the recipe again."
        )

    def end(self) -> None:
        self._process.kill()  # it holds nothing that could be lost
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            assert stream
            try:
                stream.close()
            except OSError:  # what was written last did not go out any more
                continue


def _pieces(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    """The batch in slices of about `BYTES_AT_ONCE`."""
    rows = max(1, len(batch) * BYTES_AT_ONCE // max(batch.nbytes, 1))
    for start in range(0, len(batch), rows):
        yield batch.slice(start, rows)


def _raised(*, kind: str, error: str, traceback: str) -> Exception:
    """What a worker's function raised, to be raised again here."""
    if kind == "mistake":
        return AtelierError(error)
    fault = RuntimeError(error)
    fault.add_note(f"In a worker process:\n{traceback}")
    return fault


def serve(name: str, options: Mapping[str, Any]) -> None:
    """Answer every batch on standard input until it ends."""
    answers = process.own_standard_output()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks
    with pa.ipc.open_stream(sys.stdin.buffer) as reader:
        for piece in reader:
            try:
                answered = [_named(name)(piece, **options)]
                schema = answered[0].schema
            except Exception as error:  # noqa: BLE001 - whatever it is, the one that asks must hear of it
                answered, schema = [], pa.schema([], {FAILURE: json.dumps(_failure(error))})
            with pa.ipc.new_stream(answers, schema) as writer:
                for answer in answered:
                    writer.write_batch(answer)
            answers.flush()


def _named(name: str) -> Work:
    module, function = name.split(":")
    work: Work = getattr(importlib.import_module(module), function)
    return work


def _failure(error: Exception) -> dict[str, str]:
    """What the function raised, as JSON, for `_raised`."""
    if isinstance(error, AtelierError):
        return {"kind": "mistake", "error": str(error), "traceback": ""}
    return {"kind": "code", "error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
