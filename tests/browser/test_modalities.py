"""The playground for sounds and texts: what it shows follows from the media type of a sample alone."""

import io
import json
import re
import subprocess
import sys
import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from PIL import Image
from playwright.sync_api import Locator, Route, expect

from tests.browser.stage import NEEDS_CHROMIUM, Watched, generate

pytestmark = NEEDS_CHROMIUM


def test_each_kind_of_control_has_its_field_and_sounds_can_be_heard_and_seen(watched: Watched, gallery: str) -> None:
    page = watched.open(gallery)
    page.select_option("#model", "tones")
    kinds = page.locator("#fields [data-control]").evaluate_all(
        "nodes => nodes.map(n => [n.name, n.type, n.step, n.max])"
    )
    assert kinds == [
        ["pitch", "number", "1", "1000"], ["loudness", "number", "any", "1"],
        ["fade", "checkbox", "", ""], ["shape", "select-one", None, None], ["eighths", "number", "any", "8"],
    ]  # fmt: skip
    page.check("#control-fade")
    page.select_option("#control-shape", label="square")
    with page.expect_request("**/v1/generate") as sent:
        generate(page, seed="2", count="2", **{"control-pitch": "200"})
    wanted = {"pitch": 200, "loudness": 0.8, "fade": True, "shape": "square"}
    assert sent.value.post_data_json["controls"] == wanted
    players = page.locator("figure audio")
    expect(players).to_have_count(2)
    seconds = """players => Promise.all(players.map(player =>
        player.duration || new Promise(done => { player.ondurationchange = () => done(player.duration); })))"""
    assert players.evaluate_all(seconds) == [0.75, 0.875]
    drawn = """canvas => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => {
        const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
        const halves = [0, 0];
        for (let at = 3; at < data.length; at += 4) {
            if (data[at]) halves[(at >> 2) % canvas.width < canvas.width / 2 ? 0 : 1] += 1;
        }
        done(halves);
    })))"""
    left, right = page.locator("figure canvas").first.evaluate(drawn)
    assert left > right > 0, "a tone that fades is drawn as one"
    assert watched.said == []


def test_a_sound_comes_from_code_as_from_the_page(watched: Watched, gallery: str, tmp_path: Path) -> None:
    page = watched.open(gallery)
    page.select_option("#model", "tones")
    for name, value in {"seed": "2", "count": "1", "control-pitch": "200", "control-loudness": "0.5"}.items():
        page.fill(f"#{name}", value)
    page.click("#code")
    curl, openai = page.locator("#sheet pre").all_inner_texts()
    subprocess.run(["sh", "-c", curl], cwd=tmp_path, check=True, timeout=20)
    subprocess.run([sys.executable, "-c", openai], cwd=tmp_path, check=True, timeout=60)
    sounds = []
    for name in ("sample.wav", "sample-0.wav"):
        with wave.open(str(tmp_path / name)) as file:
            sounds.append(np.frombuffer(file.readframes(file.getnframes()), "<i2"))
    time_T = np.arange(len(sounds[0])) / 8000
    assert np.abs(sounds[0] / 2**15 - np.sin(2 * np.pi * 200 * time_T) * 0.5).max() < 1e-3
    assert (sounds[0] == sounds[1]).all() and len(sounds[0]) == 8000 * 3 // 4


def test_a_control_can_be_left_to_the_seed_or_set(watched: Watched, gallery: str) -> None:
    page = watched.open(gallery)
    page.select_option("#model", "tones")
    drawn, reset = page.locator("#control-eighths-drawn"), page.locator("#reset")
    expect(drawn).to_be_checked()
    expect(page.locator("#control-eighths")).to_be_hidden()
    drawn.uncheck()
    expect(reset).to_be_enabled()
    with page.expect_request("**/v1/generate") as sent:
        generate(page, seed="2", count="1", **{"control-eighths": "2"})
    assert sent.value.post_data_json["controls"]["eighths"] == 2
    expect(page.locator(".asked").first).to_have_text("seed 2, eighths 2")
    expect(page.locator("figure audio").first).to_have_attribute("aria-label", re.compile("0.3 seconds"))
    reset.click()
    expect(drawn).to_be_checked()
    expect(reset).to_be_disabled()
    with page.expect_request("**/v1/generate") as sent:
        generate(page, seed="2")
    assert "eighths" not in sent.value.post_data_json["controls"]
    expect(page.locator("figure audio").first).to_have_attribute("aria-label", re.compile("0.8 seconds"))
    assert watched.said == []


def test_text_is_a_block_to_read_and_never_markup(watched: Watched, gallery: str) -> None:
    page = watched.open(gallery)
    page.select_option("#model", "lines")
    expect(page.locator("#controls")).to_be_hidden()
    generate(page, seed="7", count="2")
    assert page.locator("figure pre").all_inner_texts() == [f"Seed 000{n} & <b>sons</b>:\n  café" for n in (7, 8)]
    page.click("#code")
    expect(page.locator("#sheet pre")).to_have_count(2)
    assert "client.completions.create(" in page.locator("#sheet pre").last.inner_text()
    assert watched.said == []


def test_text_that_streams_is_shown_as_it_comes_and_its_failure_told(watched: Watched, gallery: str) -> None:
    """The events are given here in OpenAI's form, so that one fails for sure."""
    page = watched.open(gallery)
    page.select_option("#model", "lines")
    events = [{"choices": [{"index": 0, "text": text}]} for text in ("All the ", "world’s\n", "a stage")]

    def send(route: Route, more: Sequence[dict[str, Any]] = ()) -> None:
        body = "".join(f"data: {json.dumps(event)}\r\n\r\n" for event in [*events, *more]) + "data: [DONE]\n\n"
        headers = {"content-type": "text/event-stream", "x-model-version": "1", "x-request-id": "req-" + "0" * 32}
        route.fulfill(body=body, headers=headers)

    page.route("**/v1/completions", lambda route: send(route))
    generate(page, seed="3", count="1")
    assert page.locator("figure pre").all_inner_texts() == ["All the world’s\na stage"]
    expect(page.locator(".row h3")).to_contain_text("lines version 1")
    blocked = {"choices": [{"index": 0, "text": "", "finish_reason": "content_filter"}]}
    page.unroute("**/v1/completions")
    page.route("**/v1/completions", lambda route: send(route, [blocked]))
    generate(page)
    expect(page.locator("figure pre").first).to_have_text(
        "All the world’s\na stage [cut off before what is blocked here]"
    )
    failure = {"error": {"message": "the model stopped in the middle"}}
    page.unroute("**/v1/completions")
    page.route("**/v1/completions", lambda route: send(route, [failure]))
    generate(page)
    expect(page.locator("#problem")).to_have_text("the model stopped in the middle")


def shown(image: Locator) -> dict[str, Any]:
    """A picture's own width, its sides on the screen, and how it is enlarged."""
    read = """image => ({ own: image.naturalWidth, sides: [image.clientWidth, image.clientHeight],
        as: getComputedStyle(image).imageRendering })"""
    return cast(dict[str, Any], image.evaluate(read))


def test_a_model_that_edits_is_given_a_picture_and_others_are_not(watched: Watched, gallery: str) -> None:
    page = watched.open(gallery)
    page.select_option("#model", "fashion")
    expect(page.locator("#picture")).to_be_hidden()
    page.select_option("#model", "restyle")
    expect(page.locator("#picture")).to_be_visible()
    page.click("#generate")
    assert page.locator("#picture").evaluate("node => node.validity.valueMissing"), "nothing is asked without one"
    expect(page.locator("figure")).to_have_count(0)
    Image.linear_gradient("L").resize((60, 40)).save(picture := io.BytesIO(), "PNG")
    page.set_input_files("#picture", {"name": "slope.png", "mimeType": "image/png", "buffer": picture.getvalue()})
    expect(page.locator("#before")).to_be_visible()
    assert shown(page.locator("#before")) == {"own": 60, "sides": [120, 80], "as": "pixelated"}
    page.select_option("#control-direction", label="degrade")
    with page.expect_response("**/v1/images/edits") as answered:
        generate(page, seed="7", count="2")
    assert answered.value.ok and [one["seed"] for one in answered.value.json()["data"]] == [7, 8]
    expect(page.locator("figure:not(.given) img")).to_have_count(2)
    sides = {"sides": [168, 168], "as": "pixelated"}
    assert shown(page.locator("figure img").first) == {"own": 60, **sides}, (
        "what was given stands first, cut to the same shape"
    )
    assert shown(page.locator("figure:not(.given) img").first) == {"own": 28, **sides}
    page.click("#code")
    told = " ".join(page.locator("#sheet pre").all_inner_texts())
    assert "client.images.edit(" in told and "-F image=@picture.png" in told
    page.click("#close")
    page.set_input_files("#picture", {"name": "a.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.locator("#before")).to_be_hidden()
    page.click("#generate")
    expect(page.locator("#problem")).to_contain_text("the picture cannot be read")
    assert [line for line in watched.said if "400" not in line] == []
