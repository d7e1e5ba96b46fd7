"""Which files and libraries a module reaches, read from its imports without running them.

It answers two questions: what a cache key must cover, and what a bundle's code must ship. Modules that are found by
name at run time, such as families, are no imports: who asks names them among the roots.
"""

import ast
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import packages_distributions, version
from pathlib import Path

from components.store import file_sha256

ROOT = Path(__file__).resolve().parent.parent
OURS = ("components", "flows", "serving")
DATA = (".json", ".yaml")  # what a module may read from its own folder
PARSING = threading.Lock()  # Python 3.11 counts how deep it is in a tree for all threads together, and gives up


@dataclass(frozen=True)
class Closure:
    """The project's files by relative name, and the top-level names of everything else that is imported."""

    files: tuple[str, ...]
    outside: tuple[str, ...]

    def digests(self) -> dict[str, str]:
        """sha256 of each file."""
        return {name: file_sha256(ROOT / name) for name in self.files}

    def data(self) -> dict[str, str]:
        """sha256 of each data file that lies beside one of the files, such as a suite of checks."""
        folders = {(ROOT / name).parent for name in self.files}
        found = (path for folder in folders for path in folder.iterdir() if path.suffix in DATA)
        return {path.relative_to(ROOT).as_posix(): file_sha256(path) for path in sorted(found)}

    def versions(self) -> dict[str, str]:
        """The installed version of each library; the standard library has none and is left out."""
        distributions = _distributions()
        names = {found for name in self.outside for found in distributions.get(name, ())}
        return {name: version(name) for name in sorted(names)}


def sources() -> Iterator[Path]:
    """Every file of the project that a closure can hold, and the data files beside them."""
    for top in OURS:
        yield from (path for path in sorted((ROOT / top).rglob("*")) if path.suffix in (".py", *DATA))


def closure(roots: Iterable[str]) -> Closure:
    """Everything the dotted modules reach, themselves included; packages bring their `__init__`."""
    files: set[str] = set()
    outside: set[str] = set()
    pending = [name for root in roots for name in _with_parents(root)]
    while pending:
        path = _file(pending.pop())
        if path is None or (name := path.relative_to(ROOT).as_posix()) in files:
            continue
        files.add(name)
        for imported in _imports(path):
            if imported.split(".")[0] in OURS:
                pending.extend(_with_parents(imported))
            else:
                outside.add(imported.split(".")[0])
    return Closure(tuple(sorted(files)), tuple(sorted(outside)))


def _imports(path: Path) -> Iterator[str]:
    with PARSING:
        tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = path.relative_to(ROOT).parts[: -node.level] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


def _with_parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[: i + 1]) for i in range(len(parts))]


def _file(name: str) -> Path | None:
    base = ROOT.joinpath(*name.split("."))
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.is_file()), None)


@cache
def _distributions() -> dict[str, list[str]]:
    return {name: sorted(set(found)) for name, found in packages_distributions().items()}
