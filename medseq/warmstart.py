"""A classical reconstruction to start from, and its error, estimated without the truth.

Some measured lines are left out, the reconstruction is made without them, and what it says about them is compared
with what was measured there (cross-validation; Ward, Int. J. Imaging Syst. Technol. 2007, for compressed sensing).
A few more iterations then take them in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from medseq.acquisition import image_of
from medseq.baselines import composite_descent, wavelet
from medseq.coils import average_of, full_centre
from medseq.measurement import Measured, chunks, frames_of, projection
from medseq.operators import Coils, Fourier, LinearOp, Mask

ITERATIONS = 25  # without the lines left out
FINISHING = 5  # with all lines
STILL_ITERATIONS = 30  # of one frame
LEFT_OUT = 0.05  # share of the lines


def sense_operator(keep: Tensor, maps: Tensor) -> LinearOp:
    """A = Mask . Fourier . Coils."""
    return Mask(keep) @ Fourier() @ Coils(maps)


@dataclass(frozen=True)
class Blind:
    """image: (B, 1, T, Y, X), before the lines left out came in. power: the mean power, in each real channel, of what
    an image gets wrong on those lines."""

    image: Tensor
    power: Callable[[Tensor], float]


@dataclass(frozen=True)
class Start:
    """image: (B, 1, T, Y, X). error: its RMSE in each real channel. go_on: (image, number) -> image, more iterations of
    the same reconstruction from any image; None for one frame. blind: None when no lines are left out."""

    image: Tensor
    error: float
    go_on: Callable[[Tensor, int], Tensor] | None
    blind: Blind | None


def warm_start(y: Measured, keep: Tensor, maps: Tensor, sigma: float, seed: int, *, periodic: bool = False) -> Start:
    """`kt_composite` of `y` (of one frame, `wavelet`), stopped early, and its error.

    y: (B, C, T, Y, X) k-space; keep: bool, broadcastable; maps: (B, C, 1, Y, X); sigma: noise std of y. With nothing to
    leave out (fully sampled) the error is that of the noise alone.
    """
    out = left_out(y, keep, seed)
    part, A = sense_operator(keep & ~out, maps), sense_operator(keep, maps)
    go_on = None  # what is left out of y, the mask of an operator sees to
    if y.shape[2] == 1:
        one = frames_of(y, slice(0, 1))
        blind = wavelet(one, part, iterations=STILL_ITERATIONS)
        image = wavelet(one, A, iterations=STILL_ITERATIONS)
    else:
        average = image_of(*average_of(y, keep), maps).expand(-1, -1, y.shape[2], -1, -1)
        blind = composite_descent(projection(y, part), part, periodic=periodic)(average, ITERATIONS)
        go_on = composite_descent(projection(y, A), A, periodic=periodic)
        image = go_on(blind, FINISHING)
    error = _error(blind, y, keep, out, maps, sigma)
    if not bool(out.any()):
        return Start(image, error, go_on, None)
    return Start(image, error, go_on, Blind(blind, lambda image: _unseen_power(image, y, keep & out, maps)))


def left_out(y: Measured, keep: Tensor, seed: int) -> Tensor:
    """Measured lines to leave out, bool (B, 1, T, Y, X or 1): a share of those that not all frames measure.

    Of one frame, a share of those outside the fully sampled centre.
    """
    measured = keep.any(dim=1, keepdim=True).expand(-1, -1, y.shape[2], y.shape[3], -1)
    chosen = torch.rand(*measured.shape[:4], 1, generator=torch.Generator().manual_seed(seed)) < LEFT_OUT
    if y.shape[2] > 1:
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


def _wrong(image: Tensor, y: Measured, where: Tensor, maps: Tensor) -> Iterator[Tensor]:
    """What an image gets wrong of the measurement `where` asked, a few frames of all coils at a time."""
    A = sense_operator(where, maps)
    for chunk in chunks(y):
        operator = A.frames(chunk)
        yield operator(image[:, :, chunk]) - Mask(where[:, :, chunk])(frames_of(y, chunk))


def _unseen_power(image: Tensor, y: Measured, where: Tensor, maps: Tensor) -> float:
    power = sum(wrong.abs().square().sum() for wrong in _wrong(image, y, where, maps))
    return float(power / (2 * where.expand(y.shape).sum()))


def _error(image: Tensor, y: Measured, keep: Tensor, out: Tensor, maps: Tensor, sigma: float) -> float:
    """RMSE (each real channel) of an image made without the lines in `out`.

    By Parseval and unit root-sum-of-squares maps the squared image error is the k-space error summed over the coils,
    averaged over k-space. Every line position counts by the share of frames in which it is missing, and with the noise
    in the others; one that could not be tested counts as the mean.
    """
    noise = sigma**2
    if not bool(out.any()):
        return noise**0.5
    coverage = keep.any(dim=1, keepdim=True).expand(-1, -1, y.shape[2], y.shape[3], -1).float().mean(2, keepdim=True)
    squared = torch.zeros(y.shape[3], device=image.device)  # by line, over all coils
    for wrong in _wrong(image, y, out & keep, maps):
        squared += torch.view_as_real(wrong).square().mean(-1).sum(dim=(0, 1, 2, 4))
    tested = out.float().expand(*out.shape[:4], y.shape[4]).sum(dim=(0, 1, 2, 4))
    by_line = (squared / tested.clamp(min=1) - y.shape[1] * noise).clamp(min=0)
    by_line = torch.where(tested > 0, by_line, by_line[tested > 0].mean())
    missing = (1 - coverage).mean(dim=(0, 1, 2, 4))
    return float((missing * by_line + (1 - missing) * noise).mean()) ** 0.5
