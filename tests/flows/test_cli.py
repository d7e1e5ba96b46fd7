"""The command line's manners: help is quick, mistakes are one paragraph, exit codes are what the help says."""

import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import httpx
import pytest
from rich.console import Console

from components.errors import AtelierError
from flows import console, running, runs, workspace
from flows.workspace import Workspace
from tests.flows.test_promotion import place_with

ROOT = Path(__file__).resolve().parents[2]
ATELIER = Path(sys.executable).with_name("atelier")
HEAVY = ("torch", "prefect", "mlflow", "great_expectations", "dvc", "bentoml", "pandas", "pyarrow")


def atelier(*arguments: str, at: Path = ROOT, root: Path | str) -> subprocess.CompletedProcess[str]:
    # MLflow writes its tracking URI into the environment of whoever sets it, as a test before may have.
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PREFECT_"))}
    environment = {**kept, "ATELIER_WORKSPACE": str(root), "COLUMNS": "200"}
    return subprocess.run(
        [str(ATELIER), *arguments], cwd=at, env=environment, capture_output=True, text=True, check=False, timeout=60
    )


def loaded_by(*arguments: str, root: Path, code: int = 0) -> set[str]:
    """The heavy libraries that a command has imported when it ends, with that exit code."""
    script = (
        "import sys\n"
        "from flows import cli\n"
        f"sys.argv = ['atelier', *{list(arguments)!r}]\n"
        f"try:\n    cli.main()\nexcept SystemExit as done:\n    assert (done.code or 0) == {code}, done.code\n"
        f"print('loaded:', *[name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env={**os.environ, "ATELIER_WORKSPACE": str(root)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.rpartition("loaded:")[2].split())


def test_help_lists_commands_and_exit_codes(tmp_path: Path) -> None:
    told = " ".join(atelier("--help", root=tmp_path).stdout.replace("│", " ").split())
    for words in ("0 passed", "1 internal", "2 bad input", "3 data rejected", "4 no candidate", "130 stopped"):
        assert words in told
    assert all(f" {command} " in told for command in ("run", "ls", "show", "serve", "restore", "doctor", "schema"))


def test_help_imports_nothing_heavy_and_ls_no_vendor(tmp_path: Path) -> None:
    assert loaded_by("--help", root=tmp_path) == set()
    assert loaded_by("run", "--help", root=tmp_path) == set()
    assert loaded_by("ls", root=tmp_path) == set()


def test_status_and_ls_read_every_database_and_import_no_vendor(tmp_path: Path) -> None:
    place = place_with(tmp_path, "1", "2")
    runs.end(place, runs.begin(place, model="toy", recipe="toy.yaml", why="schedule"), exit_code=0)
    with closing(sqlite3.connect(place.root / "mlflow.db")) as base, base:
        base.execute("CREATE TABLE registered_models (name)")
        base.execute("CREATE TABLE registered_model_aliases (name, alias, version)")
        base.execute("INSERT INTO registered_model_aliases VALUES ('toy', 'champion', 1)")
    place.prefect.mkdir()
    with closing(sqlite3.connect(place.prefect / "prefect.db")) as base, base:
        base.execute("CREATE TABLE flow (id, name)")
        base.execute("CREATE TABLE deployment (id, name, flow_id, parameters, paused)")
        base.execute("CREATE TABLE flow_run (deployment_id, state_type, auto_scheduled, next_scheduled_start_time)")
    found = json.loads(atelier("status", "--json", root=place.root).stdout)
    (toy,) = (row for row in found["recipes"] if row["model"] == "toy")
    assert toy["last"]["why"] == "schedule" and toy["verdict"]["passed"] and toy["champion"]["version"] == "1"
    assert found["models"][0]["mlflow"] == "1" and found["troubles"] == {}
    assert loaded_by("status", root=place.root, code=2) == set()
    assert loaded_by("ls", root=place.root) == set()


def test_the_probe_of_imports_sees_what_is_imported(tmp_path: Path) -> None:
    assert "torch" in loaded_by("schema", root=tmp_path)  # recipes name families, and those are torch's


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "no-such"), "there is no recipe no-such"),
        (("run", "fashion-tiny", "--set", "candidates.vae.train.steps"), "not of the form path=value"),
        (("run", "fashion-tiny", "--set", "model=Fashion"), "model: String should match pattern"),
        (("show", "fashion"), "no model is registered yet"),
        (("serve",), "no model is registered yet"),
        (("restore", "fashion@1", "--to", "back"), "no model is registered yet"),
        (("runn",), "No such command"),
        (("run",), "Missing argument"),
        (("ls", "--jsn"), "No such option"),
    ],
)
def test_a_mistake_is_one_paragraph_and_exit_code_2(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    done = atelier(*arguments, root=tmp_path / "workspace")
    assert done.returncode == 2 and not done.stdout
    assert words in done.stderr and len(done.stderr.strip().splitlines()) == 1
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("arguments", [("run", "no-such"), ("show", "fashion"), ("ls", "--jsn"), ("nonsense",)])
def test_with_json_standard_output_is_json_also_when_it_fails(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = atelier(*arguments, "--json", root=tmp_path / "workspace")
    assert done.returncode == 2 and json.loads(done.stdout)["error"]


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    assert "Traceback" in atelier("--debug", "show", "fashion", root=tmp_path).stderr
    assert "Traceback" in atelier("--debug", "run", "no-such", root=tmp_path).stderr


def test_outside_of_a_project_the_command_says_so(tmp_path: Path) -> None:
    done = atelier("ls", at=tmp_path, root=tmp_path / "workspace")
    assert done.returncode == 2 and "no Atelier project" in done.stderr


@pytest.mark.parametrize("command", [("ls",), ("run", "fashion-tiny")])
def test_a_workspace_that_cannot_be_written_is_told_with_its_mend(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("in the way")
    done = atelier(*command, root=tmp_path / "file" / "workspace")
    assert done.returncode == 2 and "ATELIER_WORKSPACE" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("kind", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_told_with_its_mend(tmp_path: Path, kind: int) -> None:
    told = str(workspace.refused(OSError(kind, os.strerror(kind), "a/file"), Workspace(ROOT, tmp_path)))
    assert "Free " in told and "a/file" in told and "what was finished is kept" in told


def test_a_disk_without_room_for_a_run_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    workspace.refuse_full(Workspace(ROOT, tmp_path))
    monkeypatch.setattr(workspace, "NEEDED_MIB", 10**9)
    with pytest.raises(AtelierError, match="there is no room"):
        workspace.refuse_full(Workspace(ROOT, tmp_path))


def test_a_damaged_database_of_prefect_is_told_before_its_api_is_started(tmp_path: Path) -> None:
    place = Workspace(ROOT, tmp_path)
    workspace.refuse_damaged(place)
    place.prefect.mkdir()
    (place.prefect / "prefect.db").write_bytes(b"no database" * 1000)
    with pytest.raises(AtelierError, match=r"prefect.db is damaged .*move it away"):
        workspace.refuse_damaged(place)


def test_a_fault_of_ours_is_said_to_be_one_and_the_next_recipe_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("planted\nin two lines")

    monkeypatch.setenv("ATELIER_WORKSPACE", str(tmp_path))
    monkeypatch.setattr(running.workspace, "enter", fail)
    result = running.run(Path("any.yaml"), (), Console())
    assert result.exit_code == 1
    assert "internal error: ZeroDivisionError: planted in two lines" in result.summary["error"]
    assert "Traceback" not in capsys.readouterr().err
    running.run(Path("any.yaml"), (), Console(), debug=True)
    assert "Traceback" in capsys.readouterr().err
    assert len(list((tmp_path / "records").iterdir())) == 2


def test_ctrl_c_is_seen_behind_the_error_that_prefect_makes_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise ValueError("Task run is not set")

    monkeypatch.setattr(running.workspace, "find", stop)
    with pytest.raises(KeyboardInterrupt):
        running.run(Path("any.yaml"), (), Console())


def test_what_ended_a_run_from_outside_is_told_from_what_it_came_to() -> None:
    from prefect.exceptions import TerminationSignal

    def behind(cause: BaseException) -> Exception:
        try:
            try:
                raise cause
            finally:
                raise RuntimeError("the engine ended")
        except RuntimeError as error:
            return error

    gone, stopped, ours = (behind(e) for e in (httpx.ConnectError("refused"), TerminationSignal(15), KeyError("x")))
    assert [running._exit_code(error) for error in (gone, stopped, ours)] == [1, 130, 1]
    assert [running._lost(error) for error in (gone, stopped, ours)] == [True, False, False]


def test_a_stage_that_fails_is_shown_as_failed(tmp_path: Path) -> None:
    with (tmp_path / "seen").open("w") as file:
        board = console.Board(Console(file=file))
        with board.stage("ingest") as stage:
            stage.note = "12 rows"
        shown = board.stage("validate")
        shown.__enter__().skipped = True
        assert not shown.__exit__(ValueError, ValueError("planted"), None)  # it goes on up
    seen = (tmp_path / "seen").read_text().splitlines()
    assert seen[0].startswith("+ ingest") and seen[1].startswith("x validate") and "cached" not in seen[1]
    assert [stage.failed for stage in board.stages] == [False, True]


def test_ctrl_c_exits_with_130(tmp_path: Path) -> None:
    running = subprocess.Popen(
        [str(ATELIER), "run", "fashion-tiny", "--json"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**os.environ, "ATELIER_WORKSPACE": str(tmp_path)},
        start_new_session=True,
    )  # fmt: skip
    assert running.stderr is not None
    running.stderr.readline()  # its first line: recipe and workspace are fine, Prefect comes next
    time.sleep(0.2)
    os.killpg(running.pid, signal.SIGINT)
    out, seen = running.communicate(timeout=120)
    assert running.returncode == 130, seen
    assert json.loads(out)["exit_code"] == 130 and "Traceback" not in seen
