"""k-space made ready for reconstruction: white noise, few coils, maps, one slice at a time."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from medseq.baselines.linear import sense
from medseq.clip import KSpace
from medseq.coils import (
    FEWEST_LINES,
    average_frames,
    coil_products,
    compress_coils,
    estimate_maps,
    full_centre,
    measured_together,
    mixed_coils,
    virtual_coils,
)
from medseq.measurement import ByFrames
from medseq.noise import estimate_noise, prewhiten, whitener
from medseq.operators import Coils, Fourier, Mask

MOST_COILS = 12  # more are compressed to this many


@dataclass(frozen=True)
class Prepared:
    """k-space of equal, uncorrelated noise in few coils, mixed as it is asked for: a copy would double the input.

    source: as measured. mixing: its coils to those (V, C), or None where they stay. keep: where all that go into a
    mixture were measured. level: sigma of the noise. gain: of the image, from scaling whitened maps back to unit
    root-sum-of-squares; to be divided out of the result. average: the average over the frames, with maps.
    """

    source: KSpace
    mixing: Tensor | None
    keep: Tensor
    level: float
    gain: Tensor
    average: KSpace

    def slice(self, b: int, device: torch.device, scale: float = 1.0) -> tuple[ByFrames, Tensor, Tensor]:
        """Slice b alone, on `device`, divided by `scale`: what was measured there, keep, maps."""
        keep, maps = (part if part.shape[0] == 1 else part[b : b + 1] for part in (self.keep, self._maps))
        keep, maps = keep.to(device), maps.to(device)
        mixing = None if self.mixing is None else self.mixing.to(device)

        def make(chunk: slice) -> Tensor:
            part = self.source.data[b : b + 1, :, chunk].to(device)
            if mixing is not None:
                part = torch.where(keep if keep.shape[2] == 1 else keep[:, :, chunk], mixed_coils(mixing, part), 0)
            return part * (1 / scale)  # for complex numbers faster than a division

        shape = (1, maps.shape[1], *self.source.data.shape[2:])
        return ByFrames(shape, device, make), keep, maps

    @property
    def _maps(self) -> Tensor:
        assert self.average.maps is not None
        return self.average.maps


def prepared(kspace: KSpace) -> Prepared:
    """How k-space is made ready, and what its average tells.

    White noise keeps the mean power of the measured one, so that images stay in the units of the k-space. Without a
    noise scan only the level is estimated: what differs between coils in such an estimate is signal. Of many coils the
    12 strongest principal components are kept.
    """
    gain, mixing, noise = torch.ones(1, 1, 1, 1, 1), None, kspace.noise
    mixes = isinstance(noise, Tensor) or kspace.coils > MOST_COILS
    keep = measured_together(kspace.keep) if mixes else kspace.keep
    data, measured = average_frames(replace(kspace, keep=keep))
    average = replace(kspace, data=data, keep=measured, times=kspace.times[:1], trajectory=None)
    if isinstance(noise, Tensor):
        level = float(noise.diagonal().real.mean().sqrt())
        white = noise / level**2
        mixing = whitener(white.to(data.device)).to(data.dtype)
        maps = kspace.maps
        if maps is not None:
            maps = prewhiten(maps, white)
            gain = maps.abs().square().sum(1, keepdim=True).sqrt().clamp(min=1e-6)
            maps = maps / gain
        calibration = None if kspace.calibration is None else prewhiten(kspace.calibration, white)
        average = replace(average, data=prewhiten(data, white), maps=maps, calibration=calibration)
    else:
        level = float(estimate_noise(kspace).square().mean().sqrt()) if noise is None else float(noise)
    average = replace(average, noise=level)
    if kspace.coils > MOST_COILS:
        products = coil_products(kspace.data)
        rows = virtual_coils(products if mixing is None else mixing @ products @ mixing.mH, MOST_COILS)
        average, mixing = compress_coils(average, rows), rows if mixing is None else rows @ mixing
    if average.maps is None:
        average = replace(average, maps=estimate_maps(average))
    return Prepared(kspace, mixing, keep, level, gain, average)


def whitened(kspace: KSpace) -> tuple[KSpace, float, Tensor]:
    """`prepared` k-space as a whole, with maps; the sigma of its noise; the gain of its image."""
    ready = prepared(kspace)
    data = kspace.data
    if ready.mixing is not None:
        data = torch.where(ready.keep, mixed_coils(ready.mixing, data), 0)
    average = ready.average
    whole = replace(
        kspace, data=data, keep=ready.keep, maps=average.maps, noise=ready.level, calibration=average.calibration
    )
    return whole, ready.level, ready.gain


def average_image(kspace: KSpace) -> Tensor:
    """The coil-combined image of the time-averaged k-space (B, 1, 1, Y, X).

    Without a full centre (the same lines in every frame) it is unfolded by the maps (SENSE).
    """
    assert kspace.maps is not None
    return image_of(*average_frames(kspace), kspace.maps)


def image_of(average: Tensor, measured: Tensor, maps: Tensor) -> Tensor:
    """As `average_image`, of the average and where it was measured (`average_of`)."""
    image = Fourier() @ Coils(maps)
    if min(full_centre(measured, (average.shape[-2], average.shape[-1]))) < FEWEST_LINES:
        return sense(average, Mask(measured) @ image)
    return image.adjoint(average)


def slice_of(kspace: KSpace, b: int, device: torch.device) -> KSpace:
    """Slice b alone, on `device`; what all slices share (mask, maps, trajectory) stays shared. The maps must be
    there, so that the calibration scan is left behind."""

    def one(tensor: Tensor) -> Tensor:
        return (tensor if tensor.shape[0] == 1 else tensor[b : b + 1]).to(device)

    assert kspace.maps is not None
    trajectory = kspace.trajectory and kspace.trajectory.to(device)
    return replace(
        kspace,
        data=one(kspace.data),
        keep=one(kspace.keep),
        maps=one(kspace.maps),
        calibration=None,
        trajectory=trajectory,
    )
