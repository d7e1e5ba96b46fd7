"""What a module reaches, in a small project of its own."""

from pathlib import Path

import pytest

from components import closure
from components.closure import Closure

FILES = {
    "components/__init__.py": "",
    "components/top.py": "from components import middle\n",
    "components/middle.py": "def work():\n    from components.deep import low\n\n    return low\n",
    "components/deep/__init__.py": "",
    "components/deep/low.py": "import numpy\n\nfrom . import floor\n",
    "components/deep/floor.py": "import json\n\nDEPTH = 3\n",
    "components/deep/suite.yaml": "rules: []\n",
    "components/stranger.py": "import pandas\n",
    "README.md": "words\n",
}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(closure, "ROOT", tmp_path)
    return tmp_path


def seen() -> Closure:
    return closure.closure(["components.top"])


def test_imports_are_followed_wherever_they_stand(project: Path) -> None:
    assert set(seen().files) == {name for name in FILES if name.endswith(".py")} - {"components/stranger.py"}
    assert seen().outside == ("json", "numpy")


@pytest.mark.parametrize("name", ["components/deep/floor.py", "components/middle.py", "components/deep/__init__.py"])
def test_a_changed_helper_changes_the_digests(project: Path, name: str) -> None:
    before = seen().digests()
    (project / name).write_text("DEPTH = 4\n" if "floor" in name else FILES[name] + "# more\n")
    assert {path for path, digest in seen().digests().items() if before[path] != digest} == {name}


@pytest.mark.parametrize("name", ["README.md", "components/stranger.py"])
def test_what_is_not_reached_changes_nothing(project: Path, name: str) -> None:
    before = seen().digests(), seen().data()
    (project / name).write_text("import this\n")
    assert (seen().digests(), seen().data()) == before


def test_data_beside_the_code_counts(project: Path) -> None:
    before = seen().data()
    assert set(before) == {"components/deep/suite.yaml"}
    (project / "components/deep/suite.yaml").write_text("rules: [one]\n")
    assert seen().data() != before


def test_versions_are_those_of_distributions_and_the_standard_library_has_none(project: Path) -> None:
    from importlib.metadata import version

    assert seen().versions() == {"numpy": version("numpy")}


def test_a_module_that_is_not_there_is_not_reached() -> None:
    assert "components/nothing.py" not in closure.closure(["components.nothing"]).files


def test_the_stages_reach_their_parts() -> None:
    reached = closure.closure(["components.evaluation"]).files
    assert {"components/sampling.py", "components/encoders.py", "components/store.py"} <= set(reached)
    assert not [name for name in reached if name.startswith("flows/")]
