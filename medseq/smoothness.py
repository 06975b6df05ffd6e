"""How smooth a series is in space, and whether what a denoiser took away looks like anatomy."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.metrics import rank_correlation

# Full width at half maximum of a Gaussian over its std.
FWHM_PER_STD = math.sqrt(8 * math.log(2))
# Axes of (B, 1, T, Y, X) in the order of `voxel_mm`: x, y, z.
_AXES = (4, 3, 0)


def fwhm(detrended: Tensor, mask: Tensor, voxel_mm: tuple[float, float, float]) -> Tensor:
    """Smoothness of a series, FWHM in mm along x, y and z, (3,) float64: as AFNI's 3dFWHMx (Forman 1995).

    detrended: (B, 1, T, Y, X) without mean and drift (`detrend`, or the residual of a model). Every voxel is scaled to
    the same std in time (AFNI's -unif takes the median absolute deviation, whose own scatter from voxel to voxel makes
    75 frames look 4 % less smooth). In each volume the variance of the differences between neighbours, over that
    of the values, gives the correlation r of neighbours; a Gaussian blur has FWHM = voxel sqrt(-2 ln 2 / ln r). Then
    the geometric mean over the volumes in which r > 0. An axis without neighbours in the mask, or without correlation
    in any volume, is NaN. The overall width is the geometric mean of the axes, `overall`.

    mask: (B, 1, 1, Y, X) bool; neighbours count when both are in it. Raises UsageError for a mask that does not fit or
    holds fewer than two voxels that vary.
    """
    unit, mask = _same_spread(detrended.double(), mask)
    count = int(mask.sum())
    values = torch.where(mask, unit, 0)
    variance = values.square().sum((0, 1, 3, 4)) - values.sum((0, 1, 3, 4)).square() / count
    variance = variance / (count - 1)
    widths = []
    for axis, size in zip(_AXES, voxel_mm, strict=True):
        correlation = 1 - _difference_variance(unit, mask, axis) / (2 * variance)
        correlation = correlation[(correlation > 0) & (correlation < 1)]
        each = size * (-2 * math.log(2) / correlation.log()).sqrt()
        widths.append(each.log().mean().exp())  # NaN of none
    return torch.stack(widths)


def overall(widths: Tensor) -> float:
    """The geometric mean of the widths along the axes that have one."""
    return float(widths[widths.isfinite()].log().mean().exp())


def neighbour_correlation(removed: Tensor, mask: Tensor) -> Tensor:
    """Correlation of what a denoiser took away, (B, 1, T, Y, X), with its neighbour along x, y and z: (3,) float64.

    White noise has 0. Over all volumes together, means in time removed. NaN for an axis without neighbours.
    """
    fluctuation = removed.double() - removed.double().mean(2, keepdim=True)
    found = []
    for axis in _AXES:
        one, other = _neighbours(fluctuation, axis)
        both = torch.logical_and(*_neighbours(mask, axis))
        one, other = torch.where(both, one, 0), torch.where(both, other, 0)
        found.append((one * other).sum() / (one.norm() * other.norm()))
    return torch.stack(found)


def edge_correlation(removed: Tensor, mean: Tensor, mask: Tensor) -> float:
    """Rank correlation over the mask of the std in time of what a denoiser took away with the edges of the mean image.

    removed: (B, 1, T, Y, X). mean: (B, 1, 1, Y, X), the series averaged in time; its edges are the magnitude of its
    gradient in the slice (central differences). Near 0 for a denoiser that takes noise alone, if the noise knows no
    edges; motion and pulsation do.
    """
    edges = torch.stack(torch.gradient(mean.double(), dim=(-2, -1))).norm(dim=0)
    return rank_correlation(removed.double().std(2, keepdim=True), edges, mask)


def _same_spread(series: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Voxels over their rms in time, and the mask without those that do not vary."""
    if mask.dtype != torch.bool or mask.shape != series[:, :, :1].shape:
        raise UsageError(f"a mask must be bool of shape {tuple(series[:, :, :1].shape)}, got {tuple(mask.shape)}")
    spread = series.square().mean(2, keepdim=True).sqrt()
    mask = mask & (spread > 0)
    if int(mask.sum()) < 2:
        raise UsageError("smoothness needs at least two voxels that vary")
    return series / torch.where(mask, spread, 1), mask


def _difference_variance(series: Tensor, mask: Tensor, axis: int) -> Tensor:
    """(T,) variance of the differences between neighbours along an axis, NaN without any."""
    before, after = _neighbours(series, axis)
    both = torch.logical_and(*_neighbours(mask, axis))
    difference = torch.where(both, after - before, 0)
    count = both.sum()
    mean = difference.sum((0, 1, 3, 4)) / count
    return (difference.square().sum((0, 1, 3, 4)) - count * mean.square()) / (count - 1)


def _neighbours(values: Tensor, axis: int) -> tuple[Tensor, Tensor]:
    last = values.shape[axis] - 1
    return values.narrow(axis, 0, last), values.narrow(axis, 1, last)
