"""ISMRMRD readouts along stored trajectories (radial, spiral): k-space that is on no grid.

The format leaves the unit of a trajectory open. Two are in use, and told apart by their size: cycles per voxel of the
encoded matrix, up to 0.5 (Gadgetron, SIRF; medseq writes these), and cycles per encoded field of view, up to half the
matrix (mrpro, BART).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseq.clip import Trajectory
from medseq.io.raw_checks import check_memory
from medseq.io.raw_geometry import affine_of, frames_of
from medseq.io.raw_scan import Scan

_BATCH = 256  # readouts read at a time
_BEYOND = 1.02  # how far a trajectory may run over the edge of k-space
_SAME = 1e-4  # cycles per voxel: closer than that, the slices have one trajectory


@dataclass(frozen=True)
class Readouts:
    """data: (B, C, T, S, N) complex64. keep: bool (1, 1, T, S, N). The rest is as in `KSpace`."""

    data: Tensor
    keep: Tensor
    trajectory: Trajectory
    affine: np.ndarray
    times: np.ndarray
    period: float | None


def read_readouts(acquisitions: Any, scan: Scan, times: np.ndarray | None) -> Readouts:
    """The image readouts of a scan in the order of the file: S a frame, as many as the fullest frame has.

    The image has the matrix and field of view of the reconstruction space; samples beyond its resolution are left out.
    times: medseq's own frame times, if the file holds them. Raises InputError, naming the reason, on readouts of
    several lengths, on trajectories that are missing, of another unit or other than 2-D, and on slices that differ in
    theirs.
    """
    lines = scan.lines
    length = _length(scan)
    numbers, rank = np.unique(lines["idx"]["slice"], return_inverse=True)
    wanted = scan.encoding.reconSpace
    size = (int(wanted.matrixSize.y), int(wanted.matrixSize.x))
    voxel = (wanted.fieldOfView_mm.x / size[1], wanted.fieldOfView_mm.y / size[0])
    affine, place = affine_of(scan, rank, voxel, (size[1], size[0]))
    slices = place[rank]
    frames, times, period = frames_of(scan, times)
    turn = _turns(slices, frames)
    shape = (len(numbers), scan.coils(), len(times), int(turn.max()) + 1, length)
    check_memory(shape)
    data = np.zeros(shape, np.complex64)
    points = np.zeros((len(numbers), *shape[2:], 2), np.float32)
    there = np.zeros((len(numbers), *shape[2:4]), bool)
    for one, readout in _readouts(acquisitions, scan):
        first = int(lines["discard_pre"][one])
        where = slices[one], frames[one], turn[one]
        data[where[0], :, where[1], where[2]] = readout.data[:, first : first + length]
        points[where] = readout.traj[first : first + length, ::-1]
        there[where] = True
    known = _shared(scan, _in_cycles_per_voxel(scan, points, voxel), there)
    inside = (np.abs(known) <= 0.5 * _BEYOND).all(-1)
    if not inside.all():
        scan.assume(f"{int((~inside & there[0, ..., None]).sum())} samples lie beyond the image's resolution; left out")
    keep = torch.from_numpy(inside & there[0, ..., None])[None, None]
    trajectory = Trajectory(torch.from_numpy(known), size, _interval(scan, len(times)))
    return Readouts(torch.from_numpy(data), keep, trajectory, affine, times, period)


def _length(scan: Scan) -> int:
    """Samples of a readout, without those to discard."""
    if len(scan.calibration):
        scan.assume("the calibration scan is left aside, as the readouts calibrate themselves")
    lines = scan.lines
    dimensions = np.unique(lines["trajectory_dimensions"])
    if dimensions.tolist() != [2]:
        found = "not stored with every readout" if 0 in dimensions else f"of {dimensions.max()} dimensions"
        raise scan.refusal(
            f"the trajectory is {scan.encoding.trajectory.value}, but {found}; store kx and ky of every sample"
        )
    kept = lines["number_of_samples"].astype(np.int64) - lines["discard_pre"] - lines["discard_post"]
    if len(np.unique(kept)) > 1 or kept[0] < 1:
        raise scan.refusal(
            f"readouts of {kept.min()} to {kept.max()} samples; every readout needs the same, at least one"
        )
    return int(kept[0])


def _turns(slices: np.ndarray, frames: np.ndarray) -> np.ndarray:
    """For each readout how many of its slice and frame came before it."""
    seen: dict[tuple[int, int], int] = {}
    turns = np.zeros(len(slices), np.int64)
    for number, key in enumerate(zip(slices.tolist(), frames.tolist(), strict=True)):
        turns[number] = seen.get(key, 0)
        seen[key] = turns[number] + 1
    return turns


def _readouts(acquisitions: Any, scan: Scan) -> Iterator[tuple[int, Any]]:
    """(rank among the image readouts, readout), in the order of the file."""
    for low in range(0, len(scan.heads), _BATCH):
        chosen = np.flatnonzero((scan.image >= low) & (scan.image < low + _BATCH))
        if len(chosen):
            batch = acquisitions[low : low + _BATCH]
            yield from ((int(one), batch[int(scan.image[one]) - low]) for one in chosen)


def _in_cycles_per_voxel(scan: Scan, points: np.ndarray, voxel: tuple[float, float]) -> np.ndarray:
    """The stored points (..., 2), (ky, kx), in cycles per voxel (x, y) mm of the image."""
    if not np.isfinite(points).all():
        raise scan.refusal("a trajectory is not finite; correct it")
    space = scan.encoding.encodedSpace
    encoded = np.array([space.matrixSize.y, space.matrixSize.x])
    fov = np.array([space.fieldOfView_mm.y, space.fieldOfView_mm.x])
    largest = np.abs(points).reshape(-1, 2).max(0)
    if (largest > encoded / 2 * _BEYOND).any():
        raise scan.refusal(
            f"the trajectory reaches {largest.max():g}, beyond 0.5 cycles per voxel and half the encoded matrix; give "
            "it in one of these units"
        )
    units = np.ones(2) if largest.max() <= 0.5 * _BEYOND else 1 / encoded
    factor = units * encoded / fov * np.array(voxel[::-1])
    # as stored, bit for bit, where the image has the encoded voxels
    return points if np.allclose(factor, 1, rtol=1e-6, atol=0) else (points * factor).astype(np.float32)


def _shared(scan: Scan, points: np.ndarray, there: np.ndarray) -> np.ndarray:
    """The trajectory (T, S, N, 2) of all slices."""
    if (there != there[0]).any() or np.abs(points - points[0]).max() > _SAME:
        raise scan.refusal("the slices differ in their trajectories; split the file into one for each slice")
    return points[0]


def _interval(scan: Scan, frames: int) -> float | None:
    """Seconds from one readout to the next: what medseq stored, or the TR of a stream that is not cut into frames."""
    own = scan.own_parameters().get("readout_interval")
    sequence = scan.header.sequenceParameters
    repetition = sequence.TR[0] / 1e3 if sequence and sequence.TR and frames == 1 else None
    interval = own if own is not None else repetition
    return interval if interval is not None and np.isfinite(interval) and interval > 0 else None
