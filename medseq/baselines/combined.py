"""Three ways to say that a series is simple in time, at once: few frequencies, few jumps, few courses in a patch.

Their errors differ, so that together they do better than each at its best weight: all in every iteration
(`kt_composite`), or in turns (`cyclic_descent`), which costs a third.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import cycle

from torch import Tensor

from medseq.baselines.linear import time_average
from medseq.baselines.patches import local_rank_step, shrunk_patches
from medseq.baselines.proximal import accelerated, largest_frequency, least_squares, rows_at_once, soft_spectrum
from medseq.baselines.sparse import STILL
from medseq.baselines.variation import variation_step
from medseq.operators import LinearOp


@dataclass(frozen=True)
class Weights:
    """Of the penalties of `kt_sparse` (frequencies), `temporal_tv` (jumps) and `locally_low_rank` (rank), as there."""

    frequencies: float = 7e-4
    jumps: float = 3e-3
    rank: float = 1e-3
    regularization: float = 3e-3


# In turns: chosen on animated stills at 8 times undersampling, from rounds of each alone to all three, and then fixed.
CYCLIC = Weights(frequencies=2e-4)
FIRST_FREQUENCIES = 5e-3
_PATCH = 16  # fewer decompositions than patches of 8, in half of their time
_LONG_STEP, _CARRIED = 1.3, 0.9  # just stable (see `accelerated`) for operators of norm 1


def kt_composite(
    y: Tensor,
    A: LinearOp,
    *,
    weights: Weights = Weights(),  # noqa: B008 (frozen)
    iterations: int = 40,
    start: Tensor | None = None,
    periodic: bool = False,
) -> Tensor:
    """k-t sparse, TV in time and locally low rank at once, by their proximal average (Bauschke 2008; Yu, NIPS 2013).

    Each step takes the mean of the three proximal maps, for the price of one gradient. start: as for `kt_sparse`;
    periodic: as for `temporal_tv`. Returns the image series (B, 1, T, Y, X).
    """
    start = time_average(y, A, iterations=STILL) if start is None else start
    b = A.adjoint(y)
    return composite_descent(lambda: b, A, weights=weights, periodic=periodic)(start, iterations)


def composite_descent(
    project: Callable[[], Tensor],
    A: LinearOp,
    *,
    weights: Weights = Weights(),  # noqa: B008 (frozen)
    periodic: bool = False,
) -> Callable[[Tensor, int], Tensor]:
    """The iterations of `kt_composite`, to be taken from anywhere: a function (series, iterations) -> series.

    project: makes A^H y (B, 1, T, Y, X), all that they ask of the measurement, whenever some are taken.
    """
    b = project()
    step = 1 / (1 + weights.regularization)
    amount = step * weights.frequencies * largest_frequency(b)
    few_jumps = variation_step(b, step * weights.jumps, (2,), periodic, inner=2)
    few_courses = local_rank_step(b, step * weights.rank)
    del b

    def proximal(x: Tensor) -> Tensor:
        for rows, shrink in few_courses():
            few = shrink(x.index_select(3, rows))
            at_once = rows_at_once(x)
            for some, courses in zip(rows.split(at_once), few.split(at_once, dim=3), strict=True):
                part = x.index_select(3, some)
                mean = soft_spectrum(part, amount).add_(few_jumps(part, some)).add_(courses).div_(3)
                x.index_copy_(3, some, mean)
        return x

    def descent(x: Tensor, iterations: int) -> Tensor:
        return accelerated(least_squares(A, project(), weights.regularization), proximal, x, step, iterations)

    return descent


def cyclic_descent(b: Tensor, *, weights: Weights = CYCLIC, periodic: bool = False) -> Callable[..., Tensor]:
    """The penalties of `kt_composite` in turns, one an iteration (incremental proximal gradients: Bertsekas, Math.
    Program. 2011), with steps and momentum large from the start: on animated stills three rounds come within 0.3 dB of
    30 iterations of that one, in an eighth of the time.

    A function (project, A, series, rounds, first=weight) -> series: rounds of three iterations each. project: as for
    `composite_descent`; b: what it gives, or nearly so, to which weights are relative. first: the weight of frequencies
    in the first round, from where it falls by a common ratio (continuation: Hale, Yin and Zhang, SIAM J. Optim. 2008):
    the strong frequencies come first, without the aliases that they cast over the weak ones.
    """
    step = _LONG_STEP / (1 + weights.regularization)
    amount = step * largest_frequency(b)
    few_jumps = variation_step(b, step * weights.jumps, (2,), periodic, inner=1)
    few_courses = local_rank_step(b, step * weights.rank, _PATCH)
    del b

    def descent(
        project: Callable[[], Tensor], A: LinearOp, x: Tensor, rounds: int, first: float = weights.frequencies
    ) -> Tensor:
        ratio = (weights.frequencies / first) ** (1 / max(1, rounds - 1))
        falling = (amount * (first * ratio**number) for number in range(rounds))
        penalties: tuple[Callable[[Tensor], Tensor], ...] = (
            lambda x: few_jumps(x, None),
            lambda x: soft_spectrum(x, next(falling)),
            lambda x: shrunk_patches(few_courses(), x),
        )
        turns = cycle(penalties)
        gradient = least_squares(A, project(), weights.regularization)
        return accelerated(gradient, lambda x: next(turns)(x), x, step, 3 * rounds, carried=_CARRIED)

    return descent
