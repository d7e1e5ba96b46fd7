"""What `git clone` brings of the starter data."""

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def pointers_and_objects(project: Path) -> Path:
    """Fill a folder with pointers, configuration and the packed data of the repository; nothing else."""
    for name in ("data.dvc", ".dvcignore", ".gitignore", ".dvc/config", ".dvc/.gitignore"):
        (project / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, project / name)
    shutil.copytree(ROOT / "infra" / "starter-data", project / "infra" / "starter-data")
    return project


@pytest.fixture(scope="session")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return pointers_and_objects(tmp_path_factory.mktemp("clone"))


@pytest.fixture
def own_clone(tmp_path: Path) -> Path:
    """One that a test may change, and in which nothing was pulled yet."""
    (tmp_path / "own").mkdir()
    return pointers_and_objects(tmp_path / "own")
