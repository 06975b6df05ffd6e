"""Figures of many cases put together: means with intervals, paired tests, agreement with the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from medseq.evaluate import REFERENCE, Figure
from medseq.provenance import plain
from medseq.statistics import Agreement, Interval, Paired, bland_altman, bootstrap_interval, paired

FEWEST_CASES = 3  # for agreement and intervals


@dataclass(frozen=True)
class Quantity:
    """What is told of: a metric in a region."""

    metric: str
    region: str
    unit: str


@dataclass(frozen=True)
class Mean:
    """Of one method over the cases that have the figure. interval: of the mean, 95 %, bootstrap over cases."""

    quantity: Quantity
    method: str
    count: int
    mean: float
    std: float
    interval: Interval | None


@dataclass(frozen=True)
class Comparison:
    """`method` less `against`, over the cases where both have a finite figure."""

    quantity: Quantity
    method: str
    against: str
    found: Paired


@dataclass(frozen=True)
class Agreeing:
    """How a method's figure agrees with that of the reference over cases."""

    quantity: Quantity
    method: str
    found: Agreement


@dataclass(frozen=True)
class Summary:
    """cases: their number. Comparisons are those of the first method with each other one; p values stand as they are,
    not corrected for how many there are."""

    cases: int
    methods: list[str]
    means: list[Mean]
    comparisons: list[Comparison]
    agreements: list[Agreeing]

    def as_json(self) -> dict[str, Any]:
        """Plain values; what is not finite becomes None."""
        return plain(asdict(self))


def summarise(figures: Sequence[Figure], seed: int = 0) -> Summary:
    """Put the figures of one or many cases together; the method that comes first is compared with the others.

    Paired differences need two cases, agreement (of figures that the reference has, too) three.
    """
    cases = list(dict.fromkeys(figure.case for figure in figures))
    methods = [m for m in dict.fromkeys(figure.method for figure in figures) if m != REFERENCE]
    table: dict[Quantity, dict[str, dict[str, float]]] = {}
    for f in figures:
        of_method = table.setdefault(Quantity(f.metric, f.region, f.unit), {}).setdefault(f.method, {})
        of_method[f.case] = f.value
    summary = Summary(len(cases), methods, [], [], [])
    for quantity, by_method in table.items():
        for method, values in by_method.items():
            summary.means.append(_mean(quantity, method, list(values.values()), seed))
        for method in methods[1:]:
            one, other = _pairs(by_method, methods[0], method)
            if len(one) > 1:
                summary.comparisons.append(Comparison(quantity, methods[0], method, paired(one, other, seed)))
        for method in methods:
            one, other = _pairs(by_method, method, REFERENCE)
            if len(one) >= FEWEST_CASES:
                summary.agreements.append(Agreeing(quantity, method, bland_altman(one, other)))
    return summary


def _mean(quantity: Quantity, method: str, values: list[float], seed: int) -> Mean:
    finite = len(values) > 1 and np.isfinite(values).all()
    std = float(np.std(values, ddof=1)) if finite else math.nan
    return Mean(quantity, method, len(values), float(np.mean(values)), std, bootstrap_interval(values, seed))


def _pairs(by_method: dict[str, dict[str, float]], one: str, other: str) -> tuple[list[float], list[float]]:
    a, b = by_method.get(one, {}), by_method.get(other, {})
    both = [case for case in a if case in b and math.isfinite(a[case]) and math.isfinite(b[case])]
    return [a[case] for case in both], [b[case] for case in both]
