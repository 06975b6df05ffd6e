"""How a series moves, told without a reference: coherent motion against frames that know nothing of each other.

Everything is taken on magnitudes, for each item of the batch, and is blind to the scale. A series that stands still has
flicker 0, correlation 1 and motion 0. Frames of independent white noise have flicker 1, correlation 0 and motion 1 (to
within their own scatter), and a flat spectrum.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medseq.errors import UsageError


@dataclass(frozen=True)
class TemporalStatistics:
    """Figures of B series, each (B,) float64. s is the std of a series over all of its voxels and frames.

    flicker: root mean square of the second difference in time, m[t-1] - 2 m[t] + m[t+1], over sqrt(6) s: what changes
    from one frame to the next and does not go on. correlation: Pearson's of each frame with the next, over the voxels,
    then the mean over the frames. motion: root mean square of m[t] minus its mean in time, over s. fast: share of the
    motion's power above half the Nyquist frequency.

    spectrum: (B, F), the share of the motion's power at each of `frequency`, (F,), in units of the Nyquist frequency;
    0 where nothing moves. A periodic series goes into the Fourier transform as it is, another one followed by its
    mirror image, so that the jump from its last frame to its first does not count as motion.
    """

    flicker: Tensor
    correlation: Tensor
    motion: Tensor
    fast: Tensor
    spectrum: Tensor
    frequency: Tensor


def temporal_statistics(series: Tensor, periodic: bool = False) -> TemporalStatistics:
    """The figures of series (B, 1, T, Y, X), real or complex; periodic: the last frame is followed by the first.

    Raises UsageError for another shape, fewer than 3 frames, or frames without any contrast.
    """
    if series.ndim != 5 or series.shape[1] != 1 or series.shape[2] < 3:
        raise UsageError(f"how a series moves is told from (B, 1, T, Y, X), T >= 3, got {tuple(series.shape)}")
    frames = series.abs().double()[:, 0].flatten(2)  # (B, T, voxels)
    contrast = frames - frames.mean(2, keepdim=True)
    if not bool((contrast.square().sum(2) > 0).all()):
        raise UsageError("a frame without any contrast shows no motion")
    spread = (frames - frames.mean((1, 2), keepdim=True)).square().mean((1, 2)).sqrt()
    still = frames.mean(1, keepdim=True)
    # The mean of equal frames leaves rounding errors behind, not motion.
    rounding = 1e-24 * frames.square().sum((1, 2))
    spectrum, frequency = _spectrum(frames - still, periodic, rounding)
    return TemporalStatistics(
        flicker=(_second_difference(frames, periodic).square().mean((1, 2)) / 6).sqrt() / spread,
        correlation=_correlation(contrast, periodic),
        motion=(frames - still).square().mean((1, 2)).sqrt() / spread,
        fast=spectrum[:, frequency > 0.5].sum(1),
        spectrum=spectrum,
        frequency=frequency,
    )


def _second_difference(frames: Tensor, periodic: bool) -> Tensor:
    if periodic:
        frames = torch.cat([frames[:, -1:], frames, frames[:, :1]], dim=1)
    return frames[:, :-2] - 2 * frames[:, 1:-1] + frames[:, 2:]


def _correlation(contrast: Tensor, periodic: bool) -> Tensor:
    unit = contrast / contrast.norm(dim=2, keepdim=True)
    following = unit.roll(-1, dims=1)
    products = (unit * following).sum(2)
    return (products if periodic else products[:, :-1]).mean(1)


def _spectrum(motion: Tensor, periodic: bool, least: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the power (B, F) of motion (B, T, voxels), if above `least` (B,); frequencies (F,) over Nyquist's."""
    count = motion.shape[1]
    if not periodic:
        motion, count = torch.cat([motion, motion.flip(1)], dim=1), 2 * count
    power = torch.fft.rfft(motion, dim=1, norm="ortho").abs().square().sum(2)[:, 1:]
    if count % 2 == 0:
        power[:, -1] /= 2  # the Nyquist frequency has no negative partner, the others count with theirs
    if not periodic:
        power = power[:, :-1]  # where the mirrored series has nothing, always
    frequency = torch.arange(1, power.shape[1] + 1, dtype=torch.float64, device=motion.device) * 2 / count
    total = power.sum(1, keepdim=True)
    moves = total > least[:, None]
    return torch.where(moves, power / torch.where(moves, total, 1), 0), frequency
