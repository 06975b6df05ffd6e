"""What repetition in time alone says about a series: three guesses that need no training, shown to the network.

A convolutional network is poor at averaging: still tissue wants the mean over the whole cycle, and every voxel wants
another mixture of its neighbours in time. So the prior offers the network finished averages, and the network answers
with a gate for each (kernel prediction in burst denoising: Mildenhall et al., CVPR 2018) beside its own correction.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseq.baselines.local_pca import local_pca, local_pca_wiener
from medseq.network import shifted

GUIDES = 3
# Part of what the weights were trained with: larger patches or wider steps would be another input.
_PATCH, _STRIDE = 8, 4
_QUICK_PATCH, _QUICK_STRIDE = 16, 12


def guides(x: Tensor, level: Tensor, periodic: bool) -> Tensor:
    """Three guesses at a complex series x (B, 1, T, Y, X): (B, 3, T, Y, X). level: (B, 1, T, 1, 1), its noise.

    In turn: local principal components with Wiener filtering; the mean of both neighbours; the mean over the clip.
    Frames count by the inverse of their noise power. A single frame has no neighbours: every guess is x itself.
    """
    if x.shape[2] == 1:
        return x.expand(-1, GUIDES, -1, -1, -1)
    weight = level.square().reciprocal()
    return torch.cat([components(x, level), neighbours(x, weight, periodic), clip_mean(x, weight)], dim=1)


def quick_guides(x: Tensor, level: Tensor, periodic: bool) -> Tensor:
    """As `guides`, the first of them by one pass over few, large patches: a fifteenth of the time."""
    weight = level.square().reciprocal()
    quick = local_pca(x / level, 1.0, patch=_QUICK_PATCH, stride=_QUICK_STRIDE) * level
    return torch.cat([quick, neighbours(x, weight, periodic), clip_mean(x, weight)], dim=1)


def components(x: Tensor, level: float | Tensor) -> Tensor:
    """`local_pca_wiener` of the frames brought to one noise level, and back."""
    white = x / level
    pilot = local_pca(white, 1.0, patch=_PATCH, stride=_STRIDE)
    return local_pca_wiener(white, 1.0, pilot=pilot, patch=_PATCH, stride=_STRIDE) * level


def neighbours(x: Tensor, weight: Tensor, periodic: bool) -> Tensor:
    """Weighted mean of the frames before and after. x: (B, 1, T, Y, X); weight: (B, 1, T, 1, 1)."""
    total = _beside(weight * x, -1, periodic) + _beside(weight * x, 1, periodic)
    return total / (_beside(weight, -1, periodic) + _beside(weight, 1, periodic))


def clip_mean(x: Tensor, weight: Tensor) -> Tensor:
    """Weighted mean over the clip, the same for every frame."""
    return ((weight * x).sum(2, keepdim=True) / weight.sum(2, keepdim=True)).expand_as(x)


def _beside(x: Tensor, step: int, periodic: bool) -> Tensor:
    return shifted(x.movedim(2, 1), step, periodic).movedim(1, 2)
