"""Where the embedded mode keeps everything, and the one place that sets the vendors' environment."""

import errno
import json
import logging
import os
import shutil
import socket
import sqlite3
import tempfile
from contextlib import closing
from dataclasses import dataclass
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from components.errors import AtelierError
from components.process import born

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "DO_NOT_TRACK": "true",
    "BENTOML_DO_NOT_TRACK": "True",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
    # The console shows a line per stage; what the vendors have to say goes to the log.
    "MLFLOW_CONFIGURE_LOGGING": "false",
    "PREFECT_LOGGING_LEVEL": "INFO",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL",
}
LOUD = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "INFO"}
# Of MLflow's clients: a server that hangs is told within seconds. A run, which uploads, has MLflow's own patience.
QUICK = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "5", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
REFUSALS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)  # what a person can mend
FULL_MIB = 2  # with less left, whatever fails has failed for want of room
NEEDED_MIB = 300  # what a first run of a small recipe writes


@dataclass(frozen=True)
class Workspace:
    """The folder `.atelier/` beside `data.dvc`: databases, store, Bento store, logs."""

    project: Path  # the folder that holds data.dvc
    root: Path

    @property
    def store(self) -> Path:
        return self.root / "store"

    @property
    def checkpoints(self) -> Path:
        return self.root / "checkpoints"

    @property
    def dvc(self) -> Path:
        return self.root / "dvc"

    @property
    def bentos(self) -> Path:
        return self.root / "bentoml"

    @property
    def runs(self) -> Path:
        return self.root / "mlruns"

    @property
    def reports(self) -> Path:
        return self.root / "reports"

    @property
    def serving(self) -> Path:
        return self.root / "serving"

    @property
    def release(self) -> Path:
        return self.serving / "release.json"

    @property
    def observations(self) -> Path:
        return self.serving / "observations"

    @property
    def monitoring(self) -> Path:
        return self.root / "monitoring"

    @property
    def up(self) -> Path:
        return self.root / "up.json"

    @property
    def secrets(self) -> Path:
        return self.root / "secrets"

    @property
    def prefect(self) -> Path:
        return self.root / "prefect"

    @property
    def incoming(self) -> Path:
        return self.root / "incoming"

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def locks(self) -> Path:
        return self.root / "locks"

    @property
    def records(self) -> Path:
        return self.root / "records"

    @property
    def log(self) -> Path:
        return self.root / "logs" / "atelier.log"

    @property
    def ledger_url(self) -> str:
        return os.environ.get("ATELIER_LEDGER_URL") or f"sqlite:///{self.root / 'ledger.db'}"

    @property
    def tracking_uri(self) -> str:
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"


def find(*starts: Path) -> Workspace:
    """The workspace of the project around the first start that lies in one, else an `AtelierError`.

    `ATELIER_WORKSPACE` moves the workspace elsewhere.
    """
    for folder in (folder for start in starts for folder in (start.resolve(), *start.resolve().parents)):
        if (folder / "data.dvc").is_file():
            root = Path(os.environ.get("ATELIER_WORKSPACE") or folder / ".atelier")
            if set("?#%") & set(str(root.resolve())):
                raise AtelierError(
                    f"the workspace {root.resolve()} has one of ? # % in its path, which database URLs cannot hold. "
                    "Set ATELIER_WORKSPACE to another folder."
                )
            return Workspace(folder, root.resolve())
    raise AtelierError(
        f"{starts[0].resolve()} lies in no Atelier project: no folder above it holds data.dvc. "
        "Change into the project, or name a recipe inside it."
    )


def enter(workspace: Workspace, *, debug: bool = False, patient: bool = False) -> None:
    """Point every vendor at the workspace; call before any of them is imported.

    With `debug` their logs are on the console too; who is `patient` waits long for an MLflow that does not answer. An
    `AtelierError` where the workspace cannot be written.
    """
    try:
        workspace.root.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=workspace.root).close()
    except OSError as error:
        raise refused(error, workspace) from None
    settings = {
        **QUIET,
        **(LOUD if debug else {}),
        **({} if patient else QUICK),
        "OMP_WAIT_POLICY": "passive",  # spinning threads starve whatever else runs
        "OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) - 1)),  # one core stays with Prefect's server
        "PREFECT_HOME": str(workspace.prefect),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_TRACKING_URI": workspace.tracking_uri,
        "BENTOML_HOME": str(workspace.bentos),
        **_of_servers(workspace),
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def servers(workspace: Workspace) -> dict[str, Any] | None:
    """What `atelier up` wrote of the servers that it runs in this workspace now; None where it does not run."""
    try:
        told: dict[str, Any] = json.loads(workspace.up.read_bytes())
        alive = born(int(told["pid"])) == told["born"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return told if alive else None


def _of_servers(workspace: Workspace) -> dict[str, str]:
    """Runs are seen in the Prefect that `atelier up` runs, where it answers; MLflow is used directly all the same."""
    url = ((servers(workspace) or {}).get("parts", {}).get("prefect") or {}).get("url")
    if url is None:
        return {}
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=1).close()
    except OSError:
        return {}
    return {"PREFECT_API_URL": f"{url}/api"}


class _Log(RotatingFileHandler):
    """A log that a full disk silences; what the disk refuses is told by what needs it."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Leave this line out."""


def keep_log(workspace: Workspace) -> None:
    """Write what the vendors log and warn about into the workspace's log; call after Prefect is imported.

    Importing Prefect sets logging up, and would undo this.
    """
    from prefect.logging.formatters import PrefectFormatter

    workspace.log.parent.mkdir(parents=True, exist_ok=True)
    root = logging.getLogger()
    if any(getattr(handler, "baseFilename", None) == str(workspace.log) for handler in root.handlers):
        return
    handler = _Log(workspace.log, maxBytes=2**22, backupCount=3, encoding="utf-8", delay=True)
    about = "%(asctime)s %(levelname)s %(name)s"
    handler.setFormatter(
        PrefectFormatter(
            f"{about}: %(message)s",
            flow_run_fmt=f"{about}: flow %(flow_run_name)s: %(message)s",
            task_run_fmt=f"{about}: %(task_run_name)s: %(message)s",
        )
    )
    root.addHandler(handler)
    logging.captureWarnings(True)


def refuse_full(workspace: Workspace, *, because: Exception | None = None) -> None:
    """Raise an `AtelierError` where the disk has no room for a run; or none at all, `because` of which one failed."""
    needed = NEEDED_MIB if because is None else FULL_MIB
    if shutil.disk_usage(workspace.root).free < needed * 2**20:
        raise refused(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), workspace) from because


def refuse_damaged(workspace: Workspace) -> None:
    """Raise an `AtelierError` where the database of the embedded Prefect is none: its API would never start."""
    path = workspace.prefect / "prefect.db"
    if os.environ.get("PREFECT_API_URL") or not path.is_file():
        return
    try:
        with closing(sqlite3.connect(path)) as database:
            database.execute("select count(*) from sqlite_master").fetchone()
    except sqlite3.OperationalError:  # held by another run at this moment
        return
    except sqlite3.DatabaseError as error:
        raise AtelierError(
            f"the database of Prefect {path} is damaged ({error}). It holds the history of runs only: move it away, "
            "with the files prefect.db-shm and prefect.db-wal beside it, and run the same command. No model is lost."
        ) from None


def refused(error: OSError, workspace: Workspace) -> AtelierError:
    """What the machine refused, with its mend."""
    what = f"{error.strerror or error}{f': {error.filename}' if error.filename else ''}"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return AtelierError(
            f"there is no room for the workspace {workspace.root} ({what}). Free {NEEDED_MIB} MiB or more, or set "
            "ATELIER_WORKSPACE to a folder on another disk, and run the same command: what was finished is kept."
        )
    return AtelierError(
        f"the workspace {workspace.root} cannot be used ({what}). Make it a folder that you can write to, or set "
        "ATELIER_WORKSPACE to another one."
    )
