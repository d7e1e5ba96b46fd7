"""Keeps the ledger, MLflow's aliases and the release in step: `python -m flows.controller`, one per workspace.

Polling is the truth; a webhook of MLflow's only wakes it early. What a person moves in MLflow is a wish: the ledger
grants it, or the alias is put back and the version's page says why.
"""

import argparse
import json
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from components import display
from components.errors import AtelierError
from components.ledger import ALIASES, Alias, Display, Ledger, LedgerUnusable, Superseded, Version
from components.store import write_atomically
from flows import events, webhook, workspace
from flows.alone import only
from flows.webhook import Inbox, Receiver
from flows.workspace import Workspace

EVERY_SECONDS = 1.0
WRITE_SECONDS = 5.0  # how old the status file may be while nothing happens
AGAIN_SECONDS = 30.0  # the release is computed this often even where the ledger stands still
HANGING_SECONDS = 60.0
LOOKS = 5  # at a model whose ledger moves while it is looked at
ACTOR = "mlflow-ui"  # MLflow does not tell who moved an alias
REASON = "moved in MLflow"


class Controller:
    """Compares and mends at every `poll`; what it knows and did is in `status`."""

    def __init__(self, place: Workspace) -> None:
        self.place = place
        self.ledger = Ledger(place.ledger_url)
        self.status: dict[str, Any] = {
            "schema": 1, "pid": os.getpid(), "since": _now(), "polled": None, "errors": {}, "release": None,
            "subscribed": None, "webhook": None, "actions": [],
        }  # fmt: skip
        self._polled: float | None = None
        self._actions: deque[dict[str, Any]] = deque(maxlen=20)
        self._remarked: dict[tuple[str, Alias], tuple[str | None, int]] = {}  # what is said already, until put back
        self._published: tuple[Any, float] = (None, 0.0)
        self._written: tuple[Any, float] = (None, 0.0)

    def poll(self) -> None:
        """One comparison of everything. What fails is told once, and tried again at the next."""
        with self._told("ledger"):
            models = sorted({version.model for version in self.ledger.versions()})
            if models:
                with self._told("mlflow"):
                    shown = display.all_aliases(self.place.tracking_uri)
                    for model in models:
                        with self._told(model):
                            self._attend(model, shown.get(model, {}))
            with self._told("release"):
                self._publish()
        self.status["polled"], self._polled = _now(), time.monotonic()
        self._write()

    def health(self) -> dict[str, Any]:
        """Whether it polls: one that hangs, or has not polled yet, is not well."""
        age = time.monotonic() - self._polled if self._polled is not None else None
        return {"well": age is not None and age < HANGING_SECONDS, "polled": self.status["polled"]}

    def note(self, topic: str, error: Exception | None) -> None:
        """Put an error, or its end, into the log, once, and into the status."""
        errors: dict[str, str] = self.status["errors"]
        if error is None:
            if errors.pop(topic, None) is not None:
                _say(f"{topic}: well again")
        elif errors.get(topic) != (words := " ".join(str(error).split())[:1000]):
            errors[topic] = words
            _say(f"{topic}: {words}")

    def subscribed(self, trouble: str | None) -> None:
        """Put into the status whether MLflow will send its webhooks, and why not; it is polled all the same."""
        if trouble is not None and self.status["subscribed"] is not False:
            _say(trouble)
        self.status["subscribed"] = trouble is None

    def _attend(self, model: str, shown: dict[str, str]) -> None:
        """Judge what was moved in MLflow by hand, then have MLflow show what the ledger says."""
        due = self.ledger.displayed(model, self.place.tracking_uri)
        if due.done and _ours(shown) == due.now:
            self._settled(model, {})
            return
        due, seen = self._look(model)
        refused: dict[Alias, str | None] = {}
        granted: dict[Alias, str | None] = {}
        expected = due.generation
        for alias in ALIASES:
            wanted = seen.get(alias)
            if due.moved(alias) or not due.by_hand(alias, wanted):
                continue  # MLflow lags, or the ledger moved it too: `show` knows what to do
            why = self._refusal(model, alias, wanted, expected)
            if why is None:
                granted[alias] = wanted
                move = self.ledger.current(model).get(alias)
                expected = max(expected, move.generation if move else 0)
            else:
                refused[alias] = wanted
                self._remark(model, alias, wanted, due, why)
        if refused or not self._is_shown(model):
            changed = display.show(self.place.tracking_uri, model, self.ledger, put_back=refused, granted=granted)
            for alias in changed:
                self._act("put back" if alias in refused else "shown", model, alias, self._held(model, alias))
        self._settled(model, refused)

    def _look(self, model: str) -> tuple[Display, dict[Alias, str]]:
        """What is due and what MLflow shows, both at one moment: no move of the ledger came in between."""
        for _ in range(LOOKS):
            due = self.ledger.displayed(model, self.place.tracking_uri)
            seen = _ours(display.aliases(self.place.tracking_uri, model))
            if self.ledger.displayed(model, self.place.tracking_uri) == due:
                return due, seen
        raise AtelierError(f"{model}: its aliases move faster than they can be looked at")

    def _refusal(self, model: str, alias: Alias, wanted: str | None, expected: int) -> str | None:
        """Grant what a person asked for by moving an alias in MLflow, or say why not."""
        if self._held(model, alias) == wanted:  # as `previous` is, when the champion was granted just before
            return None
        if alias == "previous":
            return "`previous` follows from `champion`. Move `champion` instead, or run `atelier rollback`."
        if wanted is None:
            return f"`{alias}` was deleted in MLflow. Move it to another version instead."
        version = next((known for known in self.ledger.versions(model) if known.version == wanted), None)
        if version is None:
            return (
                f"the ledger knows no version {wanted} of {model}: no run of a recipe registered it, so it passed no "
                "gates. Run the recipe; what passes is registered by itself."
            )
        if alias == "champion" and not self._packaged(version):
            return f"its weights are not in the Bento store. `atelier promote {model}@{wanted}` brings them there."
        try:
            self.ledger.move(
                model, alias, wanted, verdict=version.verdict,
                expected_generation=expected, actor=ACTOR, reason=REASON,
            )  # fmt: skip
        except LedgerUnusable:
            raise
        except Superseded as error:
            return None if self._held(model, alias) == wanted else str(error)
        except AtelierError as error:
            return str(error)
        self._act("moved", model, alias, wanted)
        if alias == "champion":
            with self._told("release"):
                self._publish()
        return None

    def _remark(self, model: str, alias: Alias, wanted: str | None, due: Display, why: str) -> None:
        """Say once on the page of the version why its alias is put back."""
        attempt = (wanted, due.generation)
        version = wanted if wanted is not None else due.now.get(alias)
        if version is None or self._remarked.get((model, alias)) == attempt:
            return
        display.remark(self.place.tracking_uri, model, version, alias, why)
        self._remarked[model, alias] = attempt
        self._act("refused", model, alias, wanted, why)
        facts: dict[str, JsonValue] = {"alias": alias, "wanted": wanted, "held": due.now.get(alias)}
        events.tell(self.place, "alias.reverted", model=model, why=f"`{alias}`: {why}", facts=facts)

    def _settled(self, model: str, refused: dict[Alias, str | None]) -> None:
        """Forget the refusals that are over: the same attempt, made again, is said again."""
        if refused:
            seen = _ours(display.aliases(self.place.tracking_uri, model))
            refused = {alias: version for alias, version in refused.items() if seen.get(alias) == version}
        for alias in ALIASES:
            if alias not in refused:
                self._remarked.pop((model, alias), None)

    def _is_shown(self, model: str) -> bool:
        return self.ledger.displayed(model, self.place.tracking_uri).done

    def _held(self, model: str, alias: Alias) -> str | None:
        move = self.ledger.current(model).get(alias)
        return move.version if move else None

    def _packaged(self, version: Version) -> bool:
        from components.packaging import bento_model

        name, _, label = bento_model(version.model, version.bundle).partition(":")
        return (self.place.bentos / "models" / name / label / "model.yaml").is_file()

    def _publish(self) -> None:
        """Bring the release record up to the ledger, where that has moved or some time has passed."""
        from flows import rollout

        versions = self.ledger.versions()
        known = (len(versions), *(self.ledger.generation(model) for model in sorted({v.model for v in versions})))
        if known == self._published[0] and time.monotonic() < self._published[1] + AGAIN_SECONDS:
            return
        before = self.status.get("release")
        self.status["release"] = rollout.publish(self.place)
        if before != self.status["release"]:
            _say(f"release {self.status['release']}")
        self._published = known, time.monotonic()

    def _act(self, what: str, model: str, alias: Alias, version: str | None, why: str = "") -> None:
        action = {"time": _now(), "what": what, "model": model, "alias": alias, "version": version, "why": why}
        self._actions.append(action)
        _say(f"{model}: {alias} {what}{f', version {version}' if version else ''}{f': {why}' if why else ''}")

    @contextmanager
    def _told(self, topic: str) -> Iterator[None]:
        try:
            yield
        except (AtelierError, OSError) as error:
            self.note(topic, error)
        else:
            self.note(topic, None)

    def _write(self) -> None:
        """Write the status file where something changed, or it is old."""
        self.status["actions"] = list(self._actions)
        content = json.dumps({**self.status, "polled": None})
        if content != self._written[0] or time.monotonic() > self._written[1] + WRITE_SECONDS:
            with self._told("status"):
                write_atomically(status_file(self.place), json.dumps(self.status, indent=2).encode())
            self._written = content, time.monotonic()


def status_file(place: Workspace) -> Path:
    """Where a controller says what it did last."""
    return place.serving / "controller.json"


def run(place: Workspace, *, every: float, port: int, server: str | None) -> None:
    """Poll until SIGTERM or Ctrl-C; an `AtelierError` where the workspace has a controller already."""
    wake, stop = threading.Event(), threading.Event()

    def end(*_: object) -> None:
        stop.set()
        wake.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    with only(place, "controller"):
        shared = webhook.secret(place, "webhook.secret")
        controller, inbox = Controller(place), Inbox(shared)
        controller.status["webhook"] = inbox.counts
        with Receiver(port, inbox, wake=wake.set, health=controller.health) as receiver:
            if server:
                webhook.subscribe(place, server, receiver.server_port, note=controller.subscribed, stop=stop)
            _say(f"controller of {place.root} on 127.0.0.1:{receiver.server_port}, every {every:g} s")
            while not stop.is_set():
                wake.clear()
                controller.poll()
                wake.wait(every)


def _ours(shown: dict[str, str]) -> dict[Alias, str]:
    """The aliases that are the ledger's; people may have others in MLflow, for ends of their own."""
    return {alias: shown[alias] for alias in ALIASES if alias in shown}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _say(words: str) -> None:
    print(f"{_now()} {words}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m flows.controller", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--project", type=Path, default=Path.cwd(), help="a folder of the project; the current one")
    parser.add_argument("--every", type=float, default=EVERY_SECONDS, help="seconds between two polls")
    parser.add_argument("--port", type=int, default=3001, help="where webhooks are taken, on loopback")
    parser.add_argument("--mlflow", help="the MLflow server that sends them; its tracking URI where that is http")
    asked = parser.parse_args()
    try:
        place = workspace.find(asked.project)
        workspace.enter(place)
        uri = place.tracking_uri
        server = asked.mlflow or (uri if uri.startswith(("http://", "https://")) else None)
        run(place, every=asked.every, port=asked.port, server=server)
    except AtelierError as error:
        _say(str(error))
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
