"""The release flow: the champion of a model becomes a Bento that has answered once, and the next to be served."""

from prefect import flow

from components.records import Package
from flows import tasks, unclosed
from flows.stage import step
from flows.workspace import Workspace


@step
@flow(
    name="release", flow_run_name="{model}", validate_parameters=False, persist_result=False, on_running=[unclosed.note]
)
def release(model: str, place: Workspace) -> Package | None:
    """Package the champion of a model and prove it by a sample drawn through the served Bento; None without one."""
    return tasks.package(model, place)
