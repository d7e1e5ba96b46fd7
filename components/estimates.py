"""What a few measurements say of the number behind them: its mean, and how far it may be from that."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, variance
from typing import Self

from scipy.special import betaincinv  # scipy.stats takes half a second to import
from scipy.special import chdtri as chi_squared_quantile
from scipy.special import stdtrit as student_quantile


@dataclass(frozen=True)
class Estimate:
    """A mean, its standard error, and the degrees of freedom which that rests on; infinitely many where it is exact.

    `trials` is how many rows a share is of, None for any other number.
    """

    mean: float
    error: float
    freedom: float
    trials: int | None = None

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of independent measurements of the same number; one alone is taken as exact."""
        if len(values) == 1:
            return cls(values[0], 0.0, math.inf)
        return cls(fmean(values), math.sqrt(variance(values) / len(values)), len(values) - 1)

    @classmethod
    def of_shares(cls, shares: Sequence[float], rows: int) -> Self:
        """Of shares of as many rows each: as uncertain as a binomial count, or as they vary where that is far more.

        The error is that of two successes and two failures more (Agresti and Coull, 1998): not 0 where the share is.
        Few shares tell little of how they vary, so that they are taken for binomial up to a chance of 1 in 100.
        """
        seen, trials = cls.of(shares), rows * len(shares)
        centre = (seen.mean * trials + 2) / (trials + 4)
        binomial = math.sqrt(max(centre * (1 - centre), 0.0) / (trials + 4))
        if len(shares) > 1 and seen.freedom * (seen.error / binomial) ** 2 > chi_squared_quantile(seen.freedom, 0.01):
            return cls(seen.mean, seen.error, seen.freedom, trials)
        return cls(seen.mean, binomial, trials - 1, trials)

    @classmethod
    def of_parts(cls, mean: float, parts: Sequence[float]) -> Self:
        """Of a number that is `mean` over parts of the held-out side, which are taken as independent of each other."""
        return cls(mean, cls.of(parts).error, len(parts) - 1)

    def limits(self, confidence: float) -> tuple[float, float]:
        """The number is above the first, and below the second, with that confidence each.

        By Student's distribution; of shares also by Clopper and Pearson (1934), whichever reaches further.
        """
        reach = _reach(self.error, self.freedom, confidence)
        low, high = self.mean - reach, self.mean + reach
        if self.trials is None or not 0 <= self.mean <= 1:
            return low, high
        found = self.mean * self.trials
        exact_low = float(betaincinv(found, self.trials - found + 1, 1 - confidence)) if found else 0.0
        exact_high = float(betaincinv(found + 1, self.trials - found, confidence)) if found < self.trials else 1.0
        return max(0.0, min(low, exact_low)), min(1.0, max(high, exact_high))


def reach_between(one: Estimate, other: Estimate, confidence: float) -> float:
    """How much further apart two numbers may be than their means, one-sided (Welch, 1947)."""
    squared = one.error**2 + other.error**2
    if not squared:
        return 0.0
    freedom = squared**2 / (one.error**4 / one.freedom + other.error**4 / other.freedom)
    return _reach(math.sqrt(squared), freedom, confidence)


def _reach(error: float, freedom: float, confidence: float) -> float:
    if error == 0:
        return 0.0
    return float(student_quantile(freedom, confidence)) * error
