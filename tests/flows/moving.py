"""A project in a temporary folder whose data DVC tracks and git has committed: real pictures, a recipe, two remotes."""

import io
import os
import subprocess
import sys
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from dvc.repo import Repo
from PIL import Image

from components.records import Artifact, Check, Scores, Verdict
from flows.workspace import Workspace

ROOT = Path(__file__).resolve().parents[2]
RECIPE = {
    "model": "dots",
    "modality": "image",
    "data": {"source": "data/dots", "held_out": {"column": "split", "value": "test"}, "reject_at_most": 0.2},
    "prepare": {"size": 28, "channels": 1},
    "candidates": {"vae": {"family": "vae", "train": {"steps": 2}}},
    "gates": [],
    "rank_by": "fd",
}
CONFIG = "[core]\n    remote = {remote}\n    analytics = false\n['remote \"starter\"']\n    url = ../infra/starter\n"


def picture(number: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(number).integers(0, 256, (12, 12), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "png")
    return out.getvalue()


@dataclass(frozen=True)
class Project:
    """The project, and what a person does in it."""

    root: Path

    @property
    def place(self) -> Workspace:
        return Workspace(self.root, self.root / ".atelier")

    @property
    def recipe(self) -> Path:
        return self.root / "flows/recipes/dots.yaml"

    @property
    def pointer(self) -> str:
        return (self.root / "data.dvc").read_text()

    def git(self, *arguments: str) -> str:
        done = subprocess.run(["git", *arguments], cwd=self.root, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    def dvc_add(self) -> None:
        """What a person does by hand with what lies in data/."""
        with chdir(self.root), Repo(str(self.root)) as repo:
            repo.add("data")
            repo.push()
        self.git("commit", "-qam", "by hand")

    def files(self, folder: str = "data/dots") -> set[str]:
        below = self.root / folder
        return {path.relative_to(below).as_posix() for path in below.rglob("*") if path.is_file()}

    def offer(self, **pictures: int) -> list[Path]:
        """New pictures beside the project, by name and number."""
        folder = self.root.parent / "new"
        folder.mkdir(exist_ok=True)
        for name, number in pictures.items():
            (folder / f"{name}.png").write_bytes(picture(number))
        return [folder / f"{name}.png" for name in pictures]

    def write(self, name: str, content: bytes) -> Path:
        path = self.root.parent / "new" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def atelier(self, *arguments: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [str(Path(sys.executable).with_name("atelier")), *arguments], cwd=self.root, check=False,
            capture_output=True, text=True, timeout=120, env=self.environment,
        )  # fmt: skip
        assert code is None or done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "ATELIER_"))}
        return {**kept, "PYTHONPATH": str(ROOT)}


def made(root: Path) -> Project:
    """48 training pictures and 12 held out, in two classes, added, pushed to the starter remote and committed."""
    project = Project(root)
    for number in range(60):
        side, label = ("test" if number % 5 == 4 else "train"), ("even" if number % 2 == 0 else "odd")
        path = root / f"data/dots/{side}/{label}/p{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    project.recipe.parent.mkdir(parents=True)
    project.recipe.write_text(yaml.safe_dump(RECIPE))
    (root / ".gitignore").write_text("/data\n/.atelier\n")
    subprocess.run(["git", "init", "-q", "-b", "main"], cwd=root, check=True)
    for name, value in (("user.name", "Ana"), ("user.email", "ana@example.org"), ("commit.gpgsign", "false")):
        project.git("config", name, value)
    Repo.init(str(root)).close()
    (root / ".dvc/config").write_text(CONFIG.format(remote="starter"))
    with chdir(root), Repo(str(root)) as repo:
        repo.add("data")
        repo.push()
    project.git("add", "-A")
    project.git("commit", "-qm", "data as they began")
    return project


def passed(version: str) -> Verdict:
    """A verdict that the candidate passed which became the version."""
    bundle = Artifact(kind="bundle", digest=f"sha256:{version:0>64}")
    scores = Scores(
        bundle=bundle, encoder=None, held_out="x", samples=16, seeds=(0,), values={"fd": (1.0,)}, floor={},
        pictures=bundle,
    )  # fmt: skip
    check = Check(gate="fd at most 2", metric="fd", value=1.0, low=0.9, high=1.1, bound=2.0, passed=True)
    return Verdict(
        model="dots", candidate="vae", family="vae", bundle=bundle, scores=scores, checks=(check,), rank=1.0,
        passed=True,
    )  # fmt: skip
