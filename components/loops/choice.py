"""What the loops share: how they are compiled, products, and how a class is chosen from what a network says of it.

N streams, I inputs, O outputs, V classes; float32 throughout.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

try:
    import numba
except ImportError:  # it is in the lock, but nothing here needs it to be right
    numba = None

TOGETHER = 8  # streams that share each column of a matrix while it is in the nearest cache
GREEDY = -1.0  # as a stream's temperature: the likeliest class each time


def compiled(loop: Callable[..., Any], *, otherwise: Callable[..., Any]) -> Callable[..., Any]:
    """The loop as machine code, which is kept beside its source; without numba, what does the same by numpy."""
    if numba is None:
        return otherwise
    quick = numba.njit(nogil=True, error_model="numpy")(loop)
    with suppress(RuntimeError):  # where no folder can be written to, each process compiles anew
        quick.enable_caching()
    return quick  # type: ignore[no-any-return]


def part(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that a compiled loop calls."""
    return function if numba is None else numba.njit(error_model="numpy", fastmath={"contract"})(function)


def add_product(inputs_NI: np.ndarray, weights_IO: np.ndarray, sums_NO: np.ndarray) -> None:
    """Add to each row of sums its inputs times the weights.

    Eight inputs at a time, so that a sum is read and written once for eight products; the order in which a row is
    summed does not depend on the others.
    """
    inputs, outputs = weights_IO.shape
    eights = inputs - inputs % 8
    for i in range(0, eights, 8):
        for n in range(len(inputs_NI)):
            a, b, c, d = inputs_NI[n, i], inputs_NI[n, i + 1], inputs_NI[n, i + 2], inputs_NI[n, i + 3]
            e, f, g, h = inputs_NI[n, i + 4], inputs_NI[n, i + 5], inputs_NI[n, i + 6], inputs_NI[n, i + 7]
            for o in range(outputs):
                sums_NO[n, o] += (
                    (a * weights_IO[i, o] + b * weights_IO[i + 1, o])
                    + (c * weights_IO[i + 2, o] + d * weights_IO[i + 3, o])
                ) + (
                    (e * weights_IO[i + 4, o] + f * weights_IO[i + 5, o])
                    + (g * weights_IO[i + 6, o] + h * weights_IO[i + 7, o])
                )
    for i in range(eights, inputs):
        for n in range(len(inputs_NI)):
            for o in range(outputs):
                sums_NO[n, o] += weights_IO[i, o] * inputs_NI[n, i]


def chosen(logits_V: np.ndarray, temperature: float, uniform: float, shares_V: np.ndarray) -> int:
    """A class by its share, or the likeliest; `shares_V` is written over, and its shares are heaped in doubles."""
    best = _likeliest(logits_V)
    if temperature < 0:
        return best
    _exponentials(logits_V, logits_V[best], 1.0 / temperature, shares_V)
    total = 0.0
    for o in range(len(shares_V)):
        total += shares_V[o]
    wanted, heap = uniform * total, 0.0
    for o in range(len(shares_V)):
        heap += shares_V[o]
        if heap > wanted:
            return o
    return best


def _likeliest(logits_V: np.ndarray) -> int:
    """The first class of the highest logit; lanes of maxima, since one alone would wait for each comparison."""
    lanes = np.full(16, logits_V[0])
    whole = len(logits_V) // 16
    for block in range(whole):
        for lane in range(16):
            lanes[lane] = max(lanes[lane], logits_V[16 * block + lane])
    highest = lanes.max()
    for o in range(16 * whole, len(logits_V)):
        highest = max(highest, logits_V[o])
    for o in range(len(logits_V)):
        if logits_V[o] == highest:
            return o
    return 0  # no number among them


def _exponentials(logits_V: np.ndarray, highest: float, scale: float, shares_V: np.ndarray) -> None:
    """exp((logit - highest) * scale) to 2e-5 above exp(-20), by a series at a 64th of it and six squarings."""
    step = np.float32(scale / 64)
    for o in range(len(logits_V)):
        x = max((logits_V[o] - highest) * step, np.float32(-1.3))
        y = np.float32(1 / 24) + x * (np.float32(1 / 120) + x * np.float32(1 / 720))
        y = np.float32(1) + x * (np.float32(1) + x * (np.float32(1 / 2) + x * (np.float32(1 / 6) + x * y)))
        y *= y
        y *= y
        y *= y
        y *= y
        y *= y
        shares_V[o] = y * y


def chosen_by_numpy(logits: np.ndarray, temperature: float, uniform: float) -> int:
    """The same, of a whole array at a time."""
    exact = logits.astype(np.float64)
    best = int(exact.argmax())
    if temperature < 0:
        return best
    heap = np.cumsum(np.exp((exact - exact[best]) / temperature))
    return min(int(np.searchsorted(heap, uniform * heap[-1], side="right")), len(heap) - 1)


def bend(values: np.ndarray) -> None:
    """The hyperbolic tangent of each in place, to 1e-4: Lambert's continued fraction, 7 levels deep."""
    for c in range(len(values)):
        x = min(max(values[c], np.float32(-4.97)), np.float32(4.97))
        s = x * x
        top = x * (np.float32(135135.0) + s * (np.float32(17325.0) + s * (np.float32(378.0) + s)))
        low = np.float32(135135.0) + s * (np.float32(62370.0) + s * (np.float32(3150.0) + s * np.float32(28.0)))
        values[c] = min(max(top / low, np.float32(-1.0)), np.float32(1.0))


add_product, bend = part(add_product), part(bend)
_likeliest, _exponentials = part(_likeliest), part(_exponentials)
chosen = part(chosen)
