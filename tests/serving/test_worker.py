"""The worker: one thread, bounded, in order."""

import threading
from concurrent.futures import Future

import pytest

from serving.worker import Busy, Worker


def test_work_runs_on_one_thread_that_is_not_ours_and_in_order():
    worker, done = Worker(), []
    futures = [worker.submit(lambda n=n: (done.append(n), threading.get_ident())[1]) for n in range(8)]
    threads = {future.result(10) for future in futures}
    worker.close()
    assert done == list(range(8))
    assert len(threads) == 1 and threading.get_ident() not in threads


def test_a_full_worker_refuses_and_recovers():
    worker, held = Worker(places=2), Future()
    first, second = worker.submit(held.result), worker.submit(int)
    with pytest.raises(Busy):
        worker.submit(int)
    held.set_result(1)
    assert (first.result(10), second.result(10)) == (1, 0)
    assert worker.submit(int).result(10) == 0
    worker.close()


def test_cancelled_work_never_runs_and_gives_its_place_back():
    worker, held, ran = Worker(places=2), Future(), []
    first = worker.submit(held.result)
    assert worker.submit(lambda: ran.append(1)).cancel()
    third = worker.submit(int)
    held.set_result(1)
    assert (first.result(10), third.result(10)) == (1, 0)
    worker.close()
    assert not ran


def test_work_that_fails_gives_its_place_back():
    worker = Worker(places=1)
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            worker.submit(lambda: 1 / 0).result(10)
    worker.close()
