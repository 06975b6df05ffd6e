"""The learned prior of BOLD fluctuations: what a series does about its mean, told from thermal noise.

Fluctuations are divided by the noise of each voxel, so that there is one noise level everywhere, and seen over the
whole time axis. They have no scale of their own (a series may have ten times the SNR of the next), so that the prior
has none either: `prior(x, sigma)` is sigma times what it makes of x / sigma, for every sigma.

A few patterns in time that many voxels share are found best by principal components, without any training; what lies
between a voxel and its neighbours is found best by averages. The network is shown both and answers with a gate for
each beside its own correction, as the prior of hearts does (`medseq.guides`).
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor, nn

from medseq.baselines.local_pca import local_pca
from medseq.network import VideoUNet, shifted
from medseq.prior import SpreadTable

GUIDES = 5
# Part of what the weights were trained with.
_FEW = 6  # pixels: side of the smaller patches
_FAR = 3.0  # times the noise: the bound of what a gate opens to


class BoldPrior(nn.Module):
    """E[x0 | x] of real fluctuations x = x0 + sigma * unit noise; drops in wherever a prior is asked for.

    net: VideoUNet of one channel with `GUIDES` guides. spread: measured RMSE at each noise level over that of the
    fluctuations, or None for an untrained prior. autocast: dtype the network computes in, None for float32.
    """

    def __init__(self, net: VideoUNet, spread: SpreadTable | None = None, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.net, self.spread, self.autocast = net, spread, autocast

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """E[x0 | x]. x: (B, 1, T, Y, X) real, its B slices neighbours in space, 0 where there is no tissue; at least 2
        frames. sigma: a number, or a map that broadcasts to x. Returns the shape and dtype of x."""
        seen = x / sigma
        components = local_pca(seen, 1.0)
        away = torch.cat([seen, *_guesses(seen)], dim=1) - components
        away = away / (1 + (away / _FAR).square()).sqrt()
        noise = torch.zeros(x.shape[0], x.shape[2], device=x.device)  # always 1: its logarithm
        with nullcontext() if self.autocast is None else torch.autocast(x.device.type, dtype=self.autocast):
            out = self.net(torch.cat([torch.asinh(components), away], dim=1), noise, False).float()
        step = out[:, :1] + (out[:, 1:] * away).sum(1, keepdim=True)
        return sigma * torch.where(tissue(x), components + step, 0)


def tissue(x: Tensor) -> Tensor:
    """(B, 1, 1, Y, X) bool: where a series (B, 1, T, Y, X) holds anything."""
    return (x != 0).any(2, keepdim=True)


def _guesses(x: Tensor) -> list[Tensor]:
    """Further guesses at x, in turn: components of small patches, the mean of the voxels around, of the volumes before
    and after, and of both."""
    around = _around(x)
    return [local_pca(x, 1.0, patch=_FEW, stride=_FEW // 2), around, _while(x), _while(_while(around))]


def _around(x: Tensor) -> Tensor:
    """The mean of each voxel and those around it, in three dimensions, weighted (1, 2, 1) along each; tissue only."""
    total, count = x, tissue(x).to(x)
    for axis in (0, 3, 4):
        total, count = _blurred(total, axis), _blurred(count, axis)
    return torch.where(tissue(x), total / count.clamp(min=1e-6), 0)


def _while(x: Tensor) -> Tensor:
    """The mean of each volume, the one before and the one after, weighted (1, 2, 1)."""
    course = x.movedim(2, 1)
    return ((shifted(course, -1, False) + 2 * course + shifted(course, 1, False)) / 4).movedim(1, 2)


def _blurred(x: Tensor, axis: int) -> Tensor:
    """Weighted (1, 2, 1) along an axis, beyond whose ends there is nothing."""
    out = 2 * x
    size = x.shape[axis] - 1
    out.narrow(axis, 0, size).add_(x.narrow(axis, 1, size))
    out.narrow(axis, 1, size).add_(x.narrow(axis, 0, size))
    return out / 4
