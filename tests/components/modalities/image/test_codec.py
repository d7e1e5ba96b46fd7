import io

import numpy as np
import torch
from PIL import Image

from components.modalities.image import codec
from components.modalities.image.batch import Images


def test_encoding_keeps_every_level_and_clips_what_overshoots() -> None:
    levels = torch.arange(256).reshape(1, 1, 16, 16)
    (png,) = codec.encode(Images(levels / 127.5 - 1))
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), levels[0, 0].numpy())
    (white,) = codec.encode(Images(torch.full((1, 1, 4, 4), 1.7)))
    assert np.asarray(Image.open(io.BytesIO(white))).min() == 255


def test_colour_keeps_its_channels_in_order() -> None:
    red = torch.full((1, 3, 4, 4), -1.0)
    red[:, 0] = 1
    (png,) = codec.encode(Images(red))
    assert Image.open(io.BytesIO(png)).getpixel((0, 0)) == (255, 0, 0)


def test_a_grid_places_rows_left_to_right_and_then_down() -> None:
    pixels = torch.linspace(-1, 1, 3).reshape(3, 1, 1, 1).expand(3, 1, 4, 4)
    sheet = np.asarray(Image.open(io.BytesIO(codec.grid(Images(pixels), columns=2, scale=2))))
    assert sheet.shape == (2 * (8 + 2) + 2, 2 * (8 + 2) + 2)
    assert [sheet[3, 3], sheet[3, 13], sheet[13, 3], sheet[13, 13]] == [0, 128, 255, 255]
