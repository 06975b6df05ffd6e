"""Which lines of k-space are measured in which frame.

Every pattern of lines is a bool tensor (1, 1, T, Y, 1), True where measured, made on the CPU and, where it is random,
fixed by its seed. DC lies at line Y // 2, and so does the middle of the fully sampled centre. All of them raise
UsageError for values that cannot be met.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseq.errors import UsageError

_GOLDEN_ANGLE = math.pi * (math.sqrt(5) - 1) / 2


def variable_density(
    frames: int, lines: int, acceleration: float, centre: int = 8, seed: int = 0, power: float = 3.0
) -> Tensor:
    """Random lines that thin out towards the edge of k-space, drawn anew for every frame (Lustig 2007).

    Each frame measures exactly round(lines / acceleration) lines: the `centre` middle ones, and others drawn without
    replacement with probability proportional to (1 - |k| / k_max)^power. Returns (1, 1, frames, lines, 1).
    """
    _check(frames, lines, acceleration, centre)
    count = round(lines / acceleration)
    if count < max(centre, 1):
        raise UsageError(
            f"{lines} lines at acceleration {acceleration:g} leave {count} a frame: "
            f"not enough for {max(centre, 1)} central ones"
        )
    generator = torch.Generator().manual_seed(seed)
    k = (torch.arange(lines) - lines // 2).abs().double()
    density = (1 - k / (lines // 2 + 1)) ** power
    # The largest keys of u^(1/density) are a weighted draw without replacement (Efraimidis and Spirakis 2006).
    keys = torch.rand(frames, lines, generator=generator, dtype=torch.float64).log() / density
    keys[:, _centre_slice(lines, centre)] = torch.inf
    keep = torch.zeros(frames, lines, dtype=torch.bool)
    keep.scatter_(1, keys.topk(count, dim=1).indices, True)
    return keep[None, None, :, :, None]


def uniform(frames: int, lines: int, acceleration: float, centre: int = 8, seed: int = 0) -> Tensor:
    """As `variable_density`, but every line outside the centre is equally likely."""
    return variable_density(frames, lines, acceleration, centre, seed, power=0.0)


def equispaced(frames: int, lines: int, acceleration: float, centre: int = 0) -> Tensor:
    """Every `acceleration`-th line, shifted by one line from frame to frame (TGRAPPA, Breuer 2005).

    Any `acceleration` successive frames together hold every line, so their average is fully sampled. `centre` middle
    lines are measured in every frame on top. Returns (1, 1, frames, lines, 1).
    """
    _check(frames, lines, acceleration, centre)
    if acceleration != int(acceleration):
        raise UsageError(f"equispaced lines need a whole acceleration, got {acceleration:g}")
    shift = torch.arange(frames)[:, None]
    keep = (torch.arange(lines) - lines // 2 - shift) % int(acceleration) == 0
    keep[:, _centre_slice(lines, centre)] = True
    return keep[None, None, :, :, None]


def pseudo_radial(frames: int, size: tuple[int, int], spokes: int) -> Tensor:
    """Golden-angle spokes through the centre, moved to the nearest points of the grid (Winkelmann 2007).

    size: (Y, X). Each frame takes the next `spokes` angles. Returns (1, 1, frames, Y, X): points, not whole lines.
    """
    height, width = size
    if min(frames, height, width, spokes) < 1:
        raise UsageError(f"frames, size and spokes must be positive, got {frames}, {size}, {spokes}")
    angle = (torch.arange(frames * spokes, dtype=torch.float64) * _GOLDEN_ANGLE).view(frames, spokes, 1)
    # Two samples a grid point along each spoke, so that none is jumped over.
    radius = torch.linspace(-0.5, 0.5, 2 * max(size) + 1, dtype=torch.float64)
    y = (radius * angle.sin() * height).round().long() + height // 2
    x = (radius * angle.cos() * width).round().long() + width // 2
    inside = (y >= 0) & (y < height) & (x >= 0) & (x < width)
    keep = torch.zeros(frames, height * width, dtype=torch.bool)
    # Points beyond the edge are put on the centre, which every spoke measures.
    points = torch.where(inside, y * width + x, (height // 2) * width + width // 2)
    keep.scatter_(1, points.flatten(1), True)
    return keep.view(1, 1, frames, height, width)


def _check(frames: int, lines: int, acceleration: float, centre: int) -> None:
    if frames < 1 or lines < 1:
        raise UsageError(f"a pattern needs at least one frame and one line, got {frames} and {lines}")
    if not (math.isfinite(acceleration) and acceleration >= 1):
        raise UsageError(f"the acceleration must be at least 1, got {acceleration:g}")
    if not 0 <= centre <= lines:
        raise UsageError(f"{centre} central lines do not fit into {lines}")


def _centre_slice(lines: int, centre: int) -> slice:
    start = lines // 2 - centre // 2
    return slice(start, start + centre)
