"""The page of a run: whole in itself, true to the records, and safe from what names and reasons may hold."""

import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import torch

from components import reporting
from components.modalities.image import codec
from components.modalities.image.batch import Images
from components.records import Artifact, Check, Scores, Trained, Verdict
from components.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def verdict(store: Store, candidate: str, *, passed: bool = True, reason: str = "", **values: float) -> Verdict:
    with store.writing("pictures") as draft:
        shade = (len(candidate) % 5) / 5
        for name, value in (("generated", shade), ("held_out", 1.0)):
            sheet = codec.grid(Images(torch.full((20, 1, 8, 8), value)), columns=10)
            (draft.directory / f"{name}.png").write_bytes(sheet)
    artifact = Artifact(kind="bundle", digest="sha256:" + "0" * 64)
    scores = Scores(
        bundle=artifact, encoder="sha256:e", held_out="sha256:h", samples=16, seeds=(0, 1), floor={"fd": 1.5},
        values={name: (value, value + 2) for name, value in values.items()}, pictures=draft.artifact,
    )  # fmt: skip
    check = Check(gate="fd at most 60", metric="fd", value=12.0, low=11.5, high=12.5, passed=passed, reason=reason)
    return Verdict(
        model="fashion", candidate=candidate, family="vae", bundle=artifact, scores=scores, checks=(check,), rank=1.0,
        passed=passed,
    )  # fmt: skip


def training(candidate: str, *warnings: str, **facts: Any) -> Trained:
    artifact = Artifact(kind="weights", digest="sha256:" + "0" * 64)
    cost = {"steps": 1200, "seconds": 61.4, "samples_per_second": 1254.6, "parameters": 412_033, "stopped": "budget"}
    made = {"candidate": candidate, "family": "vae", "weights": artifact, "curves": artifact, "seed": 0}
    return Trained(**made | cost | facts, warnings=warnings)


def test_every_candidate_is_shown_beside_the_others_and_real_rows_once(store: Store) -> None:
    verdicts = [verdict(store, "vae", fd=10.0), verdict(store, "dcgan", passed=False, fd=20.0)]
    html = reporting.page(verdicts, [training("vae"), training("dcgan")], winner="vae", store=store)
    shown = {title: b64decode(data) for title, data in re.findall(r'alt="samples: (.*?)" src=".*?,(.*?)"', html)}
    assert list(shown) == ["vae", "dcgan", "held out"]
    assert shown["dcgan"] == (store.path(verdicts[1].scores.pictures) / "generated.png").read_bytes()
    assert "passed</span>, 1 of 1 gates hold, registered" in html
    assert "failed</span>, 0 of 1 gates hold<" in html
    assert "<td>fd</td><td>11</td><td>21</td><td>1.5</td>" in html


def test_a_metric_that_only_one_candidate_has_leaves_the_others_empty(store: Store) -> None:
    verdicts = [verdict(store, "vae", fd=10.0), verdict(store, "cgan", fd=10.0, label_accuracy=0.5)]
    html = reporting.page(verdicts, [training("vae"), training("cgan")], winner=None, store=store)
    assert "<td>label_accuracy</td><td></td><td>1.5</td><td></td>" in html


def test_each_candidate_tells_what_it_cost_and_what_its_training_warned_of(store: Store) -> None:
    verdicts = [verdict(store, "small", fd=10.0), verdict(store, "large", fd=20.0)]
    trained = [
        training("small"),
        training("large", "variety is lost: recall < 0.1", family="dcgan", seconds=3600.2, stopped="time_limit"),
    ]
    html = reporting.page(verdicts, trained, winner=None, store=store)
    small, large, _ = re.findall(r"<figure>.*?</figure>", html, re.DOTALL)
    told = dict(re.findall("<dt>(.*?)</dt><dd>(.*?)</dd>", small))
    assert told == {
        "family": "vae", "steps": "1,200", "seconds": "61", "rows/s": "1,255", "parameters": "412,033",
    }  # fmt: skip
    assert "warning" not in small
    assert '<p class="warning">variety is lost: recall &lt; 0.1</p>' in large
    assert "<dd>dcgan</dd>" in large and "<dd>3,600, its time limit</dd>" in large


def test_the_page_needs_nothing_beside_it_and_no_name_becomes_markup(store: Store) -> None:
    verdicts = [verdict(store, "<script>", reason="a < b & c", fd=1.0)]
    html = reporting.page(verdicts, [training("<script>", family="<script>")], winner=None, store=store)
    assert not re.search(r'(src|href)="(?!data:)', html)
    assert "<script>" not in html
    assert "a &lt; b &amp; c" in html
