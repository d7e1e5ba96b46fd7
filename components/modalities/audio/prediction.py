"""What linear prediction tells of sounds: a floor that a model of samples should beat.

Sixteen coefficients for all sounds, and around what they foretell a Laplace distribution as wide as the errors have
lately been: what lossless codecs do (Robinson, Shorten, 1994), with probabilities for codes. N samples, V classes.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

ORDER = 16
CLASSES = 256
DECAYS, FACTORS = (0.9, 0.95, 0.97, 0.985, 0.993), (0.7, 0.85, 1.0, 1.2)
FITTED = 60  # sounds by which both are chosen
LEAST = 2e-4  # of full scale: an error is never expected to be smaller


@dataclass(frozen=True)
class Predictor:
    """The coefficients, how slowly the width follows the errors, and how much wider it is than their mean."""

    weights: np.ndarray
    decay: float
    factor: float

    @classmethod
    def of(cls, sounds: Sequence[np.ndarray]) -> Self:
        """Of training sounds, each [N] in [-1, 1]: least squares, then the best of a few widths."""
        square, product = np.zeros((ORDER, ORDER)), np.zeros(ORDER)
        for sound in sounds:
            past, now = _past(sound), sound.astype(np.float64)
            square, product = square + past.T @ past, product + past.T @ now
        weights = np.linalg.solve(square + 1e-9 * np.trace(square) * np.eye(ORDER), product)
        tried = [cls(weights, decay, factor) for decay in DECAYS for factor in FACTORS]
        some = [sounds[at] for at in np.linspace(0, len(sounds) - 1, min(FITTED, len(sounds))).astype(int)]
        return min(tried, key=lambda one: one.bits_per_sample(some))

    def bits_per_sample(self, sounds: Iterable[np.ndarray]) -> float:
        """The mean over all samples of the bits that each one's class of 256 by mu-law takes, in order."""
        bits, count = 0.0, 0
        for sound in sounds:
            bits += float(self._bits(sound).sum())
            count += len(sound)
        return bits / count

    def _bits(self, sound: np.ndarray) -> np.ndarray:
        from scipy.signal import lfilter  # takes a second to import

        foretold = _past(sound) @ self.weights
        errors = np.abs(sound - foretold)
        lately = lfilter([1 - self.decay], [1, -self.decay], np.concatenate([[0.01], errors[:-1]]))
        width = np.maximum(self.factor * lately, LEAST)
        classes = _classes(sound)
        low, high = EDGES[classes], EDGES[classes + 1]
        chance = _below((high - foretold) / width) - _below((low - foretold) / width)
        bits: np.ndarray = -np.log2((1 - 1e-4) * chance + 1e-4 / CLASSES)
        return bits


def _past(sound: np.ndarray) -> np.ndarray:
    """The `ORDER` samples before each [N, ORDER], the latest first; silence before the first."""
    padded = np.concatenate([np.zeros(ORDER), sound.astype(np.float64)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, ORDER)[: len(sound)]
    return windows[:, ::-1]


def _classes(sound: np.ndarray) -> np.ndarray:
    bent = np.sign(sound) * np.log1p((CLASSES - 1) * np.abs(sound)) / np.log(CLASSES)
    classes: np.ndarray = np.clip(np.floor((bent + 1) / 2 * (CLASSES - 1) + 0.5), 0, CLASSES - 1).astype(int)
    return classes


def _edges() -> np.ndarray:
    """Between which samples [V + 1] each class lies; the outermost reach as far as a distribution does."""
    bent = 2 * (np.arange(1, CLASSES) - 0.5) / (CLASSES - 1) - 1
    inner = np.sign(bent) * np.expm1(np.abs(bent) * np.log(CLASSES)) / (CLASSES - 1)
    return np.concatenate([[-np.inf], inner, [np.inf]])


EDGES = _edges()


def _below(values: np.ndarray) -> np.ndarray:
    """The share of a Laplace distribution of width 1 that lies below."""
    tail = 0.5 * np.exp(-np.abs(values))
    share: np.ndarray = np.where(values < 0, tail, 1 - tail)
    return share
