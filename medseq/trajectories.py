"""Radial and spiral trajectories that turn on by a golden angle, and streams of readouts cut into frames.

Readouts that are turned by a golden angle from one to the next cover k-space nearly evenly, however many of them are
taken together (Winkelmann 2007). Trajectories are made on the CPU, in single precision. All of this raises UsageError
for values that cannot be met.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from medseq.clip import KSpace, Trajectory
from medseq.errors import UsageError

_OVERSAMPLING = 2  # of a readout: samples for each place of the grid that it runs through
_FINE = 4096  # steps in which the length of a spiral is measured


def golden_angle(tiny: int = 1) -> float:
    """The tiny golden angle of order N, in radians: pi / (golden ratio + N - 1) (Wundrak 2015).

    Order 1 is the golden angle of spokes, 111.2 degrees; order 7, 23.6 degrees, is common for balanced SSFP, which
    large steps disturb by eddy currents.
    """
    if tiny < 1:
        raise UsageError(f"the order of a golden angle must be at least 1, got {tiny}")
    return math.pi / ((1 + math.sqrt(5)) / 2 + tiny - 1)


def golden_radial(
    frames: int, size: tuple[int, int], spokes: int, *, tiny: int = 1, interval: float | None = None
) -> Trajectory:
    """Spokes through the centre; every frame takes the next `spokes` angles.

    size: (Y, X) of the image, of square voxels. A spoke has twice as many samples as the longer side has voxels, and
    runs from -0.5 to 0.5 cycles per voxel. tiny: order of `golden_angle`. interval: as of `Trajectory`.
    """
    _check(frames, size, spokes)
    count = _OVERSAMPLING * max(size)
    radius = (torch.arange(count, dtype=torch.float64) - count // 2) / count
    return _turned(torch.polar(radius, torch.zeros_like(radius)), golden_angle(tiny), frames, size, spokes, interval)


def golden_spiral(
    frames: int,
    size: tuple[int, int],
    interleaves: int,
    *,
    tiny: int = 1,
    full: int = 24,
    interval: float | None = None,
) -> Trajectory:
    """Archimedean spirals from the centre out, of one density; every frame takes the next `interleaves` angles.

    full: how many interleaves, evenly turned, sample k-space in full: the turns of one lie `full` grid places apart.
    Samples along it lie half a place apart. Successive interleaves turn by twice the `golden_angle` of order `tiny`,
    as a spiral, unlike a spoke, comes back to itself after a whole turn only.
    """
    _check(frames, size, interleaves)
    if full < 1:
        raise UsageError(f"at least one interleaf is needed to sample k-space in full, got {full}")
    edge = max(size) / 2  # grid places from the centre to the edge
    fine = np.linspace(0, edge, _FINE)
    pace = np.hypot(1, 2 * math.pi * fine / full)  # length of the spiral over radius
    length = np.concatenate([[0.0], np.cumsum((pace[1:] + pace[:-1]) / 2 * np.diff(fine))])
    count = max(2, math.ceil(_OVERSAMPLING * length[-1]))
    radius = torch.from_numpy(np.interp(np.linspace(0, length[-1], count), length, fine))
    spiral = torch.polar(radius / max(size), 2 * math.pi * radius / full)
    return _turned(spiral, 2 * golden_angle(tiny), frames, size, interleaves, interval)


def binned(kspace: KSpace, readouts: int, *, step: int | None = None) -> KSpace:
    """A stream of readouts cut into frames of `readouts` each, of which every `step`-th reading begins one.

    kspace: along a trajectory; the readouts of all its frames are taken in turn. step: None for `readouts`; with less,
    frames slide, and share readouts and so their noise. What does not fill a frame at the end is left out. The time of
    a frame is that of its middle readout; without the trajectory's `interval` frames are counted, as if `step` readouts
    took 1 s. The series is taken as not periodic.
    """
    trajectory, step = kspace.trajectory, readouts if step is None else step
    if trajectory is None:
        raise UsageError("only k-space along a trajectory can be cut into other frames")
    if min(readouts, step) < 1:
        raise UsageError(f"frames need at least one readout and one step, got {readouts} and {step}")
    frames, count = kspace.frames, kspace.data.shape[3]
    if readouts > frames * count:
        raise UsageError(f"{frames * count} readouts do not fill one frame of {readouts}")

    def cut(stream: Tensor, axis: int) -> Tensor:
        """Frames and readouts at `axis` and the next: joined, then cut anew."""
        whole = stream.flatten(axis, axis + 1).unfold(axis, readouts, step)
        return whole.movedim(-1, axis + 1).contiguous()

    keep = kspace.keep.expand(*kspace.keep.shape[:2], frames, count, kspace.keep.shape[4])
    points = cut(trajectory.points.expand(frames, -1, -1, -1), 0)
    interval = trajectory.interval
    spacing = 1.0 if interval is None else step * interval
    first = 0.0 if interval is None else float(kspace.times[0]) + (readouts - 1) / 2 * interval
    return replace(
        kspace,
        data=cut(kspace.data, 2),
        keep=cut(keep, 2),
        trajectory=replace(trajectory, points=points),
        times=first + spacing * np.arange(len(points)),
        period=None,
    )


def _turned(
    readout: Tensor, angle: float, frames: int, size: tuple[int, int], count: int, interval: float | None
) -> Trajectory:
    """The readout (N,), kx + i ky, turned on by `angle` from one to the next, in frames of `count`."""
    turns = angle * torch.arange(frames * count, dtype=torch.float64)
    places = readout * torch.polar(torch.ones_like(turns), turns)[:, None]
    points = torch.stack([places.imag, places.real], -1).float()
    return Trajectory(points.view(frames, count, -1, 2), size, interval)


def _check(frames: int, size: tuple[int, int], readouts: int) -> None:
    if min(frames, *size, readouts) < 1:
        raise UsageError(f"frames, size and readouts must be positive, got {frames}, {size}, {readouts}")
