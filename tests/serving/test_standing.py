"""The page at /status and what it shows: what the platform's worker wrote, as far as a caller's key goes."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from flows import keys
from flows.workspace import Workspace
from tests.serving.shop import Shop, application, close


@pytest.fixture
def client(tmp_path: Path):
    shop = Shop(tmp_path / "shop")
    parts = shop.parts(shop.release(), keys=tmp_path / "serving" / "keys.json", standing=tmp_path / "status.json")
    yield TestClient(application(parts))
    close(parts)


def write(tmp_path: Path, **told) -> None:
    rows = [{"model": "fashion", "last": None}, {"model": "secret", "last": None}]
    events = [{"model": "secret", "kind": "run.ended", "why": "passed", "time": "2026-01-01T00:00:00Z"}]
    written = (datetime.now(UTC) - timedelta(seconds=90)).isoformat()
    found = {
        "written": written,
        "recipes": rows,
        "events": events,
        "disk": {"store": {}},
        "troubles": {"x": "y"},
        **told,
    }
    (tmp_path / "status.json").write_text(json.dumps(found))


def test_what_was_written_is_told_with_its_age(client, tmp_path: Path):
    write(tmp_path)
    told = client.get("/v1/status").json()
    assert [row["model"] for row in told["recipes"]] == ["fashion", "secret"] and told["troubles"] == {"x": "y"}
    assert 89 < told["age_seconds"] < 120 and told["parts"] == {}


def test_without_a_file_there_is_none_and_the_answer_says_why(client, tmp_path: Path):
    for content, words in (
        (None, "not written anything"),
        ("{", "cannot be read"),
        ('{"written": 1}', "cannot be read"),
    ):
        if content is not None:
            (tmp_path / "status.json").write_text(content)
        answer = client.get("/v1/status")
        assert answer.status_code == 404 and words in answer.json()["error"]["message"]


def test_a_server_outside_of_a_platform_says_so(tmp_path: Path):
    shop = Shop(tmp_path)
    parts = shop.parts(shop.release())
    assert "atelier up" in TestClient(application(parts)).get("/v1/status").json()["error"]["message"]
    close(parts)


def test_keys_are_asked_for_and_one_of_some_models_sees_those_alone(client, tmp_path: Path):
    write(tmp_path)
    place = Workspace(tmp_path, tmp_path)
    one, every = (keys.make(place, "web", models=[name])["key"] for name in ("fashion", "*"))
    assert client.get("/v1/status").status_code == 401 and client.get("/status").status_code == 200
    told = client.get("/v1/status", headers={"Authorization": f"Bearer {one}"}).json()
    assert [row["model"] for row in told["recipes"]] == ["fashion"]
    assert told["events"] == [] and told["disk"] == {} and told["troubles"] == {}
    assert len(client.get("/v1/status", headers={"Authorization": f"Bearer {every}"}).json()["recipes"]) == 2


def test_the_page_lets_nothing_in_from_elsewhere(client):
    page = client.get("/status")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
