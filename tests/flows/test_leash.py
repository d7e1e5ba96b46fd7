"""What a command started ends with it, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

SCRIPT = """
import subprocess, sys, time
from flows import leash
for _ in range({ties}):
    leash.tie(grace={grace})
child = subprocess.Popen([sys.executable, "-c", {child!r}], start_new_session=True, stdout=subprocess.PIPE, text=True)
assert child.stdout.readline() == "ready\\n"
print(child.pid, flush=True)
time.sleep({seconds})
"""
MEEK = "import time; print('ready', flush=True); time.sleep(300)"
STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {MEEK}"


def started(
    child: str = MEEK, *, seconds: float = 300, ties: int = 1, grace: float = 60
) -> tuple["subprocess.Popen[str]", psutil.Process]:
    script = SCRIPT.format(child=child, seconds=seconds, ties=ties, grace=grace)
    command = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[2]
    )
    assert command.stdout is not None
    return command, psutil.Process(int(command.stdout.readline()))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_takes_its_children_along(number: signal.Signals) -> None:
    command, child = started()
    os.kill(command.pid, number)
    command.wait()
    child.wait(timeout=20)


def test_one_that_ends_by_itself_does_too() -> None:
    command, child = started(seconds=0)
    command.wait()
    child.wait(timeout=20)


def test_a_second_recipe_of_one_command_is_on_the_same_leash() -> None:
    command, child = started(ties=2)
    command.kill()
    command.wait()
    child.wait(timeout=20)


def test_a_child_that_does_not_heed_is_killed_after_the_time_it_was_given() -> None:
    command, child = started(STUBBORN, grace=2)
    command.kill()
    command.wait()
    killed = time.monotonic()
    child.wait(timeout=30)
    assert time.monotonic() - killed > 1.5
