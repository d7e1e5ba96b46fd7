"""A stage's key covers what it was asked, what it read, its code and its libraries, and nothing else."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components import closure
from components.errors import AtelierError
from components.records import Artifact, Pointer
from components.store import Store
from flows import caching

ROOT = Path(__file__).resolve().parents[2]
REACHES = ["components.spelling"]
ASKED = {"rows": Artifact(kind="rows", digest="sha256:1"), "size": 28}


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    caching._code.cache_clear()
    yield
    caching._code.cache_clear()
    caching._sources.clear()


def test_the_same_question_has_the_same_key() -> None:
    asked = {"rows": Artifact(kind="rows", digest="sha256:1"), "prepare": {"size": 28, "flip": True}}
    again = {"prepare": {"flip": True, "size": 28}, "rows": Artifact(kind="rows", digest="sha256:1")}
    assert caching.key("train", asked, REACHES).name == caching.key("train", again, REACHES).name


@pytest.mark.parametrize(
    ("stage", "asked", "reaches"),
    [
        ("evaluate", ASKED, REACHES),
        ("train", {**ASKED, "rows": Artifact(kind="rows", digest="sha256:2")}, REACHES),
        ("train", {**ASKED, "size": 29}, REACHES),
        ("train", ASKED, ["components.rows"]),
    ],
)
def test_another_question_has_another_key(stage: str, asked: dict[str, Any], reaches: list[str]) -> None:
    first = caching.key("train", ASKED, REACHES)
    assert caching.key(stage, asked, reaches).name != first.name


def copy_of_the_code(to: Path) -> Path:
    for path in [*ROOT.glob("components/**/*.py"), *ROOT.glob("components/**/*.yaml"), ROOT / "components/__init__.py"]:
        target = to / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    (to / "README.md").write_text("words\n")
    return to


@pytest.mark.parametrize(
    ("changed", "moves"),
    [
        ("components/store.py", True),  # three imports away: evaluation -> sampling -> bundle -> store
        ("components/modalities/image/suite.yaml", True),
        ("components/packaging.py", False),
        ("README.md", False),
    ],
)
def test_code_that_is_reached_moves_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: str, moves: bool
) -> None:
    project = copy_of_the_code(tmp_path)
    monkeypatch.setattr(closure, "ROOT", project)
    reaches = ["components.evaluation", "components.modalities.image.shards"]
    before = caching.key("evaluate", {}, reaches).name
    with (project / changed).open("a") as stream:
        stream.write("\n# another word\n")
    caching._code.cache_clear()
    assert (caching.key("evaluate", {}, reaches).name != before) is moves


def test_a_library_of_another_version_moves_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    reaches = ["components.contract"]
    before = caching.key("train", {}, reaches).name
    monkeypatch.setattr(closure, "version", lambda name: "0.0.1" if name == "torch" else "1")
    caching._code.cache_clear()
    assert caching.key("train", {}, reaches).name != before


def test_code_that_changes_while_a_run_is_on_is_refused_and_the_key_stays_that_of_the_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(closure, "ROOT", copy_of_the_code(tmp_path))
    caching.freeze()
    before = caching.key("train", {}, ["components.store"]).name
    caching.refuse_changed(["components.store"])
    with (tmp_path / "components" / "records.py").open("a") as stream:
        stream.write("# another word\n")
    caching._code.cache_clear()
    assert caching.key("train", {}, ["components.store"]).name == before
    with pytest.raises(AtelierError, match=r"components/records.py changed while the run was on"):
        caching.refuse_changed(["components.store"])
    caching.refuse_changed(["components.spelling"])


def test_whole_is_every_artifact_of_a_record_byte_for_byte(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    made = []
    for word in ("one", "two"):
        with store.writing("rows") as draft:
            (draft.directory / "rows.txt").write_text(word)
        made.append(draft.artifact)
    nested = [made[0], {"second": (made[1],)}, Pointer(kind="rows", digest="sha256:9", dvc="md5:9")]
    assert caching.whole(nested, store) and caching.whole(None, store)
    (store.path(made[1]) / "rows.txt").write_text("twp")
    assert not caching.whole(nested, store) and caching.whole(made[0], store)


def test_every_cached_stage_names_the_modules_that_its_body_imports() -> None:
    """A stage whose body imports a component that its `reaches` forgets would be skipped when that one changes."""
    tree = ast.parse((ROOT / "flows" / "tasks.py").read_text())
    for function in (node for node in tree.body if isinstance(node, ast.FunctionDef)):
        for decorator in (d for d in function.decorator_list if isinstance(d, ast.Call)):
            named = {word.arg: ast.unparse(word.value) for word in decorator.keywords}
            if "reaches" not in named:
                continue
            imported = {
                f"{node.module}.{alias.name}"
                for node in ast.walk(function)
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            assert imported and all(module in named["reaches"] for module in imported), function.name
