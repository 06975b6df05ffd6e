"""Whether a series is one of those that the prior has learnt: how well it predicts what it was not shown.

Each measure is compared with what it is on simulated hearts of as much noise and as few lines. A score of 1 is that of
a typical heart, 2 is what one in fifty simulated hearts exceeds by that measure, and the worst measure counts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from medseq.baselines.smoothing import gaussian_smoothing

LIMIT = 2.0  # a score above it is told
_ONE_IN_FIFTY = 2.054  # stds of a Gaussian
_WIDTH = 12.0  # voxels: the full width at half maximum over which a residual is averaged
_SMALLEST = 0.02  # of the noise power: an error that is told no better than this


@dataclass(frozen=True)
class Expectation:
    """log of a measure on simulated hearts: constant + sum of slope * fact, and the std about it, `width`.

    Raises ValueError for a width that is not positive.
    """

    constant: float
    slopes: Mapping[str, float]
    width: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.constant + sum(self.slopes.values())) and 0 < self.width < math.inf):
            raise ValueError("an expectation needs finite slopes and a positive width")

    def surprise(self, value: float, facts: Mapping[str, float]) -> float:
        """By how many stds a measure lies above what is expected."""
        centre = self.constant + sum(slope * facts[name] for name, slope in self.slopes.items())
        return (math.log(value) - centre) / self.width


def expectation(values: Sequence[float], facts: Sequence[Mapping[str, float]], names: Sequence[str]) -> Expectation:
    """The least-squares expectation of a measure over series, from the facts `names` that are known of each."""
    design = torch.tensor([[1.0, *(fact[name] for name in names)] for fact in facts], dtype=torch.float64)
    target = torch.tensor(values, dtype=torch.float64).log()
    found = torch.linalg.lstsq(design, target[:, None], driver="gelsd").solution[:, 0]
    free = max(1, len(values) - len(names) - 1)
    width = float(((target - design @ found).square().sum() / free).sqrt())
    return Expectation(float(found[0]), dict(zip(names, found[1:].tolist(), strict=True)), width)


def score(surprises: Sequence[float]) -> float:
    """From how surprising each measure is to one number: 2^(z / 2.054) of the most surprising."""
    return 2.0 ** (max(surprises) / _ONE_IN_FIFTY)


def left_out_measures(
    denoiser: Callable[[Tensor, float], Tensor],
    blind: Tensor,
    error: float,
    power: Callable[[Tensor], float],
    sigma: float,
) -> dict[str, float]:
    """How the prior predicts measured lines that were left out. `gain`: power of its error over that of its input;
    `unexplained`: the error of its prediction, as a share of the series' scale.

    blind: an image series of unit scale made without those lines, its `error`. power: of what an image gets wrong on
    those lines, in each real channel, the noise (of std sigma) included.
    """
    with torch.no_grad():
        clean = denoiser(blind, error)
    before, after = (max(power(image) - sigma**2, _SMALLEST * sigma**2) for image in (blind, clean))
    return {"gain": after / before, "unexplained": after**0.5}


def residual_measures(residual: Tensor, sigma: float | Tensor) -> dict[str, float]:
    """Whether what was taken away looks like noise. `unevenness`: 98th percentile of its local power over the median.

    residual: (1, 1, T, Y, X) measured minus result; sigma: its noise. The structures that a prior does not know are
    taken away with the noise, where they are.
    """
    power = (residual / sigma).abs().square().mean(2, keepdim=True)
    local = gaussian_smoothing(power, _WIDTH, (1.0, 1.0, 1.0)).flatten()
    return {"unevenness": float(local.quantile(0.98) / local.median())}
