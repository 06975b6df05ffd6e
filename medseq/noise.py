"""Noise: drawing it, measuring it and making it white.

One convention everywhere: `sigma` is the std of EACH real channel. Complex noise of unit sigma therefore has
E|n|^2 = 2, and a covariance is E[n n^H] / 2, whose diagonal is the squared sigma of each coil.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseq.clip import KSpace, Trajectory
from medseq.errors import InputError, UsageError

# Median absolute value of a standard normal variable (Hampel 1974): what turns a median into a std.
_MEDIAN_OF_ABS_NORMAL = 0.6744897501960817
# Std of a Rayleigh variable of unit sigma: what magnitude noise is where there is no signal (Gudbjartsson 1995).
_RAYLEIGH_STD = math.sqrt(2 - math.pi / 2)
# Mean of a Rayleigh variable of unit sigma: no Rician mean is smaller.
_RAYLEIGH_MEAN = math.sqrt(math.pi / 2)
# A magnitude is Gaussian to a few per cent above this multiple of its noise (Gudbjartsson 1995, fig. 1).
_BRIGHT = 3.0
# Noise and what counts as bright depend on each other; this many rounds settle both to 0.1 %.
_ROUNDS = 4
# Voxels darker than this part of the brightest are background.
_TISSUE = 0.1
# The part of the measured samples taken as noise: small, as anatomy reaches far out. Yet no fewer than this many of
# each coil, or their median is itself noise.
_OUTER = 0.02
_FEWEST = 128


def unit_noise(like: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """White Gaussian noise of std 1 in each real channel, of the shape, dtype and device of `like`.

    For complex data that is sqrt(2) times `torch.randn`, whose complex variance is 1 over both channels together.
    The draw is made on the device of `generator`: a CPU generator gives the same noise whatever the device of `like`.
    """
    device = like.device if generator is None else generator.device
    noise = torch.randn(like.shape, dtype=like.dtype, device=device, generator=generator).to(like.device)
    return noise * math.sqrt(2) if like.is_complex() else noise


def noise_covariance(samples: Tensor) -> Tensor:
    """Coil covariance E[n n^H] / 2, (C, C), of complex pure-noise samples (C, N); the diagonal is sigma^2 of each coil.

    Noise has no mean, so none is subtracted (Kellman and McVeigh 2005). Raises InputError when there are fewer samples
    than coils or a sample is not finite.
    """
    coils, count = samples.shape
    if count < coils:
        raise InputError(f"a noise scan of {count} samples is too short for {coils} coils; measure a longer one")
    if not bool(torch.isfinite(samples).all()):
        raise InputError("the noise scan holds values that are not finite; leave it out")
    return samples @ samples.mH / (2 * count)


def whitener(covariance: Tensor) -> Tensor:
    """The matrix W (C, C) with W covariance W^H = 1: the inverse of its lower Cholesky factor (Pruessmann 2001).

    Raises InputError when the covariance (C, C) is not positive definite (a dead or duplicated coil).
    """
    factor, failed = torch.linalg.cholesky_ex(covariance)
    if bool(failed) or not bool(torch.isfinite(factor).all()):
        raise InputError(
            "the noise covariance is not positive definite, as of a coil that is dead, or there twice; leave it out"
        )
    identity = torch.eye(len(covariance), dtype=covariance.dtype, device=covariance.device)
    return torch.linalg.solve_triangular(factor, identity, upper=False)


def prewhiten(data: Tensor, covariance: Tensor) -> Tensor:
    """Mix the coils of data (B, C, ...) so that its noise has unit std in each real channel and no correlation.

    covariance: (C, C) as from `noise_covariance`. Coil maps must be mixed by the same call, or estimated afterwards.
    Raises InputError as `whitener` does.
    """
    mixing = whitener(covariance.to(data.device)).to(data.dtype)
    return torch.einsum("dc,bc...->bd...", mixing, data)


def estimate_noise(kspace: KSpace) -> Tensor:
    """Noise sigma (C,) of each coil, in data units per real channel, from the outermost measured k-space samples.

    The signal falls fastest towards the corners of k-space, so the outermost 2 % of the measured samples, ordered by
    the product of their distances from the two axes, are taken as noise; the median absolute value forgives what
    signal is left (Donoho 1994). Along a trajectory it is the distance from the centre that orders them. Samples that
    are exactly zero (padding that counts as measured) are left out.
    Without a noise scan this is an upper estimate: signal in the corners adds to it.

    Raises InputError when too few samples are left.
    """
    data = kspace.data
    needed = _FEWEST * kspace.coils
    if kspace.trajectory is None:
        samples, chosen = _outer_of_grid(data, kspace.keep.expand(data.shape), needed)
    else:
        samples, chosen = data, _outer_of_readouts(kspace, kspace.trajectory, needed)
    channels = torch.view_as_real(samples).abs().movedim(1, 0).flatten(1, -2)
    chosen = chosen.movedim(1, 0).flatten(1)
    absolute = channels.masked_fill(~chosen[..., None], torch.nan).flatten(1)
    return absolute.nanmedian(1).values / _MEDIAN_OF_ABS_NORMAL


def _outer_of_grid(data: Tensor, keep: Tensor, needed: int) -> tuple[Tensor, Tensor]:
    """The outermost samples (B, C, T, n) of a grid, and which of them were measured. Raises InputError.

    By place and frame by frame: as many flags and distances as samples would take as much memory as these do.
    """
    count = sum((keep[:, :, t] & (data[:, :, t] != 0)).sum((0, 1)) for t in range(data.shape[2]))
    assert isinstance(count, Tensor)
    total = _enough(int(count.sum()), needed)
    distance = _corner_distance(data)
    order = distance.flatten().argsort(descending=True)
    reached = count.flatten()[order].cumsum(0) >= max(needed, int(_OUTER * total))
    outer = distance >= distance.flatten()[order[reached.int().argmax()]]
    samples = data[..., outer]
    return samples, keep[..., outer] & (samples != 0)


def _outer_of_readouts(kspace: KSpace, trajectory: Trajectory, needed: int) -> Tensor:
    """Which samples lie outermost along a trajectory, in the shape of the data. Raises InputError."""
    keep = kspace.keep.expand(kspace.data.shape) & (kspace.data != 0)
    radius = trajectory.points.norm(dim=-1)
    distance = radius.expand(keep.shape)[keep]
    total = _enough(distance.numel(), needed)
    return keep & (radius >= _largest(distance, max(needed, int(_OUTER * total))))


def _enough(samples: int, needed: int) -> int:
    if samples < needed:
        raise InputError("too few k-space samples were measured to estimate the noise; give it as `noise`")
    return samples


def estimate_noise_image(series: Tensor) -> Tensor:
    """Noise sigma (B,) of an image series (B, 1, T, Y, X), real or complex, in its units per real channel.

    Successive frames are subtracted (which removes what stands still), high-passed twice in space (which removes what
    moves smoothly) and the median absolute value taken (which forgives edges that move), after Immerkaer 1996 and
    Donoho 1994. A single frame is only high-passed. Only voxels above a tenth of the 99th percentile of the mean count:
    parallel imaging, filters and masks leave less noise in the background than in tissue.

    For magnitude data (real, nowhere negative) sigma means that of the underlying complex channels: it is read where
    the series is bright enough for Rician noise to be nearly Gaussian, and what the magnitude took from its std there
    is put back (Koay and Basser 2006); where it is bright nowhere, the noise is taken as Rayleigh and its std divided
    by 0.655. Noise is taken as white: in images interpolated by zero-filling, or smoothed,
    the estimate is too low. Physiological fluctuations that vary from voxel to voxel count as noise.

    Raises UsageError when the frames are smaller than 3 x 3, InputError when an item is constant.
    """
    if series.ndim != 5 or min(series.shape[-2:]) < 3:
        raise UsageError(f"noise is estimated on (B, 1, T, Y, X) of at least 3 x 3 voxels, got {tuple(series.shape)}")
    detail = _high_pass(series)
    # Averaged over neighbours too, or the crests of pure noise would pass for signal.
    mean = torch.nn.functional.avg_pool2d(series.abs().mean(2), 3, stride=1)[:, :, None]
    tissue = (mean > _TISSUE * _each(mean.flatten(1).quantile(0.99, dim=1))) & (detail != 0).any(2, keepdim=True)
    sigma = _masked_sigma(detail, tissue)
    if not series.is_complex() and not bool((series < 0).any()):
        sigma = _magnitude_sigma(detail, mean, tissue, sigma)
    if not bool((sigma > 0).all()):
        raise InputError("no noise can be estimated, as the series is constant or not finite; give the std as sigma")
    return sigma


def magnitude_unbias(magnitude: Tensor, sigma: float | Tensor) -> Tensor:
    """The signal behind mean magnitudes: undoes the Rician bias of a denoised magnitude series, any shape.

    The mean of |a + n| lies above a, by 1.25 sigma where a is zero; this solves mean = magnitude for a by Newton's
    method (the mean of Koay and Basser 2006, eq. 4). What lies below the mean of noise alone becomes 0. Made for
    series denoised already: of a noisy one it would invert the noise. sigma: std of each real channel, in the units of
    the magnitude, broadcastable to it. Raises UsageError when sigma is not positive.
    """
    if not bool((torch.as_tensor(sigma) > 0).all()):
        raise UsageError("sigma must be positive")
    ratio = magnitude / sigma
    signal = (ratio.square() - _RAYLEIGH_MEAN**2).clamp(min=0).sqrt()
    for _ in range(5):  # starts within 13 % of the root, so five steps reach the last digits
        mean, slope = _rician_mean(signal)
        signal = (signal - (mean - ratio) / slope.clamp(min=torch.finfo(slope.dtype).eps)).clamp(min=0)
    return sigma * torch.where(ratio <= _RAYLEIGH_MEAN, 0, signal)  # what is not a number stays none


def _rician_mean(signal: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of a Rician variable of unit sigma and its derivative by the signal (Koay and Basser 2006, eq. 4)."""
    half = signal.square() / 4
    even, odd = torch.special.i0e(half), torch.special.i1e(half)
    mean = _RAYLEIGH_MEAN * ((1 + 2 * half) * even + 2 * half * odd)
    return mean, _RAYLEIGH_MEAN / 2 * signal * (even + odd)


def _magnitude_sigma(detail: Tensor, mean: Tensor, tissue: Tensor, sigma: Tensor) -> Tensor:
    """Noise sigma (B,) behind a magnitude series; sigma: the std of the magnitudes themselves, to begin with.

    detail: high-passed series; mean: its local mean, in which no noise is left; tissue: bool, where to look.
    """
    rayleigh = sigma / _RAYLEIGH_STD
    for _ in range(_ROUNDS):
        bright = tissue & (mean > _BRIGHT * _each(sigma))
        # One voxel in a hundred is enough for a median; fewer are as likely spikes as tissue.
        enough = bright.flatten(1).float().mean(1) > 0.01
        ratio = (mean / _each(sigma)).double()
        variance = 2 + magnitude_unbias(ratio, 1.0).square() - ratio.square()
        narrowed = variance.clamp(min=_RAYLEIGH_STD**2).sqrt().to(detail.dtype)
        sigma = torch.where(enough, _masked_sigma(detail / narrowed, bright), rayleigh)
    return sigma


def _each(values: Tensor) -> Tensor:
    """One value an item, (B,), shaped to broadcast over (B, 1, T, Y, X)."""
    return values.view(-1, 1, 1, 1, 1)


def _high_pass(series: Tensor) -> Tensor:
    """Differences in time, second differences along Y and X, scaled so that white noise keeps its std."""
    x = (series[:, :, 1:] - series[:, :, :-1]) / math.sqrt(2) if series.shape[2] > 1 else series
    for axis in (-2, -1):
        size = x.shape[axis] - 2
        x = x.narrow(axis, 0, size) - 2 * x.narrow(axis, 1, size) + x.narrow(axis, 2, size)
    return x / 6  # each second difference (1, -2, 1) has the norm sqrt(6)


def _masked_sigma(detail: Tensor, chosen: Tensor) -> Tensor:
    absolute = torch.view_as_real(detail).abs() if detail.is_complex() else detail.abs()[..., None]
    absolute = absolute.masked_fill(~chosen[..., None], torch.nan)
    return absolute.flatten(1).nanmedian(1).values / _MEDIAN_OF_ABS_NORMAL


def _corner_distance(data: Tensor) -> Tensor:
    """(Y, X): product of the distances from the two axes of k-space, each from 0 at DC to about 1 at the edge."""
    size_y, size_x = data.shape[-2:]
    y = (torch.arange(size_y, device=data.device) - size_y // 2).abs() / max(size_y / 2, 1)
    x = (torch.arange(size_x, device=data.device) - size_x // 2).abs() / max(size_x / 2, 1)
    return y[:, None] * x


def _largest(values: Tensor, count: int) -> Tensor:
    """The least of the `count` largest values."""
    return values.kthvalue(values.numel() - count + 1).values
