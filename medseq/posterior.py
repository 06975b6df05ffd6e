"""The sampler: one loop, where prior and measurement meet. Every task is this loop with another measurement.

Half-quadratic splitting with Gaussian beliefs: the prior says where x lies and how sure that is, the measurement is
taken into account exactly, and noise of the next level is put back (in the family of DDS, arXiv 2303.05754, and
DDRM, arXiv 2201.11793, with EDM's noise levels).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from itertools import cycle, pairwise
from typing import Protocol

import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.noise import unit_noise

Level = float | Tensor
Denoiser = Callable[[Tensor, Level], Tensor]
Eta = float | Callable[[Level, Level], float]
Samples = Generator[Tensor, None, Tensor]  # yields every estimate and returns the last one


class Conditional(Protocol):
    """What the sampler asks of a measurement (`Measurement` is one)."""

    def draw(self, clean: Tensor, spread: Level, generator: torch.Generator | None = None) -> Tensor: ...

    def solve(self, clean: Tensor, spread: Level) -> Tensor: ...


def noise_levels(steps: int, high: float, low: float, rho: float = 7.0) -> list[float]:
    """`steps` levels from `high` down to `low`, then 0: steps + 1 values (EDM, arXiv 2206.00364, eq. 5).

    Raises UsageError unless steps >= 1 and high >= low > 0.
    """
    if steps < 1 or not high >= low > 0:
        raise UsageError(f"noise levels need steps >= 1 and high >= low > 0, got {steps}, {high:g}, {low:g}")
    if steps == 1:
        return [high, 0.0]
    a, b = high ** (1 / rho), low ** (1 / rho)
    return [(a + i / (steps - 1) * (b - a)) ** rho for i in range(steps)] + [0.0]


def turning(prior: Denoiser, windowed: Callable[[Denoiser], Denoiser] = lambda prior: prior) -> Denoiser:
    """The prior, shown the series in another way every time: mirrored in x, in y, laid on its side, as it is.

    Anatomy has no preferred side, but a network has: over a few levels its habits average out, at no price. windowed:
    makes a prior see a long series in windows, each of which is then turned when its turn comes.
    """
    views: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda x: x.flip(-1),
        lambda x: x.flip(-2),
        lambda x: x.transpose(-1, -2),
        lambda x: x,
    )
    turn = cycle(views)  # each is its own inverse

    def turned(x: Tensor, sigma: Level) -> Tensor:
        view = next(turn)
        return windowed(lambda part, level: view(prior(view(part), level)))(x, sigma)

    return turned


def ancestral(sigma: Level, below: Level) -> float:
    """The eta of a descent in which nothing is measured: what the two levels share of the noise is kept.

    sqrt(1 - eta^2) = below / sigma (the posterior of DDPM, Ho 2020, eq. 7). With a Gaussian prior the std is 0.97
    of the right one at 100 levels, 0.78 at 12. Levels that differ between frames must fall by one common ratio.
    """
    ratio = below / sigma
    least = float(ratio.max()) if isinstance(ratio, Tensor) else ratio
    return (1 - least**2) ** 0.5


def posterior_samples(
    prior: Denoiser,
    measurement: Conditional,
    levels: Sequence[Level],
    start: Tensor,
    *,
    spread: Callable[[Level], Level] | None = None,
    eta: Eta = 1.0,
    generator: torch.Generator | None = None,
) -> Samples:
    """Sample x given the measurement; yields the clean estimate after every level, the last of which is the sample.

    prior: any callable (x, sigma) -> E[x0 | x]. levels: decreasing, the last 0; each a number, or a tensor
    (B, 1, T, 1, 1) where frames differ. start: (B, 1, T, Y, X), x at levels[0], noise included.
    spread: std of x0 about the prior's answer, a function of sigma; default sigma itself (the Tweedie balance, which
    gives the right posterior of a Gaussian prior in the limit of many levels). eta: 1 puts fresh noise back, 0 the
    noise that the prior saw; or a function of two levels, as `ancestral`.
    """

    def consistent(clean: Tensor, width: Level) -> Tensor:
        return measurement.draw(clean, width, generator)

    return _descend(prior, consistent, levels, start, spread, eta, generator)


def best_images(
    prior: Denoiser,
    measurement: Conditional,
    levels: Sequence[Level],
    start: Tensor,
    *,
    spread: Callable[[Level], Level],
    eta: float = 0.0,
    generator: torch.Generator | None = None,
    refine: Callable[[Tensor], Tensor] | None = None,
) -> Samples:
    """The same loop for the single image of least error: the mean in place of a draw, so nothing is perturbed.

    start may come without noise: then levels[0] should be its error. With eta 0 nothing is random. spread: the RMSE of
    the prior at sigma, as measured. refine: takes every clean estimate but the last to the next state, in place of any
    noise. Other arguments and the result as in `posterior_samples`.
    """
    return _descend(prior, measurement.solve, levels, start, spread, eta, generator, refine)


def _descend(
    prior: Denoiser,
    consistent: Callable[[Tensor, Level], Tensor],
    levels: Sequence[Level],
    x: Tensor,
    spread: Callable[[Level], Level] | None,
    eta: Eta,
    generator: torch.Generator | None,
    refine: Callable[[Tensor], Tensor] | None = None,
) -> Samples:
    last = len(levels) - 1
    for number, (sigma, below) in enumerate(pairwise(levels), 1):
        with torch.no_grad():  # as a decorator it would hold the last estimate
            clean = prior(x, sigma)
            drift = None if number == last or refine is not None else (x - clean) / sigma
            # In its place: few series are held, each of which may be long.
            x = consistent(clean, sigma if spread is None else spread(sigma))
            del clean
        yield x
        if number == last:
            break
        with torch.no_grad():
            if drift is None:
                assert refine is not None
                x = refine(x)
            else:
                fresh = eta if isinstance(eta, float | int) else eta(sigma, below)
                x = x + below * ((1 - fresh**2) ** 0.5 * drift + fresh * unit_noise(x, generator))
    return x
