"""What the loops share: how they are compiled, and how a class is chosen from what a network says of it."""

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
    return function if numba is None else numba.njit(error_model="numpy")(function)


def chosen(logits: np.ndarray, temperature: float, uniform: float) -> int:
    """A class by its share, or the likeliest; shares are heaped in doubles."""
    best = 0
    for o in range(len(logits)):
        if logits[o] > logits[best]:
            best = o
    if temperature < 0:
        return best
    total = 0.0
    for o in range(len(logits)):
        total += np.exp((logits[o] - logits[best]) / temperature)
    wanted, heap = uniform * total, 0.0
    for o in range(len(logits)):
        heap += np.exp((logits[o] - logits[best]) / temperature)
        if heap > wanted:
            return o
    return best


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


chosen, bend = part(chosen), part(bend)
