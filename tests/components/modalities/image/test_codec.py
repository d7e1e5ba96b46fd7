import contextlib
import io
import struct
import zlib

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from components.modalities.image import codec, rows
from components.modalities.image.batch import Images, ImageSpec

SPEC = ImageSpec(channels=1, size=8)


def saved(picture: Image.Image, kind: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


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


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(8, 8), (30, 20), (3, 50), (1, 1)])
def test_a_given_picture_is_fitted_as_the_data_are(channels, shape) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    payload = saved(Image.fromarray(levels))
    given = codec.read(payload, ImageSpec(channels=channels, size=8))
    batch = pa.RecordBatch.from_arrays([pa.array([payload], pa.binary())], names=["payload"])
    (fitted,) = rows.fit(batch, size=8, channels=channels)["pixels"].to_pylist()
    assert given.pixels.shape == (1, channels, 8, 8) and given.labels is None
    assert codec.to_bytes(given.pixels).transpose(0, 3, 1, 2).tobytes() == fitted


@pytest.mark.parametrize("kind", codec.GIVEN_FORMATS)
def test_each_format_that_people_send_is_read(kind) -> None:
    grey = codec.read(saved(Image.new("L", (20, 20), 200), kind), SPEC).pixels
    assert torch.allclose(grey, torch.tensor(200 / 127.5 - 1), atol=0.05)


def test_what_encoding_gives_is_read_as_it_was() -> None:
    levels = torch.arange(64).reshape(1, 1, 8, 8) * 4 / 127.5 - 1
    (png,) = codec.encode(Images(levels))
    assert torch.allclose(codec.read(png, SPEC).pixels, levels, atol=1e-6)


def bomb(width: int, height: int) -> bytes:
    """A PNG whose header promises more than it holds."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"IDAT" + zlib.compress(bytes(1000))
    chunks = (struct.pack(">I", len(part) - 4) + part + struct.pack(">I", zlib.crc32(part)) for part in (body, data))
    return codec.SIGNATURE + b"".join(chunks)


def many_scans() -> bytes:
    jpeg = saved(Image.new("L", (64, 64), 90), "JPEG", progressive=True)
    start, end = jpeg.rindex(b"\xff\xda"), jpeg.rindex(b"\xff\xd9")
    return jpeg[:start] + jpeg[start:end] * 200 + jpeg[end:]


@pytest.mark.parametrize(
    ("payload", "why"),
    [
        (b"", "none of PNG, JPEG, WEBP"),
        (b"GIF89a no picture", "none of PNG, JPEG, WEBP"),
        (saved(Image.new("L", (9, 9)), "TIFF"), "none of PNG, JPEG, WEBP"),
        (bomb(5000, 5000), "5000 x 5000 pixels, over 16 megapixels"),
        (bomb(2**31 - 1, 2**31 - 1), "exceeds limit"),
        (saved(Image.new("L", (64, 64)))[:-30], "cannot be read"),
        (many_scans(), "over 100 scans"),
    ],
)
def test_what_is_no_picture_or_a_bomb_is_refused_in_one_sentence(payload, why) -> None:
    with pytest.raises(ValueError, match=why) as refused:
        codec.read(payload, SPEC)
    assert "\n" not in str(refused.value)


def test_any_change_of_a_byte_is_read_or_refused_and_nothing_else() -> None:
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (24, 24, 3), dtype=np.uint8))
    for kind in codec.GIVEN_FORMATS:
        whole = saved(noise, kind)
        for _ in range(200):
            hurt = bytearray(whole)
            for at in random.integers(0, len(hurt), 3):
                hurt[at] = random.integers(256)
            with contextlib.suppress(ValueError):
                assert codec.read(bytes(hurt), SPEC).pixels.shape == (1, 1, 8, 8)


def test_the_example_is_a_picture_of_its_spec() -> None:
    for channels in (1, 3):
        spec = ImageSpec(channels=channels, size=8)
        pixels = codec.read(codec.example(spec.model_dump()), spec).pixels
        assert (pixels[0, :, 0, 0].max(), pixels[0, :, 0, -1].min()) == (-1, 1)
