"""What `atelier status` tells: whether each part of the platform is well, and whether all of them agree."""

import base64
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from http.client import HTTPException
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from components import aliases
from components.errors import AtelierError
from components.ledger import Ledger
from flows import standing, workspace
from flows.controller import status_file
from flows.supervisor import answers
from flows.workspace import Workspace

STALE_SECONDS = 30.0  # without a poll, and the controller hangs
HIDDEN = "needs a key"  # the endpoints tell of a model to whoever may call it


def examine(place: Workspace) -> dict[str, Any]:
    """The state of everything, in the form of `atelier status --json`; `well` where nothing needs a person."""
    running = workspace.servers(place)
    parts = {name: _part(told) for name, told in (running or {}).get("parts", {}).items()}
    controller = _controller(place)
    stand = standing.gather(place)
    champions = {row["model"]: row["champion"]["version"] for row in stand["recipes"] if row["champion"]}
    models = _models(place, parts.get("endpoints"), champions)
    return {
        "schema": 1,
        "up": running is not None,
        "pid": running["pid"] if running else None,
        "parts": parts,
        "controller": controller,
        "models": models,
        **{name: stand[name] for name in ("recipes", "events", "notices", "disk", "troubles")},
        "well": running is not None
        and all(part["healthy"] for part in parts.values())
        and not controller["errors"]
        and not controller["stale"]
        and all(model["agree"] for model in models),
    }


def shown(found: dict[str, Any]) -> RenderableType:
    """The same for a person."""
    if not found["up"]:
        first: RenderableType = Text("The platform is not up in this workspace: atelier up", "bold red")
    else:
        first = Table("part", "address", "state", "pid", "since", "restarts")
        for part in found["parts"].values():
            state = Text("well", "green") if part["healthy"] else Text("unwell", "bold red")
            first.add_row(
                part["title"], part["url"], state, str(part["pid"] or ""), part["since"] or "", str(part["restarts"])
            )
    return Group(first, *_controller_lines(found["controller"]), *_model_table(found["models"]), *standing.shown(found))


def _part(told: dict[str, Any]) -> dict[str, Any]:
    kept = {name: told[name] for name in ("title", "url", "pid", "since", "restarts", "log")}
    return {**kept, "healthy": answers(told["url"] + told["health"])}


def _controller(place: Workspace) -> dict[str, Any]:
    try:
        told = json.loads(status_file(place).read_bytes())
    except (OSError, ValueError):
        return {"polled": None, "errors": {}, "actions": [], "release": None, "subscribed": None, "stale": True}
    polled = told.get("polled")
    age = (datetime.now(UTC) - datetime.fromisoformat(polled)).total_seconds() if polled else None
    kept = {name: told.get(name) for name in ("polled", "errors", "actions", "release", "subscribed", "webhook")}
    return {**kept, "stale": age is None or age > STALE_SECONDS}


def _models(place: Workspace, endpoints: dict[str, Any] | None, champions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Each model's champion in the ledger, as MLflow shows it, and as it is served."""
    names = Ledger(place.ledger_url).models()
    if not names:
        return []
    mlflow, trouble = _in_mlflow(place)
    served, troubles, silent = _served(endpoints, names)
    rows = []
    for name in names:
        row: dict[str, Any] = {
            "model": name,
            "ledger": champions.get(name),
            "mlflow": mlflow.get(name, {}).get("champion"),
            "served": served.get(name),
        }
        disagree = [
            f"{side}: {why or row[side] or 'none'}"
            for side, why in (("mlflow", trouble), ("served", silent or troubles.get(name)))
            if why is not None or row[side] not in (row["ledger"], HIDDEN)
        ]
        rows.append({**row, "agree": not disagree, "mismatch": disagree})
    return rows


def _in_mlflow(place: Workspace) -> tuple[dict[str, dict[str, str]], str | None]:
    try:
        return aliases.of_all(place.tracking_uri, headers=_credentials()), None
    except AtelierError as error:
        return {}, str(error)


def _credentials() -> dict[str, str]:
    """As MLflow's own client would send them."""
    if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
        return {"Authorization": f"Bearer {token}"}
    if user := os.environ.get("MLFLOW_TRACKING_USERNAME"):
        pair = f"{user}:{os.environ.get('MLFLOW_TRACKING_PASSWORD', '')}"
        return {"Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}"}
    return {}


def _served(endpoints: dict[str, Any] | None, names: list[str]) -> tuple[dict[str, str], dict[str, str], str | None]:
    """The champions that the endpoints answer with, why one is not the newest, and why none is told.

    `HIDDEN` where they want a key to tell, or another one: ATELIER_API_KEY, if it is set, is sent, and it may be for
    some models only.
    """
    if endpoints is None:
        return {}, {}, "the endpoints are not up"
    url = f"{endpoints['url']}/v1/models"
    try:
        cards = _asked(url)["data"]
        told = {card["id"]: card["version"] for card in cards}
        hidden = [name for name in names if name not in told and _is_forbidden(f"{url}/{name}")]
    except urllib.error.HTTPError as error:
        if error.code == 401:
            return dict.fromkeys(names, HIDDEN), {}, None
        return {}, {}, f"the endpoints answer {error.code}"
    except (OSError, ValueError, HTTPException) as error:
        return {}, {}, f"the endpoints do not answer ({error})"
    troubles = {card["id"]: f"{card['version']}, for {card['trouble']}" for card in cards if card["trouble"]}
    return {**told, **dict.fromkeys(hidden, HIDDEN)}, troubles, None


def _is_forbidden(url: str) -> bool:
    try:
        _asked(url)
    except urllib.error.HTTPError as error:
        return error.code == 403
    return False


def _asked(url: str) -> Any:
    key = os.environ.get("ATELIER_API_KEY")
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {key}"} if key else {})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=5) as answer:
        return json.load(answer)


def _controller_lines(told: dict[str, Any]) -> list[RenderableType]:
    polled = told["polled"] or "never"
    lines: list[RenderableType] = [
        Text.assemble(
            "controller: last poll ", (polled, "bold red" if told["stale"] else ""), f", release {told['release']}"
        )
    ]
    lines += [Text(f"  {topic}: {error}", "red") for topic, error in (told["errors"] or {}).items()]
    for action in (told["actions"] or [])[-5:]:
        words = f"  {action['time'][:19]}  {action['model']}: {action['alias']} {action['what']}"
        version = f", version {action['version']}" if action["version"] else ""
        why = f" ({action['why']})" if action["why"] else ""
        lines.append(Text(f"{words}{version}{why}", "dim"))
    return lines


def _model_table(models: list[dict[str, Any]]) -> list[RenderableType]:
    if not models:
        return [Text("no model is registered yet: atelier run fashion")]
    rows = Table("model", "champion in the ledger", "in MLflow", "served", "")
    for model in models:
        verdict = Text("in step", "green") if model["agree"] else Text("; ".join(model["mismatch"]), "bold red")
        rows.add_row(model["model"], *(model[side] or "" for side in ("ledger", "mlflow", "served")), verdict)
    return [rows]
