"""Ends what a command started, when the command is gone, however it went.

Prefect's API, a Bento's server and their workers are processes of their own, and outlive a `kill -9` of the command
that started them. Each carries a mark in its environment; this small process, in a session of its own, waits for the
command to end and then ends whatever still carries it. Linux only, as the mark is read from /proc.
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path

MARK = "ATELIER_LEASH"
GRACE_SECONDS = 60.0  # a training process saves its checkpoint first


def tie(*, grace: float = GRACE_SECONDS) -> None:
    """End every process started from now on with this one; asked again, it is so already."""
    if _watchers:
        return
    mark = uuid.uuid4().hex
    watcher = subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, mark, str(grace)],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    _watchers.append(watcher)  # its standard input stays open as long as this process lives
    os.environ[MARK] = mark


_watchers: list["subprocess.Popen[bytes]"] = []


def marked(mark: str, *, name: str = MARK) -> list[int]:
    """The processes whose environment holds `name` with that value; not those that have ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{name}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def main(mark: str, grace: float) -> None:
    """Wait until standard input closes; then SIGTERM, and after `grace` seconds SIGKILL for what does not heed it."""
    sys.stdin.read()
    until = time.monotonic() + grace
    for pid in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
    while marked(mark) and time.monotonic() < until:
        time.sleep(0.2)
    for pid in marked(mark):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]))
