"""The flow that monitors the model of one recipe; `atelier schedule apply` has it run as often as the recipe says."""

from pathlib import Path

from prefect import flow
from prefect.artifacts import create_table_artifact

from components import recipe as recipes
from flows import watching, workspace
from flows.watching import Watched


@flow(name="monitor", flow_run_name="monitor {path}", persist_result=False, retries=1, retry_delay_seconds=30)
def monitor(path: str) -> str:
    """Compare what the recipe's champion is asked and answers with how it began; the outcome in a sentence."""
    place = workspace.find(Path(path).parent, Path.cwd())
    recipe = recipes.load(Path(path))
    found = watching.watch(recipe.model, place, settings=recipe.monitor, feedback_below=watching.feedback_bound(recipe))
    publish(found)
    return found.drift.outcome


def publish(found: Watched) -> None:
    """Show what was found as a table among Prefect's artifacts."""
    drift = found.drift
    about = f"{drift.model}@{drift.version}, {drift.since} to {drift.until}: {drift.outcome}. Page: {found.page}"
    create_table_artifact(key=f"drift-{drift.model}", table=watching.rows(drift), description=about)
