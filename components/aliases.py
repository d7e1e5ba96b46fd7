"""MLflow's aliases read straight from its database or its server: importing MLflow would cost two seconds.

Only looked at, as `atelier status` does; `display.py` is what sets them.
"""

import json
import re
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from pathlib import Path
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from components.errors import AtelierError

SECONDS = 5.0  # for a server, or a writer of the database, to be done
QUESTION = "/api/2.0/mlflow/registered-models/search?max_results=500&page_token="


def of_all(tracking_uri: str, *, headers: Mapping[str, str] | None = None) -> dict[str, dict[str, str]]:
    """The aliases of every registered model; `headers` are what a server wants to see of who asks.

    Empty where there is no database yet. An `AtelierError` where it cannot be read, or the server does not answer.
    """
    try:
        if tracking_uri.startswith(("http://", "https://")):
            return _asked(tracking_uri, headers or {})
        return _read(tracking_uri)
    except (sa.exc.SQLAlchemyError, OSError, ValueError, LookupError, TypeError, HTTPException, ImportError) as error:
        cause = " ".join(str(getattr(error, "orig", None) or error).split())
        raise AtelierError(f"MLflow at {without_password(tracking_uri)} cannot be read: {cause}") from error


def without_password(uri: str) -> str:
    """A URI as it may be shown."""
    return re.sub(r"//[^/@]*@", "//***@", uri)


def _read(uri: str) -> dict[str, dict[str, str]]:
    url = sa.make_url(uri)
    if url.get_backend_name() == "sqlite":
        if url.database is None or not Path(url.database).exists():
            return {}
        url = sa.make_url(f"sqlite:///file:{quote(url.database)}?mode=ro&uri=true")
    engine = sa.create_engine(url, poolclass=NullPool)
    names = sa.text("SELECT name FROM registered_models")
    held = sa.text("SELECT name, alias, version FROM registered_model_aliases")
    with engine.connect() as connection:
        found: dict[str, dict[str, str]] = {name: {} for (name,) in connection.execute(names)}
        for name, alias, version in connection.execute(held):
            found.setdefault(name, {})[alias] = str(version)
    return found


def _asked(server: str, headers: Mapping[str, str]) -> dict[str, dict[str, str]]:
    opener = urllib.request.build_opener()
    found: dict[str, dict[str, str]] = {}
    token: str | None = ""
    while token is not None:
        question = urllib.request.Request(f"{server.rstrip('/')}{QUESTION}{quote(token)}", headers=dict(headers))
        with opener.open(question, timeout=SECONDS) as answer:
            page = json.load(answer)
        for model in page.get("registered_models", []):
            found[model["name"]] = {held["alias"]: str(held["version"]) for held in model.get("aliases", [])}
        token = page.get("next_page_token") or None
    return found
