"""Fashion-MNIST as Parquet files with PNG pictures, from Debian's package `dataset-fashion-mnist`."""

import gzip
import io
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from components.errors import AtelierError
from components.modalities.image.rows import near_hash
from components.store import file_sha256
from infra.starter.card import write_card

SOURCE = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
CLASSES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip
SIDES = {"train": "train", "t10k": "held_out"}  # the source's own split
PER_CLASS = {"train": 1000, "t10k": 200}

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),  # the source's file and the index in it: "train-00017"
        pa.field("image", pa.binary(), nullable=False),  # PNG, 28 x 28, 8-bit greyscale
        pa.field("label", pa.int64(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
    ]
)

CARD = """\
# Fashion-MNIST{title}

{train:,} pictures to train on and {held_out:,} held out: clothes from Zalando's shop, 28 x 28 pixels, greyscale, each
with one of ten classes. Made by Han Xiao, Kashif Rasul and Roland Vollgraf, "Fashion-MNIST: a Novel Image Dataset for
Benchmarking Machine Learning Algorithms" (arXiv:1708.07747).

`train.parquet` and `held_out.parquet` have the columns `id` (the source's file and the index in it, `train-00017`),
`image` (PNG bytes), `label` (an index into the classes above) and `split` (`train` or `held_out`).

## How it was made
By `infra/starter_data.py`, from the files of Debian's package `dataset-fashion-mnist`. {made}
The pixels are the source's own.

## Licence
The MIT License (MIT)

Copyright (c) 2017 Zalando SE, https://tech.zalando.com

Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated
documentation files (the "Software"), to deal in the Software without restriction, including without limitation the
rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and to permit
persons to whom the Software is furnished to do so, subject to the following conditions:

The above copyright notice and this permission notice shall be included in all copies or substantial portions of the
Software.

THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO THE
WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE AUTHORS OR
COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF CONTRACT, TORT OR
OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS IN THE SOFTWARE.
"""
MADE_SMALL = """\
Of each class the first 1,000
pictures of the source's training file and the first 200 of its test file were taken, in the source's order. Passed
over were pictures equal to an earlier one, and held-out pictures whose perceptual hash (a 256-bit difference hash) is
that of a picture to train on."""
MADE_FULL = "Every picture of both files was taken."


@dataclass(frozen=True)
class Pictures:
    """One file of the source: `pixels` uint8 [n, 28, 28], `labels` uint8 [n], in the source's order."""

    pixels: np.ndarray
    labels: np.ndarray


def build(source: Path, folder: Path) -> None:
    """12,000 pictures of Fashion-MNIST, the same number of each class, none of them twice."""
    files = {name: _read(source, name) for name in SIDES}
    train = _first(files["train"], PER_CLASS["train"])
    known = [files["train"].pixels[index] for index in train]
    equal, near = {pixels.tobytes() for pixels in known}, {_near(pixels) for pixels in known}
    held_out = _first(files["t10k"], PER_CLASS["t10k"], equal=equal, near=near)
    _write(folder, files, {"train": train, "t10k": held_out}, title=", a balanced part", made=MADE_SMALL)


def build_full(source: Path, folder: Path) -> None:
    """All 70,000 pictures of Fashion-MNIST as its makers split them, repeated ones too."""
    files = {name: _read(source, name) for name in SIDES}
    _write(folder, files, {name: [*range(len(files[name].labels))] for name in SIDES}, title="", made=MADE_FULL)


def _read(source: Path, name: str) -> Pictures:
    pixels = _idx(source / f"{name}-images-idx3-ubyte.gz", header=16)
    labels = _idx(source / f"{name}-labels-idx1-ubyte.gz", header=8)
    return Pictures(pixels.reshape(len(labels), 28, 28), labels)


def _idx(path: Path, *, header: int) -> np.ndarray:
    """The bytes of an IDX file (the format of MNIST) after its header."""
    if not path.is_file():
        raise AtelierError(
            f"the source {path} is not there. `apt-get install dataset-fashion-mnist` puts it into {SOURCE}; "
            "name another folder with --from fashion=DIR."
        )
    return np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header)


def _first(
    pictures: Pictures, per_class: int, *, equal: AbstractSet[bytes] = frozenset(), near: AbstractSet[str] = frozenset()
) -> list[int]:
    """The first `per_class` rows of each class: no picture twice, none equal or near to those that are named."""
    seen, left = set(equal), [per_class] * len(CLASSES)
    chosen = []
    for index, (pixels, label) in enumerate(zip(pictures.pixels, pictures.labels.tolist(), strict=True)):
        if left[label] and pixels.tobytes() not in seen and not (near and _near(pixels) in near):
            chosen.append(index)
            seen.add(pixels.tobytes())
            left[label] -= 1
    return chosen


def _near(pixels: np.ndarray) -> str:
    return near_hash(Image.fromarray(pixels))


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", optimize=True)
    return stream.getvalue()


def _write(
    folder: Path, files: Mapping[str, Pictures], chosen: Mapping[str, list[int]], *, title: str, made: str
) -> None:
    """Both Parquet files and the card."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in SIDES.items():
        _write_parquet(folder / f"{split}.parquet", name, files[name], chosen[name])
    counts = {split: len(chosen[name]) for name, split in SIDES.items()}
    facts = {
        "title": f"Fashion-MNIST{title}",
        "licence": "MIT",
        "source": "https://github.com/zalandoresearch/fashion-mnist (Debian package dataset-fashion-mnist)",
        "classes": list(CLASSES),
        "counts": counts,
        "sha256": {f"{split}.parquet": file_sha256(folder / f"{split}.parquet") for split in counts},
    }
    write_card(folder, facts, CARD.format(title=title, made=made, **counts))


def _write_parquet(path: Path, name: str, pictures: Pictures, chosen: list[int]) -> None:
    columns = {
        "id": [f"{name}-{index:05}" for index in chosen],
        "image": [_png(pictures.pixels[index]) for index in chosen],
        "label": pictures.labels[chosen].astype(np.int64),
        "split": [SIDES[name]] * len(chosen),
    }
    # PNG does not compress further, has no useful minimum, and as a dictionary would be read all at once.
    options = {"compression": "none", "write_statistics": False, "use_dictionary": ["split"]}
    pq.write_table(pa.table(columns, schema=SCHEMA), path, row_group_size=1024, **options)
