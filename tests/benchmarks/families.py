"""What adding a family takes: done for real in a copy of the repository, its files counted."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = shutil.ignore_patterns(".venv", ".git", ".atelier", "data", ".*_cache", "__pycache__", "*.egg-info")


def main() -> None:
    """Files touched to add a family, with its contract suite passing and its recipe loading: the goal is 3."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(ROOT, Path(folder) / "copy", ignore=LEFT_OUT))
        before = _digests(copy)
        _add_family(copy)
        touched = sorted(name for name, content in _digests(copy).items() if before.get(name) != content)
        test = [
            sys.executable,
            "-m",
            "pytest",
            "tests/components/families/test_twin.py",
            "tests/components/test_recipe.py",
        ]
        ended = subprocess.run(test, cwd=copy, capture_output=True, text=True)
        if ended.returncode:
            sys.exit(f"the added family does not work:\n{ended.stdout[-2000:]}")
        print(f"{len(touched)} files: {', '.join(touched)}; {ended.stdout.strip().splitlines()[-1]}")


def _add_family(copy: Path) -> None:
    """A twin of `vae` under another name, as an engineer would add it: family, candidate, test class."""
    source, tests = copy / "components/families", copy / "tests/components/families"
    shutil.copyfile(source / "vae.py", source / "twin.py")
    test = (tests / "test_vae.py").read_text()
    (tests / "test_twin.py").write_text(re.sub(r"\bvae\b", "twin", test).replace("TestVae", "TestTwin"))
    recipe = copy / "flows/recipes/fashion-tiny.yaml"
    recipe.write_text(recipe.read_text().replace("candidates:\n", "candidates:\n  twin: {family: twin}\n"))


def _digests(copy: Path) -> dict[str, bytes]:
    return {str(p.relative_to(copy)): p.read_bytes() for p in copy.rglob("*") if p.is_file() and p.suffix != ".pyc"}
