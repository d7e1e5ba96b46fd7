"""A picture in a few numbers that say nothing of what it shows: what monitoring keeps of the samples that are served.

Light enough for the endpoints: `rows.py`, which tells data, needs libraries that they do without.
"""

import numpy as np
from PIL import Image

from components.modalities.image.codec import decode, flat

LONGEST = 512  # pixels a side that are looked at: a larger picture is reduced first


def features(payload: bytes) -> dict[str, float]:
    """Of an encoded picture, by its grey levels in [0, 1].

    `mean`; `spread`, their deviation; `edges`, the mean step between neighbours; `entropy` of the 256 levels in bits;
    `lean`, how much brighter the right half is than the left; `colour`, the mean range of a pixel's channels.
    """
    picture = decode(payload)
    if (side := max(picture.size)) > LONGEST:
        picture = picture.reduce(-(-side // LONGEST))
    levels = np.asarray(flat(picture, channels=1))
    grey = levels.astype(np.float32) / 255
    shares = np.bincount(levels.ravel(), minlength=256) / levels.size
    half = grey.shape[1] // 2
    return {
        "mean": float(grey.mean()),
        "spread": float(grey.std()),
        "edges": float(np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()) / 2,
        "entropy": float(-(shares * np.log2(np.maximum(shares, 1e-12))).sum()),
        "lean": float(grey[:, half:].mean() - grey[:, :half].mean()),
        "colour": _colour(picture),
    }


def _colour(picture: Image.Image) -> float:
    if picture.mode in ("L", "1") or picture.mode.startswith("I"):
        return 0.0
    return float(np.ptp(np.asarray(flat(picture, channels=3)), axis=2).mean()) / 255
