"""A classical reconstruction to start from, and its error, estimated without the truth.

Some measured lines are left out, the reconstruction is made without them, and what it says about them is compared
with what was measured there (cross-validation; Ward, Int. J. Imaging Syst. Technol. 2007, for compressed sensing).
A few more iterations then take them in.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import overload

import torch
from torch import Tensor

from medseq.acquisition import average_image, image_of
from medseq.baselines import composite_descent, cyclic_descent, wavelet
from medseq.baselines.combined import FIRST_FREQUENCIES
from medseq.clip import KSpace, Trajectory
from medseq.coils import average_of, full_centre
from medseq.measurement import ByFrames, Measured, back_projection, chunks, frames_of, made_once, projection
from medseq.nonuniform import NonUniform, balanced
from medseq.operators import Coils, Fourier, LinearOp, Mask

ITERATIONS = 25  # without the lines left out
FINISHING = 5  # with all lines
STILL_ITERATIONS = 30  # of one frame
ROUNDS = 4  # of three iterations, of the quick start
LEFT_OUT = 0.05  # share of the lines


def sense_operator(keep: Tensor, maps: Tensor, trajectory: Trajectory | None = None) -> LinearOp:
    """A = Mask . Fourier . Coils, on the grid or along a trajectory."""
    if trajectory is not None:
        return NonUniform(trajectory, keep) @ Coils(maps)
    return Mask(keep) @ Fourier() @ Coils(maps)


@overload
def classical_problem(
    y: Tensor, keep: Tensor, maps: Tensor, trajectory: Trajectory | None
) -> tuple[Tensor, LinearOp]: ...


@overload
def classical_problem(
    y: Measured, keep: Tensor, maps: Tensor, trajectory: Trajectory | None = None
) -> tuple[Measured, LinearOp]: ...


def classical_problem(
    y: Measured, keep: Tensor, maps: Tensor, trajectory: Trajectory | None = None
) -> tuple[Measured, LinearOp]:
    """y and its operator as the classical methods take them, of norm at most 1: along a trajectory both `balanced`."""
    if trajectory is None:
        return y, sense_operator(keep, maps)
    weights = balanced(trajectory, keep)

    def weighted(chunk: slice) -> Tensor:
        part = weights if weights.shape[2] == 1 else weights[:, :, chunk]
        return torch.where(part != 0, frames_of(y, chunk), 0) * part

    whole = slice(0, y.shape[2])
    return (
        ByFrames(y.shape, y.device, weighted) if isinstance(y, ByFrames) else weighted(whole),
        NonUniform(trajectory, weights) @ Coils(maps),
    )


@dataclass(frozen=True)
class Blind:
    """image: (B, 1, T, Y, X), before the lines left out came in. power: the mean power, in each real channel, of what
    an image gets wrong on those lines."""

    image: Tensor
    power: Callable[[Tensor], float]


@dataclass(frozen=True)
class Start:
    """image: (B, 1, T, Y, X). error: its RMSE in each real channel. go_on: (image, number) -> image, more iterations of
    the same reconstruction from any image, or rounds of the quick one; None for one frame. blind: None when no lines
    are left out."""

    image: Tensor
    error: float
    go_on: Callable[[Tensor, int], Tensor] | None
    blind: Blind | None


def warm_start(
    y: Measured,
    keep: Tensor,
    maps: Tensor,
    sigma: float,
    seed: int,
    *,
    periodic: bool = False,
    trajectory: Trajectory | None = None,
    quick: bool = False,
    average: Tensor | None = None,
) -> Start:
    """`kt_composite` of `y` (of one frame, `wavelet`), stopped early, and its error.

    quick: rounds of `cyclic_descent` in its place, which do not see the lines left out; they come in when it goes on.
    average: the time average (B, 1, 1, Y, X) to begin with, where it is known already.

    y: (B, C, T, Y, X) k-space, or (B, C, T, S, N) along the trajectory; keep: bool, broadcastable; maps: (B, C, 1, Y,
    X); sigma: noise std of y. With nothing to leave out (fully sampled) the error is that of the noise alone.
    """
    out = left_out(y, keep, seed, trajectory)
    # What is left out of y, the mask of an operator or the weights see to.
    y_part, part = classical_problem(y, keep & ~out, maps, trajectory)
    whole, A = classical_problem(y, keep, maps, trajectory)
    go_on: Callable[[Tensor, int], Tensor] | None = None
    project = projection(whole, A)
    if y.shape[2] == 1:
        one = slice(0, 1)
        blind = wavelet(frames_of(y_part, one), part, iterations=STILL_ITERATIONS)
        image = wavelet(frames_of(whole, one), A, iterations=STILL_ITERATIONS)
    else:
        average = _average_image(y, keep, maps, trajectory) if average is None else average
        average = average.expand(-1, -1, y.shape[2], -1, -1)
        if trajectory is None:  # of the few lines left out it is quickly made
            few = partial(back_projection, y, sense_operator(keep & out, maps))
            of_part = made_once(lambda: project() - few(), y.shape[2])
        else:
            of_part = projection(y_part, part)
        if quick:
            descent = cyclic_descent(project(), periodic=periodic)
            image = blind = descent(of_part, part, average, ROUNDS, FIRST_FREQUENCIES)
            go_on = partial(descent, project, A)
        else:
            blind = composite_descent(of_part, part, periodic=periodic)(average, ITERATIONS)
            go_on = composite_descent(project, A, periodic=periodic)
            image = go_on(blind, FINISHING)
    if not bool(out.any()):
        return Start(image, sigma, go_on, None)
    hidden = keep & out

    def missed(image: Tensor) -> _Tested:
        if trajectory is None:
            return _by_line(image, y, keep, out, maps)
        return _by_ring(image, y, keep, out, maps, trajectory)

    first = missed(blind)
    samples = int(hidden.sum()) * (math.prod(y.shape) // hidden.numel())

    def unseen(image: Tensor) -> float:
        squared = (first if image is blind else missed(image)).squared
        return float(squared.sum() / samples)

    return Start(image, _error(first, y.shape[1], sigma), go_on, Blind(blind, unseen))


def _average_image(y: Measured, keep: Tensor, maps: Tensor, trajectory: Trajectory | None) -> Tensor:
    if trajectory is None:
        return image_of(*average_of(y, keep), maps)
    return average_image(KSpace(frames_of(y, slice(0, y.shape[2])), keep, maps, trajectory=trajectory))


def left_out(y: Measured, keep: Tensor, seed: int, trajectory: Trajectory | None = None) -> Tensor:
    """Measured lines to leave out, bool (B, 1, T, Y, X or 1): a share of those that not all frames measure.

    Of one frame, a share of those outside the fully sampled centre. Along a trajectory a share of all readouts.
    """
    measured = keep.any(dim=1, keepdim=True).expand(-1, -1, y.shape[2], y.shape[3], -1)
    chosen = torch.rand(*measured.shape[:4], 1, generator=torch.Generator().manual_seed(seed)) < LEFT_OUT
    if trajectory is not None:
        spare = torch.ones_like(measured)
    elif y.shape[2] > 1:
        spare = measured.float().mean(dim=2, keepdim=True) < 1
    else:
        spare = ~_centre(measured, (y.shape[3], y.shape[4]))
    return measured & chosen.to(y.device) & spare


def _centre(measured: Tensor, size: tuple[int, int]) -> Tensor:
    """The lines of the fully measured rectangle around DC, bool (1, 1, 1, Y, 1)."""
    lines = full_centre(measured, size)[0]
    first = size[0] // 2 - lines // 2
    line = torch.arange(size[0], device=measured.device)
    return ((line >= first) & (line < first + lines))[:, None][None, None, None]


@dataclass(frozen=True)
class _Tested:
    """What the samples left out tell, in groups. squared: the error power of each group, over all coils; count: its
    samples. group, missing: of each place of k-space, its group and the share of frames in which it is not measured."""

    squared: Tensor
    count: Tensor
    group: Tensor
    missing: Tensor


def _error(tested: _Tested, coils: int, sigma: float) -> float:
    """RMSE (each real channel) of an image made without the lines left out.

    By Parseval and unit root-sum-of-squares maps the squared image error is the k-space error summed over the coils,
    averaged over k-space. Every place counts by the share of frames in which it is missing, and with the noise in the
    others; one whose group could not be tested counts as the mean.
    """
    noise, there = sigma**2, tested.count > 0
    power = (tested.squared / tested.count.clamp(min=1) - coils * noise).clamp(min=0)
    power = torch.where(there, power, power[there].mean())[tested.group]
    return float((tested.missing * power + (1 - tested.missing) * noise).mean()) ** 0.5


def _by_line(image: Tensor, y: Measured, keep: Tensor, out: Tensor, maps: Tensor) -> _Tested:
    """What an image gets wrong of the lines left out, line by line. Other lines are not computed."""
    hidden = keep & out
    A, places = sense_operator(hidden, maps), out.shape[3]
    squared = torch.zeros(places, device=image.device)
    # Frame by frame few lines are left out, of a chunk of frames many.
    for chunk in chunks(y) if image.device.type == "cuda" else (slice(t, t + 1) for t in range(y.shape[2])):
        lines = hidden[:, :, chunk].any(-1).flatten(0, 2).any(0).nonzero()[:, 0]
        if len(lines) == 0:
            continue
        there = hidden[:, :, chunk].index_select(3, lines)
        seen = A.frames(chunk)(image[:, :, chunk]).index_select(3, lines)
        wrong = torch.where(there, seen - frames_of(y, chunk).index_select(3, lines), 0)
        squared.index_add_(0, lines, _power(wrong).sum(dim=(0, 1, 2, 4)))
    coverage = keep.any(dim=1, keepdim=True).expand(-1, -1, -1, places, -1).float().mean(2, keepdim=True)
    count = out.float().sum(dim=(0, 1, 2, 4)) * (y.shape[4] // out.shape[4])
    return _Tested(squared, count, torch.arange(places, device=squared.device), (1 - coverage).mean(dim=(0, 1, 2, 4)))


def _by_ring(image: Tensor, y: Measured, keep: Tensor, out: Tensor, maps: Tensor, trajectory: Trajectory) -> _Tested:
    """As `_by_line`, in rings about the centre, one place wide; what lies beyond the last of them that was tested
    counts as that one."""
    hidden, A = keep & out, NonUniform(trajectory) @ Coils(maps)
    ring = _ring(trajectory.points, trajectory.size).expand(y.shape[2:])
    power = torch.cat(
        [
            _power(torch.where(hidden[:, :, chunk], A.frames(chunk)(image[:, :, chunk]) - frames_of(y, chunk), 0)).sum(
                dim=(0, 1)
            )
            for chunk in chunks(y)
        ]
    )
    squared = torch.bincount(ring.flatten(), power.flatten())
    count = torch.bincount(ring.flatten(), hidden.expand(1, 1, *y.shape[2:]).flatten().float())
    y_axis, x_axis = ((torch.arange(n, device=power.device) - n // 2) / n for n in trajectory.size)
    places = torch.stack(torch.meshgrid(y_axis, x_axis, indexing="ij"), -1)
    group = _ring(places, trajectory.size).flatten().clamp(max=int(count.nonzero().max()))
    return _Tested(squared, count, group, 1 - trajectory.nearest.float().mean(2).flatten())


def _power(samples: Tensor) -> Tensor:
    """Of each real channel."""
    return torch.view_as_real(samples).square().mean(-1)


def _ring(points: Tensor, size: tuple[int, int]) -> Tensor:
    return (points.norm(dim=-1) * max(size)).round().long()
