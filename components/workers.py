"""A function over batches of rows, in order, on all cores where that pays: in worker processes of our own.

A worker is `python -m components.workers MODULE:FUNCTION OPTIONS`: Arrow batches come in on its standard input, and
what the function makes of each goes out on its standard output. So nothing is forked from a process with threads, the
main program is not imported again, and a worker ends with the one that asked it, however that ends.
"""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from queue import SimpleQueue
from typing import Any

import pyarrow as pa

from components.errors import AtelierError

ALONE_SECONDS = 3.0  # starting workers takes about one
BYTES_AT_ONCE = 8 * 2**20  # of a piece of work; where rows are large, a batch is several pieces

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
        self._reader: Any = None

    def ask(self, piece: pa.RecordBatch) -> pa.RecordBatch:
        assert self._process.stdin and self._process.stdout
        try:
            self._writer = self._writer or pa.ipc.new_stream(self._process.stdin, piece.schema)
            self._writer.write_batch(piece)
            self._process.stdin.flush()
            self._reader = self._reader or pa.ipc.open_stream(self._process.stdout)
            return self._reader.read_next_batch()
        except (OSError, StopIteration, pa.ArrowException):
            status = self._process.wait()
            why = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            raise AtelierError(
                f"a worker process {why} while it read rows. If it was killed, memory may have run out: free some, "
                "and run the recipe again; else its message is above."
            ) from None

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


def serve(name: str, options: Mapping[str, Any]) -> None:
    """Answer every batch on standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that asks
    module, function = name.split(":")
    work: Work = getattr(importlib.import_module(module), function)
    answers = sys.stdout.buffer
    sys.stdout = sys.stderr  # what a library prints is no answer
    with pa.ipc.open_stream(sys.stdin.buffer) as reader:
        writer = None
        for piece in reader:
            answer = work(piece, **options)
            writer = writer or pa.ipc.new_stream(answers, answer.schema)
            writer.write_batch(answer)
            answers.flush()


if __name__ == "__main__":
    serve(sys.argv[1], json.loads(sys.argv[2]))
