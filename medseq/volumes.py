"""Volumes of a BOLD series at the times they are wanted: censored ones filled in, and all moved to other times.

Both are best linear predictions in time (kriging; Wiener 1949, Matheron 1963): a wanted value is a weighted sum of
acquired ones, whose weights follow from the autocovariance. No prior and no network: where `medseq.fill_missing` draws
the frames that a moving heart lacks, `fill_volumes` replaces volumes of a scene that stands still and fluctuates by a
few per cent.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, avg_pool2d, interpolate

from medseq.baselines.local_pca import local_pca
from medseq.clip import Clip
from medseq.errors import InputError, UsageError
from medseq.operators import Resample

# The haemodynamic response lasts for about this long: fluctuations further apart share only drift.
_MEMORY = 25.0  # seconds
# Autocovariances are taken over windows of three tiles, large enough to average and small enough to be of one tissue.
_TILE = 4  # pixels
# Least power of any frequency, over the mean power. No spectrum estimated from one run is trusted to be empty anywhere:
# weights would grow without bound to exploit it.
_LEAST_POWER = 0.1
# Variance of the unknown level about the voxel's mean, over that of the fluctuations: what drift does within `_MEMORY`.
_LEVEL = 1.0
# A slice that lacks more than this share of its volumes would be made up rather than filled in.
_LARGEST_SHARE = 0.5
_FEWEST = 4  # volumes, without which there is no autocovariance
_UNEVEN = 0.05  # of the repetition time: volumes closer than this to an even grid are on it
_GAP = 1.5  # times the repetition time: a longer step means that a volume was dropped
_ROUNDING = 1e-6  # of the repetition time: how far a wanted time may lie outside for having been rounded
# Power at the Nyquist frequency that resampling reckons with, over that of the slowest fluctuations.
_POWER_AT_NYQUIST = 1e-3
_ANY_LEVEL = 1e3  # variance of a level that may be anything, over that of fluctuations


def fill_volumes(clip: Clip, censored: ArrayLike | None = None) -> Clip:
    """The series with its censored and missing volumes replaced by predictions from the others, which keep every bit.

    censored: bool (T,), True for volumes that are bad (scrubbed for motion, spiked); what they hold is not looked at.
    Frames that are missing (`clip.present` False) are filled in too, slice by slice; the result has none
    (`present` None). Volumes that were dropped from the series altogether are put back by `insert_dropped` first.

    Each slice on its own: (1) the volumes that are there are freed of noise by local principal components
    (`local_pca`, Marchenko-Pastur), (2) their autocovariance is estimated in small windows up to lags of 25 s and
    tapered (Blackman and Tukey 1958), (3) each bad volume is the best linear prediction from those within 25 s, about
    an unknown level near the voxel's mean (Bayesian kriging, Omre 1987). Far from any volume that is there, that is the
    voxel's mean. The result has less noise than its neighbours and holds nothing new: a statistical model should go on
    leaving these volumes out (docs/fmri.md).

    Raises UsageError when `censored` is not bool of (T,); InputError when more than half of a slice's volumes are bad
    or fewer than 4 are left, for times that are not on an even grid, for a periodic series, and for values that are
    not finite.
    """
    bad = _bad(clip, censored)
    if not bad.any():
        return clip
    index, interval = _grid(clip)
    data = clip.data.clone()
    for b, bad_here in enumerate(bad):
        if not bad_here.any():
            continue
        _check_enough(bad_here, b)
        series = clip.data[b, 0]
        there = torch.from_numpy(~bad_here)
        filled = _predicted(_finite(series[there]), index[~bad_here], index[bad_here], interval)
        data[b, 0, ~there] = _of_kind(filled, clip.data[b, 0, there])
    return replace(clip, data=data, present=None)


def insert_dropped(clip: Clip) -> Clip:
    """The series with a frame of zeros, marked missing (`present`), at every even time that its times leave out.

    For series whose bad volumes were cut out but whose times tell where. Raises InputError as `fill_volumes` does for
    times off an even grid, and for more than half of the volumes dropped.
    """
    index, interval = _grid(clip)
    frames = int(index[-1]) + 1
    if frames == clip.frames:
        return clip
    there = np.isin(np.arange(frames), index)
    _check_enough(~there, 0)
    data = clip.data.new_zeros(*clip.data.shape[:2], frames, *clip.data.shape[3:])
    data[:, :, there] = clip.data
    present = torch.zeros(len(data), frames, dtype=torch.bool)
    present[:, there] = True if clip.present is None else clip.present
    times = clip.times[0] + interval * np.arange(frames)
    times[there] = clip.times
    return replace(clip, data=data, times=times, present=present)


def resample(clip: Clip, times: ArrayLike | None = None, *, slice_times: ArrayLike | None = None) -> Clip:
    """The whole series at `times`, each slice interpolated from when it was really acquired (slice-timing correction).

    times: (W,) seconds, increasing; None: the times the frames have. slice_times: (B,) seconds from the time of a frame
    to the acquisition of each slice; None: those of the clip, and if it has none every slice was acquired at once.
    Slices of the result were all acquired at its `times` (`slice_times` 0).

    Interpolation is band-limited: the best linear prediction, without any noise, of a stationary signal whose spectrum
    falls as a raised cosine to nearly nothing at the Nyquist frequency of the median interval. Weights depend on the
    times alone, not on the data: they are the same for every voxel, and acquired times give acquired values. Away from
    the ends (ten volumes) a sinusoid below half the Nyquist frequency comes back to better than 1 %. Times before the
    first acquisition of a slice, or after its last one, get the nearest acquired value: extrapolation amplifies noise.

    Raises UsageError when there is nothing to do (no times and no slice times) and for times that do not increase or
    lie beyond the series; InputError for slice times that do not fit, a single frame, missing or dropped volumes, a
    periodic series, and values that are not finite.
    """
    if times is None and slice_times is None and clip.slice_times is None:
        raise UsageError("the slice times are not known: give them, or other times to resample to")
    _check_no_cycle(clip)
    if clip.frames < 2:
        raise InputError("a series of one volume can't be resampled in time; give a longer one")
    steps = np.diff(clip.times)
    if steps.max() > _GAP * np.median(steps):
        raise InputError("volumes were dropped from the series; put them back first (insert_dropped, fill_volumes)")
    if clip.present is not None and not bool(clip.present.all()):
        raise InputError("volumes of the series are missing; fill them in first (medseq.volumes.fill_volumes)")
    if slice_times is not None:
        clip = replace(clip, slice_times=np.asarray(slice_times, dtype=np.float64))
    offsets = np.zeros(len(clip.data)) if clip.slice_times is None else clip.slice_times
    wanted = clip.times if times is None else _wanted(clip, times)
    data = clip.data.new_empty(*clip.data.shape[:2], len(wanted), *clip.data.shape[3:])
    for offset in np.unique(offsets):  # slices excited together share their weights
        together = torch.from_numpy(offsets == offset)
        acquired = _finite(clip.data[together])
        weights = band_limited_weights(clip.times + offset, wanted).to(acquired.real.dtype).to(acquired.device)
        data[together] = _of_kind(Resample(weights)(acquired), acquired)
    return replace(clip, data=data, times=wanted, slice_times=np.zeros(len(data)))


def band_limited_weights(acquired: np.ndarray, wanted: np.ndarray) -> Tensor:
    """(W, T) float64 weights of band-limited interpolation from increasing times (T,) to (W,), both in seconds.

    Rows sum to one. Wanted times outside the acquired ones get the nearest. Spectrum: as `resample` says.
    """
    interval = float(np.median(np.diff(acquired)))
    inside = np.clip(wanted, acquired[0], acquired[-1])
    known = torch.from_numpy(_raised_cosine((acquired[:, None] - acquired) / interval))
    towards = torch.from_numpy(_raised_cosine((acquired[:, None] - inside) / interval))
    weights = prediction_weights(known, towards, level=_ANY_LEVEL).T
    return weights / weights.sum(1, keepdim=True)  # one already, but for a part in 10^5


def prediction_weights(known: Tensor, towards: Tensor, level: float) -> Tensor:
    """Weights (..., n, W) of the best linear prediction: (known + level) weights = towards + level.

    known: (..., n, n) covariances of what is known, towards: (..., n, W) with what is wanted, level: variance of the
    unknown mean of both. A large one makes the weights sum to one (ordinary kriging), 0 leaves the mean at zero.
    """
    return torch.linalg.solve(known + level, towards + level)


def _predicted(there: Tensor, index: np.ndarray, wanted: np.ndarray, interval: float) -> Tensor:
    """Volumes (W, Y, X) at the grid places `wanted`, from those `there` (n, Y, X) at the places `index`."""
    mean = there.mean(0)
    pilot = local_pca(there[None, None])[0, 0]
    fluctuation = pilot - pilot.mean(0)  # its own mean: where all is noise, as in air, the pilot is empty
    lags = max(2, min(math.ceil(_MEMORY / interval), len(index) // 3))
    covariance = _autocovariance(fluctuation, index, lags)
    volumes = mean.repeat(len(wanted), 1, 1)
    for volume, place in zip(volumes, wanted, strict=True):
        near = np.abs(index - place) < lags
        if near.any():
            weights = _window_weights(covariance, index[near], place)
            weights = interpolate(weights[None], size=mean.shape, mode="bilinear", align_corners=False)[0]
            volume += (weights.to(mean.real.dtype) * fluctuation[torch.from_numpy(near)]).sum(0)
    return volumes


def _window_weights(covariance: Tensor, index: np.ndarray, place: int) -> Tensor:
    """Weights (n, y, x) in every window of the volumes at the places `index` for the one at `place`."""
    known = covariance[np.abs(index[:, None] - index)].flatten(2).permute(2, 0, 1)
    towards = covariance[np.abs(index - place)].flatten(1).T[..., None]
    return prediction_weights(known, towards, _LEVEL)[..., 0].T.unflatten(1, covariance.shape[1:])


def _autocovariance(fluctuation: Tensor, index: np.ndarray, lags: int) -> Tensor:
    """Autocorrelation (2 lags, y, x) float64 of (n, Y, X) at increasing grid places `index` (n,), window by window.

    Lags from 0 up. Bartlett's taper ends it at `lags`; raising every frequency to `_LEAST_POWER` makes it one of a
    process that exists (positive definite), and lets it ring on a little, which is why twice as many are returned.
    """
    at = np.full(index[-1] + lags, -1)
    at[index] = np.arange(len(index))
    products = []
    for lag in range(lags):
        later = at[index + lag]
        pairs = torch.from_numpy(later >= 0)
        product = fluctuation[pairs] * fluctuation[torch.from_numpy(later)[pairs]].conj()
        products.append(product.real.sum(0) * ((1 - lag / lags) / max(1, int(pairs.sum()))))
    tapered = _window_means(torch.stack(products).double())
    moves = tapered[:1] > 0
    white = torch.zeros_like(tapered)
    white[0] = 1  # where nothing ever changes, any autocorrelation will do
    tapered = torch.where(moves, tapered / torch.where(moves, tapered[:1], 1), white)
    # As one period of a circle, on which no lag in use meets itself from the other side.
    circle = torch.cat([tapered, torch.zeros_like(tapered), torch.zeros_like(tapered), tapered[1:].flip(0)])
    spectrum = torch.fft.fft(circle, dim=0).real.clamp(min=_LEAST_POWER)
    return torch.fft.ifft(spectrum, dim=0).real[: 2 * lags]


def _window_means(maps: Tensor) -> Tensor:
    """(N, Y, X) -> (N, y, x): means over tiles of about `_TILE` pixels and the tiles around each."""
    height, width = (math.ceil(size / _TILE) for size in maps.shape[1:])
    tiles = adaptive_avg_pool2d(maps[None], (height, width))
    return avg_pool2d(tiles, 3, stride=1, padding=1, count_include_pad=False)[0]


def _raised_cosine(distance: np.ndarray) -> np.ndarray:
    """Autocovariance at a distance in sampling intervals of the spectrum (1 + cos(pi f)) / 2 + a little.

    The integral of that times cos(pi f distance) over f, the frequency over Nyquist's, from 0 to 1, in closed form.
    """
    flat = np.sinc(distance)
    return (0.5 + _POWER_AT_NYQUIST) * flat + (np.sinc(distance - 1) + np.sinc(distance + 1)) / 4


def _bad(clip: Clip, censored: ArrayLike | None) -> np.ndarray:
    """(B, T) bool: which volumes of each slice are to be replaced."""
    chosen = np.zeros(clip.frames, dtype=bool) if censored is None else np.asarray(censored)
    if chosen.dtype != bool or chosen.shape != (clip.frames,):
        raise UsageError(
            f"censored must be bool of shape ({clip.frames},), one a volume, got {chosen.dtype} {chosen.shape}"
        )
    lacking = np.zeros((len(clip.data), 1), dtype=bool) if clip.present is None else ~clip.present.cpu().numpy()
    return chosen | lacking


def _grid(clip: Clip) -> tuple[np.ndarray, float]:
    """Place (T,) of every volume on an even grid in time, from 0 up, and the seconds of its step."""
    _check_no_cycle(clip)
    since = clip.times - clip.times[0]
    if clip.frames < _FEWEST:
        raise InputError(f"a series of {clip.frames} volumes is too short to fill any in; get the whole series")
    usual = float(np.median(np.diff(since)))
    interval = since[-1] / max(1, round(since[-1] / usual))
    index = np.rint(since / interval).astype(int)
    if np.abs(index * interval - since).max() > _UNEVEN * interval or (np.diff(index) < 1).any():
        raise InputError(
            "the volumes are not at even intervals (gaps aside), so that none is filled in; get the whole series"
        )
    return index, float(interval)


def _wanted(clip: Clip, times: ArrayLike) -> np.ndarray:
    wanted = np.asarray(times, dtype=np.float64)
    if wanted.ndim != 1 or not len(wanted) or not np.isfinite(wanted).all() or (np.diff(wanted) <= 0).any():
        raise UsageError("wanted times must be finite seconds that increase strictly")
    interval = float(np.median(np.diff(clip.times)))
    first, last, slack = clip.times[0], clip.times[-1] + interval, _ROUNDING * interval
    if wanted[0] < first - slack or wanted[-1] > last + slack:
        raise UsageError(
            f"wanted times reach from {wanted[0]:g} to {wanted[-1]:g} s, the series only from {first:g} to {last:g} s"
        )
    return wanted


def _check_no_cycle(clip: Clip) -> None:
    if clip.period is not None:
        raise InputError("a gated cycle is no BOLD series; use medseq.interpolate or medseq.fill_missing")


def _check_enough(bad: np.ndarray, b: int) -> None:
    left = int((~bad).sum())
    if left < max(_FEWEST, (1 - _LARGEST_SHARE) * len(bad)):
        raise InputError(
            f"slice {b + 1} lacks {len(bad) - left} of {len(bad)} volumes: too many to fill in; get the whole series"
        )


def _finite(acquired: Tensor) -> Tensor:
    if not bool(torch.isfinite(acquired).all()):
        raise InputError("the series holds values that are not finite in volumes that are not censored; mask them out")
    return acquired


def _of_kind(result: Tensor, acquired: Tensor) -> Tensor:
    """A magnitude stays one: weighted sums of the noise in air may fall below zero."""
    magnitude = not acquired.is_complex() and bool((acquired >= 0).all())
    return result.clamp(min=0) if magnitude else result
