"""Arithmetic of the operators: centred transforms and their matrix, sums over coils, weights of interpolation."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from medseq.errors import UsageError


def prime_factors(number: int) -> Iterator[int]:
    """Their sum is in proportion to what a transform of this length costs a voxel (Singleton 1969), and measured lines
    cost as much each."""
    factor = 2
    while number > 1:
        while number % factor:
            factor += 1
        number //= factor
        yield factor


def dft(size: int) -> Tensor:
    """The matrix (size, size) of the centred orthonormal transform, complex128."""
    place = torch.arange(size) - size // 2
    turn = (place[:, None] * place).remainder(size).double() / size
    return torch.polar(torch.full_like(turn, size**-0.5), -2 * torch.pi * turn)


def centred(transform: Callable[..., Tensor], x: Tensor) -> Tensor:
    """A transform of torch.fft along the last axis, centred and orthonormal; x complex."""
    if x.numel() == 0:  # of which MKL wants nothing: a frame without lines
        return x
    return torch.fft.fftshift(transform(torch.fft.ifftshift(x, dim=-1), norm="ortho"), dim=-1)


def shift(x: Tensor) -> Tensor:
    return torch.fft.fftshift(x, dim=(-2, -1))


def unshift(x: Tensor) -> Tensor:
    return torch.fft.ifftshift(x, dim=(-2, -1))


def weighted_sum(weights: Iterable[Tensor], parts: Iterable[Tensor]) -> Tensor:
    """Part by part, which is several times faster than a sum over a product as large as all of them."""
    total = None
    for weight, part in zip(weights, parts, strict=True):
        total = weight * part if total is None else total.addcmul_(weight, part)
    assert total is not None
    return total


def interpolation_matrix(times: Tensor, wanted: Tensor, period: float | None = None) -> Tensor:
    """Weights of linear interpolation in time, for `Resample`: (T,) known and (W,) wanted seconds -> (W, T) float64.

    times must increase strictly. With a `period` (seconds) time is a circle, and what lies after the last frame is
    interpolated towards the first. Raises UsageError without a period for wanted times outside the known span.
    """
    times, wanted = times.double(), wanted.double()
    if times.ndim != 1 or not bool((times.diff() > 0).all()):
        raise UsageError("the known times must increase strictly")
    if period is None:
        if bool((wanted < times[0]).any()) or bool((wanted > times[-1]).any()):
            raise UsageError("frames are wanted outside the known times, and the series has no period")
        knots = times
    else:
        if not period > times[-1] - times[0]:
            raise UsageError(f"the period ({period} s) must be longer than the span of the known times")
        wanted = times[0] + (wanted - times[0]) % period
        knots = torch.cat([times, times[:1] + period])
    left = (torch.searchsorted(knots, wanted, right=True) - 1).clamp(0, max(len(knots) - 2, 0))
    right = (left + 1).clamp(max=len(knots) - 1)
    gap = (knots[right] - knots[left]).clamp(min=torch.finfo(knots.dtype).tiny)
    weight = (wanted - knots[left]) / gap
    matrix = torch.zeros(len(wanted), len(times), dtype=torch.float64, device=times.device)
    rows = torch.arange(len(wanted), device=times.device)
    matrix.index_put_((rows, left), 1 - weight, accumulate=True)
    matrix.index_put_((rows, right % len(times)), weight, accumulate=True)
    return matrix
