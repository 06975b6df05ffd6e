"""The two things medseq passes around: an image series and the k-space it was measured in.

Both carry their geometry and timing. Axis order is `(B, C, T, Y, X)` everywhere: B slices, C coils
(1 for an image), T frames, Y phase-encoding lines, X readout samples.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from medseq.errors import InputError


def _checked_geometry(affine: np.ndarray, times: np.ndarray, period: float | None, frames: int):
    affine = np.array(affine, dtype=np.float64)
    times = np.array(times, dtype=np.float64)
    if affine.shape != (4, 4) or not np.isfinite(affine).all():
        raise InputError(f"the affine must be a finite 4x4 matrix, got shape {affine.shape}: {affine.tolist()}")
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise InputError("the affine is singular: a voxel axis has no length or two coincide")
    if times.shape != (frames,) or not np.isfinite(times).all():
        raise InputError(f"times must be {frames} finite seconds, one a frame, got shape {times.shape}")
    if (np.diff(times) <= 0).any():
        raise InputError("times must increase strictly from frame to frame")
    if period is not None and not (np.isfinite(period) and period > times[-1] - times[0]):
        raise InputError(f"the period ({period} s) must be longer than the span of the frames")
    affine.setflags(write=False)
    times.setflags(write=False)
    return affine, times


def _checked_slice_times(slice_times: np.ndarray, slices: int) -> np.ndarray:
    slice_times = np.array(slice_times, dtype=np.float64)
    if slice_times.shape != (slices,) or not np.isfinite(slice_times).all():
        raise InputError(f"slice times must be {slices} finite seconds, one a slice, got shape {slice_times.shape}")
    slice_times.setflags(write=False)
    return slice_times


@dataclass(frozen=True)
class Clip:
    """An image series with exact geometry and timing.

    data: (B, 1, T, Y, X), float32 magnitude or complex64, in input units; B counts slices (voxel axis z).
    affine: 4x4 float64, voxel (x, y, z) -> RAS+ millimetres.
    times: (T,) float64, the time of each frame in seconds, strictly increasing; frame indices when not given.
    period: seconds of one gated cycle, or None when the series is not periodic.
    slice_times: (B,) float64, seconds from the time of a frame to when each slice was acquired, or None (unknown).
    present: (B, T) bool, False where a frame is missing and zeros stand for it, or None (all are there).

    Raises InputError on a wrong number of dimensions, a singular or non-finite affine, or impossible times.
    """

    data: Tensor
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    times: np.ndarray = None  # type: ignore[assignment]  # None: frame indices
    period: float | None = None
    slice_times: np.ndarray | None = None
    present: Tensor | None = None

    def __post_init__(self) -> None:
        if self.data.ndim != 5 or self.data.shape[1] != 1:
            raise InputError(f"a clip needs data of shape (B, 1, T, Y, X), got {tuple(self.data.shape)}")
        times = np.arange(self.frames, dtype=np.float64) if self.times is None else self.times
        affine, times = _checked_geometry(self.affine, times, self.period, self.frames)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "times", times)
        slices = self.data.shape[0]
        if self.slice_times is not None:
            object.__setattr__(self, "slice_times", _checked_slice_times(self.slice_times, slices))
        if self.present is not None and (
            self.present.dtype != torch.bool or tuple(self.present.shape) != (slices, self.frames)
        ):
            raise InputError(f"present must be bool of shape {(slices, self.frames)}, got {tuple(self.present.shape)}")

    @property
    def frames(self) -> int:
        return self.data.shape[2]

    @property
    def is_complex(self) -> bool:
        return self.data.is_complex()

    def with_data(self, data: Tensor) -> Clip:
        """The same geometry and timing around other data of the same shape."""
        return replace(self, data=data)


@dataclass(frozen=True)
class Trajectory:
    """Where in k-space the samples of a series lie that are on no grid: radial spokes, spirals or any other readouts.

    points: (T or 1, S, N, 2) real, (ky, kx) of each of N samples of S readouts a frame, in cycles per voxel: from -0.5
        to 0.5, DC at 0. Line y of a grid of Y lines lies at (y - Y // 2) / Y, and 2 pi times it is radians per voxel.
    size: (Y, X), the image grid.
    interval: seconds from one readout to the next, or None (unknown).

    Raises InputError for points of another shape or that are not finite, and for an impossible size or interval.
    """

    points: Tensor
    size: tuple[int, int]
    interval: float | None = None

    def __post_init__(self) -> None:
        if self.points.ndim != 4 or self.points.shape[-1] != 2 or not self.points.is_floating_point():
            raise InputError(
                f"a trajectory needs real points of shape (T, S, N, 2), got {self.points.dtype} "
                f"{tuple(self.points.shape)}"
            )
        if not self.points.numel() or not bool(torch.isfinite(self.points).all()):
            raise InputError("a trajectory needs points that are finite, and at least one")
        if min(self.size) < 1:
            raise InputError(f"the image of a trajectory can't have the size {self.size}")
        if self.interval is not None and not (np.isfinite(self.interval) and self.interval > 0):
            raise InputError(f"the time between readouts must be positive, got {self.interval} s")

    def to(self, device: torch.device) -> Trajectory:
        return replace(self, points=self.points.to(device))

    def frames(self, chunk: slice) -> Trajectory:
        """That of the frames in `chunk`; points that are the same in all frames stay."""
        return self if self.points.shape[0] == 1 else replace(self, points=self.points[chunk])

    @property
    def nearest(self) -> Tensor:
        """bool (1, 1, T or 1, Y, X): the places of the image's own grid of k-space that have a sample next to them."""
        frames, (height, width) = self.points.shape[0], self.size
        sides = torch.tensor(self.size, device=self.points.device)
        place = (self.points.double() * sides).round().long() + sides // 2
        inside = ((place >= 0) & (place < sides)).all(-1).flatten(1)
        number = (place[..., 0] * width + place[..., 1]).flatten(1)
        # what lies beyond the grid is put into one place more, which is left out again
        grid = torch.zeros(frames, height * width + 1, dtype=torch.bool, device=self.points.device)
        grid.scatter_(1, torch.where(inside, number, height * width), True)
        return grid[:, :-1].view(1, 1, frames, height, width)


@dataclass(frozen=True)
class KSpace:
    """Multi-coil k-space of a dynamic series, on a Cartesian grid or along a trajectory.

    data: (B, C, T, Y, X) complex64, centred (DC at index N // 2), zeros where unmeasured. Along a trajectory
        (B, C, T, S, N): S readouts (spokes, interleaves) of N samples a frame.
    keep: bool, broadcastable to `data`; True where measured.
    maps: (B, C, 1, Y, X) complex64 coil sensitivities of unit root-sum-of-squares, or None (estimated).
    noise: std of each real channel in data units, or a (C, C) complex covariance E[n n^H] / 2 (so that
        its diagonal is the squared std of each real channel), or None (estimated).
    affine, times, period: as in `Clip`.
    calibration: (B or 1, C, 1, Y, X) complex64, a calibration scan on the same grid, zeros where unmeasured, or None.
        It may have another contrast and scale than the data: only coil maps are taken from it.
    epi: measured by echo-planar trains (of which ghosts and ramps are corrected), as fMRI is.
    trajectory: where the samples lie, or None on a Cartesian grid. With it there is no calibration scan.

    Raises InputError when shapes do not fit, when nothing was measured, or on impossible geometry.
    """

    data: Tensor
    keep: Tensor
    maps: Tensor | None = None
    noise: float | Tensor | None = None
    affine: np.ndarray = field(default_factory=lambda: np.eye(4))
    times: np.ndarray = None  # type: ignore[assignment]  # None: frame indices
    period: float | None = None
    calibration: Tensor | None = None
    epi: bool = False
    trajectory: Trajectory | None = None

    def __post_init__(self) -> None:
        if self.data.ndim != 5 or not self.data.is_complex():
            raise InputError(
                f"k-space must be complex of shape (B, C, T, Y, X), got {self.data.dtype} {tuple(self.data.shape)}"
            )
        if self.keep.dtype != torch.bool or self.keep.ndim != 5 or not self._fits(self.keep, self.data.shape):
            raise InputError(
                f"keep must be bool and broadcast to the data {tuple(self.data.shape)}, got {self.keep.dtype} "
                f"{tuple(self.keep.shape)}"
            )
        if not bool(self.keep.any()):
            raise InputError("the mask is empty: nothing was measured")
        if self.trajectory is not None:
            self._check_trajectory(self.trajectory)
        coils = self.data.shape[1]
        image = torch.Size((*self.data.shape[:3], *self.size))
        if self.maps is not None and (
            self.maps.ndim != 5 or self.maps.shape[1] != coils or not self._fits(self.maps, image)
        ):
            raise InputError(f"coil maps {tuple(self.maps.shape)} do not fit the data {tuple(image)}")
        if self.calibration is not None and not self._calibrates(self.calibration):
            raise InputError(
                f"a calibration scan must be one complex frame on the grid of the data {tuple(self.data.shape)}, "
                f"got {self.calibration.dtype} {tuple(self.calibration.shape)}"
            )
        if isinstance(self.noise, Tensor) and self.noise.shape != (coils, coils):
            raise InputError(f"a noise covariance must be ({coils}, {coils}), got {tuple(self.noise.shape)}")
        times = np.arange(self.frames, dtype=np.float64) if self.times is None else self.times
        affine, times = _checked_geometry(self.affine, times, self.period, self.frames)
        object.__setattr__(self, "affine", affine)
        object.__setattr__(self, "times", times)

    def _check_trajectory(self, trajectory: Trajectory) -> None:
        if not self._fits(trajectory.points[..., 0], self.data.shape[2:]) or (
            trajectory.points.shape[1:3] != self.data.shape[3:]
        ):
            raise InputError(
                f"a trajectory of {tuple(trajectory.points.shape[:3])} does not fit data of {tuple(self.data.shape)}"
            )
        if self.keep.shape[:2] != (1, 1):
            raise InputError("along a trajectory all slices and coils have one mask")
        if self.calibration is not None or self.epi:
            raise InputError("k-space along a trajectory has no calibration scan, and is no EPI")

    def _calibrates(self, calibration: Tensor) -> bool:
        slices, coils, _, *grid = self.data.shape
        shape = list(calibration.shape)
        return calibration.is_complex() and shape in ([slices, coils, 1, *grid], [1, coils, 1, *grid])

    @staticmethod
    def _fits(tensor: Tensor, shape: torch.Size) -> bool:
        return all(have in (1, want) for have, want in zip(tensor.shape, shape, strict=True))

    @property
    def frames(self) -> int:
        return self.data.shape[2]

    @property
    def coils(self) -> int:
        return self.data.shape[1]

    @property
    def size(self) -> tuple[int, int]:
        """(Y, X) of the image."""
        return (self.data.shape[-2], self.data.shape[-1]) if self.trajectory is None else self.trajectory.size

    @property
    def acceleration(self) -> float:
        """Places of k-space over those measured; along a trajectory, over those with a sample next to them."""
        measured = self.keep.any(1) if self.trajectory is None else self.trajectory.nearest
        return 1 / float(measured.float().mean())


def series_scale(average: Tensor, lines: int = 8) -> Tensor:
    """The one scale of a series: the 99th percentile of the magnitude of its low-passed time average.

    average: (..., Y, X) real or complex, the time-averaged image (root-sum-of-squares weighted if multi-coil).
    Only the `lines` central phase-encoding lines (along Y) are kept, so that the scale does not depend on the
    acceleration. Returns a scalar tensor; the caller refuses it when it is zero or not finite.
    """
    height = average.shape[-2]
    spectrum = torch.fft.fft(average, dim=-2)
    index = torch.fft.fftfreq(height, 1.0 / height, device=average.device)
    low = (index >= -(lines // 2)) & (index < lines - lines // 2)
    smooth = torch.fft.ifft(spectrum * low[:, None], dim=-2).abs().flatten()
    # kthvalue rather than quantile: the latter refuses more than 2^24 elements
    return smooth.kthvalue(max(1, int(0.99 * smooth.numel()))).values
