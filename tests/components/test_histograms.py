"""Bins that are the same for everybody, groups that follow a reference, and how far a window is from it."""

import math

import numpy as np
import pytest

from components import histograms
from components.histograms import BINS, LACKING, Groups, Numbers, Words, bins_of, shift, shifted, value_of


def counted(values) -> Numbers:
    numbers = Numbers()
    numbers.add(bins_of(np.asarray(values, float)))
    return numbers


def test_bins_are_in_the_order_of_their_values_and_as_fine_as_they_say():
    lots = np.random.default_rng(0)
    values = np.concatenate(
        [lots.normal(size=2000), 10 ** lots.uniform(-6, 6, 2000), -(10 ** lots.uniform(-6, 6, 2000))]
    )
    ordered = np.sort(values)
    bins = bins_of(ordered)
    assert (np.diff(bins) >= 0).all() and bins.min() >= 0 and bins.max() < BINS
    told = np.array([value_of(number) for number in bins])
    far = np.abs(ordered) >= 1e-6
    assert np.allclose(told[far], ordered[far], rtol=0.002) and (told[~far] == 0).all()
    assert bins_of(np.array([math.nan, math.inf, 0.0, 1e9])).tolist() == [LACKING, LACKING, BINS // 2, BINS - 1]


@pytest.mark.parametrize("share", [0.05, 0.5, 0.95])
def test_quantiles(share):
    values = np.random.default_rng(1).gamma(2, 0.01, 5000)
    assert counted(values).quantile(share) == pytest.approx(np.quantile(values, share), rel=0.01)


def test_groups_of_smooth_numbers_are_tenths():
    values = np.random.default_rng(2).normal(size=10_000)
    groups = Groups.of_numbers(counted(values))
    shares = np.bincount(groups.of(bins_of(values)), minlength=groups.count) / len(values)
    assert groups.count == 10 and np.allclose(shares, 0.1, atol=0.01)


def test_a_value_that_most_have_is_a_group_and_so_are_its_sides_though_they_are_empty():
    groups = Groups.of_numbers(counted(np.ones(100)))
    assert groups.names() == ["under 1", "1", "over 1"]
    assert groups.of(bins_of(np.array([0.5, 1.0, 1.2, math.nan]))).tolist() == [0, 1, 2, -1]
    lacking = Groups.of_numbers(counted(np.ones(100)), lacks=True)
    assert lacking.names()[-1] == histograms.NONE and lacking.of(bins_of(np.array([math.nan]))).tolist() == [3]
    assert Groups.from_json(lacking.as_json()) == lacking


def test_words_are_groups_where_they_are_frequent_and_bounded_in_number():
    words = Words()
    words.add({"bag": 700, "shoe": 295, "hat": 5})
    groups = Groups.of_words(words)
    assert groups.names() == ["bag", "shoe", histograms.REST]
    assert [groups.of_word(word) for word in ("shoe", "hat", "never seen")] == [1, 2, 2]
    for number in range(3 * histograms.WORDS):
        words.add({f"{number}": 1})
    assert len(words.counts) == histograms.WORDS + 1 and sum(words.counts.values()) == 1000 + 3 * histograms.WORDS


def test_the_shift_of_known_shares():
    before, now = np.array([5e8, 5e8]), np.array([8e8, 2e8])
    assert shift(before, now) == pytest.approx(0.3 * math.log(0.8 / 0.5) + (-0.3) * math.log(0.2 / 0.5))
    assert shift(before, before) == 0 and math.isfinite(shift(np.array([10, 0]), np.array([0, 10])))


def test_the_jackknife_takes_the_bias_of_few_rows_away_and_is_wider_where_neighbours_are_alike():
    lots = np.random.default_rng(3)

    def blocks(rows, alike):
        shares = lots.dirichlet(np.full(10, 1e6 if not alike else 30), 24)
        return np.array([lots.multinomial(rows // 24, share) for share in shares])

    for alike in (False, True):
        pairs = [(blocks(480, alike), blocks(480, alike)) for _ in range(60)]
        naive = [shift(before.sum(axis=0), now.sum(axis=0)) for before, now in pairs]
        found = [shifted(before, now, reach=2.0) for before, now in pairs]
        assert np.mean([one.value for one in found]) < np.mean(naive) / 2
        assert np.mean([one.low == 0 for one in found]) > 0.95
    assert shifted(np.array([[9, 1]]), np.array([[1, 9]]), reach=2.0).low > 1, "a single stretch tells no error"


def test_the_interval_holds_what_it_should():
    """Of samples from known shares: the true shift lies above the lower end as often as a reach of two says."""
    lots = np.random.default_rng(4)
    before, now = np.full(5, 0.2), np.array([0.3, 0.25, 0.2, 0.15, 0.1])
    truth = float(((now - before) * np.log(now / before)).sum())
    found = [shifted(lots.multinomial(100, before, 24), lots.multinomial(100, now, 24), reach=2.0) for _ in range(300)]
    assert np.mean([one.low <= truth for one in found]) > 0.95
    assert np.mean([one.low <= truth <= one.high for one in found]) > 0.9
    assert np.mean([one.low > truth / 3 for one in found]) > 0.9, "it is no wide one"
