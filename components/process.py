"""What the operating system knows of this process and its files: its peak of memory, its standard output, locks."""

import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO


def peak_memory() -> int | None:
    """The most memory that this process has held, in bytes; None where the system does not tell.

    Not `ru_maxrss`, which a new program inherits from the process that started it.
    """
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/self/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    return None


def own_standard_output() -> BinaryIO:
    """A stream of our own to standard output; whatever else prints, be it a C library, goes to standard error now."""
    kept = os.dup(1)
    os.dup2(2, 1)
    return os.fdopen(kept, "wb")


def locked(handle: int) -> bool:
    """Lock an open file unless another holds it; whether it is ours now."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def born(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None where there is none, or it has ended.

    A number is given to another process in time; together with this it is one process for good.
    """
    with suppress(OSError, ValueError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()  # a name may hold anything
        return None if fields[0] in "ZX" else int(fields[19])
    return None
