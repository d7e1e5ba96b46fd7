"""Batches come back in order and unchanged from as many processes as there are; a worker that dies is told of."""

import ctypes
import os
import signal
import stat
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from components import workers
from components.errors import AtelierError
from components.workers import mapped


def doubled(batch: pa.RecordBatch, *, times: int) -> pa.RecordBatch:
    """What is done to each batch here: the number times `times`, and by which process."""
    process = pa.array([os.getpid()] * len(batch))
    return pa.RecordBatch.from_arrays([pc.multiply(batch["n"], times), process], names=["n", "process"])


def killed(batch: pa.RecordBatch) -> pa.RecordBatch:
    if batch["n"][0].as_py() == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return batch


def failing(batch: pa.RecordBatch) -> pa.RecordBatch:
    raise KeyError("a defect")


def failing_later(batch: pa.RecordBatch) -> pa.RecordBatch:
    if batch["n"][0].as_py() < 5:
        return batch
    raise KeyError("a defect")


def refusing(batch: pa.RecordBatch) -> pa.RecordBatch:
    raise AtelierError("the row 'a' is no good")


def leaving(batch: pa.RecordBatch) -> pa.RecordBatch:
    os._exit(3)


def printing(batch: pa.RecordBatch) -> pa.RecordBatch:
    """As a C library prints, and a child of the worker, and Python."""
    libc = ctypes.CDLL(None)
    libc.puts(b"warning from C")
    libc.fflush(None)
    os.system("echo warning from a child")
    print("warning from Python")
    return batch


def garbling(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Into the stream of the answers itself, the head of a message that is none: past 2, the only pipe."""
    mine = next(fd for fd in range(3, 256) if _is_pipe(fd))
    os.write(mine, struct.pack("<Ii", 0xFFFFFFFF, 8) + b"nonsense")
    return batch


def _is_pipe(fd: int) -> bool:
    try:
        return stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return False


def batches(count: int) -> Iterator[pa.RecordBatch]:
    for number in range(count):
        yield pa.RecordBatch.from_arrays([pa.array(np.full(10, number))], names=["n"])


@pytest.fixture
def two_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    """This file under a name that a worker can import, and two cores whatever the machine has."""
    for work in (doubled, killed, failing, failing_later, refusing, leaving, printing, garbling):
        monkeypatch.setattr(work, "__module__", "tests.components.test_workers")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})


def told(work: Any, count: int, **given: Any) -> pa.Table:
    return pa.Table.from_batches(mapped(work, batches(count), **{"options": {}, **given}))


def test_little_work_starts_no_process() -> None:
    found = told(doubled, 5, options={"times": 2})
    assert set(found["process"].to_pylist()) == {os.getpid()}
    assert found["n"].to_pylist() == [2 * n for n in range(5) for _ in range(10)]


def test_more_work_is_done_by_two_workers_in_order(two_cores: None) -> None:
    found = told(doubled, 40, options={"times": 3}, alone=0)
    assert found["n"].to_pylist() == [3 * n for n in range(40) for _ in range(10)]
    processes = found["process"].to_pylist()
    assert processes[0] == os.getpid()  # the first batch is done while none is there yet
    assert len(set(processes[10:])) == 2 and os.getpid() not in processes[10:]


def test_a_large_batch_is_several_pieces_of_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "BYTES_AT_ONCE", 32)
    pieces = list(mapped(doubled, batches(2), options={"times": 1}))
    assert [len(piece) for piece in pieces] == [4, 4, 2, 4, 4, 2]


def test_no_batches_are_no_work(two_cores: None) -> None:
    assert list(mapped(doubled, iter(()), options={"times": 1}, alone=0)) == []


def test_a_worker_that_is_killed_is_told_of(two_cores: None) -> None:
    with pytest.raises(AtelierError, match="a worker process was killed by SIGKILL while it read rows"):
        told(killed, 20, alone=0)


def in_workers(work: Any, count: int = 3) -> list[pa.RecordBatch]:
    """All of the work in workers, also the first batch."""
    return list(workers._in_workers(f"{work.__module__}:{work.__name__}", batches(count), {}, 2))


@pytest.mark.parametrize("work", [failing, failing_later])
def test_a_fault_of_the_code_in_a_worker_is_no_mistake_of_the_user(two_cores: None, work: Any) -> None:
    with pytest.raises(RuntimeError, match="KeyError: 'a defect'") as raised:
        in_workers(work, 12)
    (note,) = raised.value.__notes__
    assert f"in {work.__name__}" in note and "test_workers.py" in note


def test_a_mistake_that_a_worker_finds_is_told_as_one(two_cores: None) -> None:
    with pytest.raises(AtelierError, match=r"^the row 'a' is no good$"):
        in_workers(refusing)


def test_a_worker_that_leaves_is_a_fault_of_the_code(two_cores: None) -> None:
    with pytest.raises(RuntimeError, match="ended with status 3"):
        in_workers(leaving)


@pytest.mark.timeout(60)  # the answer that is none would be waited for without end
def test_what_a_library_prints_is_no_answer(two_cores: None, capfd: pytest.CaptureFixture[str]) -> None:
    found = pa.Table.from_batches(in_workers(printing, 4))
    assert found["n"].to_pylist() == [n for n in range(4) for _ in range(10)]
    said = capfd.readouterr()
    assert all(f"warning from {who}" in said.err for who in ("C", "a child", "Python")) and not said.out


@pytest.mark.timeout(60)
def test_an_answer_that_is_none_ends_the_work(two_cores: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "DYING_SECONDS", 0.2)
    with pytest.raises(RuntimeError, match="something else than rows"):
        in_workers(garbling)


def test_whoever_stops_asking_leaves_no_process_behind(two_cores: None) -> None:
    import psutil

    answers = mapped(doubled, batches(100), options={"times": 1}, alone=0)
    for _ in range(3):
        next(answers)
    begun = {child.pid for child in psutil.Process().children() if "components.workers" in child.cmdline()}
    assert len(begun) == 2
    answers.close()
    assert not any(psutil.pid_exists(pid) for pid in begun)
