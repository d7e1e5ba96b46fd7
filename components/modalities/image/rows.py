"""What can be said of one picture from its bytes alone; the bytes and their header are never trusted."""

import hashlib
import math
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from components.modalities.image.codec import decode, fitted, flat

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


def content_digest(payload: bytes) -> str | None:
    """The fact of that name alone; None where the bytes are no whole picture."""
    try:
        seen = _seen(decode(payload))
    except Exception:  # noqa: BLE001 - as above
        return None
    return _content(seen, seen.tobytes())


def _seen(picture: Image.Image) -> Image.Image:
    return picture.convert("RGBA") if picture.mode in ("P", "PA") else picture  # a palette is part of the pixels


def _content(seen: Image.Image, pixels: bytes) -> str:
    content = hashlib.sha256(f"{seen.mode} {seen.width} {seen.height} ".encode())
    content.update(pixels)
    return content.hexdigest()


def _of_picture(picture: Image.Image) -> dict[str, Any]:
    seen = _seen(picture)
    grey = flat(picture, channels=1)
    pixels = seen.tobytes()
    mean, deviation = _levels(grey, pixels if grey is seen else None)
    return {
        "content_digest": _content(seen, pixels),
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


def near_hash(picture: Image.Image) -> str:
    """256 bits as hex: whether each of 16 x 16 cells is darker than its right neighbour (a difference hash).

    Rescaling, recompression and a change of brightness leave it as it is, or nearly.
    """
    small = flat(picture, channels=1).resize((17, 16), Image.Resampling.BILINEAR).tobytes()
    cells = np.frombuffer(small, np.uint8).reshape(16, 17)
    return np.packbits(cells[:, :-1] < cells[:, 1:]).tobytes().hex()


def fit(batch: pa.RecordBatch, *, size: int, channels: int) -> pa.RecordBatch:
    """Each `payload` as `pixels`: bytes [channels, size, size], what is not square cropped at its centre."""
    pictures = [fitted(decode(payload), size=size, channels=channels) for payload in batch["payload"].to_pylist()]
    return pa.RecordBatch.from_arrays([pa.array(pictures, pa.binary(channels * size * size))], names=["pixels"])
