"""The release flow: a registered version becomes a Bento that has answered once, and may get an alias then."""

from prefect import flow

from components.records import Package, Registered
from flows import tasks, unclosed
from flows.stage import step
from flows.workspace import Workspace


@step
@flow(
    name="release",
    flow_run_name="{registered.model}",
    validate_parameters=False,
    persist_result=False,
    on_running=[unclosed.note],
)
def release(registered: Registered, place: Workspace) -> Package:
    """Package a registered version, and prove it by a sample drawn through the served Bento."""
    return tasks.package(registered, place)
