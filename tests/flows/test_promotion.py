"""Who becomes champion by hand: only what has passed, what is approved, and what is not champion yet."""

from pathlib import Path

import pytest

from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.records import Artifact, Scores, Verdict
from flows import promotion
from flows.workspace import Workspace


def place_with(tmp_path: Path, *numbers: str) -> Workspace:
    """A workspace whose ledger knows these versions of `toy`, the first of them as champion."""
    place = Workspace(tmp_path, tmp_path / "workspace")
    place.root.mkdir()
    ledger = Ledger(place.ledger_url)
    for number in numbers:
        bundle = Artifact(kind="bundle", digest=f"sha256:{number * 64}")
        scores = Scores(
            bundle=bundle, encoder="e", held_out="h", samples=16, seeds=(0, 1), values={"fd": (1.0, 2.0)},
            floor={}, pictures=bundle,
        )  # fmt: skip
        verdict = Verdict(
            model="toy", candidate="c", family="vae", bundle=bundle, scores=scores, checks=(), rank=1.0, passed=True
        )
        version = Version(
            model="toy", version=number, modality="image", family="vae", bundle=bundle.digest,
            verdict=ledger.record(verdict, run="r"), data="md5:0", commit=None, recipe="sha256:0", run="r",
            pointers=(), created=f"2026-01-0{number}T00:00:00Z",
        )  # fmt: skip
        ledger.enter(version)
        if number == numbers[0]:
            ledger.move(
                "toy", "champion", number, verdict=version.verdict, expected_generation=0, actor="test", reason="first"
            )
    return place


@pytest.mark.parametrize(
    ("named", "told"),
    [
        ("toy", "toy has no challenger to promote"),
        ("toy@1", "toy@1 is the champion already"),
        ("toy@7", "unknown version '7'"),
        ("toi", "did you mean 'toy'"),
    ],
)
def test_what_cannot_be_promoted_is_refused_and_nothing_moves(tmp_path: Path, named: str, told: str) -> None:
    place = place_with(tmp_path, "1", "2")
    with pytest.raises(AtelierError, match=told):
        promotion.promote(place, named, reason="test")
    assert len(Ledger(place.ledger_url).history("toy")) == 1


def test_a_version_that_waits_for_approvals_stays_where_it_is(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1", "2")
    Ledger(place.ledger_url).pin("toy", "approvals", "2", "2")
    with pytest.raises(AtelierError, match="has 0 of the 2 approvals"):
        promotion.promote(place, "toy@2", reason="test")
    assert len(Ledger(place.ledger_url).history("toy")) == 1


def test_a_first_champion_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match="no previous champion"):
        promotion.rollback(place_with(tmp_path, "1"), "toy", reason="test")


def test_history_tells_every_move_and_an_unknown_model_is_answered(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1", "2")
    assert [move["reason"] for move in promotion.history(place, "toy")["moves"]] == ["first"]
    with pytest.raises(AtelierError, match="unknown model 'tyo'"):
        promotion.history(place, "tyo")
