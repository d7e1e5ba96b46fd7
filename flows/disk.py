"""What the parts of a workspace take on the disk, counted for as long as there is patience."""

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flows.workspace import Workspace

PARTS = {
    "store": ("store",),
    "archive": ("dvc",),
    "MLflow": ("mlruns", "mlflow.db", "mlflow.db-wal"),
    "Prefect": ("prefect",),
    "Bentos": ("bentoml",),
    "checkpoints": ("checkpoints",),
    "requests": ("serving",),
    "reports": ("reports",),
    "records": ("records", "events", "runs.db", "ledger.db"),
    "logs": ("logs",),
}


def used(place: Workspace, *, seconds: float) -> dict[str, dict[str, Any]]:
    """The bytes of each part; `whole` is false where the seconds were over before all of it was counted."""
    share = seconds / len(PARTS)
    return {part: _sized((place.root / name for name in names), share) for part, names in PARTS.items()}


def _sized(paths: Iterable[Path], seconds: float) -> dict[str, Any]:
    until, total, pending = time.monotonic() + seconds, 0, [str(path) for path in paths]
    while pending:
        if time.monotonic() > until:
            return {"bytes": total, "whole": False}
        path = pending.pop()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_size
        except NotADirectoryError:
            total += os.stat(path).st_size  # noqa: PTH116 - a file of its own
        except FileNotFoundError:  # of a run that cleared it away meanwhile, or not there yet
            continue
        except OSError:
            return {"bytes": total, "whole": False}
    return {"bytes": total, "whole": True}


def shown(size: int) -> str:
    """Bytes for a person: "4.2 GiB"."""
    amount, units = float(size), ["B", "KiB", "MiB", "GiB", "TiB"]
    while amount >= 1000 and len(units) > 1:
        amount, units = amount / 1024, units[1:]
    return f"{amount:.3g} {units[0]}"
