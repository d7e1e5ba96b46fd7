"""How often each key came before, for very many keys: 12 bytes each, where a dictionary needs 150."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass
class Repeats:
    """Counts of 8-byte keys, in sorted runs of which each is at least twice as long as the next."""

    _runs: list[tuple[NDArray[np.uint64], NDArray[np.uint32]]] = field(default_factory=list)

    def named(self, names: Sequence[str], keys: Sequence[bytes]) -> list[str]:
        """The names, with `-2` and so on where the key of one came before."""
        ordinals = self.ordinals(keys)
        return [name if n == 1 else f"{name}-{n}" for name, n in zip(names, ordinals, strict=True)]

    def ordinals(self, keys: Sequence[bytes]) -> list[int]:
        """For each key which time it comes, from 1, over all calls so far; of a key the first 8 bytes count."""
        numbers = np.frombuffer(b"".join(key[:8] for key in keys), dtype=">u8").astype(np.uint64)
        unique, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
        before = self._add(unique, counts.astype(np.uint32))
        order = np.argsort(inverse, kind="stable")
        starts = np.cumsum(counts) - counts
        ordinals = np.empty(len(numbers), dtype=np.int64)
        ordinals[order] = np.arange(len(numbers)) - starts[inverse[order]]
        found: list[int] = (ordinals + before[inverse] + 1).tolist()
        return found

    def _add(self, unique: NDArray[np.uint64], counts: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Count sorted unique keys; how often each came before."""
        before = np.zeros(len(unique), dtype=np.int64)
        fresh = np.ones(len(unique), dtype=bool)
        for known, times in self._runs:
            places = np.minimum(np.searchsorted(known, unique), len(known) - 1)
            hit = known[places] == unique
            before[hit] = times[places[hit]]
            times[places[hit]] += counts[hit]
            fresh &= ~hit
        if fresh.any():
            self._runs.append((unique[fresh], counts[fresh]))
        while len(self._runs) > 1 and 2 * len(self._runs[-1][0]) > len(self._runs[-2][0]):
            (last, its), (first, theirs) = self._runs.pop(), self._runs.pop()
            keys = np.concatenate([first, last])
            order = np.argsort(keys, kind="stable")
            self._runs.append((keys[order], np.concatenate([theirs, its])[order]))
        return before
