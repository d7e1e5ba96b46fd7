"""MLflow's database is there whole or not at all, whenever its making is cut off."""

import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from components.mlflow_database import make_whole

KILLED = """
import os, sys
from sqlalchemy import event
from sqlalchemy.engine import Engine
from components.mlflow_database import make_whole

left = int(sys.argv[2])

@event.listens_for(Engine, "before_cursor_execute")
def count(*_):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), 9)

make_whole(sys.argv[1])
"""


@pytest.mark.parametrize("statements", [60, 250])
def test_a_database_whose_making_was_killed_is_made_anew(tmp_path: Path, statements: int) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    done = subprocess.run([sys.executable, "-c", KILLED, uri, str(statements)], check=False, env=os.environ)
    assert done.returncode == -9 and not (tmp_path / "mlflow.db").exists()
    make_whole(uri)
    assert [one.name for one in MlflowClient(uri).search_experiments()] == ["Default"]
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db", ".mlflow.db.lock"}


def test_many_at_once_make_one(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(make_whole, [uri] * 4))
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    database.close()


def test_what_is_there_or_lies_elsewhere_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_text("somebody's")
    make_whole(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert (tmp_path / "mlflow.db").read_text() == "somebody's"
    for elsewhere in ("sqlite://", "sqlite:///:memory:", "http://127.0.0.1:5000", "postgresql://somebody@there/mlflow"):
        make_whole(elsewhere)
    assert {path.name for path in tmp_path.iterdir()} == {"mlflow.db"}
