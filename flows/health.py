"""What `atelier doctor` examines: whether this machine and this workspace can run a recipe."""

import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from components.errors import AtelierError
from flows import workspace
from flows.workspace import Workspace

NEEDED_GIB = 2.0  # a first run writes about 0.3 GiB; the rest is room for those that follow


@dataclass(frozen=True)
class Check:
    """One thing examined, what was found, and how to mend it where it is not good."""

    name: str
    good: bool
    found: str
    mend: str = ""

    def as_dict(self) -> dict[str, Any]:
        return {"check": self.name, "good": self.good, "found": self.found, "mend": self.mend if not self.good else ""}


def examine(start: Path) -> list[Check]:
    """Every check in order; those of the workspace only where a project is found."""
    checks = [_python(), _packages(start)]
    try:
        place = workspace.find(start)
        workspace.enter(place)
    except AtelierError as error:
        return [*checks, Check("project", False, str(error), "change into the project")]
    return [*checks, Check("project", True, str(place.project)), *_workspace(place)]


def table(checks: list[Check]) -> Table:
    """The checks for a person, each failing one with its mend."""
    rows = Table.grid(padding=(0, 2))
    for check in checks:
        mark = Text("good", "green") if check.good else Text("bad", "bold red")
        rows.add_row(mark, check.name, check.found + ("" if check.good else f"\n  mend: {check.mend}"))
    return rows


def _python() -> Check:
    found = sys.version.split()[0]
    return Check("python", sys.version_info[:2] >= (3, 11), found, "use Python 3.11: make clean, then make run")


def _packages(start: Path) -> Check:
    lock = next(
        (
            folder / "requirements.lock"
            for folder in (start, *start.parents)
            if (folder / "requirements.lock").is_file()
        ),
        None,
    )
    if lock is None:
        return Check("packages", True, "no requirements.lock here to compare with")
    pins = [line.split("==") for line in lock.read_text().split() if "==" in line]
    wrong = [f"{name} {_installed(name)} instead of {pin}" for name, pin in pins if _installed(name) != pin]
    found = f"{len(pins)} as in requirements.lock" if not wrong else "; ".join(wrong[:5])
    return Check("packages", not wrong, found, "delete .venv, then any make target sets it up again")


def _installed(name: str) -> str:
    try:
        return version(name).split("+")[0]
    except PackageNotFoundError:
        return "missing"


def _workspace(place: Workspace) -> Iterator[Check]:
    free = shutil.disk_usage(place.root).free / 2**30
    yield Check("disk", free >= NEEDED_GIB, f"{free:.1f} GiB free", f"free {NEEDED_GIB:g} GiB for the workspace")
    yield _tried("workspace", lambda: _writable(place), "make it writable, or set ATELIER_WORKSPACE to another folder")
    yield _tried(
        "ledger", lambda: _ledger(place), "see the message; the ledger is .atelier/ledger.db unless you set a URL"
    )
    yield _tried("data", lambda: _data(place), "git checkout data.dvc .dvc infra/starter-data")
    yield _device()
    yield _ports(place)


def _writable(place: Workspace) -> str:
    probe = place.root / ".probe"
    probe.write_bytes(b"x")
    probe.unlink()
    return f"{place.root} can be written"


def _ledger(place: Workspace) -> str:
    from components.ledger import Ledger

    return f"{len(Ledger(place.ledger_url).versions())} registered versions"


def _data(place: Workspace) -> str:
    from components import versioning

    return f"data.dvc names {versioning.version_of(place.project, 'data')}"


def _device() -> Check:
    import torch

    found = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    return Check("device", True, found)


def _ports(place: Workspace) -> Check:
    """Whether `atelier up` could listen, unless it does."""
    from flows.platform import Ports

    running = workspace.servers(place)
    if running is not None:
        return Check("ports", True, f"the platform is up, process {running['pid']}")
    taken = [f"{port} ({part})" for part, port in asdict(Ports()).items() if _answers(port)]
    found = f"in use: {', '.join(taken)}" if taken else f"free: {', '.join(map(str, asdict(Ports()).values()))}"
    mend = "stop what listens there, or name other ports: atelier up --help, atelier serve --port"
    return Check("ports", not taken, found, mend)


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tried(name: str, attempt: Callable[[], str], mend: str) -> Check:
    try:
        return Check(name, True, attempt())
    except (AtelierError, OSError) as error:
        return Check(name, False, str(error), mend)
