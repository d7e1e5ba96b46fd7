"""Which of two samples is better: chosen by key or by click, kept in the journal, and blind to versions."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from serving.parts import Parts
from tests.browser.stage import NEEDS_CHROMIUM, Watched, generate

pytestmark = NEEDS_CHROMIUM


@pytest.fixture
def page(watched: Watched, url: str) -> Iterator[Page]:
    yield watched.open(url)
    assert watched.said == []


def kept(parts: Parts) -> list[tuple[Any, ...]]:
    """Seed and version of the better and of the worse sample of each preference, in order."""
    query = """SELECT json_extract(b.seeds, '$[' || p.better_index || ']'), b.version,
      json_extract(w.seeds, '$[' || p.worse_index || ']'), w.version
      FROM preferences p JOIN requests b ON b.id = p.better JOIN requests w ON w.id = p.worse ORDER BY p.time"""
    parts.journal.settle()
    assert parts.journal.path is not None
    with closing(sqlite3.connect(parts.journal.path)) as base:
        return base.execute(query).fetchall() if base.execute("SELECT 1 FROM sqlite_master").fetchone() else []


def shown(page: Page) -> list[str]:
    return [str(image.get_attribute("src")) for image in page.locator("#sides img").all()]


def seeds_by_url(page: Page) -> dict[str, int]:
    read = "figures => figures.map(one => [one.querySelector('img').src, one.querySelector('figcaption').textContent])"
    return {src: int(seed) for src, seed in page.locator("#results figure").evaluate_all(read)}


def test_seeds_by_twos_are_judged_by_arrow_keys(page: Page, parts: Parts) -> None:
    before = len(kept(parts))
    generate(page, seed="11", count="4")
    seeds = seeds_by_url(page)
    page.get_by_role("button", name="Which is better?").click()
    wanted = []
    for place, key in ((1, "ArrowLeft"), (2, "ArrowRight")):
        expect(page.locator("#duel-place")).to_have_text(f"{place} of 2")
        left, right = (seeds[src] for src in shown(page))
        wanted.append((left, right) if key == "ArrowLeft" else (right, left))
        page.keyboard.press(key)
    expect(page.locator("#duel")).to_be_hidden()
    expect(page.locator("#said")).to_have_text("2 of 2 preferences kept.")
    assert [(better, worse) for better, _, worse, _ in kept(parts)[before:]] == wanted
    assert [set(pair) for pair in wanted] == [{11, 12}, {13, 14}]


def test_two_versions_of_a_request_are_judged_blind(page: Page, parts: Parts) -> None:
    before = len(kept(parts))
    page.select_option("#beside", "fashion@challenger")
    generate(page, seed="21", count="2")
    page.get_by_role("button", name="Which is better?").click()
    expect(page.locator("#sides img")).to_have_count(2)
    assert not re.search("version|champion|challenger|fashion|seed", page.locator("#sides").inner_html())
    page.get_by_role("button", name="The right one is better").click()
    expect(page.locator("#duel-place")).to_have_text("2 of 2")
    page.locator("#sides img").first.click()
    expect(page.locator("#duel")).to_be_hidden()
    found = kept(parts)[before:]
    assert [(better, worse) for better, _, worse, _ in found] == [(21, 21), (22, 22)]
    assert all({one, other} == {"1", "2"} for _, one, _, other in found)


def test_neither_is_an_answer_that_leaves_nothing(page: Page, parts: Parts) -> None:
    before = len(kept(parts))
    generate(page, seed="31", count="4")
    page.get_by_role("button", name="Which is better?").click()
    expect(page.locator("#duel-place")).to_have_text("1 of 2")
    page.keyboard.press("ArrowDown")
    expect(page.locator("#duel-place")).to_have_text("2 of 2")
    page.get_by_role("button", name="Neither").click()
    expect(page.locator("#said")).to_have_text("No preference was kept.")
    assert len(kept(parts)) == before


def test_one_sample_alone_leaves_nothing_to_choose(page: Page) -> None:
    generate(page, seed="41", count="1")
    expect(page.locator(".row")).to_have_count(1)
    expect(page.get_by_role("button", name="Which is better?")).to_have_count(0)


def test_what_the_server_refuses_is_told_and_can_be_tried_again(watched: Watched, url: str, parts: Parts) -> None:
    page, before = watched.open(url), len(kept(parts))
    generate(page, seed="51", count="2")
    page.get_by_role("button", name="Which is better?").click()
    page.route("**/v1/preferences", lambda route: route.abort())
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#duel-problem")).to_contain_text("The preference was not kept: The server does not answer.")
    page.unroute("**/v1/preferences")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#duel")).to_be_hidden()
    assert len(kept(parts)) == before + 1
