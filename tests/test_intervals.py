"""Intervals of clustered shares and means: closed forms, and how often they hold the truth."""

import random
from math import sqrt

import pytest
from scipy import stats

from guidance.intervals import Z, mean, share, student


def test_of_independent_hits_it_is_wilsons_interval() -> None:
    found = share([[True]] * 8 + [[False]] * 2)
    # Published for 8 of 10 (Newcombe 1998's method 3, any table of it).
    assert (found.value, found.low, found.high) == pytest.approx((0.8, 0.4902, 0.9433), abs=1e-4)


def test_copies_of_a_cluster_tell_nothing_new() -> None:
    hits = [True, True, False, True, False, True, True, True]
    once, often = share([[hit] for hit in hits]), share([[hit] * 5 for hit in hits])
    # As wide as the names alone allow, but for the k / (k - 1) of a variance from a sample.
    assert (often.value, often.low, often.high) == pytest.approx((once.value, once.low, once.high), abs=1e-9)


def test_hits_that_do_not_depend_on_their_cluster_are_all_counted() -> None:
    clusters = [[True, False]] * 20
    plain = share([[hit] for cluster in clusters for hit in cluster])
    assert share(clusters) == plain


@pytest.mark.parametrize("hit", [True, False])
def test_all_or_none_is_not_certain(hit: bool) -> None:
    found = share([[hit] * 6] * 10)
    width = Z**2 / (10 + Z**2)
    assert (found.high - found.low) == pytest.approx(width)
    assert found.value == pytest.approx(found.high if hit else found.low)


def test_one_cluster_has_no_interval() -> None:
    assert share([[True, False]]).low is None
    assert mean([[0.1, 0.2]]).high is None


def test_of_single_numbers_it_is_the_interval_of_a_mean() -> None:
    values = [0.1, 0.25, 0.3, 0.15, 0.5]
    found = mean([[value] for value in values])
    middle = sum(values) / 5
    deviation = sqrt(sum((value - middle) ** 2 for value in values) / 4)
    assert found.value == pytest.approx(middle)
    assert found.high - found.value == pytest.approx(2.776445 * deviation / sqrt(5), rel=1e-3)


@pytest.mark.parametrize("freedom", [1, 2, 3, 4, 5, 9, 30, 99, 10_000])
def test_students_t_is_scipys(freedom: int) -> None:
    assert student(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=1.3e-3)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """Names are easy or hard; intervals that took all drawings as independent would hold 74 % of the time."""
    draw = random.Random(0)
    share_held = mean_held = 0
    for _ in range(400):
        easy = [draw.betavariate(1, 1) for _ in range(60)]
        clusters = [[draw.random() < p for _ in range(8)] for p in easy]
        found, numbers = share(clusters), mean([[float(hit) for hit in cluster] for cluster in clusters])
        share_held += found.low <= 0.5 <= found.high
        mean_held += numbers.low <= 0.5 <= numbers.high
    assert 0.92 < share_held / 400 < 0.98
    assert 0.92 < mean_held / 400 < 0.98
