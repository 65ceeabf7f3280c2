"""Rates and thresholds of filters, by hand."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given
from sklearn.metrics import roc_auc_score

from keras_backdoor.detection import (
    auc,
    behind_filter,
    equal_quality_threshold,
    false_acceptance_rate,
    false_rejection_rate,
    normal_threshold,
    quantile_threshold,
)

CLEAN = np.array([0.2, 0.5, 0.9, 1.0])
TRIGGERED = np.array([0.1, 0.2, 0.2, 0.6, 0.9])


def test_rates_count_a_score_at_the_threshold_as_flagged():
    assert false_rejection_rate(CLEAN, 0.2) == 0.25
    assert false_rejection_rate(CLEAN, 0.19) == 0.0
    assert false_acceptance_rate(TRIGGERED, 0.2) == 0.4
    assert false_acceptance_rate(TRIGGERED, 0.9) == 0.0


def test_the_area_counts_pairs_that_are_in_order_and_ties_half():
    """0.1 lies below four clean ones, each 0.2 below three, 0.6 below two and 0.9 below one; three pairs are equal."""
    assert auc(CLEAN, TRIGGERED) == pytest.approx((13 + 1.5) / 20)
    assert auc(CLEAN, CLEAN) == 0.5
    assert auc(CLEAN, CLEAN - 2) == 1.0


scores = st.lists(st.integers(0, 9), min_size=1, max_size=30).map(lambda values: np.array(values) / 10)


@given(scores, scores)
def test_the_area_is_scikit_learns(clean, triggered):
    labels = np.repeat([1, 0], [len(clean), len(triggered)])
    assert auc(clean, triggered) == pytest.approx(roc_auc_score(labels, np.concatenate([clean, triggered])))


@given(scores, scores)
def test_the_equal_quality_threshold_beside_a_loop(clean, triggered):
    grid = np.linspace(clean.min(), triggered.max(), 100)
    gaps = [abs((triggered < t).mean() - (clean > t).mean()) for t in grid]
    chosen = equal_quality_threshold(clean, triggered)
    assert chosen in grid
    assert abs((triggered < chosen).mean() - (clean > chosen).mean()) == pytest.approx(min(gaps), abs=1e-12)


def test_the_equal_quality_threshold_by_hand():
    """From 0 to 9.9 in steps of 0.1: just above 3, three of four triggered ones are below and three of four clean ones above."""
    assert equal_quality_threshold(np.array([0, 6, 7, 8]), np.array([1, 2, 3, 9.9])) == pytest.approx(3.1)


def test_the_normal_threshold_by_hand():
    """Mean 5, deviation 2 (of the sample: sum of squares 20 over 5), and the standard normal's 1, 5 and 50 % points."""
    clean = np.array([2.0, 4, 5, 6, 8])
    for rate, point in ((0.01, -2.3263479), (0.05, -1.6448536), (0.5, 0.0)):
        assert normal_threshold(clean, rate) == pytest.approx(5 + 2 * point)
    assert normal_threshold(np.array([0.0] * 9 + [10.0]), 0.01) == pytest.approx(1 - 2.3263479 * 3)  # below all of them


def test_the_quantile_threshold_flags_the_share_whatever_the_distribution():
    clean = np.arange(1000) ** 3.0
    for share in (0.01, 0.03, 0.05):
        assert false_rejection_rate(clean, quantile_threshold(clean, share)) == pytest.approx(share, abs=0.001)
    assert quantile_threshold(np.array([0.0, 1, 2]), 0.25) == 0.5


@pytest.mark.parametrize("rule", [normal_threshold, quantile_threshold])
def test_scores_that_leave_no_threshold(rule, refused):
    with refused("all 5 have the score 0.7"):
        rule(np.full(5, 0.7), 0.01)
    with refused("finite"):
        rule(np.array([0.1, np.nan]), 0.01)


def test_rates_behind_a_filter_are_the_papers():
    """NNoculation's table 5: 97.76 % and 95.91 % behind STRIP at 5 % false rejections and 98.39 % false acceptances."""
    accuracy, success = behind_filter(0.9776, 0.9591, 0.05, 0.9839)
    assert (round(accuracy, 4), round(success, 4)) == (0.9287, 0.9437)
