import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from components.modalities.image import shards
from components.store import digest_of


def png(levels: np.ndarray, kind: str = "PNG") -> bytes:
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, kind)
    return stream.getvalue()


def written(
    directory: Path, payloads: list[bytes], *, size: int = 8, channels: int = 1, classes: tuple[str, ...] = ("a", "b")
) -> shards.Split:
    directory.mkdir()
    rows = [(f"r{i}", payload, i % 2, "train") for i, payload in enumerate(payloads)]
    prepare = shards.Prepare(size=size, channels=channels)
    shards.write(rows, directory, prepare=prepare, classes=classes, counts={"train": len(rows)})
    return shards.open_split(directory, "train")


def grey(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)


def test_a_picture_of_the_right_size_is_kept_as_it_is_in_the_stated_range(tmp_path: Path) -> None:
    split = written(tmp_path / "s", [png(grey(0)), png(grey(1))])
    batch = split.batch(torch.tensor([1, 0]))
    assert batch.pixels.shape == (2, 1, 8, 8)
    assert torch.allclose((batch.pixels[0, 0] + 1) * 127.5, torch.from_numpy(grey(1)).float())
    assert batch.labels is not None
    assert batch.labels.tolist() == [1, 0]
    assert isinstance(split.pixels, np.memmap)


def test_a_long_picture_is_cropped_at_its_centre_and_scaled(tmp_path: Path) -> None:
    wide = np.zeros((16, 48), np.uint8)
    wide[:, 16:32] = 200  # the centre square is bright, its sides are not
    split = written(tmp_path / "s", [png(wide)])
    assert split.pixels[0].min() > 190


def test_colour_and_grey_turn_into_each_other(tmp_path: Path) -> None:
    red = np.zeros((8, 8, 3), np.uint8)
    red[..., 0] = 255
    colour = written(tmp_path / "c", [png(red), png(grey(0))], channels=3)
    assert colour.pixels[0, :, 0, 0].tolist() == [255, 0, 0]
    assert np.array_equal(colour.pixels[1, 0], colour.pixels[1, 2])
    assert written(tmp_path / "g", [png(red)]).pixels[0, 0, 0, 0] == 76  # 0.299 of 255, as ITU-R 601 weighs red


def test_transparency_lies_on_white_and_sixteen_bits_keep_their_high_byte(tmp_path: Path) -> None:
    clear = np.zeros((8, 8, 4), np.uint8)
    deep = np.full((8, 8), 0x80FF, np.uint16)
    split = written(tmp_path / "s", [png(clear), png(deep)])
    assert split.pixels[0].min() == 255
    assert set(split.pixels[1].flatten().tolist()) == {0x80}


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        written(tmp_path / name, [png(grey(i)) for i in range(5)])
    assert digest_of(tmp_path / "a") == digest_of(tmp_path / "b")


def test_without_classes_there_are_no_labels(tmp_path: Path) -> None:
    assert written(tmp_path / "s", [png(grey(0))], classes=()).batch(torch.tensor([0])).labels is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"channels": 2}, "it must be 1 .grey. or 3 .colour."),
        ({"size": 3}, "greater than or equal to 4"),
        ({"augment": [{"flipp": "horizontal"}]}, "did you mean 'flip'"),
        ({"augment": [{"flip": "sideways"}]}, "horizontal or vertical"),
        ({"augment": [{"shift": 99}]}, "a number from 1 to 27"),
        ({"augment": [{"shift": 1, "noise": 0.1}]}, "one name and one value"),
        ({"augment": [{"noise": "much"}]}, "a number from"),
        ({"augment": [{"cutout": True}]}, "a number from"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        shards.Prepare.model_validate(options)


def test_augmentation_is_only_there_where_it_was_asked_for(tmp_path: Path) -> None:
    written(tmp_path / "s", [png(grey(0))])
    assert shards.open_augment(tmp_path / "s") is None
