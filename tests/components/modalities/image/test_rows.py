"""What is said of one picture's bytes: known answers, and no exception for hostile ones."""

import hashlib
import io
import random
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.modalities.image.codec import MEGAPIXELS_AT_MOST, decode, flat
from components.modalities.image.rows import FACTS, facts, near_hash

NOISE = np.random.default_rng(0).integers(0, 200, (28, 28), dtype=np.uint8)


def saved(picture: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def claiming(width: int, height: int) -> bytes:
    """A small PNG whose header, checksum and all, claims another size."""
    content = bytearray(saved(Image.new("L", (8, 8))))
    content[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    content[29:33] = zlib.crc32(bytes(content[12:29])).to_bytes(4, "big")
    return bytes(content)


def test_the_facts_of_a_picture() -> None:
    half = np.repeat(np.array([[0, 200]], np.uint8), 6, axis=0).repeat(5, axis=1)
    payload = saved(Image.fromarray(half))
    told = facts(payload)
    assert list(told) == FACTS.names
    assert told["digest"] == hashlib.sha256(payload).hexdigest()
    assert (told["decodes"], told["width"], told["height"], told["mode"], told["error"]) == (True, 10, 6, "L", None)
    assert told["mean"] == 100 and told["deviation"] == 100
    assert len(told["near_hash"]) == 64


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP"])
def test_the_same_pixels_have_one_digest_in_any_lossless_file(kind: str) -> None:
    colours = np.random.default_rng(1).integers(0, 4, (8, 8, 3), dtype=np.uint8) * 80
    picture = Image.fromarray(colours)
    if kind == "GIF":
        first, second = saved(picture.quantize(), "GIF"), saved(picture.quantize(), "PNG")
        assert facts(first)["near_hash"] == facts(second)["near_hash"]
        return
    options = {"lossless": True} if kind == "WEBP" else {}
    assert facts(saved(picture, kind, **options))["content_digest"] == facts(saved(picture))["content_digest"]


def test_another_palette_is_another_picture() -> None:
    index = Image.fromarray(NOISE % 2).convert("P")
    digests = set()
    for palette in ([0, 0, 0, 255, 255, 255], [255, 0, 0, 0, 0, 255]):
        index.putpalette(palette)
        digests.add(facts(saved(index))["content_digest"])
    assert len(digests) == 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_a_truncated_file_does_not_decode(kind: str) -> None:
    payload = saved(Image.fromarray(NOISE).convert("RGB"), kind)
    assert facts(payload)["decodes"]
    cut = facts(payload[: len(payload) // 2])
    assert not cut["decodes"] and cut["error"] and cut["content_digest"] is None


@pytest.mark.parametrize(("width", "height"), [(9000, 9000), (20_000, 20_000), (2**31 - 1, 2**31 - 1)])
def test_a_bomb_is_refused_by_its_header(width: int, height: int) -> None:
    assert width * height > MEGAPIXELS_AT_MOST * 10**6
    told = facts(claiming(width, height))
    assert not told["decodes"] and ("megapixels" in told["error"] or "bomb" in told["error"])


@pytest.mark.parametrize("payload", [b"", b"hello", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_other_bytes_are_no_picture(payload: bytes) -> None:
    told = facts(payload)
    assert not told["decodes"] and "none of PNG" in told["error"]


def test_broken_bytes_never_raise() -> None:
    chance = random.Random(0)
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"):
        good = saved(Image.fromarray(NOISE).convert("RGB"), kind)
        for _ in range(60):
            broken = bytearray(good)
            for _ in range(chance.randint(1, 8)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            assert list(facts(bytes(broken))) == FACTS.names


def test_exif_turns_the_picture_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(saved(Image.fromarray(NOISE[:10]), "JPEG", exif=exif)).size == (10, 28)


def test_sixteen_bits_keep_their_high_byte() -> None:
    deep = Image.fromarray(np.array([[0, 256, 32768, 65535]], np.uint16))
    assert list(flat(decode(saved(deep)), channels=1).tobytes()) == [0, 1, 128, 255]


def test_what_is_transparent_is_white() -> None:
    clear = Image.new("RGBA", (4, 4), (0, 0, 0, 0))
    assert flat(clear, channels=3).getpixel((0, 0)) == (255, 255, 255)
    assert flat(clear, channels=1).getpixel((0, 0)) == 255


def test_the_near_hash_bears_brightness_and_scale_but_not_another_picture() -> None:
    smooth = Image.fromarray(NOISE).resize((64, 64), Image.Resampling.BICUBIC)
    brighter = Image.fromarray(np.asarray(Image.fromarray(NOISE)) + np.uint8(40))
    assert near_hash(Image.fromarray(NOISE)) == near_hash(brighter)
    far = distance(near_hash(smooth), near_hash(Image.fromarray(NOISE).transpose(Image.Transpose.FLIP_LEFT_RIGHT)))
    assert distance(near_hash(smooth), near_hash(smooth.resize((128, 128)))) < 20 < far


def test_the_near_hash_is_one_bit_for_each_rise_to_the_right() -> None:
    rising = Image.fromarray(np.tile(np.arange(0, 255, 15, dtype=np.uint8), (16, 1)))
    assert rising.size == (17, 16)
    assert near_hash(rising) == "f" * 64 and near_hash(rising.transpose(Image.Transpose.FLIP_LEFT_RIGHT)) == "0" * 64


def distance(first: str, second: str) -> int:
    return (int(first, 16) ^ int(second, 16)).bit_count()
