"""The playground in a real Chromium, over a real server with real tiny models."""

import dataclasses
import hashlib
import io
import json
import re
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from serving.parts import Parts
from tests.browser.stage import NEEDS_CHROMIUM, Watched, generate, serve
from tests.serving.shop import Shop, close

pytestmark = NEEDS_CHROMIUM
KEY = "atl_0123abcd_" + "k" * 43


@pytest.fixture
def page(watched: Watched, url: str) -> Iterator[Page]:
    """The page as a person finds it; whatever the test did, nothing left the origin and nothing was complained of."""
    yield watched.open(url)
    origins = {re.match(r"\w+:(//[^/]*|)", request).group() for request in watched.requests}
    assert origins <= {url.rstrip("/"), "blob:", "data:"}
    assert watched.said == []


@pytest.fixture
def complaining(watched: Watched, url: str) -> Page:
    """As `page`, where Chromium may note in its console that the server refused."""
    return watched.open(url)


def pictures(page: Page, row: int = 0) -> list[bytes]:
    """The grey levels of a row's pictures as the page shows them; row 0 is the first of the newest run."""
    read = """images => images.map(image => {
        const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight), pen = canvas.getContext("2d");
        pen.drawImage(image, 0, 0);
        const { data } = pen.getImageData(0, 0, canvas.width, canvas.height);
        return Array.from(data.filter((_, at) => at % 4 === 0));
    })"""
    return [bytes(levels) for levels in page.locator(".row").nth(row).locator("figure img").evaluate_all(read)]


def answered(parts: Parts, model: str, seeds: list[int], **chosen: float) -> list[bytes]:
    """What the model itself makes of these seeds."""
    name, _, version = model.partition("@")
    endpoint = parts.residents.fetch(name, version).result(10).endpoint
    made = endpoint.generate(seeds, [endpoint.checked(chosen)] * len(seeds))
    return [Image.open(io.BytesIO(png)).tobytes() for png in made]


def rows_of(journal: Path, query: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(journal)) as base:
        return base.execute(query).fetchall()


def test_samples_are_what_the_model_makes_and_say_what_made_them(page: Page, parts: Parts, versions: Any) -> None:
    generate(page, seed="7", count="3")
    assert pictures(page) == answered(parts, "fashion@1", [7, 8, 9])
    expect(page.locator(".row h3")).to_contain_text(re.compile(r"fashion version 1\s*champion\s*\d+ ms"))
    expect(page.locator("#said")).to_have_text(re.compile(r"3 samples of fashion version 1 in \d+ ms"))
    assert page.locator("figure img").first.evaluate("image => getComputedStyle(image).imageRendering") == "pixelated"
    page.click("figure img >> nth=1")
    sheet = page.locator("#sheet")
    for told in ("fashion", "8", versions["1"].digest.removeprefix("sha256:")[:12], "req-"):
        expect(sheet.locator("dl")).to_contain_text(told)
    with page.expect_download() as download:
        sheet.get_by_role("link", name="Download").click()
    assert download.value.suggested_filename == "fashion-v1-seed8.png"
    assert Image.open(download.value.path()).tobytes() == answered(parts, "fashion@1", [8])[0]


def test_what_made_a_sample_can_be_copied_whole(page: Page, watched: Watched, versions: Any) -> None:
    watched.context.grant_permissions(["clipboard-read", "clipboard-write"])
    generate(page, seed="3", count="2")
    page.click("figcaption button.mono >> nth=1")
    page.get_by_role("button", name="Copy what made it").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    copied = json.loads(page.evaluate("() => navigator.clipboard.readText()"))
    assert copied.pop("request_id").startswith("req-")
    made = {"model": "fashion", "version": "1", "digest": versions["1"].digest, "seed": 4, "index": 1}
    assert copied == made | {"controls": {"truncation": 1}}


def test_a_control_changes_the_picture_and_the_seed_brings_it_back(page: Page) -> None:
    generate(page, seed="5", count="1")
    before = pictures(page)
    page.check("#keep")
    generate(page, **{"control-truncation": "0.4"})
    assert pictures(page) != before
    assert page.locator("#control-truncation-slide").input_value() == "0.4"
    page.click("#reset")
    assert page.input_value("#control-truncation") == "1" and page.locator("#reset").is_disabled()
    generate(page)
    assert pictures(page) == before and page.input_value("#seed") == "5"
    page.uncheck("#keep")
    generate(page)
    assert page.input_value("#seed") != "5" and pictures(page) != before


def test_champion_and_challenger_are_asked_the_same_and_shown_beside_each_other(page: Page, parts: Parts) -> None:
    page.select_option("#beside", "fashion@challenger")
    generate(page, seed="11", count="4", **{"control-truncation": "1.2"})
    assert pictures(page, 0) == answered(parts, "fashion@1", [11, 12, 13, 14], truncation=1.2)
    assert pictures(page, 1) == answered(parts, "fashion@2", [11, 12, 13, 14], truncation=1.2)
    assert pictures(page, 0) != pictures(page, 1)
    headings = page.locator(".run .row h3").all_inner_texts()
    assert [re.sub(r"\s+|\d+ ms", " ", text).split() for text in headings] == [
        ["fashion", "version", "1", "champion"],
        ["fashion", "version", "2", "challenger"],
    ]
    expect(page.locator(".asked")).to_have_text("seeds 11 to 14, truncation 1.2")


def test_any_version_that_may_be_asked_for_is_offered(page: Page, parts: Parts) -> None:
    assert page.locator("#version option").evaluate_all("options => options.map(option => option.value)") == [
        "fashion", "fashion@challenger", "fashion@3", "fashion@2", "fashion@1",
    ]  # fmt: skip
    page.select_option("#version", "fashion@3")
    generate(page, seed="2", count="1")
    assert pictures(page) == answered(parts, "fashion@3", [2])
    page.click("#lineage")
    expect(page.locator("#sheet h2")).to_have_text("fashion version 3")
    for told in ("md5:abc", "c0ffee", "sha256:v"):
        expect(page.locator("#sheet dl")).to_contain_text(told)


def test_a_thumb_lands_in_the_journal_and_one_that_does_not_says_so(complaining: Page, shop: Shop) -> None:
    page = complaining
    journal = shop.root / "journal.db"
    generate(page, seed="21", count="2")
    good, bad = page.get_by_role("button", name="Good: seed 22"), page.get_by_role("button", name="Bad: seed 22")
    newest = (
        'SELECT "index", thumb, seeds FROM feedback JOIN requests ON request = id ORDER BY feedback.time DESC LIMIT 1'
    )
    good.click()
    expect(good).to_have_attribute("aria-pressed", "true")
    assert rows_of(journal, newest) == [(1, "up", "[21, 22]")]
    bad.click()
    expect(bad).to_have_attribute("aria-pressed", "true")
    expect(good).to_have_attribute("aria-pressed", "false")
    assert rows_of(journal, newest) == [(1, "down", "[21, 22]")]
    with closing(sqlite3.connect(journal)) as base, base:
        base.execute("DELETE FROM requests")
    page.get_by_role("button", name="Good: seed 21").click()
    expect(page.locator("#problem")).to_contain_text("The thumb was not kept: there is no sample 0 of req-")
    expect(page.get_by_role("button", name="Good: seed 21")).to_have_attribute("aria-pressed", "false")


def test_a_refusal_is_shown_in_the_servers_own_words(complaining: Page, parts: Parts) -> None:
    page = complaining
    generate(page, seed="1", count="1")
    parts.batcher.places, before = 0, parts.batcher.places
    try:
        generate(page)
    finally:
        parts.batcher.places = before
    problem = page.get_by_role("alert").filter(visible=True)
    expect(problem).to_have_text(re.compile("^fashion is asked for more than it can make now; ask again in "))
    assert page.locator(".run").count() == 1, "the run that came to nothing leaves no empty row"
    generate(page)
    expect(page.locator("#problem")).to_be_empty()


def test_a_value_out_of_bounds_is_not_sent(page: Page, watched: Watched) -> None:
    sent = len(watched.requests)
    page.fill("#control-truncation", "9")
    page.click("#generate")
    told = "field => field === document.activeElement && field.validationMessage"
    assert "1.5" in page.locator("#control-truncation").evaluate(told)
    assert len(watched.requests) == sent


def test_a_server_that_is_gone_is_told_in_a_paragraph(watched: Watched, parts: Parts) -> None:
    with serve(parts) as address:
        page = watched.open(address)
        expect(page.locator("#generate")).to_be_visible()
    generate(page)
    expect(page.locator("#problem")).to_contain_text("The server does not answer.")


def test_a_key_is_asked_for_only_where_the_server_wants_one(
    browser: Browser, shop: Shop, versions: Any, tmp_path: Path
) -> None:
    keys = tmp_path / "keys.json"

    def write(revoked: str | None) -> None:
        held = {"id": "0123abcd", "team": "shop", "models": ["*"], "created": "2026-11-22T10:00:00Z"}
        held |= {"sha256": hashlib.sha256(KEY.encode()).hexdigest(), "revoked": revoked}
        (aside := keys.with_suffix(".aside")).write_text(json.dumps({"schema": 1, "keys": [held]}))
        aside.replace(keys)

    write(None)
    locked = shop.parts(shop.release(fashion={"champion": "1", "versions": versions}), keys=keys)
    watched = Watched(browser)
    with serve(locked) as address:
        page = watched.open(address)
        field = page.get_by_label("API key")
        expect(field).to_be_focused()
        expect(page.locator("#refused")).to_be_empty()
        field.fill("atl_wrong")
        field.press("Enter")
        expect(page.locator("#refused")).to_contain_text("that is no API key of this server")
        field.fill(KEY)
        field.press("Enter")
        generate(page, seed="5", count="2")
        assert len(pictures(page)) == 2
        page.reload()
        expect(page.locator("#generate")).to_be_visible()
        page.click("#code")
        expect(page.locator("#sheet pre").first).to_contain_text("Bearer $ATELIER_KEY")
        assert KEY not in page.content() and KEY[-8:] not in page.content()
        page.keyboard.press("Escape")
        write("2026-11-22T11:00:00Z")
        page.fill("#count", "3")
        page.click("#generate")
        expect(page.locator("#refused")).to_contain_text("was revoked")
        assert page.evaluate("() => sessionStorage.length + localStorage.length + document.cookie.length") == 0
        write(None)
        field.fill(KEY)
        field.press("Enter")
        expect(page.locator("#count")).to_have_value("3")
        page.get_by_role("button", name="Forget the key").click()
        expect(field).to_be_visible()
    watched.context.close()
    close(locked)


def test_everything_is_within_reach_of_the_keyboard(page: Page, parts: Parts) -> None:
    def reach(selector: str) -> None:
        for _ in range(60):
            if page.locator(selector).evaluate("node => node === document.activeElement"):
                style = "node => getComputedStyle(node).outlineStyle + getComputedStyle(node).outlineWidth"
                assert page.locator(selector).evaluate(style) == "solid2px", f"no focus is seen on {selector}"
                return
            page.keyboard.press("Tab")
        raise AssertionError(f"Tab does not reach {selector}")

    expect(page.locator("#generate")).to_be_visible()
    reach("#model")
    reach("#beside")
    page.keyboard.type("chal")
    reach("#control-truncation-slide")
    page.keyboard.press("ArrowRight")
    assert page.input_value("#control-truncation") == "1.01"
    reach("#seed")
    page.keyboard.press("Control+a")
    page.keyboard.type("9")
    reach("#keep")
    page.keyboard.press("Space")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".row h3").nth(1)).to_contain_text("challenger")
    expect(page.locator("#results")).to_have_attribute("aria-busy", "false")
    assert page.is_checked("#keep")
    thumb = page.locator("figure .thumb.up").first
    reach("figure:first-child .thumb.up >> nth=0")
    page.keyboard.press("Enter")
    expect(thumb).to_have_attribute("aria-pressed", "true")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Enter")
    expect(page.locator("#sheet")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("figcaption button.mono").first).to_be_focused()


def test_a_run_can_be_cancelled_and_its_place_is_free_again(page: Page, parts: Parts) -> None:
    held = threading.Event()
    first = parts.residents.view.champions["fashion"].endpoint
    slow = SimpleNamespace(encode=lambda rows, spec: [held.wait(20), first._codec.encode(rows, spec)][1])
    blocking = dataclasses.replace(first, _codec=slow)
    parts.batcher.submit(("other", "1"), blocking, [0], first.checked({}))
    try:
        page.click("#generate")
        expect(page.locator("#generate")).to_have_attribute("aria-disabled", "true")
        page.get_by_role("button", name="Cancel").click()
        expect(page.locator("#said")).to_have_text("Cancelled.")
        expect(page.locator("#generate")).to_be_focused()
        assert page.locator(".run").count() == 0
        page.keyboard.press("Enter")
        page.keyboard.press("Escape")
        expect(page.locator("#generate")).to_have_attribute("aria-disabled", "false")
    finally:
        held.set()
    generate(page, count="2")
    assert len(pictures(page)) == 2


def test_the_page_waits_for_a_first_model_and_follows_a_new_champion(
    watched: Watched, shop: Shop, versions: Any
) -> None:
    served = shop.parts(shop.release())
    with serve(served) as address:
        page = watched.open(address)
        expect(page.get_by_role("heading", name="No model is served yet")).to_be_visible()
        served.residents.install(shop.release(fashion={"champion": "1", "versions": versions}))
        page.get_by_role("button", name="Look again").click()
        generate(page, seed="4", count="1")
        release = {"champion": "2", "previous": "1", "versions": versions}
        served.residents.install(shop.release(fashion=release))
        generate(page)
        expect(page.locator(".row h3").first).to_contain_text(re.compile(r"fashion version 2\s*champion"))
        expect(page.locator("#version option").first).to_have_text("champion (version 2)")
    close(served)


def test_the_policy_holds(browser: Browser, url: str) -> None:
    watched = Watched(browser)
    page = watched.open(url)
    generate(page, count="2")
    page.click("#code")
    page.keyboard.press("Escape")
    page.click("figure img >> nth=0")
    expect(page.locator("#sheet img")).to_be_visible()
    assert watched.said == []
    caught = """([path, kind]) => new Promise(caught => {
        const told = event => caught(event.effectiveDirective);
        document.addEventListener("securitypolicyviolation", told, { once: true });
        if (kind === "img") document.createElement("img").src = path;
        else fetch(path).catch(() => null);
    })"""
    leaks = [["https://elsewhere.invalid/x.png", "img"], ["https://elsewhere.invalid/", "fetch"]]
    assert [page.evaluate(caught, leak) for leak in leaks] == ["img-src", "connect-src"], "planted leaks are caught"
    watched.context.close()


def test_the_snippets_run_as_they_are(page: Page, parts: Parts, tmp_path: Path) -> None:
    page.select_option("#version", "fashion@2")
    page.fill("#seed", "6")
    page.fill("#count", "1")
    page.fill("#control-truncation", "0.5")
    page.click("#code")
    curl, openai = page.locator("#sheet pre").all_inner_texts()
    subprocess.run(["sh", "-c", curl], cwd=tmp_path, check=True, timeout=20)
    subprocess.run([sys.executable, "-c", openai], cwd=tmp_path, check=True, timeout=60)
    wanted = answered(parts, "fashion@2", [6], truncation=0.5)[0]
    assert [Image.open(tmp_path / name).tobytes() for name in ("sample.png", "sample-0.png")] == [wanted] * 2
