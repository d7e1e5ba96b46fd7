"""Each stage wrapped once for Prefect: what its cache key covers, its retries, and the line it shows to a person.

Stages are imported when they run: a skipped one costs no import of torch or Great Expectations.
"""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from components import checkpoint, modalities
from components.recipe import Candidate, Recipe
from components.records import (
    Artifact,
    Beginning,
    Dataset,
    Footprint,
    Outcome,
    Package,
    Pointer,
    Registered,
    Scores,
    Shards,
    Source,
    Trained,
    Validated,
    Verdict,
    fingerprint,
)
from components.store import file_sha256
from flows import caching, console, cost, runs, summary
from flows.stage import stage, step, store_of
from flows.workspace import Workspace

Tried = tuple[Trained, Verdict, Footprint, str]  # a candidate, and its run in MLflow


def _modality(recipe: Recipe, *parts: str) -> list[str]:
    return [f"components.modalities.{recipe.modality}.{part}" for part in parts]


def _excluding(source: Source, recipe: Recipe) -> list[str]:
    """The code by which rows are told apart, where some are excluded."""
    return _modality(recipe, "rows") if any(one.excluded for one in (source, *source.more)) else []


def _brought(recipe: Recipe, workspace: Workspace) -> Source:
    from components import ingestion

    return ingestion.bring(recipe.data, project=workspace.project, store=store_of(workspace))


def _known(recipe: Recipe, workspace: Workspace) -> Source | None:
    from components import ingestion

    return ingestion.known(recipe.data, project=workspace.project)


@stage("data", known=_known, retries=2, note=lambda source: f"{source.name}, version {source.version[:14]}")
def bring(recipe: Recipe, workspace: Workspace) -> Source:
    _bring_rejected(recipe, workspace)
    return _brought(recipe, workspace)


@stage(
    "ingest",
    asked=lambda source, recipe, workspace: {
        "data": recipe.data.model_dump(exclude={"reject_at_most"}),
        "version": source.version,
        "modality": recipe.modality,
        **({"excluded": source.excluded} if source.excluded else {}),
        **({"more": [[more.version, more.excluded] for more in source.more]} if source.more else {}),
    },
    reaches=lambda source, recipe, workspace: ["components.ingestion", *_excluding(source, recipe)],
    renew=lambda dataset, source, **_: dataset.model_copy(update={"source": source.name, "commit": source.commit}),
    note=lambda dataset: (
        f"{dataset.count:,} rows" + (f", {sum(dataset.excluded.values()):,} excluded" if dataset.excluded else "")
    ),
)
def ingest(source: Source, recipe: Recipe, workspace: Workspace) -> Dataset:
    from components import ingestion

    return ingestion.ingest(
        recipe.data,
        modality=recipe.modality,
        project=workspace.project,
        store=store_of(workspace),
        source=source,
    )


@stage(
    "validate",
    asked=lambda dataset, recipe, workspace: {
        "rows": dataset.rows,
        "classes": dataset.classes,
        "data.reject_at_most": recipe.data.reject_at_most,
        "validate": recipe.validation,
        **({"excluded": dataset.excluded} if dataset.excluded else {}),
    },
    reaches=lambda dataset, recipe, workspace: ["components.validation", *_modality(recipe, "rows")],
    renew=lambda valid, dataset, **_: valid.model_copy(update={"dataset": dataset}),
    note=lambda valid: (
        f"{sum(valid.accepted.values()):,} rows accepted, {sum(valid.rejected.values()):,} in quarantine"
    ),
)
def validate(dataset: Dataset, recipe: Recipe, workspace: Workspace) -> Validated:
    from components import validation

    return validation.validate(
        dataset,
        recipe.validation,
        modality=recipe.modality,
        reject_at_most=recipe.data.reject_at_most,
        store=store_of(workspace),
    )


@stage(
    "preprocess",
    asked=lambda validated, beginnings, recipe, workspace: {
        "rows": validated.dataset.rows,
        "classes": validated.dataset.classes,
        "facts": validated.facts,
        "prepare": _prepared(beginnings, recipe),
    },
    reaches=lambda validated, beginnings, recipe, workspace: [
        "components.preprocessing",
        *_modality(recipe, "shards", "augment"),
    ],
    renew=lambda shards, validated, **_: shards.model_copy(update={"validated": validated}),
    note=lambda shards: ", ".join(f"{count:,} {side}" for side, count in shards.validated.accepted.items()),
)
def preprocess(
    validated: Validated, beginnings: Mapping[str, Beginning], recipe: Recipe, workspace: Workspace
) -> Shards:
    from components import preprocessing

    options = preprocessing.options(recipe, beginnings)
    return preprocessing.prepare(validated, options, modality=recipe.modality, store=store_of(workspace))


def _prepared(beginnings: Mapping[str, Beginning], recipe: Recipe) -> dict[str, Any]:
    from components import preprocessing

    return preprocessing.options(recipe, beginnings)


def _pinned_encoder(shards: Shards, recipe: Recipe, workspace: Workspace) -> Artifact | None:
    from components import evaluation
    from components.ledger import Ledger

    ledger = Ledger(workspace.ledger_url)
    return evaluation.pinned_encoder(shards, recipe, project=workspace.project, ledger=ledger)


@step
def encoder(shards: Shards, recipe: Recipe, workspace: Workspace) -> Artifact | None:
    """The recipe's frozen encoder; None where the metrics of its modality need none."""
    return frozen_encoder(shards, recipe, workspace) if modalities.has(recipe.modality, "classifier") else None


@stage("encoder", known=_pinned_encoder, note=lambda encoder: f"frozen as {encoder.digest[:14]}")
def frozen_encoder(shards: Shards, recipe: Recipe, workspace: Workspace) -> Artifact:
    from components import evaluation
    from components.ledger import Ledger
    from components.versioning import Archive

    return evaluation.encoder_of(
        shards,
        recipe,
        project=workspace.project,
        ledger=Ledger(workspace.ledger_url),
        store=store_of(workspace),
        archive=Archive(workspace.dvc),
    )


@stage(
    "train {name}",
    asked=lambda name, candidate, beginning, shards, recipe, workspace: {
        "candidate": name,
        f"candidates.{name}": candidate,
        "shards": shards.shards,
        "spec": shards.spec,
        **_begun(beginning),
    },
    reaches=lambda name, candidate, beginning, shards, recipe, workspace: [
        "components.supervision",
        "components.trainee",
        *_code(candidate, recipe),
    ],
    settle=lambda trained, name, candidate, beginning, shards, recipe, workspace: checkpoint.clear(
        workspace.checkpoints / _job(name, candidate, beginning, shards, recipe)
    ),
    note=summary.training_line,
)
def train(
    name: str, candidate: Candidate, beginning: Beginning | None, shards: Shards, recipe: Recipe, workspace: Workspace
) -> Trained:
    from components import supervision

    shown, before = console.current(), cost.energy()
    trained = supervision.train(
        name,
        candidate,
        shards,
        job=_job(name, candidate, beginning, shards, recipe),
        modality=recipe.modality,
        store=store_of(workspace),
        checkpoints=workspace.checkpoints,
        encoder=_pinned_encoder(shards, recipe, workspace),  # it only watches: no part of the key
        beginning=beginning,
        report=lambda reading: shown.advance(reading["step"] / reading["steps"], summary.reading_line(reading)),
        told=console.board().say,
    )
    shown.peak_memory = trained.peak_memory
    return trained.model_copy(update={"joules": cost.spent(before, cost.energy())})


def _job(name: str, candidate: Candidate, beginning: Beginning | None, shards: Shards, recipe: Recipe) -> str:
    """What a checkpoint belongs to: whose it is, and what is trained on what, code and all."""
    asked = {"model": recipe.model, "name": name, "candidate": candidate, "shards": shards.shards}
    asked |= _begun(beginning)
    return caching.key("job", asked, ["components.training", *_code(candidate, recipe)]).name


def _begun(beginning: Beginning | None) -> dict[str, Any]:
    """What a key holds of where training begins: nothing where it begins afresh."""
    return {} if beginning is None else {"init": beginning.bundle}


def _code(candidate: Candidate, recipe: Recipe) -> list[str]:
    """The modules of a candidate's family and of its modality's training side."""
    return [f"components.families.{candidate.family}", *_modality(recipe, "batch", "shards", "augment")]


@stage(
    "bundle {name}",
    asked=lambda name, trained, recipe, workspace: {
        "weights": trained.weights,
        "model": recipe.model,
        "controls": recipe.controls,
        "serve": recipe.serve,
        "moderation": recipe.moderation,
        **_inspector(recipe, workspace),
    },
    reaches=lambda name, trained, recipe, workspace: ["components.bundle"],
)
def bundle(name: str, trained: Trained, recipe: Recipe, workspace: Workspace) -> Artifact:
    from components import bundle as bundles

    card = bundles.EndpointCard(
        model=recipe.model,
        controls=recipe.controls,
        max_samples=recipe.serve.max_samples,
        latency_ms=recipe.serve.latency_ms,
        moderation=recipe.moderation,
    )
    return bundles.assemble(trained.weights, card, store_of(workspace), project=workspace.project)


def _inspector(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    """What a key holds of the network that looks at pictures: nothing where the recipe names none."""
    if recipe.moderation.images is None:
        return {}
    path = workspace.project / recipe.moderation.images.model
    return {"inspector": file_sha256(path) if path.is_file() else None}


@stage(
    "evaluate {name}",
    asked=lambda name, bundle, shards, encoder, recipe, workspace: {
        "bundle": bundle,
        "shards": shards.shards,
        "encoder": encoder,
        "evaluate": recipe.evaluate,
        **_rejected(recipe, workspace),
    },
    reaches=lambda name, bundle, shards, encoder, recipe, workspace: [
        "components.evaluation",
        f"components.families.{_family(bundle, workspace)}",
        *_modality(recipe, "batch", "shards", "metrics", "codec", "classifier"),
    ],
    note=lambda scores: "  ".join(f"{name} {sum(v) / len(v):.3g}" for name, v in list(scores.values.items())[:4]),
)
def evaluate(
    name: str, bundle: Artifact, shards: Shards, encoder: Artifact | None, recipe: Recipe, workspace: Workspace
) -> Scores:
    from components import evaluation

    return evaluation.evaluate(
        bundle,
        shards,
        encoder,
        recipe.evaluate,
        modality=recipe.modality,
        store=store_of(workspace),
        rejected=_prepared_rejected(recipe, workspace),
    )


def _asks_for_rejected(recipe: Recipe) -> bool:
    asked = {gate.metric for gate in recipe.gates if gate.waived is None}
    return "rejected" in {*asked, recipe.rank_by}


def _rejected(recipe: Recipe, workspace: Workspace) -> dict[str, Any]:
    """What a key holds of the samples that people rejected: nothing where no gate asks for them."""
    if not _asks_for_rejected(recipe):
        return {}
    from components import versioning
    from components.extras import feedback_on

    return {"rejected": versioning.version_of(workspace.project, feedback_on(recipe.model))}


def _prepared_rejected(recipe: Recipe, workspace: Workspace) -> Artifact | None:
    if not _asks_for_rejected(recipe):
        return None
    from components import feedback
    from components.extras import feedback_on

    folder = workspace.project / feedback_on(recipe.model)
    return feedback.prepared(folder, recipe.prepare, modality=recipe.modality, store=store_of(workspace))


def _bring_rejected(recipe: Recipe, workspace: Workspace) -> None:
    """Have them here before anything is trained, or say that there are too few."""
    if _asks_for_rejected(recipe):
        from components import feedback, versioning
        from components.extras import feedback_on

        source = feedback_on(recipe.model)
        versioning.pull(workspace.project, source)
        feedback.refuse_few(workspace.project / source, recipe.model)


@stage(
    "time {name}",
    asked=lambda name, bundle, recipe, workspace: {"bundle": bundle, "seeds": recipe.evaluate.seeds},
    reaches=lambda name, bundle, recipe, workspace: [
        "components.footprint",
        f"components.families.{_family(bundle, workspace)}",
        *_modality(recipe, "batch", "codec"),
    ],
    note=lambda taken: f"{median(taken.latency_ms):.3g} ms a sample, {taken.bytes / 1e6:.3g} MB",
)
def footprint(name: str, bundle: Artifact, recipe: Recipe, workspace: Workspace) -> Footprint:
    from components import footprint as footprints

    return footprints.measure(bundle, recipe.evaluate, store=store_of(workspace))


@stage(
    "check candidates",
    asked=lambda shards, beginnings, recipe, workspace: {
        "candidates": recipe.candidates,
        "spec": shards.spec,
        **({"init": beginnings} if beginnings else {}),
        **_inspector(recipe, workspace),
    },
    reaches=lambda shards, beginnings, recipe, workspace: [
        "components.training",
        *(["components.inspection"] if recipe.moderation.images else []),
        *(f"components.families.{candidate.family}" for candidate in recipe.candidates.values()),
    ],
    note=lambda _: "every candidate can be built for this data",
)
def check_candidates(shards: Shards, beginnings: Mapping[str, Beginning], recipe: Recipe, workspace: Workspace) -> None:
    from components import training

    store = store_of(workspace)
    training.refuse_unfit(recipe, shards, beginnings, store=store)
    if recipe.moderation.images is not None:
        from components import inspection

        held_out = modalities.part(recipe.modality, "shards").open_split(store.path(shards.shards), "held_out")
        inspection.refuse_unfit(recipe.moderation.images, workspace.project, held_out)


def beginnings(recipe: Recipe, workspace: Workspace) -> dict[str, Beginning]:
    """The versions from which candidates go on, by their names, as aliases stand now; none is made anew later."""
    from flows import champions

    return {
        name: champions.beginning(candidate.init, workspace)
        for name, candidate in recipe.candidates.items()
        if candidate.init is not None
    }


def generation(recipe: Recipe, workspace: Workspace) -> int:
    """The ledger's generation that this run decides on: a champion that changes from here on is not replaced."""
    from components.ledger import Ledger

    return Ledger(workspace.ledger_url).generation(recipe.model)


@step
def score_champion(shards: Shards, encoder: Artifact | None, recipe: Recipe, workspace: Workspace) -> Scores | None:
    """The champion on today's held-out rows; None where the model has no champion yet."""
    from flows import champions

    champion = champions.find(recipe.model, workspace)
    return None if champion is None else evaluate("champion", champion.bundle, shards, encoder, recipe, workspace)


@stage(
    "gate {name}",
    asked=lambda name, trained, scores, footprint, champion, recipe, workspace: {
        "model": recipe.model,
        "candidate": trained.candidate,
        "family": trained.family,
        "warnings": trained.warnings,
        "scores": scores,
        "footprint": footprint,
        "champion": champion,
        "gates": recipe.gates,
        "controls": recipe.controls,
        "serve": recipe.serve,
        "rank_by": recipe.rank_by,
    },
    reaches=lambda recipe, **_: ["components.gating", *_modality(recipe, "metrics")],
    note=summary.verdict_line,
)
def gate(
    name: str, trained: Trained, scores: Scores, footprint: Footprint, champion: Scores | None, recipe: Recipe,
    workspace: Workspace,
) -> Verdict:  # fmt: skip
    from components import gating

    return gating.gate(trained, scores, footprint, recipe, champion)


@stage("track {name}", note=lambda run: f"MLflow run {run}")
def track(name: str, trained: Trained, verdict: Verdict, dataset: Dataset, recipe: Recipe, workspace: Workspace) -> str:
    from components.ledger import Ledger

    ledger, shown = Ledger(workspace.ledger_url), fingerprint([workspace.tracking_uri, verdict.fingerprint()])
    known = ledger.run_of(verdict.fingerprint())
    if known is not None and ledger.pinned(recipe.model, "tracked", shown) is not None:
        return known
    from components import tracking

    run = tracking.Tracking(workspace.tracking_uri, artifacts=workspace.runs).log(
        recipe, trained, verdict.scores, verdict, store=store_of(workspace), lineage=_lineage(dataset, recipe)
    )
    ledger.record(verdict, run=run)
    ledger.pin(recipe.model, "tracked", shown, run)
    return run


@stage(
    "report",
    asked=lambda tried, champion, shards, recipe, workspace: {
        "tried": [list(one) for one in tried],
        "champion": champion,
        "shards": shards,
        "recipe": fingerprint(recipe.model_dump(mode="json")),
        "tracking": fingerprint(workspace.tracking_uri),
    },
    reaches=lambda tried, champion, shards, recipe, workspace: [
        "components.gating",
        "components.reporting",
        "components.tracking",
    ],
    settle=lambda page, tried, champion, shards, recipe, workspace: summary.publish(
        page, [verdict for _, verdict, _, _ in tried], workspace
    ),
    note=lambda page: "the page of the run, in MLflow too",
)
def report(
    tried: Sequence[Tried], champion: Scores | None, shards: Shards, recipe: Recipe, workspace: Workspace
) -> Artifact:
    from components import gating, reporting, tracking

    store = store_of(workspace)
    best = gating.best_of([verdict for _, verdict, _, _ in tried])
    html = reporting.page(
        [reporting.Tried(*one) for one in tried], shards,
        winner=None if best is None else best.candidate, champion=champion,
        recipe=fingerprint(recipe.model_dump(mode="json")), store=store,
    )  # fmt: skip
    with store.writing("report") as draft:
        (draft.directory / summary.PAGE).write_text(html, encoding="utf-8")
    pages = tracking.Tracking(workspace.tracking_uri, artifacts=workspace.runs)
    for *_, run in tried:
        pages.attach(run, store.path(draft.artifact) / summary.PAGE)
    return draft.artifact


@step
def choose(verdicts: Sequence[Verdict]) -> Verdict:
    """The best verdict that passed; `GateFailed` where none did."""
    from components import gating

    return gating.best(verdicts)


@stage("archive", retries=2, note=lambda pointers: "in DVC: " + ", ".join(pointer.kind for pointer in pointers))
def archive(shards: Shards, winner: Verdict, workspace: Workspace) -> tuple[Pointer, ...]:
    from components import versioning

    kept = versioning.Archive(workspace.dvc)
    dataset = shards.validated.dataset
    data = kept.keep_source(workspace.project, dataset.source, version=dataset.version, store=store_of(workspace))
    more = [
        kept.keep_source(
            workspace.project,
            one.source,
            version=one.version,
            store=store_of(workspace),
            kind=f"more-{one.source.rpartition('/')[2]}",  # where `restore` puts it
        )
        for one in dataset.more
    ]
    parts = (shards.shards, winner.bundle, shards.validated.facts)  # by the facts a row is found again
    return (data, *more, *(kept.keep(part, store_of(workspace).path(part)) for part in parts))


@stage("register", note=lambda done: f"{done.model}@{done.version}{'' if done.created else ', registered before'}")
def register(
    winner: Verdict,
    pointers: tuple[Pointer, ...],
    dataset: Dataset,
    beginnings: Mapping[str, Beginning],
    recipe: Recipe,
    workspace: Workspace,
) -> Registered:
    from components import model_card, registration
    from components.ledger import Ledger

    ledger = Ledger(workspace.ledger_url)
    run = ledger.run_of(winner.fingerprint())
    assert run is not None, "every verdict is tracked before the best is chosen"
    return registration.register(
        winner,
        store_of(workspace).path(winner.bundle),
        tracking_uri=workspace.tracking_uri,
        run=run,
        ledger=ledger,
        tags=_lineage(dataset, recipe)
        | {"licence": dataset.licence}
        | ({} if (begun := _begun_name(winner, beginnings)) is None else {"init": begun}),
        description=model_card.review(
            winner, dataset, among=len(recipe.candidates), begun=_begun_name(winner, beginnings)
        ),
        pointers=pointers,
        promotion=recipe.promotion,
    )


@stage("package", note=lambda made: f"{made.tag} served a sample")
def package(registered: Registered, workspace: Workspace) -> Package:
    from components.ledger import Ledger
    from flows import champions

    versions = Ledger(workspace.ledger_url).versions(registered.model)
    return champions.package_version(next(v for v in versions if v.version == registered.version), workspace)


@stage("appoint", note=lambda done: f"{done.model}@{done.version} is {done.alias}")
def appoint(
    registered: Registered, package: Package, decided_on: int, recipe: Recipe, workspace: Workspace
) -> Registered:
    from components import registration
    from components.ledger import Ledger
    from flows import rollout

    assert package.version == registered.version, "no alias points to a version that has not answered"
    return registration.appoint(
        registered,
        tracking_uri=workspace.tracking_uri,
        ledger=Ledger(workspace.ledger_url),
        promotion=recipe.promotion,
        decided_on=decided_on,
        roll_out=lambda: rollout.publish(workspace),
    )


@step
def outcome(tried: Sequence[Tried], validated: Validated, registered: Registered, package: Package) -> Outcome:
    """What the run came to."""
    verdicts = tuple(verdict for _, verdict, _, _ in tried)
    return Outcome(verdicts=verdicts, validated=validated, registered=registered, package=package)


def _begun_name(winner: Verdict, beginnings: Mapping[str, Beginning]) -> str | None:
    """The version that a candidate went on from, as "shakespeare@3"."""
    return beginnings[winner.candidate].name if winner.candidate in beginnings else None


def _family(bundle: Artifact, workspace: Workspace) -> str:
    """The family whose code samples from a bundle."""
    from components import bundle as bundles

    return bundles.read(store_of(workspace).path(bundle))[0].family


def _lineage(dataset: Dataset, recipe: Recipe) -> dict[str, str]:
    """Where a model comes from, and why it was made, as tags."""
    cause = runs.cause()
    return {
        "why": f"{cause.why}: {cause.detail}"[:500] if cause.detail else cause.why,
        "data": dataset.version,
        "commit": dataset.commit or "none",
        "recipe": fingerprint(recipe.model_dump(mode="json")),
        **({} if dataset.synthetic is None else {"synthetic": dataset.synthetic}),
    }
