"""The README says what is there."""

import re
import tomllib
from pathlib import Path

README = Path("README.md").read_text(encoding="utf-8")


def test_every_file_has_its_line() -> None:
    layout = README.split("## Where things are")[1].split("## Figures")[0]
    named = set(re.findall(r"[\w-]+\.(?:py|yaml|json)", layout))
    code = {
        p
        for folder in ("flows", "components", "serving", "infra")
        for p in Path(folder).rglob("*")
        if p.suffix in (".py", ".yaml", ".json")
    }
    there = {path.name for path in code if path.name != "__init__.py"}
    assert named == there


def test_every_command_is_described() -> None:
    commands = set(re.findall(r"`atelier (\w+)", README))
    assert {"run", "ls", "show", "serve", "restore", "doctor", "schema"} <= commands


def test_its_two_commands_are_targets() -> None:
    makefile = Path("Makefile").read_text()
    assert re.findall(r"^make (\w+) ", README, re.M)[:2] == ["run", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in ("run", "test", "check", "bench", "clean"))


def test_what_serving_installs_is_free_of_the_platform() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    serving = " ".join(project["dependencies"] + project["optional-dependencies"]["serving"])
    assert not re.search(r"prefect|mlflow|dvc|great", serving)
