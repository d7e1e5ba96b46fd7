"""Shards hold the pictures that went in: known pixels, order, sides, digest."""

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from components.errors import AtelierError
from components.modalities.image.codec import to_bytes
from components.modalities.image.shards import Prepare, open_augment, open_split, write
from components.rows import Row
from components.store import digest_of

CLASSES = ("a", "b")


def png(levels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, "PNG")
    return stream.getvalue()


def grey(seed: int, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def given(pictures: list[np.ndarray]) -> list[Row]:
    """Every third row is held out."""
    return [
        Row(f"row-{i}", png(picture), i % 2, None, "held_out" if i % 3 == 2 else "train")
        for i, picture in enumerate(pictures)
    ]


def written(directory: Path, rows: list[Row], *, size: int = 8, channels: int = 1, labelled: bool = True) -> Path:
    counts = {side: sum(row.split == side for row in rows) for side in ("train", "held_out")}
    directory.mkdir(exist_ok=True)
    prepare = Prepare(size=size, channels=channels)
    write(
        iter(rows),
        directory,
        prepare=prepare,
        classes=CLASSES if labelled else (),
        counts={side: count for side, count in counts.items() if count},
    )
    return directory


def test_the_task_is_told_in_the_spec_and_leaves_the_pictures_alone(tmp_path: Path) -> None:
    rows = given([grey(i) for i in range(7)])
    digests = set()
    for degrade in (None, "blur"):
        place = tmp_path / str(degrade)
        place.mkdir()
        prepare = Prepare(size=8, degrade=degrade)
        spec = write(iter(rows), place, prepare=prepare, classes=CLASSES, counts={"train": 5, "held_out": 2})
        assert (spec.degrade, spec.gives) == (degrade, degrade is not None)
        digests.add(digest_of(place))
        (place / "index.json").unlink()
    assert len(digests) == 2, "a task of its own makes shards of its own"
    assert digest_of(tmp_path / "None") == digest_of(tmp_path / "blur")


def test_pictures_of_the_right_size_come_back_as_they_were(tmp_path: Path) -> None:
    pictures = [grey(i) for i in range(7)]
    written(tmp_path, given(pictures))
    train, held_out = open_split(tmp_path, "train"), open_split(tmp_path, "held_out")
    assert (len(train), len(held_out)) == (5, 2)
    batch = train.batch(torch.tensor([4, 0, 0]))
    assert batch.pixels.dtype == torch.float32 and batch.pixels.shape == (3, 1, 8, 8)
    assert batch.pixels.min() >= -1 and batch.pixels.max() <= 1
    expected = np.stack([pictures[6], pictures[0], pictures[0]])
    assert np.array_equal(to_bytes(batch.pixels)[..., 0], expected)
    assert batch.labels is not None and batch.labels.tolist() == [0, 0, 0]


def test_pixels_are_read_from_the_disk(tmp_path: Path) -> None:
    written(tmp_path, given([grey(i) for i in range(3)]))
    assert isinstance(open_split(tmp_path, "train").pixels, np.memmap)


def test_a_wide_picture_is_cropped_at_its_centre(tmp_path: Path) -> None:
    wide = np.concatenate([np.zeros((8, 4), np.uint8), grey(1), np.zeros((8, 4), np.uint8)], axis=1)
    written(tmp_path, given([wide, wide.T.copy()]))
    pixels = np.asarray(open_split(tmp_path, "train").pixels)
    assert np.array_equal(pixels[0, 0], grey(1)) and np.array_equal(pixels[1, 0], grey(1).T)


def test_a_large_picture_is_shrunk_without_aliasing(tmp_path: Path) -> None:
    stripes = np.tile(np.array([[0, 255]], np.uint8), (64, 32))
    written(tmp_path, given([stripes]))
    assert np.abs(np.asarray(open_split(tmp_path, "train").pixels).astype(int) - 127).max() <= 10


def test_colour_has_three_channels_and_grey_is_spread_over_them(tmp_path: Path) -> None:
    colour = grey(3, (8, 8, 3))
    written(tmp_path, given([colour, grey(4)]), channels=3)
    pixels = np.asarray(open_split(tmp_path, "train").pixels)
    assert np.array_equal(pixels[0], colour.transpose(2, 0, 1))
    assert all(np.array_equal(pixels[1, channel], grey(4)) for channel in range(3))


def test_sixteen_bits_and_transparency(tmp_path: Path) -> None:
    deep, clear = np.full((8, 8), 0x8001, np.uint16), np.zeros((8, 8, 4), np.uint8)
    written(tmp_path, given([deep, clear]))
    pixels = np.asarray(open_split(tmp_path, "train").pixels)
    assert (pixels[0] == 0x80).all() and (pixels[1] == 255).all()


def test_unlabelled_rows_have_no_labels(tmp_path: Path) -> None:
    rows = [row._replace(label=None) for row in given([grey(0)])]
    written(tmp_path, rows, labelled=False)
    assert open_split(tmp_path, "train").batch(torch.tensor([0])).labels is None


@pytest.mark.parametrize("label", [None, -1, 2])
def test_labelled_data_take_no_row_without_a_label_of_theirs(label: int | None, tmp_path: Path) -> None:
    first, *rest = given([grey(i) for i in range(3)])
    with pytest.raises(AtelierError, match=f"the row 'row-0' has the label {label}"):
        written(tmp_path, [first._replace(label=label), *rest])


def test_the_same_rows_give_the_same_digest_and_others_another(tmp_path: Path) -> None:
    rows = given([grey(i) for i in range(5)])
    first, second = (digest_of(written(tmp_path / name, rows)) for name in "ab")
    assert first == second
    assert digest_of(written(tmp_path / "c", [rows[1], rows[0], *rows[2:]])) != first


def test_the_augmentation_asked_for_comes_with_the_shards(tmp_path: Path) -> None:
    for name, steps in (("with", ({"cutout": 2},)), ("without", ())):
        (tmp_path / name).mkdir()
        prepare = Prepare(size=8, channels=1, augment=steps)
        write(given([grey(0)]), tmp_path / name, prepare=prepare, classes=CLASSES, counts={"train": 1})
    assert open_augment(tmp_path / "with") is not None and open_augment(tmp_path / "without") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 3}, "greater than or equal to 4"),
        ({"size": 2048}, "less than or equal to 1024"),
        ({"channels": 2}, "channels is 2"),
        ({"augment": [{"flp": "horizontal"}]}, "did you mean 'flip'"),
        ({"sise": 28}, "sise"),
    ],
)
def test_a_mistaken_option_is_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Prepare.model_validate({"size": 28, **options})
