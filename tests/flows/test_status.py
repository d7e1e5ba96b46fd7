"""What `atelier status` tells: each part that is not well, and each champion on which two sides disagree."""

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from components import aliases
from components.ledger import Ledger
from components.process import born
from flows import keys, status
from flows.workspace import Workspace
from tests.flows.test_promotion import place_with
from tests.serving.live import running
from tests.serving.shop import Shop, application, close


class Endpoints(ThreadingHTTPServer):
    """Endpoints that answer whatever a test wants them to."""

    code = 200
    cards: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answers(BaseHTTPRequestHandler):
    server: Endpoints

    def do_GET(self) -> None:
        body = json.dumps({"data": self.server.cards}).encode()
        self.send_response(self.server.code if self.path == "/v1/models" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """A test prints enough."""


@pytest.fixture
def endpoints() -> Iterator[Endpoints]:
    with Endpoints(("127.0.0.1", 0), Answers) as server:
        server.cards = [{"id": "toy", "version": "1", "trouble": None}]
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def place(tmp_path: Path, endpoints: Endpoints, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """A workspace that is up, where the ledger, MLflow and the endpoints have version 1 of `toy` as champion."""
    place = place_with(tmp_path, "1", "2")
    monkeypatch.setattr(aliases, "of_all", lambda uri, **_: {"toy": {"champion": "1"}})
    told = {"title": "Endpoints", "url": endpoints.url, "health": "/readyz", "pid": 1, "since": "", "restarts": 0,
            "log": ""}  # fmt: skip
    place.up.write_text(json.dumps({"pid": os.getpid(), "born": born(os.getpid()), "parts": {"endpoints": told}}))
    poll(place)
    return place


def poll(place: Workspace, **told: Any) -> None:
    place.serving.mkdir(exist_ok=True)
    told = {"polled": "2999-01-01T00:00:00Z", "errors": {}, "actions": [], "release": 1} | told
    status.status_file(place).write_text(json.dumps(told))


def mismatch(place: Workspace) -> list[str]:
    found = status.examine(place)
    assert not found["well"]
    return list(found["models"][0]["mismatch"])


def test_all_is_well_where_all_agree(place: Workspace) -> None:
    found = status.examine(place)
    assert found["well"] and found["models"][0]["agree"] and found["parts"]["endpoints"]["healthy"]


def test_another_champion_in_mlflow_is_told(place: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aliases, "of_all", lambda uri, **_: {"toy": {"champion": "2"}})
    assert mismatch(place) == ["mlflow: 2"]


def test_another_champion_that_is_served_is_told_with_the_reason(place: Workspace, endpoints: Endpoints) -> None:
    endpoints.cards = [{"id": "toy", "version": "2", "trouble": None}]
    assert mismatch(place) == ["served: 2"]
    endpoints.cards = [{"id": "toy", "version": "2", "trouble": "version 1 could not be loaded: no such file"}]
    assert mismatch(place) == ["served: 2, for version 1 could not be loaded: no such file"]


def test_endpoints_that_fail_are_told_and_those_that_want_a_key_are_well(
    place: Workspace, endpoints: Endpoints
) -> None:
    endpoints.code = 500
    assert mismatch(place) == ["served: the endpoints answer 500"]
    endpoints.code = 401
    found = status.examine(place)
    assert found["well"] and found["models"][0]["served"] == status.HIDDEN


def test_a_key_for_some_models_shows_those_and_hides_the_others(
    place: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(place.ledger_url)
    toy = ledger.versions("toy")[0]
    verdict = ledger.verdict(toy.verdict)
    assert verdict is not None
    digest = ledger.record(verdict.model_copy(update={"model": "another"}), run="r")
    ledger.enter(toy.model_copy(update={"model": "another", "verdict": digest}))
    ledger.move("another", "champion", "1", verdict=digest, expected_generation=0, actor="test", reason="first")
    champions = {name: {"champion": "1"} for name in ("another", "toy")}
    monkeypatch.setattr(aliases, "of_all", lambda uri, **_: champions)
    shop = Shop(place.project / "shop")
    served = {name: {"champion": "1", "versions": {"1": shop.served(model=name)}} for name in champions}
    parts = shop.parts(shop.release(**served), keys=place.serving / "keys.json")
    key = keys.make(place, "web", models=["toy"])["key"]
    try:
        with running(application(parts)) as url:
            up = json.loads(place.up.read_text())
            up["parts"]["endpoints"]["url"] = url
            place.up.write_text(json.dumps(up))
            for sent, expected in {key: [status.HIDDEN, "1"], "": [status.HIDDEN] * 2}.items():
                monkeypatch.setenv("ATELIER_API_KEY", sent)
                models = status.examine(place)["models"]
                assert [model["served"] for model in models] == expected and all(model["agree"] for model in models)
            monkeypatch.setenv("ATELIER_API_KEY", key)
            parts.residents.install(shop.release(another=served["another"]))
            assert [model["mismatch"] for model in status.examine(place)["models"]] == [[], ["served: none"]]
    finally:
        close(parts)


@pytest.mark.parametrize("told", [{"polled": "2026-01-01T00:00:00Z"}, {"polled": None}, {"errors": {"mlflow": "no"}}])
def test_a_controller_that_hangs_or_fails_is_not_well(place: Workspace, told: dict[str, Any]) -> None:
    poll(place, **told)
    assert not status.examine(place)["well"]


def test_nothing_is_well_where_nothing_is_up(place: Workspace) -> None:
    place.up.unlink()
    found = status.examine(place)
    assert not found["up"] and not found["well"]
    assert found["models"][0]["mismatch"] == ["served: the endpoints are not up"]
