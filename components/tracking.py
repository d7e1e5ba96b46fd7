"""The door to MLflow's runs: one experiment for a recipe, one run for each trained candidate.

What a run shows: the candidate's settings as parameters, the training losses as `train/<phase>/<part>`, the mean score
over sampling seeds as `scores/<metric>` with its least and greatest value as `scores_low/` and `scores_high/`, what two
halves of real rows score as `floor/`, the cost as `cost/`, and the sheets of samples under `images/`.
"""

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from components import mlflow_database
from components.errors import AtelierError
from components.records import Scores, Trained, Verdict
from components.store import Store

if TYPE_CHECKING:
    from mlflow.entities import Metric, Run
    from mlflow.tracking import MlflowClient

    from components.recipe import Recipe

BATCH = 1000  # MLflow's own limit of metrics in one call
PARAMETERS = 100  # and of parameters
Curves = Mapping[str, list[tuple[int, float, float]]]


@dataclass(frozen=True)
class Tracking:
    """A tracking database or server.

    `artifacts` is the folder under which new experiments of a database keep their files; a server that hands out
    artifacts itself has a place of its own, and is given none.
    """

    uri: str
    artifacts: Path | None = None

    def log(
        self,
        recipe: "Recipe",
        trained: Trained,
        scores: Scores,
        verdict: Verdict,
        *,
        store: Store,
        lineage: Mapping[str, str],
    ) -> str:
        """The id of the run that shows this training, logged unless it is there already.

        The same weights stay one run however often they are judged: a new verdict takes the place of the shown one.
        `lineage` becomes tags under `atelier.`: `data`, `commit`, `recipe`, `flow_run`. Raises an `AtelierError` where
        MLflow cannot be reached or refuses.
        """
        from mlflow.exceptions import MlflowException
        from mlflow.tracking import MlflowClient
        from sqlalchemy.exc import SQLAlchemyError

        shown = Shown(recipe, trained, scores, verdict, store)
        try:
            mlflow_database.make_whole(self.uri)
            client = MlflowClient(self.uri, registry_uri=self.uri)
            experiment = self._experiment(client, recipe)
            run = _find(client, experiment, trained) or _create(client, experiment, shown)
            if run.data.tags.get("atelier.verdict") != verdict.fingerprint():
                _complete(client, run, shown, lineage)
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise AtelierError(
                f"MLflow at {self.shown} did not take the run of {recipe.model}/{trained.candidate}: "
                f"{' '.join(str(error).split())}. Mend that and run the recipe again: what was trained is kept."
            ) from error
        run_id: str = run.info.run_id
        return run_id

    def attach(self, run: str, file: Path) -> None:
        """Put a file beside what a run shows; one of the same name gives way."""
        with self._told():
            from mlflow.tracking import MlflowClient

            MlflowClient(self.uri, registry_uri=self.uri).log_artifact(run, str(file))

    def attached(self, run: str, name: str, folder: Path) -> Path:
        """Bring a file that was put beside a run into a folder."""
        with self._told():
            from mlflow.tracking import MlflowClient

            return Path(MlflowClient(self.uri, registry_uri=self.uri).download_artifacts(run, name, str(folder)))

    @contextmanager
    def _told(self) -> Iterator[None]:
        """An `AtelierError` where MLflow cannot be reached or refuses."""
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            raise AtelierError(
                f"MLflow at {self.shown} did not do its part: {' '.join(str(error).split())}. Mend that, and run the "
                "same command again: what was made is kept."
            ) from error

    @property
    def shown(self) -> str:
        """The URI without its password."""
        return re.sub(r"//[^/@]*@", "//***@", self.uri)

    def _experiment(self, client: "MlflowClient", recipe: "Recipe") -> str:
        """The id of the recipe's experiment, made where it is missing."""
        from mlflow.exceptions import MlflowException

        known = client.get_experiment_by_name(recipe.model)
        if known is None:
            place = None if self.artifacts is None else (self.artifacts / recipe.model).resolve().as_uri()
            try:
                return str(client.create_experiment(recipe.model, place, tags={"atelier.modality": recipe.modality}))
            except MlflowException:
                known = client.get_experiment_by_name(recipe.model)  # a candidate logged beside this one was first
                if known is None:
                    raise
        if known.lifecycle_stage != "active":
            raise AtelierError(
                f"the experiment {recipe.model!r} was deleted in MLflow at {self.shown}, and its name stays taken. "
                f"Bring it back with `mlflow experiments restore --experiment-id {known.experiment_id}`, or purge it "
                "with `mlflow gc`."
            )
        return str(known.experiment_id)


@dataclass(frozen=True)
class Shown:
    """What one run is to show, in MLflow's forms."""

    recipe: "Recipe"
    trained: Trained
    scores: Scores
    verdict: Verdict
    store: Store

    def curves(self) -> Curves:
        curves: Curves = json.loads((self.store.path(self.trained.curves) / "curves.json").read_text())
        return curves

    def span(self) -> tuple[int, int]:
        """When the training began and ended, in milliseconds since 1970; its first reading comes just after."""
        end = max((points[-1][1] for points in self.curves().values() if points), default=time.time())
        return int((end - self.trained.seconds) * 1000), int(end * 1000)

    def parameters(self) -> dict[str, str]:
        """Every setting with its default filled in, flat: `config.latent_dim`, `train.steps`."""
        card = json.loads((self.store.path(self.trained.weights) / "config.json").read_text())
        candidate = self.recipe.candidates[self.trained.candidate]
        settings = {
            "candidate": self.trained.candidate,
            "family": self.trained.family,
            "config": card["config"],
            "train": candidate.train.model_dump(mode="json", exclude_none=True),
            "prepare": self.recipe.prepare,
        }
        return dict(_flat(settings))

    def losses(self) -> "list[Metric]":
        from mlflow.entities import Metric

        return [
            Metric(f"train/{name}", value, int(seconds * 1000), step)
            for name, points in self.curves().items()
            for step, seconds, value in points
        ]

    def results(self) -> "list[Metric]":
        from mlflow.entities import Metric

        values = {
            "cost/seconds": self.trained.seconds,
            "cost/samples_per_second": self.trained.samples_per_second,
            "cost/parameters": float(self.trained.parameters),
            "cost/peak_memory_mib": self.trained.peak_memory / 2**20,
            "cost/peak_gpu_memory_mib": self.trained.peak_gpu_memory / 2**20,
            "cost/resumed": float(self.trained.resumed),
            **{f"floor/{name}": value for name, value in self.scores.floor.items()},
        }
        for name, rounds in self.scores.values.items():
            values[f"scores/{name}"] = fmean(rounds)
            values[f"scores_low/{name}"], values[f"scores_high/{name}"] = min(rounds), max(rounds)
        now = int(time.time() * 1000)
        return [Metric(name, value, now, self.trained.steps) for name, value in values.items()]

    def tags(self, lineage: Mapping[str, str]) -> dict[str, str]:
        tags = {
            **lineage,
            "bundle": self.scores.bundle.digest,
            **({} if self.scores.encoder is None else {"encoder": self.scores.encoder}),
            "held_out": self.scores.held_out,
            "stopped": self.trained.stopped,
            **({"warnings": " ".join(self.trained.warnings)} if self.trained.warnings else {}),
            "passed": "yes" if self.verdict.passed else "no",
            "verdict": self.verdict.fingerprint(),  # its presence says that all of the above is there
        }
        source = {"mlflow.source.git.commit": lineage["commit"]} if lineage.get("commit") else {}
        return {**{f"atelier.{name}": value for name, value in tags.items()}, **source}


def _find(client: "MlflowClient", experiment: str, trained: Trained) -> "Run | None":
    same = f"tags.`atelier.trained` = '{trained.weights.digest}' and tags.`atelier.candidate` = '{trained.candidate}'"
    return next(iter(client.search_runs([experiment], same, max_results=1)), None)


def _create(client: "MlflowClient", experiment: str, shown: Shown) -> "Run":
    digest = shown.trained.weights.digest
    return client.create_run(
        experiment,
        start_time=shown.span()[0],
        tags={"atelier.trained": digest, "atelier.candidate": shown.trained.candidate},
        run_name=f"{shown.trained.candidate} {digest.removeprefix('sha256:')[:8]}",
    )


def _complete(client: "MlflowClient", run: "Run", shown: Shown, lineage: Mapping[str, str]) -> None:
    """Log what the run lacks. Points that are there already are left alone by MLflow, which makes this repeatable."""
    from mlflow.entities import Param, RunTag

    run_id = run.info.run_id
    missing = [Param(name, value) for name, value in shown.parameters().items() if name not in run.data.params]
    for start in range(0, len(missing), PARAMETERS):
        client.log_batch(run_id, params=missing[start : start + PARAMETERS])
    finished = run.info.status == "FINISHED"
    metrics = shown.results() if finished else [*shown.losses(), *shown.results()]
    for start in range(0, len(metrics), BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + BATCH])
    client.log_artifacts(run_id, str(shown.store.path(shown.scores.pictures)), "images")
    client.log_text(run_id, json.dumps(shown.verdict.model_dump(mode="json"), indent=2), "verdict.json")
    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in shown.tags(lineage).items()])
    if not finished:
        client.set_terminated(run_id, "FINISHED", end_time=shown.span()[1])


def _flat(settings: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, str]]:
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value if isinstance(value, str) else json.dumps(value)
