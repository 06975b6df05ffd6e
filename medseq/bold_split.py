"""BOLD fluctuations split into what stays and the rest: by what a response looks like, or by a learned prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from medseq.activation import detrend, drift_cosines
from medseq.baselines.smoothing import gaussian_smoothing, temporal_low_pass
from medseq.phantoms.bold import block_design, haemodynamic_response

# Chosen on simulated series (docs/measurements.md), then fixed.
CUTOFF = 0.15  # Hz: above it the canonical response has 1 % of its power
EXTENT = 4.5  # mm: FWHM of the blur whose repetition makes the passband in space
ORDER = 3  # repetitions: each flattens the passband (Tukey's twicing)
SMALLEST = 6.0  # mm: FWHM of the smallest response whose amplitude is guarded
_BLOBS = 24
_CHANGE = 0.01  # of the signal: a prior may keep more of large responses, so that the guarded ones have a size
_VOLUMES = 8  # that are worked on at once
_SLICES = 4  # that a prior sees at once, beside one neighbour on either side

FluctuationPrior = Callable[[Tensor, float], Tensor]


@dataclass(frozen=True)
class Split:
    """Fluctuations about the slow mean, split into what stays and the rest; in the units of the series.

    mask: tissue. sigma: noise std of each real channel, (B, 1, 1, Y, X). voxel: (x, y, z) mm. interval: s.
    """

    mask: Tensor
    sigma: Tensor
    voxel: tuple[float, float, float]
    interval: float

    def implausible(self, series: Tensor) -> Tensor:
        """The rest that could not be a response, which is slow and wide."""
        fluctuation = series - self._slow(series)
        slowly, _ = temporal_low_pass(fluctuation, CUTOFF, self.interval)
        mean = series.abs().mean(2, keepdim=True)
        wide = self._wide(slowly / mean.clamp(min=1e-6), self._weights(mean))
        return torch.where(self.mask, fluctuation - mean * wide, 0)

    def improbable(self, series: Tensor, prior: FluctuationPrior) -> Tensor:
        """The rest that a prior takes for noise; of complex series in phase with the mean and out of it apart."""
        turn = _turn(series)
        # Drift stays in: it holds noise as all else does, and is told from that as easily.
        whitened = torch.where(self.mask, (series - series.mean(2, keepdim=True)) * turn.conj() / self.sigma, 0)
        parts = (whitened.real, whitened.imag) if series.is_complex() else (whitened,)
        rests = [part - _clean(part, prior) for part in parts]
        rest = self.sigma * turn * (torch.complex(*rests) if series.is_complex() else rests[0])
        return torch.where(self.mask, rest - rest.mean(2, keepdim=True), 0)

    def kept_of_responses(self, series: Tensor, seed: int) -> float:
        """The share of the amplitude that the plausible part has of responses of the smallest guarded extent.

        This split is linear and separable, so that it is known from an activation map and a course alone.
        """
        weights = self._weights(series.abs().mean(2, keepdim=True))
        blobs = self._blobs(seed).to(weights)
        active = blobs > 0.5
        in_space = float(self._wide(blobs, weights)[active].sum() / blobs[active].sum())
        course = event_response(series.shape[2], self.interval).to(weights).reshape(1, 1, -1, 1, 1)
        course = detrend(course, self.interval)
        slowly, _ = temporal_low_pass(course, CUTOFF, self.interval)
        return in_space * float((slowly * course).sum() / course.square().sum())

    def lost_of_responses(self, series: Tensor, rest: Tensor, prior: FluctuationPrior, seed: int) -> float:
        """The share of the amplitude of such responses, to blocks, that a prior takes for noise: injected and seen."""
        blobs = self._blobs(seed).to(self.sigma)
        course = block_design(series.shape[2], self.interval).to(self.sigma).reshape(1, 1, -1, 1, 1)
        injected = _CHANGE * series.abs().mean(2, keepdim=True) * blobs * detrend(course, self.interval).to(self.sigma)
        turn = _turn(series)
        lost = ((self.improbable(series + turn * injected, prior) - rest) * turn.conj()).real
        active = (blobs > 0.5).expand_as(injected)
        return float((lost * injected)[active].sum() / injected.square()[active].sum())

    def _slow(self, series: Tensor) -> Tensor:
        drift = drift_cosines(series.shape[2], self.interval).to(series)
        return torch.tensordot(series, drift @ drift.mH, dims=([2], [1])).movedim(-1, 2)

    def _weights(self, mean: Tensor) -> Tensor:
        """The inverse variance of relative fluctuations, in which a response is alike over a region (its signal is a
        share of the mean); zero outside the mask."""
        return torch.where(self.mask, (mean / self.sigma).square(), 0)

    def _wide(self, values: Tensor, weights: Tensor) -> Tensor:
        """The wide part of values (B, 1, T, Y, X): 1 - (1 - G)^n of them, G being the local mean with these weights."""
        total = gaussian_smoothing(weights, EXTENT, self.voxel).clamp(min=1e-12)
        found = []
        for some in values.split(_VOLUMES, dim=2):
            left = some
            for _ in range(ORDER):
                left = left - gaussian_smoothing(left * weights, EXTENT, self.voxel) / total
            found.append(some - left)
        return torch.cat(found, dim=2)

    def _blobs(self, seed: int) -> Tensor:
        """An activation map (B, 1, 1, Y, X): Gaussians of the smallest extent and height 1 at places in the mask."""
        mask, device = self.mask, self.mask.device
        places = mask.nonzero()[:, [0, 3, 4]]
        order = torch.randperm(len(places), generator=torch.Generator().manual_seed(seed)).to(device)
        shape = (mask.shape[0], *mask.shape[-2:])
        axes = [torch.arange(size, dtype=torch.float32, device=device) for size in shape]
        found = torch.zeros(shape, device=device)
        for place in places[order[:_BLOBS]]:
            parts = [
                torch.exp(-4 * math.log(2) * ((axis - centre) * size / SMALLEST) ** 2)
                for axis, centre, size in zip(axes, place, self.voxel[::-1], strict=True)
            ]
            found = torch.maximum(found, parts[0][:, None, None] * parts[1][:, None] * parts[2])
        return torch.where(mask, found[:, None, None], 0)


def _turn(series: Tensor) -> Tensor:
    """(B, 1, 1, Y, X) the phasor of the mean of a complex series; 1 for a real one."""
    return torch.sgn(series.mean(2, keepdim=True)) if series.is_complex() else torch.ones((), device=series.device)


def _clean(whitened: Tensor, prior: FluctuationPrior) -> Tensor:
    """The prior's mean of fluctuations in units of their noise, a few slices and their neighbours at a time."""
    found = []
    for first in range(0, whitened.shape[0], _SLICES):
        before = min(first, 1)
        seen = whitened[first - before : first + _SLICES + 1]
        with torch.no_grad():
            found.append(prior(seen, 1.0)[before : before + min(_SLICES, whitened.shape[0] - first)])
    return torch.cat(found)


def event_response(frames: int, interval: float) -> Tensor:
    """(T,) the response to one brief event, shifted to the middle of the run: the spectrum of any design's response."""
    return haemodynamic_response(torch.arange(frames, dtype=torch.float64) * interval - frames * interval / 3)
