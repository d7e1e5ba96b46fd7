"""The README says what is there."""

import re
import tomllib
from collections import Counter
from pathlib import Path

from flows.cli import app

README = Path("README.md").read_text(encoding="utf-8")


def test_every_file_has_its_line() -> None:
    layout = README.split("## Where things are")[1].split("## Figures")[0]
    named = Counter(re.findall(r"[\w-]+\.(?:py|yaml|json)", layout))
    code = {
        p
        for folder in ("flows", "components", "serving", "infra")
        for p in Path(folder).rglob("*")
        if p.suffix in (".py", ".yaml", ".json")
    }
    there = Counter(path.name for path in code if path.name != "__init__.py")
    assert there - named == Counter(), "without a line"
    assert not [name for name in named if name not in there], "no longer there"


def test_every_command_is_described() -> None:
    described = set(re.findall(r"`atelier (\w+)", README))
    commands = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert commands and commands <= described


def test_its_two_commands_are_targets() -> None:
    makefile = Path("Makefile").read_text()
    assert re.findall(r"^make (\w+) ", README, re.M)[:2] == ["run", "test"]
    assert all(re.search(rf"^{target}:", makefile, re.M) for target in ("run", "test", "check", "bench", "clean"))


def test_what_serving_installs_is_free_of_the_platform() -> None:
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    serving = " ".join(project["dependencies"] + project["optional-dependencies"]["serving"])
    assert not re.search(r"prefect|mlflow|dvc|great", serving)
