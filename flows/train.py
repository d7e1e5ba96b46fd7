"""The main flow: one recipe from its data to a gated, registered and packaged model, one statement per stage."""

from collections.abc import Mapping
from pathlib import Path

from prefect import flow

from components import recipe as recipes
from components.recipe import Recipe
from components.records import Artifact, Beginning, Outcome, Scores, Shards
from flows import tasks, unclosed, workspace
from flows.release import release
from flows.workspace import Workspace


@flow(name="train", flow_run_name="{path}", validate_parameters=False, persist_result=False, on_running=[unclosed.note])
def train(path: str, recipe: Recipe | None = None) -> Outcome:
    """Run the recipe in the file `path`, or `recipe` where it is given: Prefect keeps it, without its secrets."""
    place = workspace.find(Path(path).parent, Path.cwd())
    return line(recipes.load(Path(path)) if recipe is None else recipe, place)


def line(recipe: Recipe, place: Workspace) -> Outcome:
    """The straight line; `explaining.py` walks the same statements."""
    begun = tasks.beginnings(recipe, place)
    source = tasks.bring(recipe, place)
    dataset = tasks.ingest(source, recipe, place)
    validated = tasks.validate(dataset, recipe, place)
    shards = tasks.preprocess(validated, begun, recipe, place)
    tasks.check_candidates(shards, begun, recipe, place)
    encoder = tasks.encoder(shards, recipe, place)
    decided_on = tasks.generation(recipe, place)
    champion = tasks.score_champion(shards, encoder, recipe, place)
    tried = [try_candidate(name, begun, shards, encoder, champion, recipe, place) for name in recipe.candidates]
    tasks.report(tried, champion, shards, recipe, place)
    winner = tasks.choose([verdict for _, verdict, _, _ in tried])
    pointers = tasks.archive(shards, winner, place)
    registered = tasks.register(winner, pointers, dataset, begun, recipe, place)
    package = release(registered, place)
    appointed = tasks.appoint(registered, package, decided_on, recipe, place)
    return tasks.outcome(tried, validated, appointed, package)


def try_candidate(
    name: str,
    begun: Mapping[str, Beginning],
    shards: Shards,
    encoder: Artifact | None,
    champion: Scores | None,
    recipe: Recipe,
    place: Workspace,
) -> tasks.Tried:
    """One candidate, trained, scored and judged; its numbers and pictures are in MLflow whatever the verdict."""
    trained = tasks.train(name, recipe.candidates[name], begun.get(name), shards, recipe, place)
    bundle = tasks.bundle(name, trained, recipe, place)
    scores = tasks.evaluate(name, bundle, shards, encoder, recipe, place)
    taken = tasks.footprint(name, bundle, recipe, place)
    verdict = tasks.gate(name, trained, scores, taken, champion, recipe, place)
    run = tasks.track(name, trained, verdict, shards.validated.dataset, recipe, place)
    return trained, verdict, taken, run
