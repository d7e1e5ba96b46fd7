"""What a piece of work cost: seconds, peak memory and, where the machine tells it, energy.

Peak memory is that of this process, which Linux counts anew from each start of a meter; a stage that works in another
process adds what that one says of itself. Energy is what the processors and GPUs of the whole machine took meanwhile,
whoever used them: Linux's powercap counters (often for root only), and NVML's.
"""

import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from components.process import peak_memory

POWERCAP = Path("/sys/class/powercap")


@dataclass
class Meter:
    """Measures between `start` and `stop`; what cannot be read is None."""

    seconds: float = 0.0
    peak_memory: int | None = None  # bytes
    joules: float | None = None
    powercap: Path = POWERCAP
    _begun: float = field(default=0.0, repr=False)
    _counters: dict[str, float] = field(default_factory=dict, repr=False)

    def start(self) -> None:
        self._begun = time.monotonic()
        self._counters = energy(self.powercap)
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from now on

    def stop(self) -> None:
        self.seconds = time.monotonic() - self._begun
        self.peak_memory = peak_memory()
        self.joules = spent(self._counters, energy(self.powercap))


def energy(powercap: Path = POWERCAP) -> dict[str, float]:
    """The energy counters of this machine in joules: processor packages by folder, GPUs by index."""
    found: dict[str, float] = {}
    for package in powercap.glob("*:[0-9]*"):
        if package.name.count(":") == 1:  # the parts of a package are counted in it
            with suppress(OSError, ValueError):
                found[str(package)] = int((package / "energy_uj").read_text()) / 1e6
    return {**found, **_gpus()}


def spent(before: dict[str, float], now: dict[str, float]) -> float | None:
    """The joules between two readings of the counters; None where no counter tells."""
    gained = [_since(before[name], now[name], name) for name in before.keys() & now.keys()]
    known = [joules for joules in gained if joules is not None]
    return sum(known) if known else None


def _gpus() -> dict[str, float]:
    if not Path("/proc/driver/nvidia").exists():
        return {}
    try:
        import pynvml

        pynvml.nvmlInit()
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return {f"gpu{i}": pynvml.nvmlDeviceGetTotalEnergyConsumption(h) / 1e3 for i, h in enumerate(handles)}
    except Exception:  # noqa: BLE001 - old drivers, other vendors and bare containers refuse in ways of their own
        return {}


def _since(before: float, now: float, name: str) -> float | None:
    """What a counter gained; a package's starts again from zero at its range, and one that is lost tells nothing."""
    if now >= before:
        return now - before
    with suppress(OSError, ValueError):
        return now - before + int((Path(name) / "max_energy_range_uj").read_text()) / 1e6
    return None
