"""Where the embedded mode keeps everything, and the one place that sets the vendors' environment."""

import os
from dataclasses import dataclass
from pathlib import Path

from components.errors import AtelierError

QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "DO_NOT_TRACK": "true",
    "BENTOML_DO_NOT_TRACK": "True",
    "GX_ANALYTICS_ENABLED": "false",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_OFFLINE": "1",
}


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
    def releases(self) -> Path:
        return self.root / "releases"

    @property
    def ledger_url(self) -> str:
        return os.environ.get("ATELIER_LEDGER_URL") or f"sqlite:///{self.root / 'ledger.db'}"

    @property
    def tracking_uri(self) -> str:
        return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.root / 'mlflow.db'}"


def find(start: Path) -> Workspace:
    """The workspace of the project around `start`; `ATELIER_WORKSPACE` moves the workspace elsewhere."""
    for folder in (start.resolve(), *start.resolve().parents):
        if (folder / "data.dvc").is_file():
            root = Path(os.environ.get("ATELIER_WORKSPACE") or folder / ".atelier")
            return Workspace(folder, root.resolve())
    raise AtelierError(
        f"{start.resolve()} lies in no Atelier project: no folder above it holds data.dvc. "
        "Change into the project, or name a recipe inside it."
    )


def enter(workspace: Workspace) -> None:
    """Point every vendor at the workspace; call before any of them is imported."""
    try:
        workspace.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AtelierError(
            f"the workspace {workspace.root} cannot be made: {error.strerror}. "
            "Set ATELIER_WORKSPACE to a folder that you can write to."
        ) from None
    settings = {
        **QUIET,
        "OMP_WAIT_POLICY": "passive",  # spinning threads starve whatever else runs
        "PREFECT_HOME": str(workspace.root / "prefect"),
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "120",
        "PREFECT_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_TRACKING_URI": workspace.tracking_uri,
        "BENTOML_HOME": str(workspace.bentos),
    }
    for name, value in settings.items():
        os.environ.setdefault(name, value)
