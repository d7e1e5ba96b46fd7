"""The door to MLflow's registry: a verdict that passed becomes a version, and the aliases show what the ledger says.

A version is a whole MLflow model: `mlflow.pyfunc.load_model("models:/fashion@champion")` works for any client, without
this project installed and without pickle.
"""

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from components.aliases import without_password
from components.display import aliases, registry, show
from components.errors import AtelierError, GateFailed
from components.ledger import Alias, Ledger, Move, Superseded, Version
from components.records import Pointer, Registered, Verdict
from components.spelling import unknown
from components.store import digest_of

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion
    from mlflow.tracking import MlflowClient

    from components.recipe import Promotion


def register(
    verdict: Verdict,
    bundle: Path,
    *,
    tracking_uri: str,
    run: str,
    ledger: Ledger,
    tags: Mapping[str, str],
    description: str,
    pointers: Sequence[Pointer],
    promotion: "Promotion",
) -> Registered:
    """The version of a bundle that passed its gates, without an alias: made in MLflow, unless it is there already.

    `bundle` is its folder, `run` the MLflow run of its training. `tags` must hold `data` and `recipe`, and may hold
    `commit` and more; all are set, under `atelier.`, in the call that creates the version. Raises `GateFailed` for a
    verdict that failed, and an `AtelierError` for bytes that are not the verdict's.
    """
    _refuse_unfit(verdict, bundle, tags)
    _refuse_lost(tracking_uri, verdict.model, ledger)
    digest = ledger.record(verdict, run=run)
    version = next((known for known in ledger.versions(verdict.model) if known.bundle == verdict.bundle.digest), None)
    created = False
    if version is None:
        with registry(tracking_uri) as client:
            _refuse_strangers(client, tracking_uri, verdict.model, ledger)
            found = _find(client, verdict)
            made = found or _create(client, verdict, bundle, run, tags, description, pointers)
        _pin(ledger, made, tags, promotion)  # first: the ledger knows no version that could be moved without approvals
        version = ledger.enter(made)
        created = found is None and version == made
    _pin(ledger, version, tags, promotion)
    return Registered(
        **version.model_dump(include={"model", "version", "run"}),
        bundle=verdict.bundle, verdict=digest, created=created, alias=None,
    )  # fmt: skip


def appoint(
    registered: Registered,
    *,
    tracking_uri: str,
    ledger: Ledger,
    promotion: "Promotion",
    decided_on: int | None = None,
    roll_out: Callable[[], object] = lambda: None,
) -> Registered:
    """Give a registered version its alias in the ledger, `roll_out` what the ledger says now, and show it in MLflow.

    `decided_on` is the ledger's generation that the gates saw, the present one by default: a champion that changed
    since is not replaced.
    """
    generation = ledger.generation(registered.model) if decided_on is None else decided_on
    alias = _place(registered, ledger, promotion, generation)
    roll_out()
    show(tracking_uri, registered.model, ledger)
    return registered.model_copy(update={"alias": alias})


def versions(tracking_uri: str, model: str) -> list[Version]:
    """The versions in MLflow that Atelier registered, oldest first, as their tags tell; the ledger is not asked."""
    with registry(tracking_uri) as client:
        held = client.search_model_versions(f"name = '{model}'")
        ours = [_version(version) for version in held if "atelier.bundle" in version.tags]
    return sorted(ours, key=lambda version: int(version.version))


def pointers_of(tracking_uri: str, model: str, version: str) -> list[Pointer]:
    """What `restore` needs of a version, which may be named by an alias; an `AtelierError` where there is none."""
    known = versions(tracking_uri, model)
    wanted = aliases(tracking_uri, model).get(version, version)
    for candidate in known:
        if candidate.version == wanted:
            return list(candidate.pointers)
    if not known:
        raise AtelierError(
            f"MLflow at {without_password(tracking_uri)} holds no version of {model!r}. `atelier ls` names the models."
        )
    raise AtelierError(f"{model}: {unknown('version', version, [candidate.version for candidate in known])}")


def _refuse_unfit(verdict: Verdict, bundle: Path, tags: Mapping[str, str]) -> None:
    if not verdict.passed:
        failed = "; ".join(
            f"{check.gate}: {check.reason or check.value}" for check in verdict.checks if not check.passed
        )
        raise GateFailed(
            f"{verdict.candidate} of {verdict.model} did not pass its gates ({failed}), so it is not registered. Train "
            "longer, change the candidate, or move the bounds in the recipe if they ask too much."
        )
    if (found := digest_of(bundle)) != verdict.bundle.digest:
        raise AtelierError(
            f"the bundle in {bundle} is {found}, but the verdict is about {verdict.bundle.digest}: its bytes were "
            "changed after the gates. Run the recipe again to judge what lies there."
        )
    assert {"data", "recipe"} <= tags.keys(), "the tags of a version must name its data and its recipe"


def _pin(ledger: Ledger, version: Version, tags: Mapping[str, str], promotion: "Promotion") -> None:
    """Fix for good what a version needs to become champion, what its data are, and what it went on from."""
    if promotion.approvals:
        ledger.pin(version.model, "approvals", version.version, str(promotion.approvals))
    for name in ("licence", "init", "synthetic"):
        if name in tags:
            ledger.pin(version.model, name, version.version, tags[name])


def _place(
    version: Registered, ledger: Ledger, promotion: "Promotion", generation: int
) -> Literal["challenger", "champion"]:
    """The alias that a registered version has in the ledger, which it is given where it has none."""
    current = ledger.current(version.model)
    first = "champion" not in current
    if not first and current["champion"].version == version.version:
        return "champion"
    free = ledger.approvals_needed(version.model, version.version) == 0  # whatever the recipe asks for by now
    if free and (first or promotion.policy == "auto"):
        reason = "the first version that passed its gates" if first else "it passed its gates, and the policy is auto"
        try:
            _move(ledger, version, "champion", generation, reason)
            return "champion"
        except Superseded:
            pass  # it was judged against another champion than there is now: a person may look at it
    _move(ledger, version, "challenger", None, "it passed its gates")
    return "challenger"


def _move(ledger: Ledger, version: Registered, alias: Alias, generation: int | None, reason: str) -> Move:
    return ledger.move(
        version.model,
        alias,
        version.version,
        verdict=version.verdict,
        expected_generation=generation,
        actor="recipe",
        reason=reason,
    )


def _refuse_lost(tracking_uri: str, model: str, ledger: Ledger) -> None:
    """Raise an `AtelierError` where versions were registered in a database that is gone; needs no MLflow."""
    path = tracking_uri.removeprefix("sqlite:///")
    if path != tracking_uri and not Path(path).exists() and ledger.versions(model):
        raise AtelierError(
            f"the ledger {ledger.shown} knows versions of {model}, but MLflow's database {path} is gone. Bring it back "
            "from a backup, or set the workspace aside and run the recipe anew."
        )


def _refuse_strangers(client: "MlflowClient", tracking_uri: str, model: str, ledger: Ledger) -> None:
    """Raise an `AtelierError` where the ledger knows versions and this registry holds none of the model."""
    if ledger.versions(model) and not client.search_model_versions(f"name = '{model}'", max_results=1):
        raise AtelierError(
            f"the ledger {ledger.shown} knows versions of {model}, but MLflow at {without_password(tracking_uri)} "
            "holds none: the two do not belong together. Point MLFLOW_TRACKING_URI and ATELIER_LEDGER_URL at a pair "
            "that does."
        )


def _find(client: "MlflowClient", verdict: Verdict) -> Version | None:
    """A version of the same bundle that MLflow holds and the ledger does not: one that was cut off in between."""
    same = f"name = '{verdict.model}' and tags.`atelier.bundle` = '{verdict.bundle.digest}'"
    return next((_version(found) for found in client.search_model_versions(same)), None)


def _create(
    client: "MlflowClient",
    verdict: Verdict,
    bundle: Path,
    run: str,
    tags: Mapping[str, str],
    description: str,
    pointers: Sequence[Pointer],
) -> Version:
    """Write the model beside the run, then make it a version with all its tags in one call."""
    from mlflow.exceptions import MlflowException

    from components.bundle import read

    modality = read(bundle)[0].modality
    known = {
        **tags,
        "modality": modality,
        "family": verdict.family,
        "candidate": verdict.candidate,
        "bundle": verdict.bundle.digest,
        "verdict": verdict.fingerprint(),
        "run": run,
        "pointers": json.dumps([pointer.model_dump() for pointer in pointers]),
    }
    model_id, place = _log(client, verdict, bundle, run)
    try:
        client.create_registered_model(verdict.model, {"atelier.modality": modality}, _about(modality, tags))
    except MlflowException:
        client.get_registered_model(verdict.model)  # there already, or else this says why it could not be made
    labels = {f"atelier.{name}": value for name, value in known.items()}
    made = client.create_model_version(
        verdict.model, place, run, tags=labels, description=description, model_id=model_id
    )
    shown_by = [{"name": made.name, "version": str(made.version)}]  # what MLflow's page of the model links to
    client.set_logged_model_tags(model_id, {"mlflow.modelVersions": json.dumps(shown_by)})
    return _version(made)


def _about(modality: str, tags: Mapping[str, str]) -> str:
    """What a registered model's page says on top."""
    return (
        f"Generates {modality}. Trained on data under the licence: {tags.get('licence', 'not known')}. `champion` is "
        "what the endpoints serve: open a version, and move the alias there to promote it. A version that passed no "
        "gates, or waits for approvals, is put back, and its page says why."
    )


def _log(client: "MlflowClient", verdict: Verdict, bundle: Path, run: str) -> tuple[str, str]:
    """The id and the place of the MLflow model of a bundle, written where the run's experiment keeps its files.

    A version is given the place, since MLflow resolves `models:/ID` through a tracking URI that is global.
    """
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    from components import mlflow_model

    of_run = client.get_run(run)
    logged = client.create_logged_model(
        of_run.info.experiment_id, verdict.candidate, source_run_id=run, params=of_run.data.params
    )
    model_id, place = logged.model_id, logged.artifact_location
    header = Model(artifact_path=place, model_uuid=model_id, run_id=run, model_id=model_id)
    with tempfile.TemporaryDirectory() as aside:
        target = Path(aside) / "model"
        mlflow_model.save(bundle, target, digest=verdict.bundle.digest, header=header)
        client.log_model_artifacts(model_id, str(target))
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(model_id, step=0)])
    return model_id, place


def _version(found: "ModelVersion") -> Version:
    """A version of MLflow's as its tags tell."""
    tags = {name.removeprefix("atelier."): value for name, value in found.tags.items()}
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return Version(
        model=found.name,
        version=str(found.version),
        modality=tags["modality"],
        family=tags["family"],
        bundle=tags["bundle"],
        verdict=tags["verdict"],
        data=tags["data"],
        commit=tags.get("commit") or None,
        recipe=tags["recipe"],
        run=tags["run"],
        pointers=json.loads(tags["pointers"]),
        created=created.isoformat(timespec="microseconds").replace("+00:00", "Z"),
    )
