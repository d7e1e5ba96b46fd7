import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from components import families
from tests.benchmarks import gpu

ROOT = Path(__file__).resolve().parents[2]
WITHOUT = """
import re
import sys
from importlib import metadata
from importlib.machinery import PathFinder
from importlib.util import find_spec

def plain(name):
    return re.sub(r"[-_.]+", "-", name).lower()

allowed, asked = {"aigc-atelier"}, ["torch", "safetensors", "pydantic", "accelerate"]
while asked:  # these and what they bring
    name = plain(asked.pop())
    if name not in allowed:
        allowed.add(name)
        try:
            required = metadata.requires(name) or []
        except metadata.PackageNotFoundError:  # for another system
            required = []
        asked += [re.match(r"[A-Za-z0-9._-]+", one).group() for one in required if "extra ==" not in one]
owners = metadata.packages_distributions()

class Allowed(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        owned = owners.get(name.partition(".")[0])
        if not owned or allowed & {plain(owner) for owner in owned}:
            return super().find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Allowed
for absent in ("pandas", "PIL", "numba", "tokenizers"):
    if find_spec(absent):
        sys.exit(f"{absent} is not absent")
from tests.benchmarks import gpu
gpu.main(sys.argv[1:])
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WITHOUT, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_it_runs_where_only_torch_safetensors_pydantic_and_accelerate_are(tmp_path: Path) -> None:
    quick = ["--device", "cpu", "--batch", "8", "--seconds", "0.05", "--rounds", "2", "--out", str(tmp_path / "cells")]
    ended = run("--families", "vae", "stylegan2", *quick)
    assert ended.returncode == 0, ended.stderr
    cells = json.loads((tmp_path / "cells").read_text())["cells"]
    assert [cell["family"] for cell in cells] == ["vae", "stylegan2"]
    for cell in cells:
        assert min(cell["rows_per_second"]) > 0 and min(cell["drawn_per_second"]) > 0
        assert cell["operations_per_row"] > 1e5
        assert cell["family"] in ended.stdout


def test_by_itself_it_takes_every_family_of_pictures_and_no_other() -> None:
    asked = gpu._asked([]).families
    assert {"vae", "dcgan", "stylegan2", "cyclegan", "flow_matching"} <= set(asked)
    for name in families.names():
        assert (name in asked) == (families.get(name).Model.modality == "image")
    with torch.device("meta"):
        assert [gpu._build(name).modality for name in asked] == ["image"] * len(asked)


@pytest.mark.slow
@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_without_a_gpu_it_says_so() -> None:
    ended = run()
    assert ended.returncode == 2
    assert "no CUDA device" in ended.stderr
