"""What can be said of paired figures over several cases: intervals of their mean, tests, limits of agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseq.errors import UsageError

LEVEL = 0.95
_RESAMPLES = 9999
_FEWEST = 3  # values: the jackknife of BCa has nothing to say of fewer

Interval = tuple[float, float]


@dataclass(frozen=True)
class Paired:
    """A method less another over the same cases. count: of cases. difference: its mean; interval: that mean's, of the
    bootstrap over cases, None for fewer than 3. p: of Wilcoxon's signed-rank test, two-sided."""

    count: int
    difference: float
    interval: Interval | None
    p: float


@dataclass(frozen=True)
class Agreement:
    """A measurement less its reference (Bland & Altman 1999), each figure with its 95 % interval.

    count: of cases. bias: the mean difference. lower, upper: bias -+ 1.96 std, between which 95 % of differences lie
    if they are normal and do not depend on what is measured. std: of the sample.
    """

    count: int
    bias: float
    bias_interval: Interval
    std: float
    lower: float
    lower_interval: Interval
    upper: float
    upper_interval: Interval


def bootstrap_interval(values: Sequence[float], seed: int = 0) -> Interval | None:
    """95 % interval of the mean of independent values, by the bias-corrected and accelerated bootstrap (Efron 1987).

    None for fewer than 3 values, and for any that is not finite. Below about 10 the interval is too narrow.
    """
    from scipy.stats import bootstrap

    sample = np.asarray(values, dtype=np.float64)
    if len(sample) < _FEWEST or not np.isfinite(sample).all():
        return None
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    found = bootstrap(
        (sample,),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=LEVEL,
        method="BCa",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def paired(one: Sequence[float], other: Sequence[float], seed: int = 0) -> Paired:
    """`one` less `other` of the same cases in the same order. Raises UsageError for unequal numbers, none, or infinity.

    With n cases the smallest p there can be is 2^(1 - n): five cannot reach 0.05.
    """
    from scipy.stats import wilcoxon

    difference = _difference(one, other, fewest=1)
    p = float(wilcoxon(difference).pvalue) if difference.any() else 1.0
    return Paired(len(difference), float(difference.mean()), bootstrap_interval(difference.tolist(), seed), p)


def bland_altman(measured: Sequence[float], reference: Sequence[float]) -> Agreement:
    """Agreement of a measurement with its reference over cases (Bland & Altman, Stat Methods Med Res 1999; 8:135).

    The standard error of the bias is s / sqrt(n), that of a limit s sqrt(1 / n + 1.96^2 / (2 (n - 1))); intervals by
    the t distribution of n - 1 degrees of freedom. Raises UsageError for unequal numbers or fewer than 3.
    """
    from scipy.special import stdtrit

    difference = _difference(measured, reference, fewest=_FEWEST)
    count, bias, std = len(difference), float(difference.mean()), float(difference.std(ddof=1))
    t = float(stdtrit(count - 1, (1 + LEVEL) / 2))
    of_bias = t * std / math.sqrt(count)
    of_limit = t * std * math.sqrt(1 / count + 1.96**2 / (2 * (count - 1)))
    lower, upper = bias - 1.96 * std, bias + 1.96 * std
    return Agreement(
        count=count,
        bias=bias,
        bias_interval=(bias - of_bias, bias + of_bias),
        std=std,
        lower=lower,
        lower_interval=(lower - of_limit, lower + of_limit),
        upper=upper,
        upper_interval=(upper - of_limit, upper + of_limit),
    )


def _difference(one: Sequence[float], other: Sequence[float], fewest: int) -> np.ndarray:
    if len(one) != len(other) or len(one) < fewest:
        raise UsageError(f"at least {fewest} pairs are compared, got {len(one)} and {len(other)} values")
    difference = np.asarray(one, dtype=np.float64) - np.asarray(other, dtype=np.float64)
    if not np.isfinite(difference).all():
        raise UsageError("a figure that is not finite cannot be compared over cases")
    return difference
