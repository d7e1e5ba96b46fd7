"""A folder that the platform made becomes a source of the data, beside others that need not be here."""

import shutil
from contextlib import chdir
from pathlib import Path

import pytest
from dvc.repo import Repo

from components import changes, manifest, versioning
from components.errors import AtelierError

FILES = {"a/one.bin": b"one", "b/two.bin": b"two"}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose data/ DVC tracks and whose remote holds it; none of it is here."""
    project = tmp_path / "project"
    for name, content in FILES.items():
        (project / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (project / "data" / name).write_bytes(content)
    Repo.init(str(project), no_scm=True).close()
    (project / ".dvc/config").write_text("[core]\n remote = r\n no_scm = true\n['remote \"r\"']\n url = ../../remote\n")
    dvc_add(project)
    shutil.rmtree(project / "data")
    shutil.rmtree(project / ".dvc/cache")
    return project


@pytest.fixture
def made(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "new.bin").write_bytes(b"new")
    (folder / "card.json").write_bytes(b"{}")
    return folder


def dvc_add(project: Path) -> None:
    with chdir(project), Repo(str(project)) as repo:
        repo.add("data")
        repo.push()


def put(project: Path, made: Path, source: str = "data/made") -> str:
    return changes.put(project, source, made, say=lambda words: None)


def contents(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def test_it_is_what_dvc_itself_would_have_added(project: Path, made: Path) -> None:
    version = put(project, made)
    assert contents(project / "data") == {"made/new.bin": b"new", "made/card.json": b"{}"}
    assert version == versioning.version_of(project, "data/made")
    named = manifest.pointer_md5(project / "data.dvc")
    versioning.pull(project, "data")  # all of it, the older files from the remote
    assert contents(project / "data") == {**FILES, "made/new.bin": b"new", "made/card.json": b"{}"}
    dvc_add(project)
    assert manifest.pointer_md5(project / "data.dvc") == named


def test_another_version_takes_its_place_and_the_same_again_changes_nothing(project: Path, made: Path) -> None:
    first, beside = put(project, made), versioning.version_of(project, "data/a")
    assert put(project, made) == first
    (made / "new.bin").write_bytes(b"newer")
    assert put(project, made) != first and versioning.version_of(project, "data/a") == beside
    assert (project / "data/made/new.bin").read_bytes() == b"newer"


def test_work_that_is_saved_nowhere_is_not_replaced(project: Path, made: Path) -> None:
    put(project, made)
    (project / "data/made/new.bin").write_bytes(b"mine")
    with pytest.raises(AtelierError, match=r"DVC has no copy of new\.bin"):
        put(project, made)
    (project / "data/beside").mkdir()
    with pytest.raises(AtelierError, match="is there, and no DVC pointer names it"):
        put(project, made, "data/beside")


def test_outside_of_what_dvc_tracks_nothing_is_put(project: Path, made: Path) -> None:
    with pytest.raises(AtelierError, match=r"no \.dvc pointer names 'elsewhere/made'"):
        put(project, made, "elsewhere/made")
