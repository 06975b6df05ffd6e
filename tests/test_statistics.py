"""Paired statistics against closed forms, published figures and simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import stats

from medseq.errors import UsageError
from medseq.statistics import bland_altman, bootstrap_interval, paired

# Peak expiratory flow of 17 people by a large and a mini meter (Bland & Altman, Lancet 1986; i:307, table 1, first
# readings). They report: mean difference -2.1 l/min, std 38.8; with 2 std, as they took it there, limits -79.7 and
# 75.5; intervals of the bias -22.0 to 17.8, of the lower limit -114.3 to -45.1, of the upper 40.9 to 110.1.
WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def test_agreement_is_that_of_bland_and_altman() -> None:
    found = bland_altman(WRIGHT, MINI)
    assert (found.count, round(found.bias, 1), round(found.std, 1)) == (17, -2.1, 38.8)
    assert found.bias_interval == pytest.approx((-22.0, 17.8), abs=0.1)
    # 1.96 in place of 2 moves the limits by 0.04 std = 1.6, and narrows the factor of their error from sqrt 3 to 1.71.
    assert (found.lower, found.upper) == pytest.approx((-79.7 + 1.6, 75.5 - 1.6), abs=0.1)
    assert found.lower_interval == pytest.approx((-114.3 + 1.6, -45.1 + 1.6), abs=0.8)
    assert found.upper_interval == pytest.approx((40.9 - 1.6, 110.1 - 1.6), abs=0.8)


def test_limits_of_agreement_are_covered_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = []
    for _ in range(800):
        found = bland_altman(rng.normal(1, 2, 30), np.zeros(30))
        low, high = found.upper_interval
        held.append(low < 1 + 1.96 * 2 < high)
    assert np.mean(held) == pytest.approx(0.95, abs=0.025)


def test_bootstrap_intervals_cover_a_known_mean() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(120):
        low, high = bootstrap_interval(rng.exponential(3, 30), seed)
        held += low < 3 < high
    assert 105 <= held <= 119  # 0.95 expected, a little less of skewed values


def test_bootstrap_intervals_shift_and_scale_with_the_values_and_repeat() -> None:
    values = np.random.default_rng(1).gamma(2, 1, 20)
    low, high = bootstrap_interval(values)
    assert low < values.mean() < high
    assert high - values.mean() > 1.1 * (values.mean() - low)  # reaches further to where the values are skewed to
    assert bootstrap_interval(values) == (low, high)
    assert bootstrap_interval(5 + 2 * values) == pytest.approx((5 + 2 * low, 5 + 2 * high))


def test_what_has_no_interval_says_so() -> None:
    assert bootstrap_interval([1.0, 2.0]) is None
    assert bootstrap_interval([1.0, 2.0, float("inf")]) is None
    assert bootstrap_interval([2.5, 2.5, 2.5]) == (2.5, 2.5)


def test_paired_differences_are_tested_by_signed_ranks() -> None:
    rng = np.random.default_rng(2)
    other = rng.normal(30, 5, 12)
    one = other + rng.normal(0.6, 0.8, 12)
    found = paired(one, other)
    assert found.count == 12 and found.difference == pytest.approx((one - other).mean())
    assert found.p == pytest.approx(stats.wilcoxon(one, other).pvalue)
    assert found.interval == bootstrap_interval(one - other)
    back = paired(other, one)
    assert back.p == pytest.approx(found.p) and back.difference == pytest.approx(-found.difference)


def test_the_exact_p_of_few_cases() -> None:
    assert paired([1.1, 2.3, 3.6, 4.2, 5.7], [1, 2, 3, 4, 5]).p == pytest.approx(2 / 2**5)  # all of one sign
    assert paired([1, 2, 3], [1, 2, 3]).p == 1


@pytest.mark.parametrize(
    "refused",
    [
        lambda: paired([1.0], []),
        lambda: paired([], []),
        lambda: paired([1.0, float("inf")], [1.0, 2.0]),
        lambda: bland_altman([1.0, 2.0], [1.0, 3.0]),
    ],
)
def test_what_cannot_be_compared_is_refused(refused: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        refused()
