"""How much of each voxel came from the measurement, and how much from the prior.

The object is changed a little and measured once more, in thought: the share of the change that shows in the result is
the support that the data give it. 1: the result follows the object. 0: the prior alone decides.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medseq.baselines.smoothing import gaussian_smoothing
from medseq.noise import unit_noise

DETAIL = 3.0  # voxels: the full width at half maximum of the details that are added
_NEAR = 10.0  # voxels: that over which their shares are averaged
_FRAMES = 3  # how long a detail lasts


def data_support(
    respond: Callable[[Tensor], Tensor], base: Tensor, amplitude: float, generator: torch.Generator
) -> Tensor:
    """(1, 1, 1, Y, X), from 0 to 1: the mean over the frames of the share of small details that reaches the result.

    respond: (change of the object (1, 1, T, Y, X)) -> the result with that change in the data; base: the result
    without. amplitude: std of the change in each real channel; the share depends on it where the method is not linear,
    so take the size that the errors have. One random change is enough, as the shares are averaged over 10 voxels and
    all frames: with d the change and J the method's derivative along the measurement it is <d, J d> / <d, d> there
    (Hutchinson's estimator of the diagonal, smoothed; Bekas 2007), for details 3 voxels wide that last 3 frames.
    """
    change = _details(base, amplitude, generator)
    moved = respond(change) - base
    shared, whole = (change.conj() * moved).real, change.abs().square()
    near = [gaussian_smoothing(part.mean(2, keepdim=True), _NEAR, (1.0, 1.0, 1.0)) for part in (shared, whole)]
    return (near[0] / near[1]).clamp(0, 1)


def _details(like: Tensor, amplitude: float, generator: torch.Generator) -> Tensor:
    """Random complex details of `amplitude` everywhere."""
    noise = unit_noise(like, generator)
    spread = min(_FRAMES, like.shape[2])
    lasting = sum((noise.roll(step, 2) for step in range(spread)), torch.zeros_like(noise))
    smooth = torch.complex(
        *(gaussian_smoothing(part, DETAIL, (1.0, 1.0, 1.0)) for part in (lasting.real, lasting.imag))
    )
    return amplitude * smooth / torch.view_as_real(smooth).square().mean().sqrt()
