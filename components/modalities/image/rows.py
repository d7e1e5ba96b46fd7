"""What can be said of one picture from its bytes alone; the bytes and their header are never trusted."""

import hashlib
import io
import math
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MEGAPIXELS_AT_MOST = 64  # Pillow itself only warns until 179
COUNTED_SINGLY = 2**16  # pixels; for more a histogram is quicker, and needs no memory

FACTS = pa.schema(
    [
        pa.field("digest", pa.string(), nullable=False),  # sha256 of the payload
        pa.field("content_digest", pa.string()),  # sha256 of mode, size and pixels: the same picture in any file format
        pa.field("decodes", pa.bool_(), nullable=False),
        pa.field("width", pa.int64()),
        pa.field("height", pa.int64()),
        pa.field("mode", pa.string()),  # Pillow's: L, RGB, RGBA ...
        pa.field("mean", pa.float64()),  # of the greyscale picture, 0 to 255
        pa.field("deviation", pa.float64()),  # likewise: 0 is a blank picture
        pa.field("near_hash", pa.string()),
        pa.field("error", pa.string()),  # why it does not decode
    ]
)


def facts(payload: bytes) -> dict[str, Any]:
    """One row of `FACTS`; bytes that are no whole picture give `decodes` False and the reason, never an exception."""
    known: dict[str, Any] = dict.fromkeys(FACTS.names)
    known |= {"digest": hashlib.sha256(payload).hexdigest(), "decodes": False}
    try:
        return known | _of_picture(decode(payload))
    except Exception as error:  # noqa: BLE001 - hostile bytes make a decoder raise anything at all
        return known | {"error": " ".join(str(error).split()) or type(error).__name__}


def _of_picture(picture: Image.Image) -> dict[str, Any]:
    seen = picture.convert("RGBA") if picture.mode in ("P", "PA") else picture  # a palette is part of the pixels
    shape = f"{seen.mode} {seen.width} {seen.height} ".encode()
    grey = flat(picture, channels=1)
    pixels = seen.tobytes()
    content = hashlib.sha256(shape)
    content.update(pixels)
    mean, deviation = _levels(grey, pixels if grey is seen else None)
    return {
        "content_digest": content.hexdigest(),
        "decodes": True,
        "width": picture.width,
        "height": picture.height,
        "mode": picture.mode,
        "mean": mean,
        "deviation": deviation,
        "near_hash": near_hash(grey),
    }


def _levels(grey: Image.Image, pixels: bytes | None) -> tuple[float, float]:
    """Mean and deviation of the levels, exact whichever way they are summed."""
    count = grey.width * grey.height
    if count <= COUNTED_SINGLY:
        levels = np.frombuffer(grey.tobytes() if pixels is None else pixels, np.uint8).astype(np.int64)
        total, squares = int(levels.sum()), int(levels.dot(levels))
    else:  # without eight bytes for each pixel
        times = grey.histogram()
        total = sum(level * n for level, n in enumerate(times))
        squares = sum(level**2 * n for level, n in enumerate(times))
    return total / count, math.sqrt(count * squares - total**2) / count


def decode(payload: bytes) -> Image.Image:
    """The first frame, upright as its EXIF says; a `ValueError` or Pillow's own errors where the bytes are no picture.

    A picture of over 64 megapixels is refused by the size in its header, before any pixel is unpacked.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bombs, whose limit below is lower, and of broken EXIF, which turns nothing
        try:
            picture = Image.open(io.BytesIO(payload), formats=FORMATS)
        except UnidentifiedImageError:
            raise ValueError(f"these bytes are none of {', '.join(FORMATS)}") from None
        if picture.width * picture.height > MEGAPIXELS_AT_MOST * 10**6:
            raise ValueError(
                f"its header says {picture.width} x {picture.height} pixels, over {MEGAPIXELS_AT_MOST} megapixels"
            )
        picture.load()
        return ImageOps.exif_transpose(picture) if picture.getexif().get(0x0112, 1) != 1 else picture


def flat(picture: Image.Image, *, channels: int) -> Image.Image:
    """The picture in mode L (1 channel) or RGB (3), transparent parts on white.

    Sixteen-bit pictures keep their high byte, where Pillow would clip them to white.
    """
    if picture.mode == "L" and channels == 1 and "transparency" not in picture.info:
        return picture  # the most usual case, which needs no copy
    if picture.mode.startswith("I;16"):
        picture = Image.fromarray((np.asarray(picture).astype(np.uint16) >> 8).astype(np.uint8))
    elif picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    return picture.convert("L" if channels == 1 else "RGB")


def near_hash(picture: Image.Image) -> str:
    """256 bits as hex: whether each of 16 x 16 cells is darker than its right neighbour (a difference hash).

    Rescaling, recompression and a change of brightness leave it as it is, or nearly.
    """
    small = flat(picture, channels=1).resize((17, 16), Image.Resampling.BILINEAR).tobytes()
    cells = np.frombuffer(small, np.uint8).reshape(16, 17)
    return np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes().hex()


def fit(batch: pa.RecordBatch, *, size: int, channels: int) -> pa.RecordBatch:
    """Each `payload` as `pixels`: bytes [channels, size, size], what is not square cropped at its centre."""
    fitted = [_fitted(payload, size, channels) for payload in batch["payload"].to_pylist()]
    return pa.RecordBatch.from_arrays([pa.array(fitted, pa.binary(channels * size * size))], names=["pixels"])


def _fitted(payload: bytes, size: int, channels: int) -> bytes:
    picture = flat(decode(payload), channels=channels)
    if picture.size != (size, size):
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        picture = picture.crop(box).resize((size, size), Image.Resampling.LANCZOS)
    if channels == 1:
        return picture.tobytes()
    return np.asarray(picture).transpose(2, 0, 1).tobytes()
