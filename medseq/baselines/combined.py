"""Two ways to say that a series is simple in time, at once: few temporal frequencies, and few jumps.

Their errors differ, so that together they do better than either at its best weight.
"""

from __future__ import annotations

from torch import Tensor

from medseq.baselines.linear import time_average
from medseq.baselines.proximal import accelerated, largest_frequency, soft_spectrum
from medseq.baselines.sparse import STILL
from medseq.baselines.variation import variation_step
from medseq.operators import LinearOp


def kt_sparse_tv(
    y: Tensor,
    A: LinearOp,
    *,
    threshold: float = 7e-4,
    weight: float = 3e-3,
    regularization: float = 3e-3,
    iterations: int = 40,
    start: Tensor | None = None,
    periodic: bool = False,
) -> Tensor:
    """k-t sparse and TV in time at once, by their proximal average (Bauschke 2008; Yu, NIPS 2013).

    The penalties are those of `kt_sparse` (`threshold`) and `temporal_tv` (`weight`, `periodic`), other arguments as
    there. Each step takes the mean of the two proximal maps, for the price of one gradient. Returns the image series
    (B, 1, T, Y, X).
    """
    b = A.adjoint(y)
    start = time_average(y, A, iterations=STILL) if start is None else start
    step = 1 / (1 + regularization)
    sparse = step * threshold * largest_frequency(b)
    few_jumps = variation_step(b, step * weight, (2,), periodic, inner=2)

    def gradient(x: Tensor) -> Tensor:
        return A.normal(x) + regularization * x - b

    def proximal(x: Tensor) -> Tensor:
        return (soft_spectrum(x, sparse) + few_jumps(x)) / 2

    return accelerated(gradient, proximal, start, step, iterations)
