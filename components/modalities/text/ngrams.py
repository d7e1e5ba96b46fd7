"""What counting tells of texts: how well runs of bytes foretell the next, and which long spans were seen before.

N bytes of text.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

ORDER = 5
START = 256  # what stands before a text
BITS = 9  # of one symbol: a run of `ORDER` of them fits into a word
SPAN = 50  # bytes: long enough that chance and phrases that everybody uses do not make two alike
FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2^64


@dataclass(frozen=True)
class _Runs:
    """Runs of symbols that were seen, in order, and how often."""

    keys: np.ndarray
    counts: np.ndarray

    def count(self, keys_N: np.ndarray) -> np.ndarray:
        places_N = np.minimum(np.searchsorted(self.keys, keys_N), len(self.keys) - 1)
        return np.where(self.keys[places_N] == keys_N, self.counts[places_N], 0)


@dataclass(frozen=True)
class Ngrams:
    """A model of bytes by counts of runs of up to five, smoothed as Witten and Bell did (1991, method C).

    What a model that learns should beat: it takes seconds, and nobody has to choose anything.
    """

    runs: Sequence[_Runs]  # of each length from 1
    kinds: Sequence[_Runs]  # for runs of each length from 0: how many different bytes followed, and how often any did
    follows: Sequence[_Runs]

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        symbols = _symbols(texts)
        runs, kinds, follows = [], [], []
        for length in range(1, ORDER + 1):
            keys, counts = np.unique(_keys(symbols, length)[symbols[ORDER - 1 :] != START], return_counts=True)
            before = keys >> np.uint64(BITS)
            heads, first, kind = np.unique(before, return_index=True, return_counts=True)
            runs.append(_Runs(keys, counts))
            kinds.append(_Runs(heads, kind))
            follows.append(_Runs(heads, np.add.reduceat(counts, first)))
        return cls(runs, kinds, follows)

    def bits_per_byte(self, texts: Iterable[str]) -> float:
        """The mean over the bytes of some texts, each foretold by the four before it."""
        symbols = _symbols(texts)
        real_N = symbols[ORDER - 1 :] != START
        probability_N = np.full(int(real_N.sum()), 1 / 256)
        for length, run, kind, follow in zip(range(1, ORDER + 1), self.runs, self.kinds, self.follows, strict=True):
            keys_N = _keys(symbols, length)[real_N]
            before_N = keys_N >> np.uint64(BITS)
            kind_N, follow_N = kind.count(before_N), follow.count(before_N)
            seen_N = follow_N > 0
            mixed_N = (run.count(keys_N) + kind_N * probability_N) / np.maximum(kind_N + follow_N, 1)
            probability_N = np.where(seen_N, mixed_N, probability_N)
        return float(-np.log2(probability_N).mean())


def _symbols(texts: Iterable[str]) -> np.ndarray:
    """The bytes of all texts one after another, with `START` often enough before each that no run crosses it."""
    gap = np.full(ORDER - 1, START, np.uint64)
    parts = [part for text in texts for part in (gap, np.frombuffer(text.encode(), np.uint8).astype(np.uint64))]
    return np.concatenate([gap, *parts])


def _keys(symbols: np.ndarray, length: int) -> np.ndarray:
    """The run of so many symbols that ends at each place from `ORDER` - 1 on, as one number."""
    ends = len(symbols) - ORDER + 1
    key = np.zeros(ends, np.uint64)
    for place in range(ORDER - length, ORDER):
        key = key << np.uint64(BITS) | symbols[place : place + ends]
    return key


@dataclass(frozen=True)
class Spans:
    """Every span of `SPAN` bytes in some texts, by a hash of 64 bits: of 10^7 spans two agree by chance in 10^-6."""

    hashes: np.ndarray

    @classmethod
    def of(cls, texts: Iterable[str]) -> Self:
        return cls(np.unique(np.concatenate([np.empty(0, np.uint64), *(_hashes(text.encode()) for text in texts)])))

    def share(self, texts: Iterable[str]) -> float:
        """Which share of the spans of some texts stands here too, word for word; 0 where no text is so long."""
        spans = np.concatenate([np.empty(0, np.uint64), *(_hashes(text.encode()) for text in texts)])
        if not len(spans) or not len(self.hashes):
            return 0.0
        places = np.minimum(np.searchsorted(self.hashes, spans), len(self.hashes) - 1)
        return float((self.hashes[places] == spans).mean())

    def found(self, text: str) -> list[tuple[int, int]]:
        """Where in a text spans begin and end that stand here too, in characters; neighbours are joined."""
        payload = text.encode()
        spans = _hashes(payload)
        if not len(spans) or not len(self.hashes):
            return []
        places = np.minimum(np.searchsorted(self.hashes, spans), len(self.hashes) - 1)
        joined: list[list[int]] = []
        for start in np.flatnonzero(self.hashes[places] == spans).tolist():
            if joined and start <= joined[-1][1]:
                joined[-1][1] = start + SPAN
            else:
                joined.append([start, start + SPAN])
        return [
            (len(payload[:start].decode(errors="ignore")), len(payload[:end].decode(errors="ignore")))
            for start, end in joined
        ]


def _hashes(payload: bytes) -> np.ndarray:
    """A polynomial of the bytes of each span, modulo 2^64; numpy's whole numbers wrap as that needs."""
    if len(payload) < SPAN:
        return np.empty(0, np.uint64)
    powers = np.cumprod(np.full(len(payload), FACTOR, np.uint64))
    heaped = np.concatenate(
        [np.zeros(1, np.uint64), np.cumsum((np.frombuffer(payload, np.uint8) + np.uint64(1)) * powers)]
    )
    spans = heaped[SPAN:] - heaped[:-SPAN]
    back = np.cumprod(np.full(len(spans), np.uint64(pow(int(FACTOR), -1, 2**64)), np.uint64))
    hashed: np.ndarray = spans * back
    return hashed
