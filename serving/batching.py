"""The one thread that runs the models, and its queue: rows of different callers share a forward pass.

A batch is what one forward pass of a family takes: `Endpoint.rows` rows of one model version that agree on the
controls which shape it (`Endpoint.bucket`). Nothing waits for company: a batch starts as soon as the thread is free,
with whatever is there, so an idle server adds no delay and a busy one fills its batches by itself. Between two batches
the samples that are made piece by piece go on by a step (`streams.py`).
"""

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from serving.streams import Stream, Streams

if TYPE_CHECKING:  # torch comes with it
    from components.sampling import Batch, Endpoint

LOG = logging.getLogger("atelier.serving")
PLACES = 512  # samples that wait, of all models together
SMOOTHING = 0.2  # weight of the newest batch in the expected seconds of the next

Finish = Callable[[int, bytes], bytes]


class Busy(Exception):
    """The queue is too long; the caller may come again after `seconds`."""

    def __init__(self, seconds: float) -> None:
        super().__init__(f"busy for {seconds:.1f} s")
        self.seconds = seconds


Name = tuple[str, str]  # a model and its version
Bucket = tuple[Name, Hashable]


@dataclass(slots=True, eq=False)
class Job:
    """Samples of one request: they may be made in several batches, and are handed over together, in order."""

    endpoint: "Endpoint"
    seeds: Sequence[int]
    controls: Mapping[str, Any]
    finish: Finish  # what follows for each sample: its index and bytes in, the bytes to hand over out
    bucket: Bucket
    given: "Batch | None" = None  # the row that each sample is made from, where the model edits
    done: "Future[list[bytes]]" = field(default_factory=Future)
    asked: float = field(default_factory=time.monotonic)
    begun: float = 0.0  # when its first batch was
    taken: int = 0  # rows that are in a batch or past it
    samples: list[bytes] = field(default_factory=list)

    @property
    def left(self) -> int:
        return len(self.seeds) - self.taken


Observe = Callable[[Name, int, float], None]


class Batcher:
    """Jobs in, samples out. Jobs of a bucket are served in the order of asking, and the oldest job's bucket first."""

    def __init__(self, *, places: int = PLACES, observe: Observe = lambda name, rows, seconds: None) -> None:
        self.places = places
        self._observe = observe
        self._queues: dict[Bucket, deque[Job]] = {}
        self._seconds: dict[Bucket, float] = {}  # what a batch of that bucket is expected to take
        self._begun: set[Bucket] = set()  # those whose first batch is over: it loads and compiles, and tells nothing
        self._waiting = 0
        self._busy_until = 0.0
        self._ending = False
        self._changed = threading.Condition()
        self._streams = Streams(self._changed, observe)
        self._thread = threading.Thread(target=self._work, name="models", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Samples that no batch has taken yet, and streams that have no slot."""
        return self._waiting + self._streams.waiting

    def submit(
        self,
        name: Name,
        endpoint: "Endpoint",
        seeds: Sequence[int],
        controls: Mapping[str, Any],
        *,
        finish: Finish = lambda index, sample: sample,
        patience: float | None = None,
        always: bool = False,
        given: "Batch | None" = None,
    ) -> Job:
        """A job whose `done` will hold one sample per seed; `Busy` at once where it would wait beyond `patience` s.

        With `always` it is taken though the queue is full: what a server asks of itself.
        """
        job = Job(endpoint, seeds, controls, finish, (name, endpoint.bucket(controls)), given)
        with self._changed:
            wait = self._expected_wait()
            if self._ending or (not always and self._waiting + len(seeds) > self.places):
                raise Busy(max(1.0, wait))
            if patience is not None and wait > patience:
                raise Busy(wait - patience)
            self._queues.setdefault(job.bucket, deque()).append(job)
            self._waiting += len(seeds)
            self._changed.notify()
        return job

    def stream(self, stream: Stream, *, patience: float | None = None) -> None:
        """Have a sample made piece by piece; `Busy` at once where it would wait beyond `patience` seconds."""
        with self._changed:
            wait = self._expected_wait() + self._streams.expected_wait(stream.name)
            if self._ending or self.waiting >= self.places:
                raise Busy(max(1.0, wait))
            if patience is not None and wait > patience:
                raise Busy(wait - patience)
            self._streams.add(stream)
            self._changed.notify()

    def cancel(self, job: Job) -> None:
        """Free the places of whatever of a job no batch has taken yet."""
        with self._changed:
            job.done.cancel()
            queue = self._queues.get(job.bucket)
            if queue is not None and job in queue:
                self._drop(job, queue)

    def forget(self, name: Name) -> None:
        """Drop what is remembered of a version that is no longer in memory."""
        with self._changed:
            self._seconds = {bucket: took for bucket, took in self._seconds.items() if bucket[0] != name}
            self._begun = {bucket for bucket in self._begun if bucket[0] != name}

    def close(self) -> None:
        """Let the running batch end, and cancel what waits."""
        with self._changed:
            self._ending = True
            for queue in self._queues.values():
                for job in queue:
                    job.done.cancel()
            self._queues.clear()
            self._waiting = 0
            self._streams.close()
            self._changed.notify()
        self._thread.join()

    def _drop(self, job: Job, queue: deque[Job]) -> None:
        queue.remove(job)
        self._waiting -= job.left
        if not queue:
            del self._queues[job.bucket]

    def _expected_wait(self) -> float:
        """Seconds until all that is asked for now is made, from what batches took lately."""
        wait = max(0.0, self._busy_until - time.monotonic())
        for bucket, queue in self._queues.items():
            batches = -(-sum(job.left for job in queue) // queue[0].endpoint.rows)
            wait += batches * self._seconds.get(bucket, 0.0)
        return wait

    def _work(self) -> None:
        """Batch after batch until the end. A fault of ours costs the jobs that it met, and not those after them."""
        _settle()
        while True:
            parts: list[tuple[Job, range]] | None = None
            try:
                batch = self._next()
                if batch is None:
                    return
                bucket, parts = batch
                if parts:
                    self._serve(bucket, parts)
                self._streams.advance()
            except BaseException as error:
                LOG.exception("the thread that runs the models goes on after a fault")
                self._abandon(None if parts is None else [job for job, _ in parts], error)

    def _serve(self, bucket: Bucket, parts: Sequence[tuple[Job, range]]) -> None:
        started = time.monotonic()
        self._busy_until = started + self._seconds.get(bucket, 0.0)
        try:
            for failed in _run(parts, started):
                self.cancel(failed)  # the rest of it is not worth making
        finally:
            self._busy_until = 0.0
        took = time.monotonic() - started
        if bucket in self._begun:
            before = self._seconds.get(bucket, took)
            self._seconds[bucket] = before + SMOOTHING * (took - before)
        self._begun.add(bucket)
        self._observe(bucket[0], sum(len(rows) for _, rows in parts), took)

    def _abandon(self, jobs: Sequence[Job] | None, error: BaseException) -> None:
        """Fail some jobs; with None, all that wait: the queue itself cannot be trusted."""
        with self._changed:
            if jobs is None:
                jobs = [job for queue in self._queues.values() for job in queue]
                self._queues.clear()
                self._waiting = 0
        for job in jobs:
            if _fail(job, error):
                self.cancel(job)

    def _next(self) -> tuple[Bucket, list[tuple[Job, range]]] | None:
        """The rows of the next batch, job by job, none where only streams are at work; None at the end."""
        with self._changed:
            while not self._queues and not self._streams and not self._ending:
                self._changed.wait()
            if self._ending:
                return None
            if not self._queues:
                return (("", ""), ()), []
            bucket = min(self._queues, key=lambda named: self._queues[named][0].asked)
            queue, parts = self._queues[bucket], []
            room = queue[0].endpoint.rows
            if room < 1:
                raise RuntimeError(f"{bucket[0]} takes {room} rows at once, so it makes nothing")
            while queue and room:
                job = queue[0]
                rows = range(job.taken, job.taken + min(room, job.left))
                parts.append((job, rows))
                job.taken, room = rows.stop, room - len(rows)
                self._waiting -= len(rows)
                if not job.left:
                    queue.popleft()
            if not queue:
                del self._queues[bucket]
            return bucket, parts


def _run(parts: Sequence[tuple[Job, range]], now: float) -> list[Job]:
    """One forward pass, and what follows for each of its rows; the jobs that a fault has ended."""
    for job, _ in parts:
        job.begun = job.begun or now
    try:
        samples = iter(_made(parts))
    except BaseException as error:  # noqa: BLE001 - it belongs to the callers
        return [job for job, _ in parts if _fail(job, error)]
    failed = []
    for job, rows in parts:
        mine = [(row, next(samples)) for row in rows]
        try:
            job.samples += [job.finish(row, sample) for row, sample in mine]
        except BaseException as error:  # noqa: BLE001 - it belongs to this caller
            failed += [job] if _fail(job, error) else []
            continue
        if len(job.samples) == len(job.seeds) and job.done.set_running_or_notify_cancel():
            job.done.set_result(job.samples)
    return failed


def _made(parts: Sequence[tuple[Job, range]]) -> list[bytes]:
    """The samples of all rows, one after another."""
    seeds = [job.seeds[row] for job, rows in parts for row in rows]
    controls = [job.controls for job, rows in parts for _ in rows]
    made = parts[0][0].endpoint.generate(seeds, controls, _given(parts))
    if len(made) != len(seeds):
        raise RuntimeError(f"the model made {len(made)} samples of {len(seeds)} seeds")
    return made


def _given(parts: Sequence[tuple[Job, range]]) -> "Batch | None":
    """What the rows of a batch are made from, each job's its own; all jobs of a bucket are given rows, or none is."""
    from components.sampling import join

    given = [job.given.rows(slice(rows.start, rows.stop)) for job, rows in parts if job.given is not None]
    return join(given) if given else None


def _fail(job: Job, error: BaseException) -> bool:
    if told := not job.done.done() and job.done.set_running_or_notify_cancel():
        # what would end a thread must not end the event loop, which raises it again
        job.done.set_exception(error if isinstance(error, Exception) else RuntimeError(repr(error)))
    return told


def _settle() -> None:
    """Give torch every core but one, which stays with the event loop."""
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) - 1))
