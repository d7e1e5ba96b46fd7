"""What a user can get wrong, each kind with the exit code of the command line."""

from collections.abc import Sequence
from typing import Any


class AtelierError(ValueError):
    """A mistake the user can mend: one paragraph that says what, where and how to mend it."""

    exit_code = 2


def missing_package(error: ModuleNotFoundError) -> AtelierError:
    """What a package that is not there means for a person."""
    package = (error.name or str(error)).split(".")[0]
    return AtelierError(
        f"the package {package} is missing from this environment. Delete .venv, and any make target sets it up "
        "again; `atelier doctor` lists what else is not as in requirements.lock."
    )


class DataRejected(AtelierError):
    """The data failed its checks; nothing was trained on it."""

    exit_code = 3


class GateFailed(AtelierError):
    """No candidate passed its gates; nothing was registered. `verdicts` holds that of each."""

    exit_code = 4

    def __init__(self, message: str, verdicts: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.verdicts = verdicts
