"""How pictures travel: PNG bytes, which can carry a note."""

import io
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

if TYPE_CHECKING:  # who only reads the note of a picture does without torch
    from torch import Tensor

    from components.modalities.image.batch import Images, ImageSpec

MEDIA_TYPE = "image/png"
SUFFIX = ".png"
MEGAPIXELS_AT_MOST = 64  # Pillow itself only warns until 179
SIGNATURE = b"\x89PNG\r\n\x1a\n"
NOTE = b"atelier\0\0\0\0\0"  # of an iTXt chunk: keyword, not compressed, of no language
LOOK = (b"acTL", b"fcTL", b"fdAT", b"tRNS", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"cICP", b"mDCV", b"cLLI", b"eXIf")


def encode(images: "Images", spec: "ImageSpec | None" = None) -> list[bytes]:
    """One PNG per row, which says itself what other modalities need the spec for.

    Values outside [-1, 1] are clipped, since a network's output may overshoot by rounding.
    """
    return [_png(pixels) for pixels in to_bytes(images.pixels)]


def to_bytes(pixels: "Tensor") -> np.ndarray:
    """Pixels [B, c, h, w] in [-1, 1] as uint8 [B, h, w, c]."""
    levels = ((pixels.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return levels.permute(0, 2, 3, 1).numpy()


def grid(images: "Images", *, columns: int, scale: int = 2) -> bytes:
    """The rows as one PNG sheet on white, left to right and then down, each pixel `scale` pixels wide."""
    cells = to_bytes(images.pixels).repeat(scale, axis=1).repeat(scale, axis=2)
    count, height, width, channels = cells.shape
    lines = -(-count // columns)
    sheet = np.full((lines * (height + scale) + scale, columns * (width + scale) + scale, channels), 255, np.uint8)
    for index, cell in enumerate(cells):
        top, left = (
            scale + n * (side + scale) for n, side in zip(divmod(index, columns), (height, width), strict=True)
        )
        sheet[top : top + height, left : left + width] = cell
    return _png(sheet)


def carry(payload: bytes, note: bytes) -> bytes:
    """The PNG with a note of UTF-8 in a text chunk at its head; an earlier note gives way, the pixels stay as they are.

    A `ValueError` where the bytes are no whole PNG.
    """
    kept = [payload[at:end] for kind, at, end in _chunks(payload) if not _is_note(payload, kind, at)]
    body = b"iTXt" + NOTE + note
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return b"".join((SIGNATURE, kept[0], chunk, *kept[1:]))


def carried(payload: bytes) -> bytes | None:
    """The note of a PNG; None where there is none, whatever the bytes are."""
    try:
        for kind, at, end in _chunks(payload):
            if _is_note(payload, kind, at):
                return payload[at + 8 + len(NOTE) : end - 4]
    except ValueError:
        return None
    return None


def content(payload: bytes) -> bytes:
    """What a PNG shows: its size, mode and pixels, and the chunks by which viewers show the same pixels differently.

    Texts, times and how well it is packed do not count. A `ValueError` or Pillow's own errors where the bytes are no
    whole PNG, or of over 64 megapixels.
    """
    look = b"".join(payload[at:end] for kind, at, end in _chunks(payload) if kind in LOOK)
    picture = Image.open(io.BytesIO(payload), formats=("PNG",))
    if picture.width * picture.height > MEGAPIXELS_AT_MOST * 10**6:
        raise ValueError(f"{picture.width} x {picture.height} pixels are over {MEGAPIXELS_AT_MOST} megapixels")
    picture.load()
    shown = picture.convert("RGBA") if picture.mode == "P" else picture  # a palette is part of the pixels
    return f"{shown.mode} {shown.width} {shown.height} ".encode() + shown.tobytes() + look


def judge(payload: bytes, spec: Mapping[str, Any]) -> None:
    """Refuse, by a `ValueError` or one of Pillow's own, what is no whole PNG of the size that `spec` says."""
    content(payload)
    with Image.open(io.BytesIO(payload), formats=("PNG",)) as picture:
        if picture.size != (spec["size"], spec["size"]):
            raise ValueError(f"it has {picture.width} x {picture.height} pixels instead of {spec['size']} squared")


def _chunks(payload: bytes) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each chunk, and from where to where it reaches; a `ValueError` where the bytes are no whole PNG."""
    if not payload.startswith(SIGNATURE):
        raise ValueError("these bytes are no PNG")
    at = len(SIGNATURE)
    while at + 12 <= len(payload):
        length, kind = struct.unpack_from(">I4s", payload, at)
        if at + 12 + length > len(payload):
            break
        yield kind, at, at + 12 + length
        if kind == b"IEND":
            return
        at += 12 + length
    raise ValueError("this PNG is cut off")


def _is_note(payload: bytes, kind: bytes, at: int) -> bool:
    return kind == b"iTXt" and payload.startswith(NOTE, at + 8)


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()
