"""Training in a process of its own: every death is seen, told apart and answered."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from components import supervision
from components.errors import AtelierError
from components.recipe import Candidate, Train
from components.records import Trained
from components.store import Store
from tests.components.prepared_pictures import prepared

SMALL = {"latent_dim": 4, "width": 4, "hidden": 16}
SLOW = {"latent_dim": 4, "width": 16, "hidden": 1024}  # so that its parent can keep up with its steps


def candidate(config: dict[str, Any] | None = None, **train: Any) -> Candidate:
    return Candidate(family="vae", config=config or SMALL, train=Train(**{"batch_size": 8, "steps": 300, **train}))


def train(store: Store, made: Candidate, **signs: Any) -> Trained:
    shards = prepared(store, train=64, held_out=16)
    places = {"store": store, "checkpoints": store.root / "checkpoints"}
    signs = {"report": lambda reading: None, **signs}
    return supervision.train("small", made, shards, job="job", modality="image", **signs, **places)


def trainee() -> psutil.Process:
    """The process that trains, a child of this one."""
    (found,) = [child for child in psutil.Process().children() if "components.trainee" in child.cmdline()]
    return found


class Killer:
    """Sends a signal to the trainee at the first reading of each of these steps."""

    def __init__(self, number: signal.Signals, *steps: int) -> None:
        self.number, self.steps = number, list(steps)

    def __call__(self, reading: Any) -> None:
        if self.steps and reading["step"] >= self.steps[0]:
            self.steps.pop(0)
            trainee().send_signal(self.number)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Sums are rounded otherwise by another number of threads, and other tests of this process change it here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def undisturbed(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(Store(tmp_path_factory.mktemp("whole")), candidate())


@pytest.fixture(scope="module")
def slow_undisturbed(one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return train(Store(tmp_path_factory.mktemp("slow")), candidate(SLOW, steps=600))


def test_a_process_of_its_own_trains_to_the_same_weights_as_the_loop_here(undisturbed: Trained, tmp_path: Path) -> None:
    from components import training

    store = Store(tmp_path)
    shards = prepared(store, train=64, held_out=16)
    here = training.train(
        "small", candidate(), shards, job="job", modality="image", store=store,
        checkpoints=tmp_path / "checkpoints", report=lambda progress: None,
    )  # fmt: skip
    assert here.weights == undisturbed.weights
    assert undisturbed.resumed == 0 and undisturbed.peak_memory > 50 * 2**20


@pytest.mark.parametrize("number", [signal.SIGKILL, pytest.param(signal.SIGSEGV, marks=pytest.mark.slow)])
def test_a_process_that_dies_is_resumed_to_the_same_weights(
    number: signal.Signals, slow_undisturbed: Trained, tmp_path: Path
) -> None:
    told: list[str] = []
    made = candidate(SLOW, steps=600, checkpoint_every=20)
    done = train(Store(tmp_path), made, report=Killer(number, 30, 90), told=told.append)
    assert done.weights == slow_undisturbed.weights and done.steps == 600
    assert done.resumed == 2 == len(told)
    assert ("killed" if number == signal.SIGKILL else "crashed") in told[0]


@pytest.mark.slow
def test_one_that_is_killed_again_and_again_without_a_step_gained_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervision, "RESUMED", supervision.RESUMED | {"killed": 1})
    told: list[str] = []
    with pytest.raises(supervision.TrainingFailed, match=r"was killed \(signal 9\) again and again"):
        train(
            Store(tmp_path),
            candidate(SLOW, steps=600, checkpoint_every=1000),
            report=Killer(signal.SIGKILL, *[40] * 9),
            told=told.append,
        )
    assert len(told) == 2  # the first death had gained steps


@pytest.mark.slow
@pytest.mark.parametrize("limit", ["STALLED_SECONDS", "SILENT_SECONDS"])
def test_one_that_hangs_is_killed_and_resumed(limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def freeze(reading: Any) -> None:
        if reading["step"] >= 40 and not told:
            trainee().suspend()
            monkeypatch.setattr(supervision, limit, 1.0)

    def told_of(words: str) -> None:
        told.append(words)
        monkeypatch.setattr(supervision, limit, 300.0)

    done = train(Store(tmp_path), candidate(SLOW, steps=600, checkpoint_every=10), report=freeze, told=told_of)
    assert done.resumed == 1 and "stalled" in told[0]


def test_nan_is_a_mistake_that_names_the_candidate_and_the_mend(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match=r"candidates.small: training diverged: .* learning rate"):
        train(Store(tmp_path), candidate({**SMALL, "lr": 1e30}))


@pytest.mark.slow
def test_too_little_memory_is_told_with_the_mend(tmp_path: Path) -> None:
    huge = candidate({"latent_dim": 4, "width": 4, "hidden": 2**31 - 1})
    with pytest.raises(AtelierError, match=r"ran out of memory.* Lower train.batch_size \(it is 8\)"):
        train(Store(tmp_path), huge)


@pytest.mark.slow
def test_a_fault_of_the_code_comes_with_its_traceback(tmp_path: Path) -> None:
    store = Store(tmp_path)
    shards = prepared(store, train=64, held_out=16)
    (store.path(shards.shards) / "index.json").write_text("{}")
    with pytest.raises(supervision.TrainingFailed, match="ended by an error in the code") as failure:
        supervision.train(
            "small", candidate(), shards, job="job", modality="image", store=store,
            checkpoints=tmp_path / "checkpoints", report=lambda reading: None,
        )  # fmt: skip
    assert "Traceback" in failure.value.__notes__[0]


@pytest.mark.slow
def test_a_stop_saves_a_checkpoint_and_the_next_process_goes_on_from_there(
    slow_undisturbed: Trained, tmp_path: Path
) -> None:
    def stop(reading: Any) -> None:
        if reading["step"] >= 40:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(Store(tmp_path), candidate(SLOW, steps=600, checkpoint_every=10_000), report=stop)
    steps: list[int] = []
    done = train(
        Store(tmp_path),
        candidate(SLOW, steps=600, checkpoint_every=10_000),
        report=lambda reading: steps.append(reading["step"]),
    )
    assert steps[0] > 40 and done.weights == slow_undisturbed.weights


@pytest.mark.slow
def test_a_process_whose_parent_is_killed_saves_and_ends(tmp_path: Path) -> None:
    store = Store(tmp_path)
    prepared(store, train=64, held_out=16)
    parent = os.fork()
    if parent == 0:  # no test framework from here on
        try:
            train(store, candidate(steps=100_000, checkpoint_every=100_000))
        finally:
            os._exit(1)
    until = time.monotonic() + 60
    while not (found := _trainees(parent)) or found[0].cpu_times().user < 3:
        assert time.monotonic() < until
        time.sleep(0.2)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    found[0].wait(timeout=30)
    assert (tmp_path / "checkpoints" / "job" / "state.json").is_file()


def _trainees(parent: int) -> list[psutil.Process]:
    return [child for child in psutil.Process(parent).children() if "components.trainee" in child.cmdline()]


@pytest.mark.slow
def test_two_trainings_of_one_job_do_not_meet(undisturbed: Trained, tmp_path: Path) -> None:
    done: list[Trained] = []
    both = [threading.Thread(target=lambda: done.append(train(Store(tmp_path), candidate()))) for _ in range(2)]
    for thread in both:
        thread.start()
    for thread in both:
        thread.join()
    assert [trained.weights for trained in done] == [undisturbed.weights] * 2
