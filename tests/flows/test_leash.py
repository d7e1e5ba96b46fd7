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
leash.tie()
{stubborn}
children = [subprocess.Popen([sys.executable, "-c", code], start_new_session=True) for code in codes]
print(*(child.pid for child in children), flush=True)
time.sleep({seconds})
"""
MEEK = 'codes = ["import time; time.sleep(300)"]'
STUBBORN = (
    'codes = ["import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(1, flush=True); '
    'time.sleep(300)"]'
)


def started(children: str, *, seconds: float = 300) -> tuple["subprocess.Popen[str]", psutil.Process]:
    command = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(stubborn=children, seconds=seconds)],
        stdout=subprocess.PIPE, text=True, cwd=Path(__file__).resolve().parents[2],
    )  # fmt: skip
    assert command.stdout is not None
    return command, psutil.Process(int(command.stdout.readline().split()[0]))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_command_takes_its_children_along(number: signal.Signals) -> None:
    command, child = started(MEEK)
    os.kill(command.pid, number)
    command.wait()
    child.wait(timeout=20)


def test_one_that_ends_by_itself_does_too() -> None:
    command, child = started(MEEK, seconds=0)
    command.wait()
    child.wait(timeout=20)


def test_a_child_that_does_not_heed_is_killed_after_the_time_it_was_given() -> None:
    command, child = started(STUBBORN)
    time.sleep(0.5)  # it takes its measures
    command.kill()
    command.wait()
    assert child.is_running() and child.status() != psutil.STATUS_ZOMBIE
    child.wait(timeout=30)
