"""A finished Bento taken elsewhere: as a container image, or installed by itself in a clean environment and tried.

Neither needs this checkout: what a Bento cannot do without it is found out here.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from components.closure import ROOT
from components.errors import AtelierError
from components.records import Package, Record
from components.server import environment, last_lines, question, running

ENGINES = ("docker", "podman", "nerdctl", "buildah", "buildctl")  # as BentoML names what it can build with


class Checked(Record):
    """A Bento that answered the same bytes from a clean environment, and what that took in seconds."""

    packages: int
    install_seconds: float
    answer_seconds: float  # from its start to the end of all questions


class Image(Record):
    """A container image, and the engine that holds it."""

    engine: str
    image: str


def check(package: Package, *, modality: str, home: Path) -> Checked:
    """Install what a Bento requires into a new virtual environment, serve it there, and compare its sample.

    An `AtelierError` says which of them failed. The sample must be that of its smoke test, byte for byte.
    """
    with tempfile.TemporaryDirectory(prefix="atelier-check-") as folder:
        aside = Path(folder)
        model = _copied(package, home, aside / "home")
        clean = _clean(environment(aside / "home"))
        started = time.monotonic()
        python = _installed(Path(package.path, "env/python/requirements.txt"), aside / "venv", clean)
        installed = time.monotonic()
        spec = json.loads((model / "config.json").read_bytes())["spec"]
        with running(package.tag, home=aside / "home", python=python, seen=clean) as url:
            drawn = question(url, model=package.model, digest=package.bundle.digest, modality=modality, spec=spec)
        noted = Path(package.path, "smoke", f"sample{drawn.suffix}").read_bytes()
        if drawn.payload != noted:
            raise AtelierError(
                f"the Bento {package.tag} answers another sample from a clean environment ({len(drawn.payload)} bytes) "
                f"than it did in its smoke test ({len(noted)} bytes): a library is of another build there than here."
            )
        return Checked(
            packages=len(list((aside / "venv").glob("lib/python*/site-packages/*.dist-info"))),
            install_seconds=round(installed - started, 1),
            answer_seconds=round(time.monotonic() - installed, 1),
        )


def containerize(tag: str, *, home: Path) -> Image:
    """The image of a Bento, made by BentoML with the first engine of this machine; an `AtelierError` without one."""
    engine = next((name for name in ENGINES if shutil.which(name)), None)
    if engine is None:
        raise AtelierError(
            f"this machine has no engine that builds containers: none of {', '.join(ENGINES)} is found. Install one; "
            f"or copy the Bento with `BENTOML_HOME={home} bentoml export {tag}` to a machine that has one; or run "
            "it without a container: `atelier package MODEL --check` shows that it needs nothing from here."
        )
    done = subprocess.run(
        [sys.executable, "-m", "bentoml", "containerize", tag, "--backend", engine, "--image-tag", tag],
        env=environment(home) | {"PYTHONWARNINGS": "ignore"}, cwd=home, stdin=subprocess.DEVNULL, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise AtelierError(
            f"{engine} could not build a container of {tag}: {last_lines(done.stderr or done.stdout)}. Mend that, and "
            "run the same command again; the Bento itself is whole."
        )
    return Image(engine=engine, image=tag)


def _copied(package: Package, home: Path, to: Path) -> Path:
    """Copy the Bento and its model into a Bento store of its own; the folder of its weights there."""
    bento = json.loads(Path(package.path, "manifest.json").read_bytes())
    model = Path("models", bento["bento_model"].replace(":", "/"))
    for part in (Path("bentos", package.tag.replace(":", "/")), model):
        shutil.copytree(home / part, to / part)
    return to / model / "bundle"


def _installed(requirements: Path, folder: Path, seen: Mapping[str, str]) -> list[str]:
    """The interpreter of a new virtual environment that holds the requirements: by uv where it is, else by pip."""
    python = str(folder / "bin" / "python")
    if importlib.util.find_spec("uv") is not None:
        uv = [sys.executable, "-m", "uv"]
        commands = [
            [*uv, "venv", "--quiet", "--no-project", "--python", sys.executable, str(folder)],
            [*uv, "pip", "install", "--quiet", "--python", python, "--requirement", str(requirements)],
        ]
    else:
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        commands = [
            [sys.executable, "-m", "venv", str(folder)],
            [*pip, "--requirement", str(requirements)],
        ]
    for command in commands:
        _run(command, requirements, folder.parent, seen)
    return [python]


def _run(command: Sequence[str], requirements: Path, folder: Path, seen: Mapping[str, str]) -> None:
    done = subprocess.run(command, env=dict(seen), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AtelierError(
            f"what the Bento requires cannot be installed in a clean environment ({requirements}): "
            f"{last_lines(done.stderr)}. Where a package index is reached through settings of pip, give uv the same: "
            "UV_INDEX_URL, UV_FIND_LINKS."
        )


def _clean(seen: Mapping[str, str]) -> dict[str, str]:
    """The environment without anything that leads into this checkout."""
    paths = [path for path in seen.get("PATH", "").split(os.pathsep) if not Path(path).is_relative_to(ROOT)]
    kept = {name: value for name, value in seen.items() if str(ROOT) not in value and name != "VIRTUAL_ENV"}
    return kept | {"PATH": os.pathsep.join(paths)}
