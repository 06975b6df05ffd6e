"""Random smooth fields in three dimensions, in millimetres: what neighbouring slices have in common."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medseq.phantoms.scenes import uniform

# Full width at half maximum of a Gaussian of unit std.
FWHM = math.sqrt(8 * math.log(2))


@dataclass(frozen=True)
class Lattice:
    """Points of a volume: shape (Z, Y, X), spacing (z, y, x) in mm. Anterior is low Y, superior is high Z."""

    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    def positions(self) -> Tensor:
        """(3, Z, Y, X): z (superior), y (anterior) and x of every point, in mm from the middle of the volume."""
        ticks = [
            (torch.arange(n) - (n - 1) / 2) * step * sign
            for n, step, sign in zip(self.shape, self.spacing, (1, -1, 1), strict=True)
        ]
        return torch.stack(torch.meshgrid(*ticks, indexing="ij"))


def log_uniform(generator: torch.Generator, low: float, high: float) -> float:
    """A number between `low` and `high`, both positive, of which each factor is as likely as any other."""
    return math.exp(uniform(generator, math.log(low), math.log(high)))


def smooth_volume(lattice: Lattice, fwhm: float, generator: torch.Generator, count: int = 1) -> Tensor:
    """`count` Gaussian fields (count, Z, Y, X) of zero mean and unit std: white noise under a Gaussian kernel.

    fwhm: of the kernel in mm, which is what smoothness estimates report (Forman 1995); neighbouring values correlate as
    exp(-2 ln 2 (distance / fwhm)^2). The noise is drawn on a grid no finer than it must be, so wide kernels cost no
    more than narrow ones, and nothing wraps around.
    """
    weights = [_weights(n, step, fwhm) for n, step in zip(lattice.shape, lattice.spacing, strict=True)]
    field = torch.randn(count, *(w.shape[1] for w in weights), generator=generator)
    for axis, weight in enumerate(weights, start=1):
        field = torch.movedim(torch.movedim(field, axis, -1) @ weight.mT, -1, axis)
    return field


def _weights(count: int, step: float, fwhm: float) -> Tensor:
    """(count, N): what each of N points of white noise adds to each of `count` points `step` mm apart."""
    cell, reach = max(fwhm / 4, step), 3 * fwhm / FWHM
    noise = torch.arange(math.ceil((count - 1) * step / cell) + 2 * math.ceil(reach / cell) + 1) * cell
    away = torch.arange(count)[:, None] * step - (noise - math.ceil(reach / cell) * cell)
    kernel = torch.exp(-0.5 * (away / fwhm * FWHM).square())
    return kernel / kernel.norm(dim=1, keepdim=True)  # the variance stays that of the noise
