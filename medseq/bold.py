"""Denoising of BOLD series that keeps what a response may look like.

A haemodynamic response is slow (its spectrum ends near 0.15 Hz) and wide (6 mm and more). Thermal noise is neither: a
few per cent of it could be taken for one. The fluctuations of a series are therefore split into the part that could be
a response and the rest, and the rest is scaled down:

    denoised = slow mean + plausible + (1 - share) * rest

Nothing is set to zero, so that a response too small or too sharp for the model loses `share` of a part of itself and
never disappears, and what is left of the noise stays as rough as noise is. How large `share` may be is measured on the
series at hand: by the amplitude that responses injected into it would lose, by how much smoother it would get, and by
how much of the rest is noise at all.

Whoever wants all fluctuations with the least error, rather than amplitudes without bias, gives a learned prior
(`medseq.bold_prior`): the rest is then what that takes for noise, and all of it may go.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseq.activation import detrend, drift_cosines
from medseq.baselines.smoothing import gaussian_smoothing
from medseq.bold_split import FluctuationPrior, Split, event_response
from medseq.clip import Clip
from medseq.errors import InputError, UsageError
from medseq.noise_map import noise_map
from medseq.smoothness import fwhm, overall

# Chosen on simulated series (docs/measurements.md), then fixed.
_TISSUE = 0.2  # of the brightest voxels: what is darker is left alone
_FEWEST_FRAMES = 8
_WIDTH_VOLUMES = 40  # that smoothness is read from: it is a mean over volumes, and settles long before
_BISECTIONS = 9
_REGION = 15.0  # mm: over which the degrees of freedom lost are averaged


@dataclass(frozen=True)
class Report:
    """How much was removed, and what of it is known.

    share: of the rest that was removed. kept: the share of the amplitude that the smallest guarded responses keep.
    growth: of the FWHM, as a share. noise_share: how much of the power of the rest is noise. noise: its median std over
    the tissue, in units of the series. dof_lost: median over the tissue. limit: what kept the share from being larger:
    "amplitude", "smoothness" or "noise" (of a share of 1, that there is no more).
    """

    share: float
    kept: float
    growth: float
    noise_share: float
    noise: float
    dof_lost: float
    limit: str


@dataclass(frozen=True)
class DenoisedBold:
    """What `denoise_bold` gives back.

    clip: the denoised series. removed: (B, 1, T, Y, X), what was taken away. dof_lost: (B, 1, 1, Y, X) degrees of
    freedom that a model of responses has to give up (see `medseq.activation`).
    """

    clip: Clip
    removed: Tensor
    dof_lost: Tensor
    report: Report


def denoise_bold(
    clip: Clip,
    *,
    sigma: Tensor | None = None,
    filled: np.ndarray | None = None,
    prior: FluctuationPrior | None = None,
    bias: float | None = 0.03,
    growth: float | None = 0.04,
    seed: int = 0,
) -> DenoisedBold:
    """The series with less of what cannot be a response; real or complex, the same geometry and timing.

    sigma: noise std of each real channel, (B, 1, 1, Y, X) in the clip's units, None for `noise_map`.
    filled: (T,) bool, volumes that were made up, from which neither noise nor smoothness is read. prior: what tells
    fluctuations, in units of their noise, from it (`medseq.bold_prior`); None for what can and cannot be a response.
    bias: the largest loss of amplitude of responses of 6 mm FWHM (and 1 %), as a share, measured by injecting some at
    places drawn with `seed`. growth: the largest growth of the smoothness (FWHM); 4 % here stays below 5 % in other
    masks than `tissue_mask`. None for either sets no limit. Before motion correction and any smoothing; deterministic.

    Raises InputError for fewer than 8 frames, uneven times or no tissue, UsageError for impossible limits.
    """
    if not (bias is None or 0 < bias < 1) or not (growth is None or growth > 0):
        raise UsageError(f"bias and growth are shares above 0, got {bias} and {growth}")
    interval, voxel = _interval(clip), _voxel(clip)
    series = clip.data
    mask = tissue_mask(series)
    measured = np.flatnonzero(np.ones(clip.frames) if filled is None else ~filled)
    sigma = noise_map(series[:, :, measured]) if sigma is None else sigma
    split = Split(mask, sigma, voxel, interval)
    if prior is None:
        rest, lost = split.implausible(series), 1 - split.kept_of_responses(series, seed)
    else:
        rest = split.improbable(series, prior)
        lost = split.lost_of_responses(series, rest, prior, seed)
    noise_share = _noise_share(rest, sigma, mask)
    growing = _Growth(series, rest, mask, voxel, interval, measured)
    shares = {"noise": noise_share}
    if bias is not None:
        shares["amplitude"] = bias / max(lost, 1e-6)
    if growth is not None:
        shares["smoothness"] = growing.largest(growth)
    limit = min(shares, key=lambda name: shares[name])
    share = min(shares[limit], 1.0)
    removed = share * rest
    denoised = series - removed
    dof_lost = _dof_lost(series, denoised, mask, voxel, interval)
    report = Report(
        share=share,
        kept=1 - share * lost,
        growth=growing(share),
        noise_share=noise_share,
        noise=float(sigma.expand_as(mask)[mask].median()),
        dof_lost=float(dof_lost[mask].median()),
        limit=limit,
    )
    return DenoisedBold(clip.with_data(denoised), removed, dof_lost, report)


def tissue_mask(series: Tensor) -> Tensor:
    """(B, 1, 1, Y, X) bool: voxels brighter than a fifth of the 98th percentile of the mean. InputError if none."""
    mean = series.abs().mean(2, keepdim=True)
    flat = mean.flatten()
    mask = mean > _TISSUE * flat.kthvalue(max(1, int(0.98 * flat.numel()))).values
    if not bool(mask.any()):
        raise InputError("the series shows no tissue, being constant, or zero nearly everywhere; give another one")
    return mask


def _noise_share(rest: Tensor, sigma: Tensor, mask: Tensor) -> float:
    """How much of the power of the rest is noise: what the best linear estimate takes of it (Wiener)."""
    channels = 2 if rest.is_complex() else 1
    power = rest.abs().square().mean(2, keepdim=True)
    noise = channels * sigma.square().expand_as(power)
    return min(1.0, float(noise[mask].sum() / power[mask].sum().clamp(min=1e-30)))


class _Growth:
    """By how much the FWHM grows, as a share, when a share of the rest is removed."""

    def __init__(
        self,
        series: Tensor,
        rest: Tensor,
        mask: Tensor,
        voxel: tuple[float, float, float],
        interval: float,
        measured: np.ndarray,
    ) -> None:
        some = measured[:: -(-len(measured) // _WIDTH_VOLUMES)]
        self._whole = _detrended(series, interval)[:, :, some]
        # Of complex series the magnitudes count, which are nearly linear in what is removed.
        self._rest = self._whole - _detrended(series - rest, interval)[:, :, some]
        self._mask, self._voxel = mask, voxel
        self._before = self._width(0.0)

    def __call__(self, share: float) -> float:
        return self._width(share) / self._before - 1

    def largest(self, limit: float) -> float:
        """The largest share whose removal makes the series no more than `limit` smoother, by bisection."""
        low, high = 0.0, 1.0
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            low, high = (middle, high) if self(middle) <= limit else (low, middle)
        return low

    def _width(self, share: float) -> float:
        return overall(fwhm(self._whole - share * self._rest, self._mask, self._voxel))


def _detrended(series: Tensor, interval: float) -> Tensor:
    """Magnitudes without mean and drift, float32: slice by slice, as a double takes twice the memory."""
    return torch.cat([detrend(part, interval).float() for part in series.split(1)])


def _dof_lost(
    series: Tensor, denoised: Tensor, mask: Tensor, voxel: tuple[float, float, float], interval: float
) -> Tensor:
    """Degrees of freedom lost, (B, 1, 1, Y, X): so many that white errors and errors in the shape of a response agree.

    Fast fluctuations lose more than slow ones, so that the residual of a model of responses says less than it should
    about the error of its slow regressors. With the power left at each frequency, rho(f), and the power H(f) of the
    response, dof * (1 - mean(rho) / mean(H rho)) are lost (Worsley and Friston 1995, for a spectrum that is not flat).
    """
    frames = series.shape[2]
    drifts = drift_cosines(frames, interval).shape[1]
    cosines = drift_cosines(frames, interval, 2 * interval * frames / (frames - 2))[:, drifts:]
    response = (cosines.T @ event_response(frames, interval)).square()
    response = response / response.sum()
    before, after = (_power(each, cosines, response, mask, voxel) for each in (series, denoised))
    ratio = (after[0] / before[0]) / (after[1] / before[1])
    lost = (frames - drifts) * (1 - ratio).clamp(0, 1)
    return torch.where(mask, lost, 0)


def _power(
    series: Tensor, cosines: Tensor, response: Tensor, mask: Tensor, voxel: tuple[float, float, float]
) -> tuple[Tensor, Tensor]:
    """Power of the fluctuations, and power weighted with that of the response, averaged over a region of the mask."""
    whole, part = [], []
    for real in (each.abs() if each.is_complex() else each for each in series.split(1)):
        power = torch.tensordot(real, cosines.to(real), dims=([2], [0])).movedim(-1, 2).square()
        whole.append(power.mean(2, keepdim=True))
        part.append((power * response.to(power).view(1, 1, -1, 1, 1)).sum(2, keepdim=True))
    both = (torch.cat(whole), torch.cat(part))
    smooth = [gaussian_smoothing(torch.where(mask, each, 0), _REGION, voxel).clamp(min=1e-30) for each in both]
    return smooth[0], smooth[1]


def _interval(clip: Clip) -> float:
    steps = np.diff(clip.times)
    if clip.frames < _FEWEST_FRAMES:
        raise InputError(
            f"{clip.frames} volumes are too few to tell responses from noise; give at least {_FEWEST_FRAMES}"
        )
    if np.ptp(steps) > 0.01 * steps.mean():
        raise InputError("the volumes are not evenly spaced in time; resample them first")
    return float(steps.mean())


def _voxel(clip: Clip) -> tuple[float, float, float]:
    x, y, z = np.linalg.norm(clip.affine[:3, :3], axis=0)
    return float(x), float(y), float(z)
