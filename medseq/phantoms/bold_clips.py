"""Training fluctuations: pieces of random BOLD runs about their mean over time, in units of their noise."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from medseq.phantoms.bold import BoldRun, bold_run
from medseq.phantoms.scenes import chance, uniform
from medseq.phantoms.volumes import log_uniform

_TISSUE = 0.15  # of the brightest voxels: what is darker is left out
_LONGEST = 80  # volumes of a simulated run


@dataclass(frozen=True)
class FluctuationSource:
    """An endless supply; batch n depends on `seed` and n alone, so that a killed run resumes exactly.

    window: voxels along Y and X. slices: neighbours in space. frames: lengths, one drawn a batch. pool: runs that
    pieces are cut from at a time; batches_per_run: how fast a new one takes the place of the oldest.
    """

    seed: int = 0
    window: int = 40
    slices: int = 4
    frames: tuple[int, ...] = (48, 64, 80)
    pool: int = 24
    batches_per_run: int = 3
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def batch(self, number: int) -> tuple[Tensor, Tensor]:
        """Clean and noisy fluctuations, each (slices, 1, T, window, window) float32, in units of the noise."""
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        newest = number // self.batches_per_run
        run = _run(self.seed * 5_000_011 + newest + int(uniform(g, 0, self.pool - 0.001)), self.slices)
        frames = self.frames[int(uniform(g, 0, len(self.frames) - 0.001))]
        clean, noise, tissue = (part.to(self.device) for part in _piece(run, frames, self.window, g))
        clean = log_uniform(g, 0.5, 2) * clean
        # a noise map is an estimate: mostly within a tenth
        noise = noise * math.exp(0.07 * float(torch.randn((), generator=g)))
        both = torch.where(tissue, torch.stack([clean, clean + noise]), 0)
        both = both - both.mean(3, keepdim=True)
        return both[0], both[1]


@lru_cache(maxsize=64)
def _run(seed: int, slices: int) -> BoldRun:
    g = torch.Generator().manual_seed(seed)
    size = 16 * int(uniform(g, 3, 5.99))
    return bold_run((size, size), slices, _LONGEST, log_uniform(g, 0.6, 3.0), g)


def _piece(run: BoldRun, frames: int, window: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Fluctuations and noise (B, 1, T, y, x) in units of the noise, and where there is tissue (B, 1, 1, y, x); laid one
    of eight ways."""
    first = int(uniform(g, 0, run.fluctuation.shape[1] - frames + 0.999))
    y, x = (int(uniform(g, 0, size - window + 0.999)) for size in run.mean.shape[1:])
    flat = run.mean.flatten()
    tissue = run.mean > _TISSUE * flat.kthvalue(max(1, int(0.98 * flat.numel()))).values
    clean = run.fluctuation[:, first : first + frames] / run.noise[:, None]
    laid = []
    flips, turned = [dim for dim in (-2, -1) if chance(g, 0.5)], chance(g, 0.5)
    for part in (clean, _reshuffled_noise(run, frames, g), tissue[:, None]):
        piece = part[:, None, :, y : y + window, x : x + window].flip(flips)
        laid.append(piece.mT if turned else piece)
    return laid[0], laid[1], laid[2]


def _reshuffled_noise(run: BoldRun, frames: int, g: torch.Generator) -> Tensor:
    """(B, T, Y, X) of unit level: the run's own noise, which is independent in time, in another order, so that it has
    the correlation in space that its k-space and filters left."""
    noise = run.measured * torch.polar(torch.ones_like(run.phase), -run.phase)[:, None] - run.clean
    channel = noise.real if chance(g, 0.5) else noise.imag
    order = torch.stack([torch.randperm(channel.shape[1], generator=g)[:frames] for _ in channel])
    sign = 1 - 2 * torch.randint(2, (*order.shape, 1, 1), generator=g)
    return sign * channel[torch.arange(len(channel))[:, None], order] / run.noise[:, None]
