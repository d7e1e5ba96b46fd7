"""MLflow's own database: made in one move where it lies in a file."""

import fcntl
from pathlib import Path


def make_whole(uri: str) -> None:
    """Make a SQLite database that is not there yet; one that is, or that a server keeps, stays as it is.

    MLflow builds a new one in dozens of steps that no transaction spans, and what was killed between two of them it
    refuses for good. So it is built beside its place, by one process at a time, and moved there when it is whole.
    """
    from sqlalchemy import make_url

    if not uri.startswith("sqlite:") or (database := make_url(uri).database) in (None, "", ":memory:"):
        return
    place = Path(database)
    if place.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    draft = place.with_name(f".{place.name}.draft")
    with place.with_name(f".{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            return
        for left in place.parent.glob(f"{draft.name}*"):  # of one that was killed here, its journal too
            left.unlink()
        SqlAlchemyStore(f"sqlite:///{draft}", str(place.with_name("mlruns"))).engine.dispose()
        draft.rename(place)
