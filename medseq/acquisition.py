"""k-space made ready for reconstruction: white noise, few coils, maps, one slice at a time."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from medseq.baselines.linear import sense
from medseq.clip import KSpace
from medseq.coils import FEWEST_LINES, average_frames, compress_coils, estimate_maps, full_centre
from medseq.noise import estimate_noise, prewhiten
from medseq.operators import Coils, Fourier, Mask

MOST_COILS = 12  # more are compressed to this many


def whitened(kspace: KSpace) -> tuple[KSpace, float, Tensor]:
    """k-space of equal, uncorrelated noise in few coils, with maps; that noise's sigma; the gain of its image.

    White noise keeps the mean power of the measured one, so that images stay in the units of the k-space. Without a
    noise scan only the level is estimated: what differs between coils in such an estimate is signal. The gain (from
    scaling whitened maps back to unit root-sum-of-squares) is divided out of the result.
    """
    gain = torch.ones(1, 1, 1, 1, 1)
    noise = kspace.noise
    if isinstance(noise, Tensor):
        level = float(noise.diagonal().real.mean().sqrt())
        white = noise / level**2
        maps = kspace.maps
        if maps is not None:
            maps = prewhiten(maps, white)
            gain = maps.abs().square().sum(1, keepdim=True).sqrt().clamp(min=1e-6)
            maps = maps / gain
        calibration = None if kspace.calibration is None else prewhiten(kspace.calibration, white)
        kspace = replace(kspace, data=prewhiten(kspace.data, white), maps=maps, noise=level, calibration=calibration)
    else:
        level = float(estimate_noise(kspace).square().mean().sqrt()) if noise is None else float(noise)
    if kspace.coils > MOST_COILS:
        kspace = compress_coils(kspace, MOST_COILS)
    return (kspace if kspace.maps is not None else replace(kspace, maps=estimate_maps(kspace))), level, gain


def average_image(kspace: KSpace) -> Tensor:
    """The coil-combined image of the time-averaged k-space (B, 1, 1, Y, X).

    Without a full centre (the same lines in every frame) it is unfolded by the maps (SENSE).
    """
    assert kspace.maps is not None
    average, measured = average_frames(kspace)
    image = Fourier() @ Coils(kspace.maps)
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
