"""What a reviewer reads beside a version: true to the verdict and the data's card, and short enough for MLflow."""

import pytest

from components import measures, model_card
from components.records import Artifact, Check, Dataset, Extra, Scores, Verdict

NONE = Artifact(kind="none", digest="sha256:0")
ROOM = 5000  # characters that MLflow's databases keep of a description


def dataset(**about: str) -> Dataset:
    return Dataset(
        source="data/fashion", version="md5:1.dir", commit="abc", rows=NONE, count=12_000, classes=(), licence="MIT",
        about=about,
    )  # fmt: skip


@pytest.fixture
def verdict() -> Verdict:
    """One with every metric of pictures, and a gate on each."""
    names = tuple(measures.directions("image"))
    scores = Scores(
        bundle=NONE, encoder="sha256:" + "e" * 64, held_out="sha256:h", samples=2048, seeds=(0, 1, 2),
        values=dict.fromkeys(names, (10.123456, 11.0, 12.0)), floor=dict.fromkeys(names, 1.5), pictures=NONE,
    )  # fmt: skip
    checks = tuple(
        Check(gate=f"{name} at most 60", metric=name, value=11.04, low=10.5, high=11.5, bound=60, passed=True)
        for name in names
    )
    return Verdict(
        model="fashion", candidate="small", family="vae", bundle=NONE, scores=scores, checks=checks, rank=1, passed=True
    )


def test_gates_numbers_and_data_are_told_as_they_are(verdict: Verdict) -> None:
    told = model_card.review(verdict, dataset(title="Clothes", consent="drawn by us"), among=3, begun="fashion@2")
    assert (
        told.splitlines()[0]
        == f"small (vae): {len(verdict.checks)} of {len(verdict.checks)} gates hold; the best of 3 candidates."
    )
    for line in (
        "- **fd at most 60** holds: 11.04, between 10.5 and 11.5", "- fd 11.04, real rows 1.5", "- what: Clothes",
        "- licence: MIT", "- consent: drawn by us", "- went on from: fashion@2", "- rows: 12,000",
        "- version: data/fashion md5:1.dir, commit abc",
    ):  # fmt: skip
        assert line in told.splitlines(), line


def test_what_the_datas_card_leaves_out_is_said(verdict: Verdict) -> None:
    assert "- consent: its card says nothing of it" in model_card.review(verdict, dataset(), among=1, begun=None)


def test_a_card_of_every_metric_leaves_mlflow_room_for_remarks(verdict: Verdict) -> None:
    assert len(model_card.review(verdict, dataset(), among=9, begun=None)) < 0.8 * ROOM


def test_rows_that_a_model_made_are_named_and_nothing_is_said_where_there_are_none(verdict: Verdict) -> None:
    extra = Extra(source="data/synthetic-x", version="md5:2.dir", rows=1200, licence="MIT", made_by="fashion@3")
    told = model_card.review(verdict, dataset().model_copy(update={"more": (extra,)}), among=1, begun=None)
    line = "- trained on samples of models too: 1,200 rows of fashion@3 (data/synthetic-x md5:2.dir)"
    assert line in told.splitlines()
    real = extra.model_copy(update={"made_by": None})
    for more in ((), (real,)):
        plain = model_card.review(verdict, dataset().model_copy(update={"more": more}), among=1, begun=None)
        assert "samples of models" not in plain
