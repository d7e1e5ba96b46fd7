"""How pictures travel: PNG bytes."""

import io

import numpy as np
from PIL import Image
from torch import Tensor

from components.modalities.image.batch import Images, ImageSpec

MEDIA_TYPE = "image/png"
SUFFIX = ".png"


def encode(images: Images, spec: ImageSpec | None = None) -> list[bytes]:
    """One PNG per row, which says itself what other modalities need the spec for.

    Values outside [-1, 1] are clipped, since a network's output may overshoot by rounding.
    """
    return [_png(pixels) for pixels in to_bytes(images.pixels)]


def to_bytes(pixels: Tensor) -> np.ndarray:
    """Pixels [B, c, h, w] in [-1, 1] as uint8 [B, h, w, c]."""
    levels = ((pixels.detach().cpu().float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return levels.permute(0, 2, 3, 1).numpy()


def grid(images: Images, *, columns: int, scale: int = 2) -> bytes:
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


def _png(pixels: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).save(stream, "PNG")
    return stream.getvalue()
