"""The queue of the models: what shares a batch, in which order, and what happens to who gives up."""

import threading
import time
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest
import torch

from components.bundle import EndpointCard
from components.modalities.image.batch import Images
from components.records import Strict
from components.sampling import Endpoint
from serving.batching import Batcher, Busy


class Steps(Strict):
    """The controls of the toy family: rows of different `steps` cannot share a forward pass."""

    steps: int = 1


class Toy:
    """A family of four rows that notes its batches, and waits at its gate."""

    modality = "toy"
    edits = False
    alike = ("steps",)
    rows = 4

    def __init__(self):
        self.batches, self.gate = [], threading.Event()
        self.gate.set()

    def refuse(self, controls):
        pass

    def sample(self, seeds, *, controls, conditions=None):
        self.gate.wait(10)
        self.batches.append([(seed, control.steps) for seed, control in zip(seeds, controls, strict=True)])
        if 13 in seeds:
            raise ZeroDivisionError
        return seeds


class Digits:
    """How the toy's samples travel."""

    @staticmethod
    def encode(seeds, spec):
        return [b"%d" % seed for seed in seeds]


def endpoint(toy):
    card = EndpointCard.model_validate({"model": "toy", "controls": {"steps": {"default": 1}}})
    return Endpoint(
        card=card, family="toy", modality="toy", media_type="text/plain", parameters=0, controls=Steps, spec=None,
        rows=4, _sampler=toy, _family_controls=Steps, _codec=Digits,
    )  # fmt: skip


@pytest.fixture
def toy():
    toy = Toy()
    yield toy
    toy.gate.set()


@pytest.fixture
def batcher():
    batcher = Batcher(places=32)
    yield batcher
    batcher.close()


def held(batcher, toy, name=("toy", "1"), **first):
    """A first job that keeps the thread busy until the gate opens, and a way to ask for more."""
    toy.gate.clear()
    served = endpoint(toy)

    def ask(*seeds, steps=1, **how):
        return batcher.submit(how.pop("name", name), served, seeds, {"steps": steps}, **how)

    first = ask(0, **first)
    until(lambda: first.begun)
    return ask, first


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def test_rows_of_several_callers_share_a_batch_and_each_gets_its_own(batcher, toy):
    ask, _ = held(batcher, toy)
    jobs = [ask(1), ask(2, 3), ask(4, 5, 6)]
    toy.gate.set()
    assert [job.done.result(10) for job in jobs] == [[b"1"], [b"2", b"3"], [b"4", b"5", b"6"]]
    assert [[seed for seed, _ in batch] for batch in toy.batches] == [[0], [1, 2, 3, 4], [5, 6]]


def test_rows_that_must_agree_do_not_share_a_batch_and_the_oldest_goes_first(batcher, toy):
    ask, _ = held(batcher, toy)
    jobs = [ask(1), ask(2, steps=9), ask(3)]
    toy.gate.set()
    for job in jobs:
        job.done.result(10)
    assert toy.batches[1:] == [[(1, 1), (3, 1)], [(2, 9)]]


class Editor(Toy):
    """A family that makes each sample from a given row."""

    edits = True

    def sample(self, seeds, *, controls, conditions=None):
        rows = super().sample(seeds, controls=controls)
        return [100 * int(given) + seed for seed, given in zip(rows, conditions.pixels, strict=True)]


def test_each_row_has_the_given_row_of_its_own_job(batcher):
    editor = Editor()
    ask, _ = held(batcher, editor, given=rows(9))
    jobs = [ask(1, given=rows(1)), ask(2, 3, 4, 5, given=rows(2, 3, 4, 5)), ask(6, given=rows(6))]
    editor.gate.set()
    assert [job.done.result(10) for job in jobs] == [[b"101"], [b"202", b"303", b"404", b"505"], [b"606"]]
    assert [len(batch) for batch in editor.batches] == [1, 4, 2]


def rows(*values):
    return Images(torch.tensor(values))


def test_versions_never_share_a_batch(batcher, toy):
    ask, _ = held(batcher, toy)
    jobs = [ask(1), ask(2, name=("toy", "2"))]
    toy.gate.set()
    for job in jobs:
        job.done.result(10)
    assert [len(batch) for batch in toy.batches] == [1, 1, 1]


def test_places_are_counted_in_samples(batcher, toy):
    ask, _ = held(batcher, toy)
    ask(*range(20, 50))
    assert batcher.waiting == 30
    with pytest.raises(Busy):
        ask(1, 2, 3)
    ask(1, 2)
    toy.gate.set()
    until(lambda: batcher.waiting == 0)
    assert ask(3).done.result(10) == [b"3"]


def test_a_wait_beyond_patience_is_refused_with_its_length(batcher, toy):
    for _ in range(2):  # the first tells nothing: it loads and compiles
        ask, first = held(batcher, toy)
        time.sleep(0.2)
        toy.gate.set()
        first.done.result(10)
    ask, _ = held(batcher, toy)
    ask(*range(20, 30))
    with pytest.raises(Busy) as busy:
        ask(1, patience=0.1)
    assert 0.1 < busy.value.seconds < 5
    assert ask(1, patience=60)


def test_a_first_batch_that_compiled_for_long_makes_nobody_wait(batcher, toy):
    ask, first = held(batcher, toy)
    time.sleep(0.5)
    toy.gate.set()
    first.done.result(10)
    for seed in range(3):
        assert ask(seed, patience=0.1).done.result(10) == [b"%d" % seed]


def test_a_job_that_is_given_up_frees_its_places_and_is_never_made(batcher, toy):
    ask, _ = held(batcher, toy)
    given_up, kept = ask(1, 2), ask(3)
    batcher.cancel(given_up)
    assert batcher.waiting == 1
    toy.gate.set()
    assert kept.done.result(10) == [b"3"]
    with pytest.raises(CancelledError):
        given_up.done.result(1)
    assert toy.batches == [[(0, 1)], [(3, 1)]]


def test_a_fault_ends_its_batch_and_nothing_else(batcher, toy):
    ask, _ = held(batcher, toy)
    long, beside, other = ask(12, 13, 14, 15, 16, 17), ask(18), ask(19, steps=2)
    toy.gate.set()
    with pytest.raises(ZeroDivisionError):
        long.done.result(10)
    assert (beside.done.result(10), other.done.result(10)) == ([b"18"], [b"19"])
    assert [16, 17] not in [[seed for seed, _ in batch] for batch in toy.batches], "the rest of a failed job is dropped"
    assert batcher.waiting == 0


def test_a_fault_in_what_follows_a_sample_is_of_its_caller_alone(batcher, toy):
    ask, _ = held(batcher, toy)
    bad, good = ask(1, finish=lambda index, sample: 1 / 0), ask(2, 3, finish=lambda index, sample: sample * (index + 1))
    toy.gate.set()
    with pytest.raises(ZeroDivisionError):
        bad.done.result(10)
    assert good.done.result(10) == [b"2", b"33"]


def test_what_waits_at_the_end_is_cancelled(toy):
    batcher = Batcher()
    ask, first = held(batcher, toy)
    waiting = ask(1)
    threading.Timer(0.1, toy.gate.set).start()
    batcher.close()
    assert first.done.result(1) == [b"0"]
    with pytest.raises(CancelledError):
        waiting.done.result(1)
    with pytest.raises(Busy):
        ask(2)


def test_many_callers_at_once_each_get_their_own(batcher, toy):
    served, wrong = endpoint(toy), []

    def call(start):
        for seed in range(start, start + 50):
            while True:
                try:
                    job = batcher.submit(("toy", "1"), served, [seed, seed + 1], {"steps": seed % 3})
                    break
                except Busy:
                    time.sleep(0.001)
            if seed % 7 == 0:
                batcher.cancel(job)
            elif job.done.result(10) != [b"%d" % seed, b"%d" % (seed + 1)]:
                wrong.append(seed)

    callers = [threading.Thread(target=call, args=(100 * index + 20,)) for index in range(8)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    until(lambda: batcher.waiting == 0)
    assert not wrong
    assert all(len(batch) <= 4 and len({steps for _, steps in batch}) == 1 for batch in toy.batches)


def test_a_fault_after_a_batch_or_in_choosing_one_ends_no_thread(toy, caplog):
    told = []

    def observe(name, rows, seconds):
        told.append(rows)
        if len(told) == 1:
            raise KeyError("a metric")

    batcher = Batcher(places=32, observe=observe)
    good = endpoint(toy)
    assert batcher.submit(("toy", "1"), good, [1], {"steps": 1}).done.result(10) == [b"1"], "it was made all the same"
    odd = replace(good, rows=0)
    lost = batcher.submit(("toy", "2"), odd, [2], {"steps": 1})
    with pytest.raises(RuntimeError, match="takes 0 rows"):
        lost.done.result(10)
    assert batcher.submit(("toy", "1"), good, [3], {"steps": 1}).done.result(10) == [b"3"]
    assert batcher.waiting == 0 and told == [1, 1]
    assert [record.exc_info[0] for record in caplog.records] == [KeyError, RuntimeError]
    batcher.close()


def test_a_model_that_makes_too_few_samples_fails_its_callers_and_leaves_none_waiting(batcher, toy, monkeypatch):
    ask, first = held(batcher, toy)
    jobs = [ask(1), ask(2, 3)]
    monkeypatch.setattr(Digits, "encode", staticmethod(lambda seeds, spec: [b"%d" % seed for seed in seeds[:2]]))
    toy.gate.set()
    assert first.done.result(10) == [b"0"]
    for job in jobs:
        with pytest.raises(RuntimeError, match="2 samples of 3 seeds"):
            job.done.result(10)


@pytest.mark.parametrize("where", ["model", "finish"])
def test_what_would_end_a_thread_is_an_error_of_its_caller_alone(batcher, toy, monkeypatch, where):
    def leave(*_, **__):
        raise SystemExit

    if where == "model":
        with monkeypatch.context() as patched:
            patched.setattr(toy, "sample", leave)
            lost = batcher.submit(("toy", "1"), endpoint(toy), [1], {"steps": 1})
            with pytest.raises(RuntimeError, match="SystemExit"):
                lost.done.result(10)
    else:
        lost = batcher.submit(("toy", "1"), endpoint(toy), [1], {"steps": 1}, finish=leave)
        with pytest.raises(RuntimeError, match="SystemExit"):
            lost.done.result(10)
    assert batcher.submit(("toy", "1"), endpoint(toy), [2], {"steps": 1}).done.result(10) == [b"2"]
