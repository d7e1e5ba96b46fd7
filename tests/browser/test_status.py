"""The page at /status in a real Chromium: what it shows, whom it lets in, and whether everyone can read it."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, expect

from flows import keys
from flows.workspace import Workspace
from tests.browser.stage import NEEDS_CHROMIUM, Watched, serve
from tests.browser.test_access import faults_of
from tests.serving.shop import Shop, close

pytestmark = NEEDS_CHROMIUM


def ago(**span: float) -> str:
    return (datetime.now(UTC) - timedelta(**span)).isoformat()


def row(model: str, **told: Any) -> dict[str, Any]:
    nothing = dict.fromkeys(("recipe", "last", "verdict", "champion", "challenger", "schedule", "drift"))
    return {"model": model, **nothing, **told}


def told(**changed: Any) -> dict[str, Any]:
    ran = {"why": "schedule", "detail": "", "began": ago(hours=5), "ended": ago(hours=4), "outcome": "passed",
           "exit_code": 0, "seconds": 271.0}  # fmt: skip
    recipes = [
        row("bare"),
        row("fashion", last=ran, verdict={"passed": True, "candidate": "dcgan", "created": ago(hours=4)},
            champion={"version": "12", "since": ago(days=3)}, challenger="13",
            schedule={"said": "0 3 * * * UTC", "owner": "ana", "next": ago(hours=-8.5), "paused": False},
            drift={"drifted": False, "why": "PSI 0.03"}),
        row("prompts", last={**ran, "why": "drift", "detail": "PSI 0.31", "outcome": "gates failed", "exit_code": 4},
            drift={"drifted": True, "why": "<b>PSI</b> 0.31"}),
    ]  # fmt: skip
    events = [{"time": ago(minutes=20), "kind": "drift.found", "model": "prompts", "why": "<i>PSI 0.31</i>"}]
    disk = {"store": {"bytes": 4_200_000_000, "whole": False}, "logs": {"bytes": 0, "whole": True}}
    notices = {"delivered": 4, "waiting": 1, "troubles": {"slack://***": "it did not take the message"}}
    return {"schema": 1, "written": ago(seconds=5), "recipes": recipes, "events": events, "disk": disk,
            "parts": {"mlflow": {"title": "MLflow", "healthy": True}}, "notices": notices, "troubles": {},
            **changed}  # fmt: skip


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("status")


@pytest.fixture(scope="module")
def platform(root: Path) -> Iterator[str]:
    shop = Shop(root / "shop")
    parts = shop.parts(shop.release(), keys=root / "serving" / "keys.json", standing=root / "status.json")
    with serve(parts) as address:
        yield f"{address}status"
    close(parts)


def test_every_fact_is_there_and_nothing_that_is_told_becomes_markup(
    watched: Watched, root: Path, platform: str
) -> None:
    (root / "status.json").write_text(json.dumps(told()))
    page = watched.open(platform)
    rows = page.locator("#rows tr")
    expect(rows).to_have_count(3)
    for words in ("fashion", "passed", "5 h ago, took 4 min", "schedule", "version 12", "challenger: version 13",
                  "in 8 h", "0 3 * * * UTC, ana", "PSI 0.03"):  # fmt: skip
        expect(rows.nth(1)).to_contain_text(words)
    expect(rows.nth(2)).to_contain_text("<b>PSI</b> 0.31")
    expect(page.locator("#events")).to_contain_text("<i>PSI 0.31</i>")
    expect(page.locator("#disk")).to_have_text("storeover 3.91 GiB")
    expect(page.locator("#troubles")).to_contain_text("slack://***: it did not take the message")
    assert all(url.startswith((platform, platform.replace("status", "v1/"), "data:")) for url in watched.requests)
    assert watched.said == []


def test_recipes_are_found_by_name_and_by_what_needs_a_look(watched: Watched, root: Path, platform: str) -> None:
    (root / "status.json").write_text(json.dumps(told()))
    page = watched.open(platform)
    page.fill("#find", "fash")
    expect(page.locator("#rows tr")).to_have_count(1)
    page.fill("#find", "")
    page.check("#only")
    expect(page.locator("#rows th")).to_have_text(["prompts"])


def test_what_is_old_is_said_to_be_and_what_is_not_there_too(watched: Watched, root: Path, platform: str) -> None:
    (root / "status.json").write_text(json.dumps(told(written=ago(minutes=10))))
    page = watched.open(platform)
    expect(page.locator("#old.bad")).to_contain_text("As of 10 min ago: the platform's worker may have stopped")
    (root / "status.json").unlink()
    expect(watched.open(platform).locator("#reason")).to_contain_text("has not written anything down yet")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1200])
def test_everyone_can_read_it(browser: Browser, root: Path, platform: str, scheme: str, width: int) -> None:
    (root / "status.json").write_text(json.dumps(told()))
    watched = Watched(browser, color_scheme=scheme, viewport={"width": width, "height": 844})
    page = watched.open(platform)
    expect(page.locator("#rows tr")).to_have_count(3)
    assert faults_of(page) == []
    watched.context.close()


def test_a_key_opens_it_where_keys_are_asked_for(watched: Watched, root: Path, platform: str) -> None:  # the last one
    (root / "status.json").write_text(json.dumps(told()))
    key = keys.make(Workspace(root, root), "web", models=["fashion"])["key"]
    page = watched.open(platform)
    page.fill("#key", "atl_wrong")
    page.click("#locked button")
    expect(page.locator("#refused")).to_contain_text("no API key")
    page.fill("#key", key)
    page.click("#locked button")
    expect(page.locator("#rows th")).to_have_text(["fashion"])
    page.click("#forget")
    expect(page.locator("#locked")).to_be_visible()
