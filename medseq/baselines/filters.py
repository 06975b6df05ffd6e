"""Denoising filters of scikit-image on dynamic series, with weights in multiples of the noise.

A series is divided by its noise, filtered as one volume of time and space, and multiplied back: weights mean the same
for every series, and a rescaled series gives the same result rescaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.noise import estimate_noise_image


def noise_levels(x: Tensor, sigma: float | Tensor | None) -> Tensor:
    """Noise std of each real channel of every item (B,): sigma, one number or (B,), or None to estimate it.

    Raises UsageError for values that are not positive and finite, and as `estimate_noise_image` does.
    """
    if sigma is None:
        return estimate_noise_image(x)
    if isinstance(sigma, Tensor):
        fits = sigma.numel() in (1, x.shape[0]) and bool((sigma > 0).all() & torch.isfinite(sigma).all())
    else:  # without a tensor, which would make a GPU wait
        fits = 0 < sigma < math.inf
    if not fits:
        raise UsageError("sigma must be positive and finite: one number, or one for each item")
    return torch.as_tensor(sigma, dtype=x.real.dtype, device=x.device).flatten().expand(x.shape[0])


def total_variation_denoise(x: Tensor, sigma: float | Tensor | None = None, *, weight: float = 0.6) -> Tensor:
    """argmin |u - x|^2 / 2 + weight sigma TV(u) over time and space at once (Rudin 1992; Chambolle 2004).

    x: (B, 1, T, Y, X), real or complex; real and imaginary part are filtered on their own. sigma: std of each real
    channel, a number or (B,), None estimates it. A step to the next frame counts as one to the next voxel. Runs on the
    CPU. Raises UsageError for an impossible sigma or weight.
    """
    from skimage.restoration import denoise_tv_chambolle

    _check_weight(weight)
    return _each_volume(x, sigma, lambda volume: denoise_tv_chambolle(volume, weight=weight, channel_axis=-1))


def non_local_means(
    x: Tensor, sigma: float | Tensor | None = None, *, weight: float = 0.6, patch: int = 5, distance: int = 3
) -> Tensor:
    """Every voxel becomes a mean of those whose surroundings in time and space look alike (Buades 2005, 2008).

    x: (B, 1, T, Y, X), real or complex; patches of `patch`^3 voxels are compared in real and imaginary part together,
    within `distance` voxels and frames. Of their mean squared difference what noise explains is taken off, and what is
    left weighs them by exp(-difference / (weight sigma)^2). sigma: std of each real channel, a number or (B,), None
    estimates it. Runs on the CPU.

    Raises UsageError for an impossible sigma or weight.
    """
    from skimage.restoration import denoise_nl_means

    _check_weight(weight)

    def filtered(volume: np.ndarray) -> np.ndarray:
        return denoise_nl_means(
            volume,
            patch_size=patch,
            patch_distance=distance,
            h=weight,
            sigma=1.0,
            preserve_range=True,
            channel_axis=-1,
        )

    return _each_volume(x, sigma, filtered)


def _check_weight(weight: float) -> None:
    if not 0 < weight < float("inf"):
        raise UsageError(f"the weight must be positive and finite, got {weight}")


def _each_volume(x: Tensor, sigma: float | Tensor | None, method: Callable[[np.ndarray], np.ndarray]) -> Tensor:
    """Apply method, on arrays (T, Y, X, 1 or 2 channels) of unit noise, to every item of (B, 1, T, Y, X)."""
    if x.ndim != 5 or x.shape[1] != 1:
        raise UsageError(f"a series (B, 1, T, Y, X) is needed, got {tuple(x.shape)}")
    levels = noise_levels(x, sigma).view(-1, 1, 1, 1, 1)
    unit = x / levels
    channels = torch.view_as_real(unit) if x.is_complex() else unit[..., None]
    volumes = [torch.from_numpy(method(item)) for item in channels[:, 0].cpu().numpy()]
    filtered = torch.stack(volumes).to(channels).view(channels.shape)  # some filters drop a single channel
    return levels * (torch.view_as_complex(filtered.contiguous()) if x.is_complex() else filtered[..., 0])
