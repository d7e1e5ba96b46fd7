"""Small pictures for the tests of image families."""

import torch

from components.modalities.image.batch import Images


def blobs(count: int, size: int = 8) -> Images:
    """Bright squares on black [count, 1, size, size], each at its own place; labels say which half it is in."""
    pixels = torch.full((count, 1, size, size), -1.0)
    for i in range(count):
        top, left = i % (size - 3), (3 * i) % (size - 3)
        pixels[i, 0, top : top + 3, left : left + 3] = 0.8
    return Images(pixels, torch.arange(count) % 2)
