"""The noise of an image series, voxel by voxel: its level, its correlation over space, its Rician law.

Parallel imaging amplifies noise by a factor that varies smoothly over the image (the g-factor, Pruessmann 1999), and
scanners interpolate by zero-filling k-space, which correlates the noise of neighbours. Both are told here from the
series itself. What fluctuates in the body is shared by many voxels and so lives in few temporal components, whatever
its frequency; thermal noise is alike in all of them. Everything is therefore read in the quieter half of the temporal
components, and those of each voxel are taken from voxels elsewhere in the slice, or its own noise would choose them.

What no series can tell: fluctuations that are as fast as the sampling, white in time and independent from voxel to
voxel count as noise. Those shared by a region do not, fast or slow.

As everywhere, `sigma` is the std of EACH real channel.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medseq.errors import InputError, UsageError
from medseq.noise import magnitude_unbias

# Std of a Rayleigh variable of unit sigma: a magnitude where there is no signal (Gudbjartsson 1995).
_RAYLEIGH_STD = math.sqrt(2 - math.pi / 2)
# Voxels darker than this part of the brightest are background ...
_TISSUE = 0.1
# ... and so are magnitudes of a lower mean over std: 1.91 is air, 2.3 has an SNR of 1.7.
_LEAST_RATIO = 2.3
# The level follows from the Rician correction and that from the level. Bright series settle to this part in 3 rounds,
# those of SNR 2 in 8.
_SETTLED, _ROUNDS = 1e-3, 10
# Side of the median that forgives vessels, and std of the Gaussian that follows, in voxels.
_MEDIAN_SIDE = 5
_GAUSSIAN = 2.0
# Weight of the typical level against that of neighbours: it decides only where there are none.
_FAR = 1e-3
_FEWEST_FRAMES = 8
# Fields of the chessboard are an eighth of the image, so that one colour meets what fluctuates in the other.
_SMALLEST_FIELD = 4
_CHUNK = 128  # images that are transformed at once
# Of the tables for Rician noise: nodes a channel, steps of magnitude a step of signal, rounds to a std of 1 +- 0.05.
_NODES, _COARSER, _CORRECTIONS = 48, 8, 8


@dataclass(frozen=True)
class NoiseCorrelation:
    """How the noise of neighbouring voxels hangs together, over all slices of a series.

    autocorrelation: (2 L + 1, 2 L + 1) over (Y, X), 1 at its middle, the lag of 0. spectrum: (Y, X), its power in
    k-space, DC at index N // 2, mean 1. filled: shares of the lines along ky and kx that hold noise; the rest was
    filled with zeros. effective_share: independent noise samples a voxel, 1 / sum of autocorrelation^2; the product of
    `filled` where nothing but zero-filling correlates the noise. through_slices: (B,), the correlation with the slice
    that many places on.
    """

    autocorrelation: Tensor
    spectrum: Tensor
    filled: tuple[float, float]
    effective_share: float
    through_slices: Tensor

    def patch_share(self, side: int) -> float:
        """Independent noise samples a voxel in patches of side x side voxels, which cut the longer lags short.

        The second moment of the Marchenko-Pastur law depends on it: the covariance of two frames over a patch of N
        voxels has the variance sigma^4 / (share N), being the mean of squares of the (N, N) correlation matrix.
        Raises UsageError for a side of no voxels.
        """
        if side < 1:
            raise UsageError(f"a patch needs at least one voxel, got {side}")
        reach = len(self.autocorrelation) // 2
        lags = torch.arange(-reach, reach + 1, device=self.autocorrelation.device)
        met = (1 - lags.abs() / side).clamp(min=0)  # the part of the pairs that a patch holds
        return float(1 / (met[:, None] * met * self.autocorrelation.square()).sum())


def noise_map(series: Tensor) -> Tensor:
    """Noise sigma (B, 1, 1, Y, X) of the slices of one series (B, 1, T, Y, X), real or complex, in its units.

    In each voxel sigma^2 is the mean square of the quieter half of the temporal components (see the module), of both
    real channels of complex data: sigma^2 = sum_k (Re c_k)^2 + (Im c_k)^2 over 2 K. The median over 5 x 5 voxels and a
    Gaussian follow, as g-factors are smooth. Nothing is assumed of the noise over space: it may be correlated. Where
    phase is at hand, give torch.polar(magnitude, phase): its noise is Gaussian at every SNR.

    For magnitude data (real, nowhere negative) sigma is that of the underlying complex channels: what the magnitude
    took from the std is put back (Koay and Basser 2006, eq. 3). Tissue below an SNR of about 1.7 and air are not
    measured, since filters and masks are at work there: they take the level of the tissue nearby, or its median.

    Raises UsageError for another shape or fewer than 8 frames, InputError where no tissue shows noise.
    """
    _check(series, _FEWEST_FRAMES)
    tissue = _tissue(series)
    degrees = _kept(series.shape[2]) * (2 if series.is_complex() else 1)
    # Slice by slice: the intermediate results are several times as large as the data.
    quiet = (_quiet(*slices).values for slices in zip(series.split(1), tissue.split(1), strict=True))
    std = torch.cat([(values.square().sum((1, 2)) / degrees).sqrt() for values in quiet])
    if not _is_magnitude(series):
        return _smooth(std, tissue, degrees)
    mean = series.mean(2)[:, 0]
    sigma = _smooth(std / _RAYLEIGH_STD, tissue, degrees)
    for _ in range(_ROUNDS):
        previous, sigma = sigma, _smooth(std / _rician_std(mean / sigma[:, 0, 0]), tissue, degrees)
        if torch.allclose(sigma, previous, rtol=_SETTLED, atol=0):
            break
    return sigma


def noise_map_from_scan(scan: Tensor) -> Tensor:
    """Noise sigma (B, 1, 1, Y, X) of images (B, 1, T, Y, X) of noise alone (no RF pulse), in their units.

    They must have been reconstructed as the series was. sigma^2 is the mean of |n|^2 / 2 for complex noise and for its
    magnitude (Rayleigh, of one channel or coils combined with weights), of n^2 for signed data, made smooth as in
    `noise_map`. Voxels that are zero throughout count as masked.

    Raises UsageError for another shape, InputError where there is no noise, or values are not finite.
    """
    _check(scan, 1)
    power = scan.abs().square().mean(2)[:, 0]
    channels = 2 if scan.is_complex() or _is_magnitude(scan) else 1
    return _smooth((power / channels).sqrt(), power > 0, channels * scan.shape[2])


def noise_correlation(series: Tensor, sigma: Tensor | None = None, *, reach: int | None = None) -> NoiseCorrelation:
    """Spatial correlation of the noise of a series (B, 1, T, Y, X), real or complex, from its quiet components.

    sigma: map as from `noise_map`, None to estimate it. reach: the longest lag in voxels, None for a quarter of the
    shorter side. Only pairs of tissue voxels count, so that a mask does not pass for correlation. Correlation between
    voxels folded onto each other by parallel imaging lies beyond the reach.

    Raises UsageError for an impossible reach or sigma, and as `noise_map`.
    """
    _check(series, _FEWEST_FRAMES)
    height, width = series.shape[-2:]
    reach = min(height, width) // 4 if reach is None else reach
    if not 1 <= reach < min(height, width) // 2:
        raise UsageError(f"the reach must be from 1 to below half of {min(height, width)} voxels, got {reach}")
    sigma = noise_map(series) if sigma is None else sigma
    if not bool((sigma > 0).all()):
        raise UsageError("sigma must be positive")
    tissue = _tissue(series)
    quiet = _quiet(series, tissue)
    values = torch.where(tissue[:, None, None], quiet.values / sigma, 0)
    # Fields of different colours have other components, and what those share is biased: they chose one another's.
    pairs = _correlate(tissue.to(values.dtype), quiet.colours, reach).round()
    products = _correlate(values.flatten(0, 2), quiet.colours, reach)
    correlation = torch.where(pairs > 0, products / pairs.clamp(min=1), 0)
    correlation = correlation / correlation[reach, reach]
    # A correlation of zero, measured on n pairs, has the square sum(correlation^2) / n.
    scatter = (1 / pairs[pairs > 0]).sum() / (_kept(series.shape[2]) * values.shape[1])
    spectrum = _spectrum(correlation, (height, width))
    return NoiseCorrelation(
        autocorrelation=correlation,
        spectrum=spectrum,
        filled=(_filled(spectrum.mean(1)), _filled(spectrum.mean(0))),
        effective_share=float((1 + scatter) / correlation.square().sum()),
        through_slices=_through_slices(quiet, values, tissue),
    )


def stabilised(magnitude: Tensor, sigma: float | Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """A magnitude series (any shape) with noise of unit std everywhere, and what turns its denoised form into a signal.

    The transform f of magnitude / sigma makes a Rician variable's std 1 to within 5 % at every SNR, 3 % above 2
    (variance stabilisation after Foi 2011, found by integrating 1 / std, then corrected in the same way by the std of
    what came out). undo(denoised) solves E f = denoised for the signal, in the units of the magnitude and without the
    Rician bias (exact unbiased inverse, Foi 2011, section IV); below the mean of noise alone it is 0. Needed below an
    SNR of 5: there the bias 1 / (2 SNR^2) of the mean and of small changes is 2 %, and the std falls short by 1 %.

    sigma: std of each real channel, broadcastable to the series. Raises UsageError when sigma is not positive, and for
    complex or negative data, whose noise needs no transform.
    """
    if not _is_magnitude(magnitude):
        raise UsageError("only magnitudes are stabilised: complex and signed data have Gaussian noise")
    if not bool((torch.as_tensor(sigma) > 0).all()):
        raise UsageError("sigma must be positive")
    magnitudes, values, signals, expected = (table.to(magnitude) for table in _stabiliser())

    def undo(denoised: Tensor) -> Tensor:
        return sigma * _interpolate(denoised, expected, signals).clamp(min=0)

    return _interpolate(magnitude / sigma, magnitudes, values), undo


@dataclass(frozen=True)
class _Quiet:
    """values: (B, 1 or 2, T, Y, X), each real channel projected onto its quieter temporal components. colours:
    (2, Y, X) bool, the fields of a chessboard. projections: (B, 2, T, T), what was applied to either colour."""

    values: Tensor
    projections: Tensor
    colours: Tensor


def _kept(frames: int) -> int:
    """How many of the temporal components, the mean left out, are the quieter half."""
    return (frames - 1) // 2


def _quiet(series: Tensor, tissue: Tensor) -> _Quiet:
    """Project onto the quieter half of the temporal components. The black fields of a chessboard take them from the
    white ones and the other way round: no voxel's noise chooses its own components."""
    channels = torch.cat([series.real, series.imag], dim=1) if series.is_complex() else series
    slices, _, frames, height, width = channels.shape
    side = max(_SMALLEST_FIELD, min(height, width) // 8)
    rows, columns = (torch.arange(size, device=channels.device) // side for size in (height, width))
    white = (rows[:, None] + columns) % 2 == 1
    values = channels - channels.mean(2, keepdim=True)
    level = (values[:, :, 1:] - values[:, :, :-1]).square().mean((1, 2)).sqrt()
    projections = values.new_zeros(slices, 2, frames, frames)
    for b in range(slices):
        for colour, source in enumerate((white, ~white)):
            chosen = source & tissue[b]
            projections[b, colour] = _quietest(values[b][..., chosen] / level[b, chosen])
        black_values, white_values = torch.einsum("cst,rtyx->crsyx", projections[b], values[b])
        values[b] = torch.where(white, white_values, black_values)
    return _Quiet(values, projections, torch.stack([~white, white]))


def _quietest(courses: Tensor) -> Tensor:
    """Projection (T, T) onto the half of the components with the least power of courses (R, T, voxels) without mean."""
    gram = torch.einsum("rsv,rtv->st", courses, courses).double()
    # The mean was taken out: its direction holds no noise and must not pass for a quiet one.
    gram = gram + gram.trace() + 1
    quiet = torch.linalg.eigh(gram).eigenvectors[:, : _kept(len(gram))]
    return (quiet @ quiet.T).to(courses.dtype)


def _check(series: Tensor, frames: int) -> None:
    if series.ndim != 5 or series.shape[1] != 1 or series.shape[2] < frames or min(series.shape[-2:]) < 8:
        wanted = f"(B, 1, T, Y, X) of at least {frames} frames of 8 x 8 voxels"
        raise UsageError(f"a noise map is made of {wanted}, got {tuple(series.shape)}")
    if not bool(torch.isfinite(series).all()):
        raise InputError("no noise can be estimated, as the series holds values that are not finite; mask them out")


def _is_magnitude(series: Tensor) -> bool:
    return not series.is_complex() and not bool((series < 0).any())


def _tissue(series: Tensor) -> Tensor:
    """(B, Y, X) bool: bright enough, moving at all, and above the noise if that is Rician."""
    mean = _neighbourhood(torch.cat([item.abs().mean(2) for item in series.split(1)]))
    step = torch.cat([item.diff(dim=2).abs().square().mean(2) / 2 for item in series.split(1)])
    tissue = (mean > _TISSUE * mean.quantile(0.99)) & (step > 0)
    if _is_magnitude(series):
        tissue &= mean > _LEAST_RATIO * _neighbourhood(step).sqrt()
    if not bool(tissue.any()):
        raise InputError("no noise can be estimated, as no voxel is bright and fluctuates; give the std as sigma")
    return tissue[:, 0]


def _neighbourhood(x: Tensor) -> Tensor:
    """Mean over 3 x 3 voxels, or the crests of pure noise would pass for signal."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)


def _rician_std(mean: Tensor) -> Tensor:
    """Std of a Rician variable of unit sigma by its mean: 2 + a^2 - mean^2 (Koay and Basser 2006, eq. 3)."""
    wide = mean.double()  # the difference of two squares is small
    variance = 2 + magnitude_unbias(wide, 1.0).square() - wide.square()
    return variance.clamp(min=_RAYLEIGH_STD**2).sqrt().to(mean.dtype)


def _smooth(std: Tensor, tissue: Tensor, degrees: int) -> Tensor:
    """Maps (B, Y, X) -> (B, 1, 1, Y, X): median of the variances over neighbours in the tissue, then a Gaussian.

    degrees: of freedom of each variance, whose median lies below its mean by (1 - 2 / 9 degrees)^3 (Wilson and
    Hilferty 1931).
    """
    edge = _MEDIAN_SIDE // 2
    known = torch.where(tissue, std, torch.nan)[:, None]
    around = F.pad(known, (edge,) * 4, value=math.nan).unfold(2, _MEDIAN_SIDE, 1).unfold(3, _MEDIAN_SIDE, 1)
    middle = around.flatten(4).nanmedian(4).values / (1 - 2 / (9 * degrees)) ** 1.5
    inside = tissue[:, None]
    if not bool(inside.any()):
        raise InputError("no noise can be estimated, as every voxel is zero; give another series")
    typical = middle[inside].median()
    near = _gaussian(torch.where(inside, middle, 0)), _gaussian(inside.to(std.dtype))
    return ((near[0] + _FAR * typical) / (near[1] + _FAR))[:, :, None]


def _gaussian(x: Tensor) -> Tensor:
    """Images (B, 1, Y, X) under a Gaussian, zero beyond their edges."""
    half = math.ceil(3 * _GAUSSIAN)
    place = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-place.square() / (2 * _GAUSSIAN**2))
    kernel = kernel / kernel.sum()
    return F.conv2d(
        F.conv2d(x, kernel[None, None, :, None], padding=(half, 0)), kernel[None, None, None], padding=(0, half)
    )


def _correlate(images: Tensor, colours: Tensor, reach: int) -> Tensor:
    """Sum over images (N, Y, X) of the products of values one lag apart, on fields of one colour, for lags up to
    `reach` along both axes: (2 reach + 1, 2 reach + 1)."""
    size = [n + reach for n in images.shape[-2:]]  # room enough that nothing wraps round
    power = torch.zeros(size[0], size[1] // 2 + 1, dtype=images.dtype, device=images.device)
    for some in images.split(_CHUNK):
        power += torch.fft.rfft2(some[:, None] * colours, s=size).abs().square().sum((0, 1))
    lags = torch.fft.irfft2(power, s=size).roll((reach, reach), (0, 1))
    return lags[: 2 * reach + 1, : 2 * reach + 1]


def _spectrum(correlation: Tensor, size: tuple[int, int]) -> Tensor:
    """Power (Y, X) in k-space of an autocorrelation, under a Hann window of lags (Blackman and Tukey 1958)."""
    window = torch.hann_window(len(correlation) + 2, periodic=False, dtype=correlation.dtype)[1:-1]
    window = window.to(correlation.device)
    tapered = correlation * window * window[:, None]
    start = len(correlation) // 2
    whole = F.pad(tapered, (0, size[1] - len(correlation), 0, size[0] - len(correlation)))
    return torch.fft.fftshift(torch.fft.fft2(whole.roll((-start, -start), (0, 1))).real)


def _filled(profile: Tensor) -> float:
    """Share of the lines of k-space that hold noise: at least half of what the median line holds."""
    return float((profile > profile.median() / 2).double().mean())


def _through_slices(quiet: _Quiet, values: Tensor, tissue: Tensor) -> Tensor:
    """(B,) correlation of the noise of slices 0, 1, 2 ... places apart, in voxels that are tissue in both."""

    def apart(lag: int) -> Tensor:
        lower, upper = slice(None, len(values) - lag), slice(lag, None)
        both = tissue[lower] & tissue[upper]
        shared = torch.einsum("bcst,bcst->bc", quiet.projections[lower], quiet.projections[upper])
        counts = (both[:, None] & quiet.colours).sum((2, 3))
        return (values[lower] * values[upper]).sum() / (shared * counts).sum().clamp(min=1) / values.shape[1]

    correlation = torch.stack([apart(lag) for lag in range(len(values))])
    return correlation / correlation[0]


@functools.cache
def _stabiliser() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Magnitudes and f of each, signals and E f of each, all of unit sigma; beyond 100, f is straight to 1e-4."""
    place = torch.linspace(0, 1, 2001, dtype=torch.float64)
    magnitudes = 100 * torch.sinh(6 * place) / math.sinh(6)  # dense where the Rician law bends
    signals = magnitudes[::_COARSER]
    nodes, weights = (torch.from_numpy(a) for a in np.polynomial.hermite_e.hermegauss(_NODES))
    weight = weights[:, None] * weights / weights.sum() ** 2
    noisy = torch.hypot(signals[:, None, None] + nodes[:, None], nodes)

    def moments(values: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and std of f(|signal + n|), n complex noise of unit sigma, by Gauss-Hermite quadrature."""
        drawn = _interpolate(noisy, magnitudes, values)
        mean = (weight * drawn).sum((1, 2))
        return mean, (weight * (drawn - mean[:, None, None]).square()).sum((1, 2)).sqrt()

    values = _integral(1 / _rician_std(magnitudes), magnitudes)
    for _ in range(_CORRECTIONS):
        mean, std = moments(values)
        values = _integral(1 / _interpolate(values.clamp(mean[0], mean[-1]), mean, std), values)
    return magnitudes, values, signals, moments(values)[0]


def _integral(slope: Tensor, at: Tensor) -> Tensor:
    return F.pad(torch.cumulative_trapezoid(slope, at), (1, 0))


def _interpolate(x: Tensor, grid: Tensor, values: Tensor) -> Tensor:
    """Linear interpolation of values on an increasing grid; straight on beyond its ends."""
    right = torch.searchsorted(grid, x.contiguous()).clamp(1, len(grid) - 1)
    left = right - 1
    slope = (values[right] - values[left]) / (grid[right] - grid[left])
    return values[left] + slope * (x - grid[left])
