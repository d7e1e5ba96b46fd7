"""Whether everyone can use the playground: contrast, names, sizes, both colour schemes, narrow and wide."""

from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.browser.stage import NEEDS_CHROMIUM, Watched, generate

pytestmark = NEEDS_CHROMIUM


CONTRAST = r"""() => {
    const parse = color => {
        const [r, g, b, a = 1] = color.match(/[\d.]+(?:e-?\d+)?/g).map(Number);
        return color.startsWith("color(srgb") ? [r * 255, g * 255, b * 255, a] : [r, g, b, a];
    };
    const over = ([r, g, b, a], under) => [r, g, b].map((value, at) => value * a + under[at] * (1 - a));
    const ground = node => node ? over(parse(getComputedStyle(node).backgroundColor), ground(node.parentElement))
        : matchMedia("(prefers-color-scheme: dark)").matches ? [0, 0, 0] : [255, 255, 255];
    const light = color => color.map(value => value / 255)
        .map(value => value <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4)
        .reduce((sum, value, at) => sum + value * [.2126, .7152, .0722][at], 0);
    const ratio = (one, other) => {
        const [high, low] = [light(one), light(other)].sort((a, b) => b - a);
        return (high + .05) / (low + .05);
    };
    const shade = node => node ? getComputedStyle(node).opacity * shade(node.parentElement) : 1;
    const poor = [];
    for (const node of document.querySelectorAll("body *")) {
        if (!node.checkVisibility() || node.closest("script, .heard, option, optgroup")) continue;
        const back = ground(node), style = getComputedStyle(node), name = node.outerHTML.slice(0, 90);
        const words = node.matches("input, select")
            || [...node.childNodes].some(child => child.nodeType === 3 && child.data.trim());
        const ink = parse(style.color);
        ink[3] *= shade(node);
        if (words && ratio(over(ink, back), back) < 4.5) poor.push([name, ratio(over(ink, back), back)]);
        const edge = parse(style.borderTopColor), outside = ground(node.parentElement);
        if (node.matches("input, select") && ratio(over(edge, outside), outside) < 3) poor.push([name, "edge"]);
    }
    return poor;
}"""


def faults_of(page: Page) -> list[Any]:
    """What of the present page someone could not see, hit, name or get at; names are those that Chromium computes."""
    found = page.evaluate(CONTRAST)
    found += page.evaluate("""() => [...document.querySelectorAll("button, input, select, a")]
        .filter(node => node.checkVisibility()).map(node => [node.outerHTML.slice(0, 90),
            (node.closest("label") ?? node).getBoundingClientRect()])
        .filter(([, { width, height }]) => Math.min(width, height) < 24).map(([node, { height }]) => [node, height])""")
    found += page.evaluate("""() => [...document.querySelectorAll("[for], [aria-describedby], [aria-labelledby]")]
        .flatMap(node => ["for", "aria-describedby", "aria-labelledby"].map(name => node.getAttribute(name)))
        .filter(id => id && document.querySelectorAll(`[id="${id}"]`).length !== 1)""")
    found += page.evaluate("""() => [document.documentElement.scrollWidth > innerWidth && "scrolls sideways",
        !document.documentElement.lang && "lang", document.querySelectorAll("h1").length !== 1 && "h1",
        [...document.querySelectorAll("[tabindex]")].some(node => node.tabIndex > 0) && "tabindex"].filter(Boolean)""")
    tree = page.context.new_cdp_session(page).send("Accessibility.getFullAXTree")["nodes"]
    named = {
        "button",
        "combobox",
        "slider",
        "spinbutton",
        "checkbox",
        "textbox",
        "image",
        "link",
        "form",
        "dialog",
        "region",
    }
    for node in tree:
        role, name = node.get("role", {}).get("value"), node.get("name", {}).get("value", "").strip()
        if role in named and not name and not node["ignored"]:
            found.append([role, "has no name"])
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_everyone_can_read_name_and_hit_what_is_there(browser: Browser, gallery: str, scheme: str, width: int) -> None:
    watched = Watched(browser, color_scheme=scheme, viewport={"width": width, "height": 844}, reduced_motion="reduce")
    page = watched.open(gallery)
    expect(page.locator("#generate")).to_be_visible()
    generate(page, count="2")
    page.click("figure .thumb.up >> nth=0")
    expect(page.locator("figure .thumb.up").first).to_have_attribute("aria-pressed", "true")
    page.evaluate("() => { document.getElementById('problem').textContent = 'the queue is full'; }")
    assert faults_of(page) == []
    page.select_option("#model", "tones")
    generate(page, count="2")
    assert faults_of(page) == []
    for opener in ("figcaption button.mono >> nth=0", "#code", "#lineage"):
        page.click(opener)
        assert faults_of(page) == []
        page.keyboard.press("Escape")
    for state in ("locked", "empty", "failed"):
        page.evaluate("state => { for (const id of ['ready', 'locked', 'empty', 'failed'])"
                      " document.getElementById(id).hidden = id !== state; }", state)  # fmt: skip
        assert faults_of(page) == []
    assert page.evaluate("() => document.getAnimations().length") == 0
    watched.context.close()


def test_those_checks_find_what_is_planted(watched: Watched, gallery: str) -> None:
    page = watched.open(gallery)
    expect(page.locator("#generate")).to_be_visible()
    page.evaluate("""() => {
        document.getElementById("ready").append(Object.assign(document.createElement("input"), { id: "planted" }));
        document.getElementById("blank").style.color = "rgb(200, 200, 200)";
        document.getElementById("draw").style.cssText = "min-height: 8px; height: 8px; padding: 0; overflow: hidden";
    }""")
    faults = str(faults_of(page))
    assert "['textbox', 'has no name']" in faults and 'id="blank"' in faults and 'id="draw"' in faults
