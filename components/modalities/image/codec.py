"""How pictures travel: PNG bytes, which can carry a note; and how whatever callers and data sources give is read."""

import io
import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:  # who only reads the note of a picture does without torch
    from torch import Tensor

    from components.modalities.image.batch import Images, ImageSpec

MEDIA_TYPE = "image/png"
SUFFIX = ".png"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")
MEGAPIXELS_AT_MOST = 64  # Pillow itself only warns until 179
GIVEN_FORMATS = ("PNG", "JPEG", "WEBP")
GIVEN_MEGAPIXELS_AT_MOST = 16
JPEG, JPEG_SCAN = b"\xff\xd8", b"\xff\xda"
SCANS_AT_MOST = 100  # a progressive JPEG has about ten, and may hold one in forty bytes
SIGNATURE = b"\x89PNG\r\n\x1a\n"
NOTE = b"atelier\0\0\0\0\0"  # of an iTXt chunk: keyword, not compressed, of no language
# by which viewers show the same pixels otherwise; iDOT has Apple's decoders unpack half of them from elsewhere
LOOK = tuple(b"acTL fcTL fdAT tRNS gAMA cHRM sRGB iCCP cICP mDCV cLLI eXIf iDOT".split())


def encode(images: "Images", spec: "ImageSpec | None" = None) -> list[bytes]:
    """One PNG per row, which says itself what other modalities need the spec for.

    Values outside [-1, 1] are clipped, since a network's output may overshoot by rounding.
    """
    return [_png(pixels) for pixels in to_bytes(images.pixels)]


def to_bytes(pixels: "Tensor") -> np.ndarray:
    """Pixels [B, c, h, w] in [-1, 1] as uint8 [B, h, w, c]."""
    levels = ((pixels.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return levels.permute(0, 2, 3, 1).numpy()


def read(payload: bytes, spec: "ImageSpec") -> "Images":
    """A picture that a caller gives, as one row of that spec; a `ValueError` of one sentence where it is none.

    It is fitted as the data are. Only what people send is read, PNG, JPEG and WebP, of at most 16 megapixels.
    """
    if payload.startswith(JPEG) and payload.count(JPEG_SCAN) > SCANS_AT_MOST:
        raise ValueError(f"the picture has over {SCANS_AT_MOST} scans, each of which is as much work as a whole one")
    try:
        picture = decode(payload, formats=GIVEN_FORMATS, megapixels=GIVEN_MEGAPIXELS_AT_MOST)
        pixels = fitted(picture, size=spec.size, channels=spec.channels)
    except Exception as error:  # noqa: BLE001 - hostile bytes make a decoder raise anything at all
        why = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"the picture cannot be read: {why}") from None
    return spec.row(pixels)


def example(spec: Mapping[str, Any]) -> bytes:
    """A picture to ask an editing model of such a spec about: a slope from black to white."""
    slope = np.linspace(0, 255, spec["size"]).round().astype(np.uint8)
    return _png(np.broadcast_to(slope[:, None], (spec["size"], spec["size"], spec["channels"])).copy())


def decode(payload: bytes, *, formats: tuple[str, ...] = FORMATS, megapixels: int = MEGAPIXELS_AT_MOST) -> Image.Image:
    """The first frame, upright as its EXIF says; a `ValueError` or Pillow's own errors where the bytes are no picture.

    A picture of over so many megapixels is refused by the size in its header, before any pixel is unpacked.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of bombs, whose limit below is lower, and of broken EXIF, which turns nothing
        try:
            picture = Image.open(io.BytesIO(payload), formats=formats)
        except UnidentifiedImageError:
            raise ValueError(f"these bytes are none of {', '.join(formats)}") from None
        if picture.width * picture.height > megapixels * 10**6:
            raise ValueError(f"its header says {picture.width} x {picture.height} pixels, over {megapixels} megapixels")
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


def fitted(picture: Image.Image, *, size: int, channels: int) -> bytes:
    """The picture as bytes [channels, size, size]; what is not square is cropped at its centre."""
    picture = flat(picture, channels=channels)
    if picture.size != (size, size):
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        box = (left, top, left + side, top + side)
        picture = picture.crop(box).resize((size, size), Image.Resampling.LANCZOS)
    if channels == 1:
        return picture.tobytes()
    return np.asarray(picture).transpose(2, 0, 1).tobytes()


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
