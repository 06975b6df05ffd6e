"""What fMRI does against noise by habit: a Gaussian blur in space, and a low-pass in time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseq.activation import drift_cosines
from medseq.errors import UsageError
from medseq.smoothness import FWHM_PER_STD

_REACH = 4.0  # where the Gaussian is cut, in stds


def gaussian_smoothing(x: Tensor, fwhm: float, voxel_mm: tuple[float, float, float]) -> Tensor:
    """A Gaussian blur of `fwhm` mm in all three directions, across slices too: (B, 1, T, Y, X) -> the same, any kind.

    voxel_mm: distance of voxels along x, y and z (of slices). Beyond the edge there is nothing: the weights that stay
    inside are scaled to a sum of 1, so that an even image stays as it is. Raises UsageError for an impossible width or
    distance.
    """
    if x.ndim != 5 or x.shape[1] != 1:
        raise UsageError(f"a series (B, 1, T, Y, X) is needed, got {tuple(x.shape)}")
    if not (0 <= fwhm < math.inf) or not all(0 < size < math.inf for size in voxel_mm):
        raise UsageError(f"the width must be at least 0 mm and voxels above it, got {fwhm} and {voxel_mm}")
    for axis, size in zip((4, 3, 0), voxel_mm, strict=True):
        blur = _gaussian_matrix(x.shape[axis], fwhm / FWHM_PER_STD / size).to(x)
        x = torch.tensordot(x, blur, dims=([axis], [1])).movedim(-1, axis)
    return x.contiguous()


def temporal_low_pass(x: Tensor, cutoff: float, interval: float) -> tuple[Tensor, int]:
    """Every voxel without its cosines (DCT-II) of more than `cutoff` Hz: (B, 1, T, Y, X) -> the same, any kind.

    interval: seconds a frame. Cosine k of T has k / (2 T interval) Hz; the mean always stays. A projection, so the
    second result, how many cosines went, is exactly the degrees of freedom lost. Cosines rather than a Fourier series,
    which takes the jump from the last frame to the first for a fast change. Raises UsageError for impossible values.
    """
    if x.ndim != 5 or x.shape[1] != 1:
        raise UsageError(f"a series (B, 1, T, Y, X) is needed, got {tuple(x.shape)}")
    if not (cutoff > 0 and interval > 0):
        raise UsageError(f"cut-off and interval must be above 0, got {cutoff} Hz and {interval} s")
    frames = x.shape[2]
    if 2 * interval * cutoff * frames >= frames - 1:
        return x.clone(), 0
    cosines = drift_cosines(frames, interval, 1 / cutoff)
    projection = (cosines @ cosines.T).to(x)
    smooth = torch.tensordot(x, projection, dims=([2], [1])).movedim(-1, 2)
    return smooth.contiguous(), frames - cosines.shape[1]


def _gaussian_matrix(size: int, std: float) -> Tensor:
    """(size, size): Gaussian weights of `std` voxels, every row of sum 1."""
    place = torch.arange(size, dtype=torch.float64)
    distance = (place - place[:, None]).abs()
    # Without a width a voxel is its own neighbour only.
    weights = torch.exp(-0.5 * (distance / max(std, 1e-6)) ** 2)
    weights = torch.where(distance <= _REACH * std, weights, 0) + torch.eye(size, dtype=torch.float64) * (std == 0)
    return weights / weights.sum(1, keepdim=True)
