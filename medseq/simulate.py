"""From phantom to acquisition: clips with known truth, and the k-space a scanner would have measured of them."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medseq.clip import Clip, KSpace, Trajectory, series_scale
from medseq.errors import UsageError
from medseq.noise import unit_noise
from medseq.nonuniform import NonUniform
from medseq.operators import Coils, Fourier, Mask
from medseq.patterns import equispaced, variable_density
from medseq.phantoms.bold import Bold, bold_series
from medseq.phantoms.cine import beating_heart
from medseq.phantoms.epi import head_coil
from medseq.phantoms.volumes import Lattice
from medseq.trajectories import golden_radial, golden_spiral

_CALIBRATION = 24  # lines of a calibration scan
SPOKES = 16  # of a frame, about 10 times fewer than its voxels ask for


def scanner_affine(size: tuple[int, int], slices: int, spacing: tuple[float, float, float]) -> np.ndarray:
    """Voxel (x, y, z) -> RAS mm of axial slices about the isocentre; spacing (x, y, z) in mm."""
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    middle = np.array([size[1] // 2, size[0] // 2, (slices - 1) / 2, 1.0])
    affine[:3, 3] = -(affine @ middle)[:3] + affine[:3, 3]
    return affine


def simulate_cine(
    frames: int = 24, size: tuple[int, int] = (128, 128), slices: int = 1, period: float = 0.9, seed: int = 0
) -> Clip:
    """A beating heart: complex Clip (slices, 1, frames, Y, X) of one gated cycle of `period` seconds, free of noise.

    Raises UsageError for impossible sizes.
    """
    _check(frames, size, slices)
    g = torch.Generator().manual_seed(seed)
    data = torch.stack([beating_heart(size, frames, g) for _ in range(slices)])[:, None]
    affine = scanner_affine(size, slices, (1.4, 1.4, 8.0))
    return Clip(data, affine, np.arange(frames) * period / frames, period)


def simulate_bold(
    frames: int = 60,
    size: tuple[int, int] = (64, 64),
    slices: int = 6,
    repetition_time: float = 2.0,
    change: float = 0.02,
    noise: float = 0.02,
    seed: int = 0,
) -> tuple[Clip, Clip]:
    """A BOLD magnitude series (slices, 1, frames, Y, X) with Rician noise, and its activation map as a one-frame Clip.

    repetition_time: seconds. change: the largest signal change of the block design (0.02 is 2 %). noise: std of each
    real channel as a share of the series' scale. Raises UsageError for impossible sizes.
    """
    _check(frames, size, slices)
    g = torch.Generator().manual_seed(seed)
    bold = bold_series(size, slices, frames, repetition_time, change, g)
    truth = bold.series[:, None]
    noisy = (torch.complex(truth, torch.zeros_like(truth)) + noise * unit_noise(truth.to(torch.complex64), g)).abs()
    return _series(noisy, bold, repetition_time), Clip(bold.activation[:, None, None], _bold_affine(bold))


def simulate_bold_images(
    frames: int = 60,
    size: tuple[int, int] = (64, 64),
    slices: int = 6,
    repetition_time: float = 2.0,
    change: float = 0.02,
    seed: int = 0,
) -> tuple[Clip, Clip]:
    """What `simulate_bold` would measure, complex and free of noise, as `acquire_epi` takes it; and its activation."""
    _check(frames, size, slices)
    bold = bold_series(size, slices, frames, repetition_time, change, torch.Generator().manual_seed(seed))
    images = torch.polar(bold.series, bold.phase[:, None].expand_as(bold.series))[:, None]
    return _series(images, bold, repetition_time), Clip(bold.activation[:, None, None], _bold_affine(bold))


def _series(images: Tensor, bold: Bold, repetition_time: float) -> Clip:
    # scanners store a few hundred to a few thousand units
    return Clip(1000 * images, _bold_affine(bold), np.arange(images.shape[2]) * repetition_time)


def _bold_affine(bold: Bold) -> np.ndarray:
    slices, _, height, width = bold.series.shape
    return scanner_affine((height, width), slices, (bold.voxel[2], bold.voxel[1], bold.voxel[0]))


def coil_maps(coils: int, size: tuple[int, int], seed: int = 0) -> Tensor:
    """Smooth complex sensitivities (1, C, 1, Y, X) of unit root-sum-of-squares: loops on a ring about the image.

    Magnitude falls with the distance from each loop, phase turns about it, as in common birdcage phantoms.
    """
    g = torch.Generator().manual_seed(seed)
    y = torch.linspace(-1, 1, size[0])[:, None]
    x = torch.linspace(-1, 1, size[1])
    maps = []
    for c in range(coils):
        angle = 2 * math.pi * (c + 0.3 * float(torch.rand((), generator=g))) / coils
        dy, dx = y - 1.6 * math.sin(angle), x - 1.6 * math.cos(angle)
        distance = torch.hypot(dy, dx)
        phase = torch.atan2(dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle))
        maps.append(torch.polar(1 / (0.3 + distance.square()), phase + angle))
    stack = torch.stack(maps)
    return (stack / stack.abs().square().sum(0).sqrt())[None, :, None]


def acquire(
    clip: Clip,
    *,
    coils: int | Tensor = 8,
    acceleration: float = 8.0,
    centre: int = 8,
    noise: float = 0.01,
    keep: Tensor | None = None,
    trajectory: Trajectory | None = None,
    seed: int = 0,
) -> KSpace:
    """The undersampled multi-coil k-space of an image series, without its maps (they are estimated, as on a scanner).

    coils: how many simulated coils, or maps (B or 1, C, 1, Y, X). acceleration, centre: of the variable-density k-t
    mask, or give `keep` (bool, broadcastable), or a `trajectory`, all of whose samples are measured. noise: std of each
    real channel as a share of the series' scale.

    Raises UsageError for impossible values.
    """
    if noise <= 0 or not math.isfinite(noise):
        raise UsageError(f"the noise must be a positive share of the signal, got {noise}")
    if isinstance(coils, int) and coils < 1:
        raise UsageError(f"at least one coil is needed, got {coils}")
    size = (clip.data.shape[-2], clip.data.shape[-1])
    maps = coil_maps(coils, size, seed) if isinstance(coils, int) else coils
    images = clip.data.to(torch.complex64)
    if trajectory is not None:
        keep = torch.ones(1, 1, 1, 1, 1, dtype=torch.bool)
    elif keep is None:
        keep = variable_density(clip.frames, size[0], acceleration, centre, seed)
    sigma = noise * float(series_scale(images.mean(2)))
    full = ((Fourier() if trajectory is None else NonUniform(trajectory)) @ Coils(maps))(images)
    g = torch.Generator().manual_seed(seed)
    data = Mask(keep)(full + sigma * unit_noise(full, g))
    kspace = KSpace(data, keep, noise=sigma, affine=clip.affine, times=clip.times, period=clip.period)
    return replace(kspace, trajectory=trajectory)


def golden_trajectory(name: str, clip: Clip, readouts: int = SPOKES) -> Trajectory:
    """`golden_radial` or `golden_spiral` ("radial", "spiral") on the clip's grid: `readouts` a frame."""
    size = (clip.data.shape[-2], clip.data.shape[-1])
    return (golden_radial if name == "radial" else golden_spiral)(clip.frames, size, readouts)


def head_coil_maps(clip: Clip, coils: int, seed: int = 0) -> Tensor:
    """Sensitivities (B, C, 1, Y, X) of unit root-sum-of-squares of loops on a helmet about the clip's field of view."""
    slices, _, _, height, width = clip.data.shape
    x, y, z = np.linalg.norm(clip.affine[:3, :3], axis=0).tolist()
    place = Lattice((slices, height, width), (z, y, x)).positions()
    maps = head_coil(place, coils, torch.Generator().manual_seed(seed))
    return (maps / maps.abs().square().sum(0).sqrt()).movedim(0, 1)[:, :, None]


def acquire_epi(
    clip: Clip,
    *,
    coils: int | Tensor = 16,
    acceleration: float = 2,
    noise: float = 0.01,
    shifted: bool = False,
    seed: int = 0,
) -> KSpace:
    """The EPI k-space of an image series as it is once ghosts and ramps are corrected: every R-th line.

    coils: how many on a simulated helmet, or maps (B or 1, C, 1, Y, X). acceleration: R, whole. shifted: lines move on
    from frame to frame, and calibrate themselves; else they stay, as on most scanners, and 24 lines of the mean image
    are measured in a calibration scan. noise: as in `acquire`. Raises UsageError for impossible values.
    """
    if isinstance(coils, int):
        if coils < 1:
            raise UsageError(f"at least one coil is needed, got {coils}")
        coils = head_coil_maps(clip, coils, seed)
    height = clip.data.shape[-2]
    lines = equispaced(clip.frames, height, acceleration)
    keep = lines if shifted else lines[:, :, :1].expand_as(lines)
    kspace = replace(acquire(clip, coils=coils, keep=keep, noise=noise, seed=seed), epi=True)
    if shifted:
        return kspace
    from_middle = torch.arange(height) - height // 2
    centre = ((from_middle >= -(_CALIBRATION // 2)) & (from_middle < _CALIBRATION // 2))[None, None, None, :, None]
    mean = replace(clip, data=clip.data.mean(2, keepdim=True), times=clip.times[:1])
    scan = acquire(mean, coils=coils, keep=centre, noise=noise, seed=seed + 1)
    return replace(kspace, calibration=scan.data)


def _check(frames: int, size: tuple[int, int], slices: int) -> None:
    if frames < 1 or slices < 1 or min(size) < 16 or max(size) > 2048:
        raise UsageError(f"can't simulate {frames} frames of {slices} slices of {size[0]} x {size[1]} (16 to 2048)")
