"""How far a result is from the truth, voxel by voxel: a std whose intervals cover what they promise.

Nobody knows the error of a result, but some things go with it: where the result has moved far from its start, where it
bends in time, where its edges are, how far draws lie apart. A calibration is a weighted geometric mean of such
evidence, fitted once to simulated series whose truth is known. Afterwards the std is stretched so that the Gaussian
90 % interval covers 90 % of those series' voxels (split-conformal prediction: Papadopoulos 2002, Lei 2018); intervals
of other shares have factors of their own, as errors have heavier tails than a Gaussian.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medseq.baselines.smoothing import gaussian_smoothing
from medseq.network import shifted

GAUSSIAN_90 = 1.6449  # a Gaussian lies within so many stds with 90 %
SHARES = (0.5, 0.8, 0.9)
_WIDTH = 3.5  # voxels: the full width at half maximum that evidence is averaged over
_LEAST = 0.05  # of the expected error: evidence below it tells nothing any more


def evidence(
    result: Tensor, start: Tensor, expected: float | Tensor, draws: Tensor | None = None, *, periodic: bool = False
) -> dict[str, Tensor]:
    """What goes with the error of a result (1, 1, T, Y, X), each (1, 1, T, Y, X), real and in the units of the result.

    start: what the sampler started from. expected: RMSE of the start in each real channel, a number or broadcastable.
    draws: std of the magnitude over several draws. In turn: `expected`; `change`, from start to result; `bending`, from
    a frame to the mean of both neighbours; `edges`, the gradient of the magnitude; `draws`. Each is a local root mean
    square over 3.5 voxels and, with half the weight each, the neighbouring frames.
    """
    magnitude = result.abs()
    series = torch.as_tensor(expected, dtype=magnitude.dtype, device=magnitude.device).expand(magnitude.shape)
    neighbours = (_frame(result, 1, periodic) + _frame(result, -1, periodic)) / 2
    slope = torch.gradient(magnitude, dim=(-2, -1))
    found = {
        "expected": series,
        "change": _local_rms(result - start, periodic),
        "bending": _local_rms(result - neighbours, periodic),
        "edges": _local_rms(torch.hypot(*slope), periodic),
    }
    return found if draws is None else {**found, "draws": _local_rms(draws, periodic)}


@dataclass(frozen=True)
class Calibration:
    """std = e^constant * expected^(1 - sum of weights) * product of evidence^weight * acceleration^gain.

    weights: by the name of the evidence, none negative, so that more of any evidence never means less std; constant,
    gain. factors: for the shares of `SHARES`, how many stds an interval about the magnitude reaches each way to cover
    that share. steps: of the sampler that it was fitted with. about: what it was fitted on.

    Raises ValueError for weights or factors that are negative or not finite.
    """

    weights: Mapping[str, float]
    constant: float
    gain: float
    factors: tuple[float, ...]
    steps: int
    about: str = ""

    def __post_init__(self) -> None:
        numbers = torch.tensor([*self.weights.values(), *self.factors, 0.0])
        if not bool((torch.isfinite(numbers) & (numbers >= 0)).all()) or len(self.factors) != len(SHARES):
            raise ValueError("a calibration needs finite weights and factors, none of them negative")
        if not bool(torch.isfinite(torch.tensor([self.constant, self.gain])).all()):
            raise ValueError("a calibration needs a finite constant and gain")

    def std(self, found: Mapping[str, Tensor], acceleration: float = 1.0) -> Tensor:
        """The std of the magnitude, from what `evidence` gives. acceleration: voxels over measured samples a coil."""
        expected = found["expected"]
        log = self.constant + self.gain * torch.log(torch.tensor(acceleration)) + torch.log(expected)
        for name, weight in self.weights.items():
            log = log + weight * _relative(found[name], expected)
        return log.exp()


@dataclass(frozen=True)
class Case:
    """Voxels of a series whose truth is known: what was found there (N,), and the error of the magnitude (N,)."""

    found: Mapping[str, Tensor]
    error: Tensor
    acceleration: float = 1.0


def fit(cases: Sequence[Case], names: Sequence[str], steps: int, about: str = "", *, rounds: int = 200) -> Calibration:
    """The calibration under which the errors of the cases are most likely (Laplace), every case counting alike.

    names: the evidence to use. Weights that would be negative are left at 0. Then the factors: for each share the
    quantile of |error| / std over all cases, the std stretched so that that of 90 % is the Gaussian one.
    """
    rows = [torch.stack([_relative(case.found[n], case.found["expected"]) for n in names]).double() for case in cases]
    gains = torch.cat([torch.full((r.shape[1],), case.acceleration).log() for r, case in zip(rows, cases, strict=True)])
    share = torch.cat([torch.full((r.shape[1],), 1 / r.shape[1] / len(cases)).double() for r in rows])
    base = torch.cat([case.found["expected"] for case in cases]).double().log()
    error = torch.cat([case.error for case in cases]).double().abs()
    design = torch.cat([torch.cat(rows, dim=1), gains.double()[None], torch.ones_like(base)[None]])
    moves = torch.ones(len(design), dtype=torch.float64)
    if not bool(gains.any()):
        moves[-2] = 0  # with one acceleration its gain cannot be told from the constant
    weight = torch.full((len(design),), 0.1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight], max_iter=rounds, line_search_fn="strong_wolfe")

    def coefficients() -> Tensor:
        free = weight * moves
        return torch.cat([free[: len(names)].square(), free[len(names) :]])

    def closure() -> Tensor:
        optimizer.zero_grad()
        log = coefficients() @ design + base
        loss = (share * (log + error * torch.exp(-log))).sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    found = coefficients().detach().tolist()
    raw = Calibration(dict(zip(names, found, strict=False)), found[-1], found[-2], (1.0,) * len(SHARES), steps, about)
    return _stretched(raw, cases)


def coverage(calibration: Calibration, case: Case) -> list[float]:
    """The share of the voxels of a case that the interval of each of `SHARES` covers."""
    ratio = case.error.abs() / calibration.std(case.found, case.acceleration)
    return [float((ratio <= factor).double().mean()) for factor in calibration.factors]


def _stretched(raw: Calibration, cases: Sequence[Case]) -> Calibration:
    ratio = torch.cat([case.error.abs() / raw.std(case.found, case.acceleration) for case in cases]).double()
    weight = torch.cat([torch.full_like(case.error, 1 / len(case.error)) for case in cases]).double()
    order = ratio.argsort()
    reached = weight[order].cumsum(0) / weight.sum()
    at = [float(ratio[order][(reached < share).sum().clamp(max=len(order) - 1)]) for share in SHARES]
    stretch = at[-1] / GAUSSIAN_90
    constant = raw.constant + float(torch.tensor(stretch).log())
    return replace(raw, constant=constant, factors=tuple(quantile / stretch for quantile in at))


def _relative(value: Tensor, expected: Tensor) -> Tensor:
    """log of a piece of evidence over the expected error, never far below 0 as nothing can be told there."""
    return torch.log((value / expected).square() + _LEAST**2) / 2


def _frame(x: Tensor, step: int, periodic: bool) -> Tensor:
    return shifted(x.movedim(2, 1), step, periodic).movedim(1, 2)


def _local_rms(x: Tensor, periodic: bool) -> Tensor:
    power = gaussian_smoothing(x.abs().square(), _WIDTH, (1.0, 1.0, 1.0))
    power = power / 2 + (_frame(power, 1, periodic) + _frame(power, -1, periodic)) / 4
    return power.clamp(min=0).sqrt()
