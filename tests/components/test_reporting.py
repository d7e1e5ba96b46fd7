"""The page of a run: whole in itself, true to the records, and safe from what names and reasons may hold."""

import json
import re
from base64 import b64decode
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components import curves, reporting
from components.modalities.image import codec
from components.modalities.image.batch import Images
from components.records import Artifact, Check, Dataset, Footprint, Scores, Shards, Trained, Validated, Verdict
from components.store import Store

NONE = Artifact(kind="none", digest="sha256:" + "0" * 64)
CURVES = {"main/loss": [(step, 1e9 + step, 2.0 / (1 + step)) for step in range(400)]}


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def scores(store: Store, name: str, files: dict[str, bytes] | None = None, **values: float) -> Scores:
    """Sheets of one shade by the name, and metrics of two seeds."""
    with store.writing("pictures") as draft:
        for sheet, value in (("generated", (len(name) % 5) / 5), ("held_out", 1.0)):
            grid = codec.grid(Images(torch.full((20, 1, 8, 8), value)), columns=10)
            (draft.directory / f"{sheet}.png").write_bytes(grid)
        for file, payload in (files or {}).items():
            (draft.directory / file).write_bytes(payload)
    return Scores(
        bundle=Artifact(kind="bundle", digest=f"sha256:{name}"), encoder="sha256:e", held_out="sha256:h", samples=16,
        seeds=(0, 1), values={name: (value, value + 2) for name, value in values.items()},
        floor={"fd": 1.5, "copied": 0.25}, pictures=draft.artifact,
    )  # fmt: skip


def tried(
    store: Store, candidate: str, *warnings: str, passed: bool = True, reason: str = "", champion: float | None = None,
    files: dict[str, bytes] | None = None, values: dict[str, float] | None = None, **facts: Any,
) -> reporting.Tried:  # fmt: skip
    scored = scores(store, candidate, files, **(values or {"fd": 10.0}))
    check = Check(
        gate="fd at most 60", metric="fd", value=12.0, low=11.5, high=12.5, passed=passed, reason=reason,
        champion=champion,
    )  # fmt: skip
    verdict = Verdict(
        model="fashion", candidate=candidate, family="vae", bundle=scored.bundle, scores=scored, checks=(check,),
        rank=1.0, passed=passed,
    )  # fmt: skip
    with store.writing("curves") as draft:
        (draft.directory / "curves.json").write_text(json.dumps(CURVES))
    cost = {"steps": 1200, "seconds": 61.4, "samples_per_second": 1254.6, "parameters": 412_033, "stopped": "budget"}
    made = {"candidate": candidate, "family": "vae", "weights": NONE, "curves": draft.artifact, "seed": 0}
    trained = Trained(**made | cost | facts, warnings=warnings)
    footprint = Footprint(bundle=scored.bundle, latency_ms=(4.0, 5.0), bytes=1_650_000)
    return reporting.Tried(trained, verdict, footprint, run=f"run-of-{candidate}")


def shards() -> Shards:
    dataset = Dataset(
        source="data/fashion", version="md5:1.dir", commit="abc", rows=NONE, count=12, classes=(), licence="MIT"
    )
    validated = Validated(
        dataset=dataset, facts=NONE, quarantine=NONE, docs=NONE, accepted={"train": 9, "held_out": 2},
        rejected={"is 27 pixels wide, not 28": 1},
    )  # fmt: skip
    return Shards(validated=validated, shards=NONE, spec={})


def page(*one: reporting.Tried, store: Store, winner: str | None = None, champion: Scores | None = None) -> str:
    return reporting.page(one, shards(), winner=winner, champion=champion, recipe="sha256:r", store=store)


def figures(html: str) -> dict[str, str]:
    return {re.findall("<h3>(.*?)</h3>", part)[0]: part for part in re.findall("<figure>.*?</figure>", html, re.DOTALL)}


def test_every_candidate_is_shown_beside_the_champion_and_the_others_and_real_rows_once(store: Store) -> None:
    both = tried(store, "vae"), tried(store, "dcgan", passed=False, values={"fd": 20.0})
    before = scores(store, "champ", fd=11.0)
    html = page(*both, store=store, winner="vae", champion=before)
    shown = {title: b64decode(data) for title, data in re.findall(r'alt="samples: (.*?)" src=".*?,(.*?)"', html)}
    assert list(shown) == ["champion", "vae", "dcgan", "real, held out"]
    assert shown["dcgan"] == (store.path(both[1].verdict.scores.pictures) / "generated.png").read_bytes()
    assert shown["champion"] == (store.path(before.pictures) / "generated.png").read_bytes()
    told = figures(html)
    assert "passed</span>, 1 of 1 gates hold, the best<" in told["vae"]
    assert "failed</span>, 0 of 1 gates hold<" in told["dcgan"]
    row = re.findall("<tr><td>fd</td>.*?</tr>", html)[0]
    assert re.findall(">([0-9.]+)<", row) == ["12", "11", "21", "1.5"]
    assert "vae, the best of 2 candidates, passes every gate." in html


def test_the_champion_that_was_trained_again_is_shown_once(store: Store) -> None:
    one = tried(store, "vae")
    html = page(one, store=store, winner="vae", champion=one.verdict.scores)
    assert "champion" not in figures(html) and "the champion itself" in figures(html)["vae"]


def test_a_gate_tells_its_value_its_interval_the_champions_value_and_why(store: Store) -> None:
    html = page(tried(store, "vae", passed=False, champion=9.5, reason="it may be 12.5"), store=store)
    (row,) = re.findall("<tr><td>fd at most 60</td>.*?</tr>", html)
    assert 'failed">fails: 12</span><small>11.5 to 12.5; champion 9.5; it may be 12.5</small>' in row
    assert "The candidate does not pass every gate: nothing is registered." in html


def test_a_metric_that_only_one_candidate_has_leaves_the_others_empty(store: Store) -> None:
    html = page(tried(store, "vae"), tried(store, "cgan", values={"fd": 10.0, "cas": 0.5}), store=store)
    (row,) = re.findall("<tr><td>cas</td>.*?</tr>", html)
    assert row.startswith("<tr><td>cas</td><td></td><td>1.5<") and row.endswith("<td></td></tr>")


def test_each_candidate_tells_what_it_cost_and_what_its_training_warned_of(store: Store) -> None:
    warned = "variety is lost: recall < 0.1"
    large = tried(
        store, "large", warned, family="dcgan", seconds=3600.2, stopped="time_limit", peak_memory=2**30, joules=5400.0
    )
    told = figures(page(tried(store, "small"), large, store=store))
    assert dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", told["small"])) == {
        "family": "vae", "steps": "1,200", "seconds": "61", "rows/s": "1,255", "parameters": "412,033",
        "a sample": "4.5 ms", "bundle": "1.65 MB",
    }  # fmt: skip
    assert "warning" not in told["small"]
    slow = tried(store, "slow")
    slow = replace(slow, footprint=slow.footprint.model_copy(update={"latency_ms": (1100.0, 1224.0)}))
    assert "<dd>1,162 ms</dd>" in figures(page(slow, store=store))["slow"]
    assert '<p class="warning">variety is lost: recall &lt; 0.1</p>' in told["large"]
    assert "<dd>3,600, its time limit</dd>" in told["large"] and "<dd>1,024 MiB at most</dd>" in told["large"]
    assert "<dt>energy</dt><dd>5.4 kJ, all of the machine</dd>" in told["large"]


def test_what_looks_like_a_copy_is_shown_and_copied_words_are_marked(store: Store) -> None:
    texts = [{"text": "To be <or> not", "copied": [[3, 10]]}, {"text": "nothing", "copied": []}]
    html = page(tried(store, "gpt", files={"copied.json": json.dumps(texts).encode()}), store=store)
    assert "To <mark>be &lt;or&gt;</mark> not\n\n----\n\nnothing</pre>" in html
    none = page(tried(store, "gpt", files={"copied.json": b"[]"}), store=store)
    assert "No text copies a long span." in none
    pairs = {"nearest.png": codec.grid(Images(torch.zeros(2, 1, 8, 8)), columns=2)}
    copies = page(tried(store, "vae", files=pairs), store=store).split('id="copies"')[1].split("</section>")[0]
    assert copies.count("<img") == 1
    near = tried(store, "vae", files=pairs, values={"fd": 1.0, "copied": 0.002})
    assert "<dt>copied</dt><dd>1.002, real rows 0.25</dd>" in page(near, store=store).split('id="copies"')[1]


def test_what_moderation_names_is_shown_where_there_is_any(store: Store) -> None:
    assert 'id="unsafe"' not in page(tried(store, "vae"), store=store)
    seen = {"unsafe.png": codec.grid(Images(torch.zeros(2, 1, 8, 8)), columns=2)}
    html = page(tried(store, "vae", files=seen), tried(store, "dcgan"), store=store)
    assert html.count('href="#unsafe"') == 1
    assert html.split('id="unsafe"')[1].split("</section>")[0].count("<img") == 1


def test_data_quarantine_and_lineage_are_told_with_their_digests(store: Store) -> None:
    one = tried(store, "vae")
    html = page(one, store=store)
    told = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", html.split('id="data"')[1]))
    wanted = {
        "source": "data/fashion", "licence": "MIT", "train": "9 rows", "held out": "2 rows", "data": "md5:1.dir",
        "is 27 pixels wide, not 28": "1 rows", "commit": "abc", "recipe": "sha256:r", "encoder": "sha256:e",
        "verdict": one.verdict.fingerprint(), "bundle": "sha256:vae", "MLflow run": "run-of-vae",
    }  # fmt: skip
    assert told | wanted == told


def test_curves_are_drawn_from_their_first_step_to_their_last() -> None:
    drawn = curves.drawings({**CURVES, "one": [(0, 0.0, 1.0)], "flat": [(0, 0.0, 3.0), (9, 1.0, 3.0)]})
    loss, flat = re.findall('points="(.*?)"', drawn)
    points = [tuple(map(float, point.split(","))) for point in loss.split()]
    assert len(points) <= curves.POINTS and (points[0][0], points[-1][0]) == (0, curves.WIDTH)
    assert points[0][1] < points[-1][1], "a loss that falls is drawn falling"
    assert len(flat.split()) == 2 and "nan" not in drawn
    assert 'aria-label="main/loss, from 0.005 to 2, 0.005 at last, after 399 steps"' in drawn


def test_the_page_needs_nothing_beside_it_and_no_name_becomes_markup(store: Store) -> None:
    html = page(tried(store, "<script>", reason="a < b & c", family="<script>"), store=store)
    assert not re.search(r'(src|href)="(?!data:|#)', html)
    assert "<script>" not in html
    assert "a &lt; b &amp; c" in html
