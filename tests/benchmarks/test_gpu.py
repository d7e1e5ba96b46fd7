import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ABSENT = [
    "pandas",
    "scipy",
    "PIL",
    "pyarrow",
    "datasets",
    "sqlalchemy",
    "fastapi",
    "prefect",
    "mlflow",
    "dvc",
    "bentoml",
]
WITHOUT = f"""
import sys
sys.modules.update(dict.fromkeys({[*ABSENT, "great_expectations"]}))
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


@pytest.mark.slow
@pytest.mark.skipif("__import__('torch').cuda.is_available()")
def test_without_a_gpu_it_says_so() -> None:
    ended = run()
    assert ended.returncode == 2
    assert "no CUDA device" in ended.stderr
