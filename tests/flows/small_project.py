"""A small project of its own, with data that DVC tracks and a recipe that trains in seconds."""

import io
from contextlib import chdir
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from dvc.repo import Repo
from PIL import Image

CLASSES = ("disc", "frame")
RECIPE = """\
model: shapes
modality: image
data:
  source: data/shapes
  held_out: {column: split, value: held_out}
prepare: {size: 12, channels: 1}
train: {seed: 0, batch_size: 32}
candidates:
  vae: {family: vae, config: {conditional: true, latent_dim: 4, width: 8, hidden: 64, lr: 0.003}, train: {steps: 300}}
evaluate: {samples: 64, seeds: [0, 1]}
gates:
  - {metric: copied, at_most: 0.5}
  - {metric: label_entropy, at_least: 0.05}
  - {metric: nearer_train, waived: "the data are tiny"}
  - {metric: authenticity, waived: "the data are tiny"}
rank_by: fd
controls: {label: {default: any, choices: [any, disc, frame]}}
serve: {max_samples: 4, latency_ms: 5000}
"""


def project(root: Path) -> Path:
    """Discs and frames at any place and brightness, 320 to train on and 80 held out."""
    (root / "flows/recipes").mkdir(parents=True)
    (root / "flows/recipes/shapes.yaml").write_text(RECIPE)
    folder = root / "data/shapes"
    folder.mkdir(parents=True)
    noise = np.random.default_rng(0)
    columns = {
        "image": [_shape(at % 2, noise) for at in range(400)],
        "label": [CLASSES[at % 2] for at in range(400)],
        "split": ["held_out" if at % 5 == 4 else "train" for at in range(400)],
    }
    pq.write_table(pa.table(columns), folder / "rows.parquet")
    (folder / "README.md").write_text(f"---\nlicence: MIT\nclasses: [{', '.join(CLASSES)}]\n---\n# Shapes\n")
    Repo.init(str(root), no_scm=True).close()
    with chdir(root), Repo(str(root)) as repo:
        repo.add("data")
    return root


def _shape(kind: int, noise: np.random.Generator) -> bytes:
    rows, columns = np.mgrid[:12, :12]
    across = np.hypot(rows - noise.uniform(4, 7), columns - noise.uniform(4, 7))
    if kind:
        across = np.maximum(np.abs(rows - noise.uniform(4, 7)), np.abs(columns - noise.uniform(4, 7)))
        across = np.abs(across - noise.uniform(2.5, 3.5)) + 1.5
    picture = (
        40 + noise.uniform(120, 200) / (1 + np.exp(3 * (across - noise.uniform(2, 3)))) + noise.normal(0, 4, (12, 12))
    )
    stream = io.BytesIO()
    Image.fromarray(picture.clip(0, 255).astype(np.uint8)).save(stream, "PNG")
    return stream.getvalue()
