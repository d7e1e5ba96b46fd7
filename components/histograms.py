"""Values in bins that are the same for everybody, so that any two windows compare and memory stays what it is.

A number falls into one of 27,661 bins by its sign and magnitude, each 0.2% wide; a word into one of its own, up to
1,000 of them. `Groups` joins the bins that a reference fills into few that hold about a tenth of it each.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

LEAST, MOST = 1e-6, 1e6  # magnitudes that are told apart; what is less is 0
WIDTH = math.log(1.002)
SIDE = math.ceil(math.log(MOST / LEAST) / WIDTH)  # bins of one sign
BINS = 2 * SIDE + 1
LACKING = -1
WORDS = 1000  # that are told apart
REST = "(others)"
NONE = "(none)"
GROUPS = 10  # of a reference
HEAVY = 0.1  # the share from which on a value has a group of its own


def bins_of(values: np.ndarray) -> np.ndarray:
    """The bin of each number, in their order: negative ones, 0, positive ones; `LACKING` for NaN and the infinities."""
    finite = np.isfinite(values)
    known = np.where(finite, values, 0.0)
    sizes = np.abs(known)
    steps = (np.log(np.clip(sizes, LEAST, MOST) / LEAST) / WIDTH + 1e-9).astype(np.int64)
    steps = np.minimum(steps, SIDE - 1) + 1
    signs = np.sign(known).astype(np.int64) * (sizes >= LEAST)
    return np.where(finite, SIDE + signs * steps, LACKING)


def value_of(number: int) -> float:
    """The middle of a bin."""
    step = abs(number - SIDE)
    return 0.0 if step == 0 else math.copysign(LEAST * math.exp((step - 0.5) * WIDTH), number - SIDE)


@dataclass
class Numbers:
    """How many numbers fell into each bin; `lacking` of them were none."""

    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    lacking: int = 0

    def add(self, bins: np.ndarray) -> None:
        """Count values by their bins; `LACKING` is none."""
        filled = bins[bins >= 0]
        self.lacking += len(bins) - len(filled)
        self.counts += np.bincount(filled, minlength=BINS)

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    def quantile(self, share: float) -> float:
        """The value that such a share of the numbers does not pass, to 0.1%; NaN of none."""
        if not self.count:
            return math.nan
        return value_of(int(np.searchsorted(np.cumsum(self.counts), max(1, math.ceil(share * self.count)))))


@dataclass
class Words:
    """How often each word came; beyond so many different ones they are `REST`."""

    counts: dict[str, int] = field(default_factory=dict)

    def add(self, told: Mapping[str, int]) -> None:
        """Count words."""
        for word, count in told.items():
            known = word if word in self.counts or len(self.counts) < WORDS else REST
            self.counts[known] = self.counts.get(known, 0) + count


@dataclass(frozen=True)
class Groups:
    """A few groups that a reference fills: of numbers by the first bin of each group but the first, or of words.

    The last group of words takes all others; the last of numbers what has none, where the reference has a value for
    some rows and none for others.
    """

    starts: tuple[int, ...] = ()
    words: tuple[str, ...] = ()
    lacks: bool = False

    @classmethod
    def of_numbers(cls, numbers: Numbers, *, lacks: bool = False) -> "Groups":
        """About a tenth of the reference each; a value that is more than that alone has a group of its own.

        What lies beside such a value is a group too, though the reference has nothing there: it would be news.
        """
        total, starts = max(numbers.count, 1), set[int]()
        filled = np.flatnonzero(numbers.counts)
        heavy = [int(number) for number in filled if numbers.counts[number] > HEAVY * total]
        for number in heavy:
            starts |= {number, number + 1}
        gathered = 0
        for number in map(int, filled):
            if number in heavy:
                gathered = 0
                continue
            gathered += int(numbers.counts[number])
            if gathered >= total / GROUPS:
                starts.add(number + 1)
                gathered = 0
        return cls(starts=tuple(sorted(start for start in starts if 0 < start < BINS)), lacks=lacks)

    @classmethod
    def of_words(cls, words: Words) -> "Groups":
        """Each word that is a hundredth of the reference, up to twenty; the rest together."""
        total = sum(words.counts.values())
        often = sorted(((count, word) for word, count in words.counts.items() if word != REST), reverse=True)[:20]
        return cls(words=tuple(word for count, word in often if count >= total / 100))

    @property
    def count(self) -> int:
        return len(self.words) + 1 if self.words else len(self.starts) + 1 + self.lacks

    def of(self, bins: np.ndarray) -> np.ndarray:
        """The group of each number by its bin; -1 for what has no value, where that is no group."""
        groups = np.searchsorted(np.asarray(self.starts, np.int64), bins, side="right")
        return np.where(bins >= 0, groups, self.count - 1 if self.lacks else -1)

    def of_word(self, word: str) -> int:
        """The group of a word."""
        return self.words.index(word) if word in self.words else len(self.words)

    def names(self) -> list[str]:
        """What each group is, for a person."""
        if self.words:
            return [*self.words, REST]
        if not self.starts:
            return ["all", *([NONE] if self.lacks else [])]
        ends = (0, *self.starts, BINS)
        told = [_stretch(first, after) for first, after in pairwise(ends)]
        return [*told, *([NONE] if self.lacks else [])]

    def as_json(self) -> dict[str, Any]:
        """What `from_json` takes."""
        return {"starts": list(self.starts), "words": list(self.words), "lacks": self.lacks}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Groups":
        """Groups as `as_json` told them."""
        return cls(tuple(told["starts"]), tuple(told["words"]), bool(told["lacks"]))


def shift(reference: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The population stability index between counts [..., groups] of the same groups: 0 where the shares are equal.

    The sum of (w - r) ln(w / r) over the shares, each count with half a row more, so that an empty group is no
    infinity.
    """
    before, now = reference + 0.5, window + 0.5
    before, now = before / before.sum(axis=-1, keepdims=True), now / now.sum(axis=-1, keepdims=True)
    index: np.ndarray = ((now - before) * np.log(now / before)).sum(axis=-1)
    return index


@dataclass(frozen=True)
class Shift:
    """How far a window is from its reference: the index without its bias, and between what it lies."""

    value: float
    low: float
    high: float


def shifted(reference: np.ndarray, window: np.ndarray, *, reach: float) -> Shift:
    """The shift between counts [blocks, groups] of both sides, by the jackknife over their blocks.

    A block is a stretch of time; leaving each out in turn tells how much the index owes to chance, also where
    neighbouring rows are alike: its bias, which is not small for few rows, and its standard error, of which `reach`
    many lie on either side.
    """
    whole = float(shift(reference.sum(axis=0), window.sum(axis=0)))
    bias = variance = 0.0
    for side, other in ((reference, window), (window, reference)):  # the index is the same either way
        filled = side[side.sum(axis=1) > 0]
        if (n := len(filled)) < 2:
            continue
        without = shift(filled.sum(axis=0) - filled, other.sum(axis=0))
        bias += (n - 1) * (float(without.mean()) - whole)
        variance += (n - 1) / n * float(np.square(without - without.mean()).sum())
    value, error = max(0.0, whole - bias), math.sqrt(variance)
    return Shift(value, max(0.0, value - reach * error), value + reach * error)


def in_blocks(groups: np.ndarray, blocks: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Counts [blocks, groups] of rows in a group and a block each; those in group -1 are left out."""
    kept = groups >= 0
    places = blocks[kept] * shape[1] + groups[kept]
    return np.bincount(places, minlength=shape[0] * shape[1]).reshape(shape)


def _stretch(first: int, after: int) -> str:
    """The bins from one to before another, in few digits."""
    if after == first + 1:
        return f"{value_of(first):.3g}"
    if first == 0:
        return f"under {value_of(after):.3g}"
    return f"over {value_of(first - 1):.3g}" if after == BINS else f"{value_of(first):.3g} to {value_of(after - 1):.3g}"


def largest(reference: np.ndarray, window: np.ndarray, count: int = 12) -> list[int]:
    """The groups to show, in their order: those whose shares are largest on either side."""
    sizes = np.maximum(reference, window)
    return sorted(int(at) for at in np.argsort(-sizes, kind="stable")[:count] if sizes[at] > 0)
