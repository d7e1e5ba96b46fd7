"""Of two runs of one model the second waits and says for whom; other models do not wait."""

import os
import subprocess
import sys
import threading
from pathlib import Path

from flows.turns import turn

HOLD = """
import sys, time
from pathlib import Path
from flows.turns import turn
with turn(Path(sys.argv[1]), "fashion", say=print):
    print("mine", flush=True)
    time.sleep(300)
"""


def holder(locks: Path) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(locks)], stdout=subprocess.PIPE, text=True,
        cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert process.stdout is not None and process.stdout.readline() == "mine\n"
    return process


def test_the_second_says_whom_it_waits_for_and_begins_when_that_one_is_killed(tmp_path: Path) -> None:
    first, said, entered = holder(tmp_path), list[str](), threading.Event()

    def second() -> None:
        with turn(tmp_path, "fashion", say=said.append, look_every=0.05):
            entered.set()

    waiting = threading.Thread(target=second)
    waiting.start()
    assert not entered.wait(0.5)
    assert said and f"process {first.pid}" in said[0] and "another run of fashion is on" in said[0]
    first.kill()
    first.wait()
    assert entered.wait(5)
    waiting.join()


def test_another_model_does_not_wait(tmp_path: Path) -> None:
    first, said = holder(tmp_path), list[str]()
    with turn(tmp_path, "digits", say=said.append):
        assert said == []
    first.kill()
    first.wait()


def test_a_turn_that_was_ended_is_free(tmp_path: Path) -> None:
    for _ in range(2):
        with turn(tmp_path, "fashion", say=lambda words: os.abort()):
            pass
