"""Runs that meet each other, and places that refuse them: one paragraph, nothing lost, and the next run goes on."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from components.ledger import Ledger
from components.store import Store, digest_of
from tests.faults.kills import ATELIER, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def atelier(workspace: Path, *arguments: str, cwd: Path = ROOT, **environment: str) -> "subprocess.Popen[str]":
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "MLFLOW_"))}
    return subprocess.Popen(
        [str(ATELIER), *arguments, "--json"],
        cwd=cwd, env={**kept, "ATELIER_WORKSPACE": str(workspace), **environment},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def answer(process: "subprocess.Popen[str]") -> tuple[int, dict[str, Any], str]:
    out, seen = process.communicate(timeout=600)
    assert "Traceback" not in seen, seen[-3000:]
    return process.returncode, json.loads(out), seen


@dataclass(frozen=True)
class Met:
    """Two runs of one recipe that were started at the same moment, and where."""

    workspace: Path
    answers: list[tuple[int, dict[str, Any], str]]


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> Met:
    workspace = tmp_path_factory.mktemp("met") / "workspace"
    both = [atelier(workspace, "run", "fashion-tiny") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        return Met(workspace, list(pool.map(answer, both)))


def test_two_runs_of_one_recipe_at_the_same_moment_take_turns(met: Met) -> None:
    assert [code for code, _, _ in met.answers] == [0, 0]
    assert sorted(told["runs"][0]["created"] for _, told, _ in met.answers) == [False, True]
    assert sum("another run of fashion-tiny is on" in seen for _, _, seen in met.answers) == 1
    ledger = Ledger(f"sqlite:///{met.workspace / 'ledger.db'}")
    assert len(ledger.versions("fashion-tiny")) == 1 == len(ledger.history("fashion-tiny"))


@pytest.mark.soak
def test_runs_of_two_recipes_go_on_beside_each_other(tmp_path: Path) -> None:
    recipe = (ROOT / "flows/recipes/fashion-tiny.yaml").read_text()
    (tmp_path / "other.yaml").write_text(recipe.replace("model: fashion-tiny", "model: other-tiny"))
    workspace = tmp_path / "workspace"
    both = [atelier(workspace, "run", "fashion-tiny"), atelier(workspace, "run", str(tmp_path / "other.yaml"))]
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(answer, both))
    assert [code for code, _, _ in answers] == [0, 0]
    assert not [seen for _, _, seen in answers if "another run" in seen]
    ledger = Ledger(f"sqlite:///{workspace / 'ledger.db'}")
    assert {version.model for version in ledger.versions()} == {"fashion-tiny", "other-tiny"}
    first, second = (told["runs"][0]["verdicts"] for _, told, _ in answers)
    assert [v["scores"]["values"] for v in first] == [v["scores"]["values"] for v in second]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 400 MiB of its own, where the machine lets us mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(disk)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize(
    "after",
    [pytest.param("data", marks=pytest.mark.soak), "encoder", pytest.param("train vae", marks=pytest.mark.soak)],
)
def test_a_disk_that_fills_up_is_told_and_once_there_is_room_the_run_goes_on(small_disk: Path, after: str) -> None:
    workspace = small_disk / "workspace"
    running = atelier(workspace, "run", "fashion-tiny")
    assert running.stderr is not None
    for words in running.stderr:
        if words.startswith(f"+ {after}"):
            break
    filler = small_disk / "filler"
    with filler.open("wb") as stream:
        try:
            while True:
                stream.write(bytes(2**20))
        except OSError:
            pass
    code, told, seen = answer(running)
    assert code == 2 and "there is no room" in told["error"] and "Free " in told["error"], (told, seen)
    filler.unlink()
    code, told, seen = answer(atelier(workspace, "run", "fashion-tiny"))
    assert code == 0 and "error" not in told, seen
    store = Store(workspace / "store")
    for folder in store.root.glob("*/*"):
        if folder.parent.name not in ("aside", "listings"):
            assert digest_of(folder) == f"sha256:{folder.name}"


def test_a_workspace_that_cannot_be_written_is_refused_before_anything_starts(tmp_path: Path) -> None:
    code, told, seen = answer(atelier(Path("/proc/atelier"), "run", "fashion-tiny"))
    assert code == 2 and "cannot be used" in told["error"] and "ATELIER_WORKSPACE" in told["error"]
    assert "Prefect" not in seen


def test_a_workspace_that_becomes_read_only_is_told(met: Met) -> None:
    workspace = met.workspace
    before = digest_of(workspace / "store")
    bound = subprocess.run(
        ["mount", "--bind", "-o", "ro", str(workspace), str(workspace)], capture_output=True, check=False
    )
    if bound.returncode:
        pytest.skip("binding a mount needs root")
    try:
        code, told, seen = answer(atelier(workspace, "run", "fashion-tiny"))
    finally:
        subprocess.run(["umount", "-l", str(workspace)], check=True)
    assert code == 2 and "cannot be used" in told["error"], (told, seen)
    assert digest_of(workspace / "store") == before


def test_a_package_that_is_missing_is_named_with_the_mend(tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text("import sys\nsys.modules['great_expectations'] = None\n")
    code, told, _ = answer(atelier(tmp_path / "workspace", "run", "fashion-tiny", PYTHONPATH=f"{ROOT}:{blocked}"))
    assert code == 2 and "great_expectations is missing" in told["error"] and "Delete .venv" in told["error"]


def test_a_broken_venv_is_set_up_again_by_make(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path / "Makefile")
    (tmp_path / "requirements.lock").write_text("")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "python").symlink_to(tmp_path / "gone")
    (tmp_path / ".venv" / "ready").touch()
    dry = ["make", "-n", "check", f"PYTHON={sys.executable}"]
    done = subprocess.run(dry, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "-m venv --clear .venv" in done.stdout
