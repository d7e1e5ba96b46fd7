"""What can be said of one picture from its bytes alone; the bytes and their header are never trusted."""

import hashlib
import io
import warnings
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MEGAPIXELS_AT_MOST = 64  # Pillow itself only warns until 179

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
    levels = np.asarray(grey, np.float64)
    return {
        "content_digest": hashlib.sha256(shape + seen.tobytes()).hexdigest(),
        "decodes": True,
        "width": picture.width,
        "height": picture.height,
        "mode": picture.mode,
        "mean": float(levels.mean()),
        "deviation": float(levels.std()),
        "near_hash": near_hash(grey),
    }


def decode(payload: bytes) -> Image.Image:
    """The first frame, upright as its EXIF says; a `ValueError` or Pillow's own errors where the bytes are no picture.

    A picture of over 64 megapixels is refused by the size in its header, before any pixel is unpacked.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit below is lower
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
    cells = np.asarray(flat(picture, channels=1).resize((17, 16), Image.Resampling.BILINEAR))
    return np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes().hex()
