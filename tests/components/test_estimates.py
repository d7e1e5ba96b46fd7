"""Intervals hold as often as they say, by drawing from what is known."""

import math

import numpy as np
import pytest

from components.estimates import Estimate, reach_between


def within(estimate: Estimate, truth: float, confidence: float) -> tuple[bool, bool]:
    low, high = estimate.limits(confidence)
    return low <= truth, truth <= high


@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_each_end_of_a_mean_holds_as_often_as_it_says(confidence: float) -> None:
    generator = np.random.default_rng(0)
    drawn = [Estimate.of(list(generator.normal(3.0, 2.0, 3))) for _ in range(4000)]
    held = np.mean([within(estimate, 3.0, confidence) for estimate in drawn], axis=0)
    assert np.abs(held - confidence).max() < 0.015


@pytest.mark.parametrize("share", [0.0005, 0.01, 0.5, 0.99])
def test_each_end_of_a_share_holds_at_least_as_often_as_it_says(share: float) -> None:
    generator = np.random.default_rng(0)
    drawn = [Estimate.of_shares(list(generator.binomial(500, share, 3) / 500), 500) for _ in range(2000)]
    held = np.mean([within(estimate, share, 0.95) for estimate in drawn], axis=0)
    assert (held > 0.94).all()
    assert all(0 <= end <= 1 for estimate in drawn for end in estimate.limits(0.95))


def test_shares_that_vary_more_than_rows_do_are_taken_as_they_vary() -> None:
    wide = Estimate.of_shares([0.2, 0.5, 0.8], 10_000)
    assert wide.error == pytest.approx(0.3 / math.sqrt(3))
    assert wide.freedom == 2


def test_the_difference_of_two_means_reaches_as_far_as_it_says() -> None:
    generator = np.random.default_rng(0)
    held = []
    for _ in range(4000):
        one, other = (Estimate.of(list(generator.normal(0, spread, 3))) for spread in (1.0, 3.0))
        held.append(one.mean - other.mean + reach_between(one, other, 0.95) >= 0)
    assert np.mean(held) == pytest.approx(0.95, abs=0.02)


def test_one_number_and_equal_ones_are_exact() -> None:
    assert Estimate.of([2.0]).limits(0.95) == Estimate.of([2.0, 2.0]).limits(0.95) == (2.0, 2.0)
    assert reach_between(Estimate.of([2.0]), Estimate.of([2.0, 2.0]), 0.95) == 0
