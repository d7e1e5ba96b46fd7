"""A real MLflow on SQLite shows a training once, whole, and quickly."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from components.errors import AtelierError
from components.recipe import Candidate, Evaluate, Gate, Recipe, Train
from components.records import Artifact, Check, Scores, Trained, Verdict
from components.store import Store
from components.tracking import Tracking

LINEAGE = {"data": "md5:d.dir", "commit": "0123abc", "recipe": "sha256:r", "flow_run": "f-1"}
START = 1_795_000_000.0


@pytest.fixture(scope="module")
def tracking(tmp_path_factory: pytest.TempPathFactory) -> Tracking:
    root = tmp_path_factory.mktemp("workspace")
    return Tracking(f"sqlite:///{root / 'mlflow.db'}", root / "artifacts")


@pytest.fixture
def client(tracking: Tracking) -> MlflowClient:
    return MlflowClient(tracking.uri, registry_uri=tracking.uri)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def recipe_of(model: str) -> Recipe:
    return Recipe(
        model=model,
        modality="image",
        data={"source": "data/fashion"},
        prepare={"size": 28, "augment": [{"flip": "horizontal"}]},
        candidates={"small": Candidate(family="vae", config={"latent_dim": 4}, train=Train(steps=100, seed=3))},
        evaluate=Evaluate(samples=64, seeds=(0, 1)),
        gates=(Gate(metric="fd", at_most=60),),
        rank_by="fd",
    )


def written(store: Store, kind: str, **files: str) -> Artifact:
    with store.writing(kind) as draft:
        for name, text in files.items():
            (draft.directory / name.replace("_", ".")).write_text(text)
    return draft.artifact


def trained_of(store: Store, points: int, *, seed: int = 3) -> Trained:
    config = {"latent_dim": 4, "width": 32, "beta": 1.0}
    card = {"format": 1, "family": "vae", "modality": "image", "config": config, "spec": {}}
    curve = [[10 * (n + 1), START + 0.5 * n, 100 / (n + 1)] for n in range(points)]
    return Trained(
        candidate="small",
        family="vae",
        weights=written(store, "weights", config_json=json.dumps(card), seed_txt=str(seed)),
        curves=written(store, "curves", curves_json=json.dumps({"main/bound": curve, "main/divergence": curve})),
        seed=seed,
        steps=100,
        seconds=60.0,
        samples_per_second=1234.5,
        parameters=1_000_001,
        stopped="budget",
    )


def judged(store: Store, model: str, *, passed: bool = True) -> tuple[Scores, Verdict]:
    bundle = Artifact(kind="bundle", digest="sha256:b")
    scores = Scores(
        bundle=bundle,
        encoder="sha256:e",
        held_out="sha256:h",
        samples=64,
        seeds=(0, 1),
        values={"fd": (10.0, 14.0), "coverage": (math.nan, 0.5)},
        floor={"fd": 1.5},
        pictures=written(store, "pictures", samples_png="a picture", reals_png="another"),
    )
    check = Check(gate="fd at most 60", metric="fd", value=12.0, low=10.0, high=14.0, bound=60.0, passed=passed)
    verdict = Verdict(
        model=model,
        candidate="small",
        family="vae",
        bundle=bundle,
        scores=scores,
        checks=(check,),
        rank=12.0,
        passed=passed,
    )
    return scores, verdict


def runs(client: MlflowClient, model: str) -> list[Run]:
    experiment = client.get_experiment_by_name(model)
    return list(client.search_runs([experiment.experiment_id]))


def test_a_run_shows_the_whole_training(tracking: Tracking, client: MlflowClient, store: Store) -> None:
    trained, (scores, verdict) = trained_of(store, 20), judged(store, "shown")
    run = client.get_run(tracking.log(recipe_of("shown"), trained, scores, verdict, store=store, lineage=LINEAGE))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == f"small {trained.weights.digest[7:15]}"
    assert run.info.end_time - run.info.start_time == 60_000
    assert run.info.end_time == int((START + 9.5) * 1000)
    wanted = {"candidate": "small", "family": "vae", "config.latent_dim": "4", "config.width": "32", "train.seed": "3"}
    assert wanted.items() <= run.data.params.items()
    assert run.data.params["prepare.augment"] == '[{"flip": "horizontal"}]'
    metrics = run.data.metrics
    assert (metrics["scores/fd"], metrics["scores_low/fd"], metrics["scores_high/fd"]) == (12.0, 10.0, 14.0)
    assert metrics["floor/fd"] == 1.5 and metrics["cost/parameters"] == 1_000_001
    assert math.isnan(metrics["scores/coverage"])
    history = client.get_metric_history(run.info.run_id, "train/main/bound")
    assert [(point.step, point.timestamp, point.value) for point in history] == [
        (10 * (n + 1), int((START + 0.5 * n) * 1000), 100 / (n + 1)) for n in range(20)
    ]
    assert {f"atelier.{name}": value for name, value in LINEAGE.items()}.items() <= run.data.tags.items()
    assert run.data.tags["mlflow.source.git.commit"] == "0123abc"
    assert run.data.tags["atelier.verdict"] == verdict.fingerprint() and run.data.tags["atelier.passed"] == "yes"


def test_files_lie_in_the_workspace_and_not_in_the_current_folder(
    tracking: Tracking, client: MlflowClient, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere := tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(elsewhere)
    scores, verdict = judged(store, "filed")
    run = tracking.log(recipe_of("filed"), trained_of(store, 2), scores, verdict, store=store, lineage=LINEAGE)
    assert {item.path for item in client.list_artifacts(run, "images")} == {"images/samples.png", "images/reals.png"}
    assert tracking.artifacts is not None
    (kept,) = (tracking.artifacts / "filed").rglob("verdict.json")
    assert json.loads(kept.read_text())["checks"][0]["gate"] == "fd at most 60"
    assert list(elsewhere.iterdir()) == []


def test_a_cached_training_is_not_logged_twice(tracking: Tracking, client: MlflowClient, store: Store) -> None:
    recipe, trained, (scores, verdict) = recipe_of("cached"), trained_of(store, 5), judged(store, "cached")
    first = tracking.log(recipe, trained, scores, verdict, store=store, lineage=LINEAGE)
    again = tracking.log(recipe, trained, scores, verdict, store=store, lineage={**LINEAGE, "flow_run": "f-2"})
    assert again == first and len(runs(client, "cached")) == 1
    assert client.get_run(first).data.tags["atelier.flow_run"] == "f-1"
    other = tracking.log(recipe, trained_of(store, 5, seed=4), scores, verdict, store=store, lineage=LINEAGE)
    assert other != first and len(runs(client, "cached")) == 2


def test_a_new_verdict_takes_the_place_of_the_old_one(tracking: Tracking, client: MlflowClient, store: Store) -> None:
    recipe, trained = recipe_of("rejudged"), trained_of(store, 5)
    first = tracking.log(recipe, trained, *judged(store, "rejudged"), store=store, lineage=LINEAGE)
    scores, verdict = judged(store, "rejudged", passed=False)
    assert tracking.log(recipe, trained, scores, verdict, store=store, lineage=LINEAGE) == first
    run = client.get_run(first)
    assert run.data.tags["atelier.verdict"] == verdict.fingerprint() and run.data.tags["atelier.passed"] == "no"
    assert len(client.get_metric_history(first, "train/main/bound")) == 5


def test_a_log_that_was_cut_off_is_completed(
    tracking: Tracking, client: MlflowClient, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, trained, (scores, verdict) = recipe_of("cut"), trained_of(store, 600), judged(store, "cut")
    sent = MlflowClient.log_batch

    def cut_off(self: MlflowClient, run_id: str, *args: object, **values: object) -> None:
        if len(values.get("metrics", ())) < 1000 and "metrics" in values:  # type: ignore[arg-type]
            raise KeyboardInterrupt
        sent(self, run_id, *args, **values)

    monkeypatch.setattr(MlflowClient, "log_batch", cut_off)
    with pytest.raises(KeyboardInterrupt):
        tracking.log(recipe, trained, scores, verdict, store=store, lineage=LINEAGE)
    monkeypatch.undo()
    (cut,) = runs(client, "cut")
    assert cut.info.status == "RUNNING" and "scores/fd" not in cut.data.metrics
    assert tracking.log(recipe, trained, scores, verdict, store=store, lineage=LINEAGE) == cut.info.run_id
    assert len(client.get_metric_history(cut.info.run_id, "train/main/bound")) == 600
    assert client.get_run(cut.info.run_id).data.metrics["scores/fd"] == 12.0


def test_two_thousand_points_go_in_few_calls(tracking: Tracking, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, trained, (scores, verdict) = recipe_of("quick"), trained_of(store, 1000), judged(store, "quick")
    sent, log_batch = [], MlflowClient.log_batch

    def counted(self: MlflowClient, run_id: str, metrics: Sequence[Any] = (), **others: Any) -> Any:
        sent.append(len(metrics))
        return log_batch(self, run_id, metrics=metrics, **others)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    tracking.log(recipe, trained, scores, verdict, store=store, lineage=LINEAGE)
    assert sum(sent) > 2000 and len(sent) <= 5


def test_what_mlflow_refuses_is_one_paragraph(tracking: Tracking, client: MlflowClient, store: Store) -> None:
    recipe, trained, (scores, verdict) = recipe_of("deleted"), trained_of(store, 2), judged(store, "deleted")
    client.delete_experiment(client.create_experiment("deleted"))
    with pytest.raises(AtelierError, match=r"was deleted in MLflow .* `mlflow experiments restore"):
        tracking.log(recipe, trained, scores, verdict, store=store, lineage=LINEAGE)
    for uri in ("nosuch://ana:secret@place", "sqlite:////proc/nowhere/mlflow.db"):
        with pytest.raises(AtelierError, match="did not take the run of deleted/small") as raised:
            Tracking(uri).log(recipe, trained, scores, verdict, store=store, lineage=LINEAGE)
        assert "\n" not in str(raised.value) and "at nosuch://ana" not in str(raised.value)
