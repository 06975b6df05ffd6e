"""Three ways to say that a series is simple in time, at once: few frequencies, few jumps, few courses in a patch.

Their errors differ, so that together they do better than each at its best weight.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from medseq.baselines.linear import time_average
from medseq.baselines.patches import local_rank_step
from medseq.baselines.proximal import accelerated, largest_frequency, least_squares, soft_spectrum
from medseq.baselines.sparse import STILL
from medseq.baselines.variation import variation_step
from medseq.operators import LinearOp


def kt_composite(
    y: Tensor,
    A: LinearOp,
    *,
    frequencies: float = 7e-4,
    jumps: float = 3e-3,
    rank: float = 1e-3,
    regularization: float = 3e-3,
    iterations: int = 40,
    start: Tensor | None = None,
    periodic: bool = False,
) -> Tensor:
    """k-t sparse, TV in time and locally low rank at once, by their proximal average (Bauschke 2008; Yu, NIPS 2013).

    The penalties are those of `kt_sparse` (`frequencies`), `temporal_tv` (`jumps`, `periodic`) and `locally_low_rank`
    (`rank`), other arguments as there. Each step takes the mean of the three proximal maps, for the price of one
    gradient. Returns the image series (B, 1, T, Y, X).
    """
    go_on = composite_descent(
        y, A, frequencies=frequencies, jumps=jumps, rank=rank, regularization=regularization, periodic=periodic
    )
    return go_on(time_average(y, A, iterations=STILL) if start is None else start, iterations)


def composite_descent(
    y: Tensor,
    A: LinearOp,
    *,
    frequencies: float = 7e-4,
    jumps: float = 3e-3,
    rank: float = 1e-3,
    regularization: float = 3e-3,
    periodic: bool = False,
) -> Callable[[Tensor, int], Tensor]:
    """The iterations of `kt_composite`, to be taken from anywhere: a function (series, iterations) -> series."""
    b = A.adjoint(y)
    step = 1 / (1 + regularization)
    amount = step * frequencies * largest_frequency(b)
    few_jumps = variation_step(b, step * jumps, (2,), periodic, inner=2)
    few_courses = local_rank_step(b, step * rank)
    gradient = least_squares(A, b, regularization)

    def proximal(x: Tensor) -> Tensor:
        return soft_spectrum(x, amount).add_(few_jumps(x)).add_(few_courses(x)).div_(3)

    return lambda x, iterations: accelerated(gradient, proximal, x, step, iterations)
