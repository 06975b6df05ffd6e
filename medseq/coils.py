"""Coil sensitivities from the k-space itself (ESPIRiT), and coil compression."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from medseq.clip import KSpace
from medseq.errors import InputError, UsageError
from medseq.operators import Fourier

# Fewer fully sampled lines than this hold no sensitivity map.
_FEWEST_LINES = 4
# Calibration region and kernel of Uecker 2014 and of its implementations in BART and SigPy.
_CALIBRATION = 24
_KERNEL = 6


def average_frames(kspace: KSpace) -> tuple[Tensor, Tensor]:
    """Time-averaged k-space (B, C, 1, Y, X), zero where never measured, and where it was measured (bool, broadcastable).

    Each place of k-space is averaged over the frames that measured it.
    """
    keep = kspace.keep.expand(*kspace.keep.shape[:2], kspace.frames, *kspace.keep.shape[3:])
    count = keep.sum(2, keepdim=True)
    total = torch.where(keep, kspace.data, 0).sum(2, keepdim=True)
    return total / count.clamp(min=1), count > 0


def full_centre(measured: Tensor, shape: tuple[int, int]) -> tuple[int, int]:
    """Size (lines, samples) of the largest rectangle around DC, at index N // 2, in which all was measured.

    measured: bool (B or 1, C or 1, 1, Y or 1, X or 1), as of `average_frames`; shape: (Y, X) of the k-space. Of a batch or
    several coils, what all of them measured. The rectangle reaches as far below DC as above it, or one further.
    """
    grid = measured.flatten(0, 2).all(0).expand(shape).cpu()
    # A rectangle is full when its part in every one of its lines is: reach[y] samples to both sides of DC.
    lines = _from_centre(grid.flip(0) if False else grid)
    return lines


def estimate_maps(kspace: KSpace) -> Tensor:
    """Coil sensitivities (B, C, 1, Y, X) complex64 of unit root-sum-of-squares, from the time-averaged k-space.

    ESPIRiT (see `espirit`) on the fully sampled centre of the average over frames, which undersampled dynamic series
    have without extra calibration lines (TGRAPPA, Breuer 2005; TSENSE, Kellman 2001). A single coil gets a map of ones.

    Raises InputError when even the time average has no full centre of 4 x 4, or it is zero.
    """
    average, measured = average_frames(kspace)
    shape = (int(average.shape[-2]), int(average.shape[-1]))
    if kspace.coils == 1:
        return torch.ones_like(average)
    lines, samples = full_centre(measured, shape)
    if min(lines, samples) < min(_FEWEST_LINES, *shape):
        raise InputError(
            f"coil maps need a fully sampled centre: even the average over frames has only {lines} x {samples}, "
            "give `maps` or measure a calibration region"
        )
    calibration = average[:, :, 0]
    return torch.stack([espirit(item, shape)[0] for item in calibration])[:, :, None]
