"""Who becomes champion by hand: only what has passed, what is approved, and what is not champion yet."""

import json
import os
import socket
import time
from pathlib import Path

import pytest

from components.errors import AtelierError
from components.ledger import Ledger, Version
from components.packaging import bento_model
from components.records import Artifact, Pointer, Scores, Verdict
from flows import promotion, workspace
from flows.workspace import Workspace


def place_with(tmp_path: Path, *numbers: str, archived: bool = False) -> Workspace:
    """A workspace whose ledger knows these versions of `toy`, the first of them as champion.

    It says that all but the last are in the archive, where `archived`; the archive holds none.
    """
    place = Workspace(tmp_path, tmp_path / "workspace")
    place.root.mkdir()
    ledger = Ledger(place.ledger_url)
    for number in numbers:
        bundle = Artifact(kind="bundle", digest=f"sha256:{number * 64}")
        scores = Scores(
            bundle=bundle, encoder="e", held_out="h", samples=16, seeds=(0, 1), values={"fd": (1.0, 2.0)},
            floor={}, pictures=bundle,
        )  # fmt: skip
        pointer = Pointer(kind="bundle", digest=bundle.digest, dvc=f"md5:{number * 32}.dir")
        verdict = Verdict(
            model="toy", candidate="c", family="vae", bundle=bundle, scores=scores, checks=(), rank=1.0, passed=True
        )
        version = Version(
            model="toy", version=number, modality="image", family="vae", bundle=bundle.digest,
            verdict=ledger.record(verdict, run="r"), data="md5:0", commit=None, recipe="sha256:0", run="r",
            pointers=(pointer,) if archived and number != numbers[-1] else (), created=f"2026-01-0{number}T00:00:00Z",
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


def test_a_promotion_that_was_cut_off_before_its_release_is_rolled_out_by_asking_again(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1")  # moved, and nothing after it
    name, _, label = bento_model("toy", f"sha256:{'1' * 64}").partition(":")
    folder = place.bentos / "models" / name / label
    folder.mkdir(parents=True)
    (folder / "model.yaml").touch()
    with pytest.raises(AtelierError, match="is the champion already"):
        promotion.promote(place, "toy@1", reason="test")
    assert json.loads(place.release.read_bytes())["models"]["toy"]["champion"] == "1"


def test_a_version_that_waits_for_approvals_stays_where_it_is(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1", "2")
    Ledger(place.ledger_url).pin("toy", "approvals", "2", "2")
    with pytest.raises(AtelierError, match="has 0 of the 2 approvals"):
        promotion.promote(place, "toy@2", reason="test")
    assert len(Ledger(place.ledger_url).history("toy")) == 1


def test_a_version_whose_bento_cannot_be_made_does_not_become_champion(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1", "2", "3", archived=True)
    with pytest.raises(AtelierError, match="bundle"):
        promotion.promote(place, "toy@2", reason="test")
    with pytest.raises(AtelierError, match="does not say where the bundle of toy@3 is kept"):
        promotion.promote(place, "toy@3", reason="test")
    assert len(Ledger(place.ledger_url).history("toy")) == 1 and not place.release.exists()


def test_an_mlflow_that_hangs_is_told_soon_and_undoes_no_promotion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = place_with(tmp_path, "1")
    ledger = Ledger(place.ledger_url)
    with socket.create_server(("127.0.0.1", 0)) as silent:  # which is connected to, and never answers
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        for name in workspace.QUICK:
            monkeypatch.setenv(name, str(int(name.endswith("TIMEOUT"))))
        begun = time.monotonic()
        with pytest.raises(AtelierError, match=r"toy@1 is champion .* MLflow does not show it yet"):
            promotion.show(place, ledger, ledger.versions("toy")[0])
        assert time.monotonic() - begun < 10
    assert not ledger.displayed("toy", place.tracking_uri).done and len(ledger.history("toy")) == 1


def test_commands_wait_for_mlflow_for_seconds_and_runs_as_long_as_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Workspace(tmp_path, tmp_path / "workspace")
    for patient, expected in ((False, workspace.QUICK), (True, {})):
        monkeypatch.setattr(os, "environ", {})
        workspace.enter(place, patient=patient)
        assert {name: value for name, value in os.environ.items() if name in workspace.QUICK} == expected


def test_a_first_champion_has_nothing_to_go_back_to(tmp_path: Path) -> None:
    with pytest.raises(AtelierError, match="no previous champion"):
        promotion.rollback(place_with(tmp_path, "1"), "toy", reason="test")


def test_history_tells_every_move_and_an_unknown_model_is_answered(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1", "2")
    assert [move["reason"] for move in promotion.history(place, "toy")["moves"]] == ["first"]
    with pytest.raises(AtelierError, match="unknown model 'tyo'"):
        promotion.history(place, "tyo")
