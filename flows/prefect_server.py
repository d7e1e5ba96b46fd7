"""Prefect's server as `atelier up` starts it: `python -m flows.prefect_server server start ...`, as `prefect` takes it.

Under SQLAlchemy 2.1 the scheduler of Prefect 3.8 plans nothing: it inserts many flow runs at once, with a `state` that
is no column of theirs, and 2.1 refuses such a key unless the class says what becomes of it. Nothing does: Prefect
writes the states itself, right after.
"""

from typing import Any

from prefect.server.database.orm_models import FlowRun


def let_many_be_planned() -> None:
    """Have the `state` of flow runs that are inserted at once left alone, as SQLAlchemy 2.0 leaves it."""
    hybrid: Any = vars(FlowRun)["state"]
    hybrid.inplace.bulk_dml(_left_alone)


def _left_alone(cls: Any, mapping: Any, value: Any) -> None:
    """The state is inserted into its own table."""


if __name__ == "__main__":
    from prefect.cli import app

    let_many_be_planned()
    app()
