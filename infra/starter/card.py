"""The card of a starter dataset: what it is, how it was made and what its licence asks, with facts for programs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml


def write_card(folder: Path, facts: Mapping[str, Any], text: str) -> None:
    """`README.md` with the facts as its YAML front matter; the name of the dataset is that of its folder."""
    front = yaml.safe_dump({"name": folder.name, **facts}, sort_keys=False, width=1000)
    (folder / "README.md").write_text(f"---\n{front}---\n{text}", encoding="utf-8", newline="\n")
