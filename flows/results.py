"""The records that Prefect keeps of skipped stages, read from its files without its API."""

import json
from pathlib import Path
from typing import Any

from flows.workspace import Workspace

NONE = object()  # no result; a result may be None itself


def read(place: Workspace, key: str, kind: Any) -> Any:
    """The result of that type that is kept under a key; `NONE` where there is none, or what is there is none."""
    path = _path(place, key)
    try:
        result = _parsed(path)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return NONE
    return result if isinstance(result, kind) else NONE


def drop_damaged(place: Workspace, key: str, kind: Any) -> None:
    """Remove a kept result that cannot be read, such as one that was cut off: Prefect would fail on it."""
    path = _path(place, key)
    if path.is_file() and read(place, key, kind) is NONE:
        path.unlink()


def _parsed(path: Path) -> Any:
    from prefect.serializers import JSONSerializer

    content = json.loads(path.read_bytes())
    return JSONSerializer(jsonlib="json").loads(content["result"].encode())


def _path(place: Workspace, key: str) -> Path:
    return place.prefect / "storage" / key
