"""Which frames of several series show the same moment on the same grid; what does not agree is refused, by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from medseq.clip import Clip
from medseq.errors import InputError

_PLACE = 0.05  # of the smallest voxel size: how far a corner of the image may lie from that of another series
_TIME = 0.05  # of the shortest frame interval; DICOM rounds to milliseconds


def matched(clips: Mapping[str, Clip]) -> dict[str, Clip]:
    """The series at the moments of the one with the fewest frames, in the given order; the first is the one to follow.

    clips: at least one, by name. Grids must be equal to 5 % of a voxel, and every moment of the shortest series must be
    in the others to 5 % of a frame interval: nothing is interpolated. Times and affine of the first are given to all.

    Raises InputError that names the series whose grid or timing differs, or that lacks frames.
    """
    names = list(clips)
    first = clips[names[0]]
    for name, clip in clips.items():
        check_grid(name, clip, names[0], first)
        if clip.present is not None and not bool(clip.present.all()):
            raise InputError(f"{name}: lacks frames; fill them in first")
    shortest = min(names, key=lambda name: clips[name].frames)
    places = {name: _places(name, clip, shortest, clips[shortest]) for name, clip in clips.items()}
    times, period = first.times[places[names[0]]], first.period
    return {
        name: replace(
            clip, data=clip.data[:, :, torch.from_numpy(place)], affine=first.affine, times=times, period=period
        )
        for (name, clip), place in zip(clips.items(), places.values(), strict=True)
    }


def check_grid(name: str, clip: Clip, wanted_name: str, wanted: Clip) -> None:
    """Raise InputError unless a clip has the voxels of the wanted one, in the same places to 5 % of their size."""
    size, wanted_size = ((c.data.shape[4], c.data.shape[3], c.data.shape[0]) for c in (clip, wanted))
    if size != wanted_size:
        raise InputError(
            f"{name}: has {' x '.join(map(str, size))} voxels, but {wanted_name} {' x '.join(map(str, wanted_size))}; "
            "give series on one grid"
        )
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in size], [1])).reshape(4, -1)
    apart = np.linalg.norm(((clip.affine - wanted.affine) @ corners)[:3], axis=0).max()
    if apart > _PLACE * np.linalg.norm(wanted.affine[:3, :3], axis=0).min():
        raise InputError(
            f"{name}: lies up to {apart:.3g} mm from {wanted_name} (their affines differ); give series on one grid"
        )


def _places(name: str, clip: Clip, shortest_name: str, shortest: Clip) -> np.ndarray:
    """Indices of the clip's frames at the times of the shortest series."""
    distance = np.abs(clip.times[:, None] - shortest.times)
    intervals = np.concatenate([np.diff(clip.times), np.diff(shortest.times)])
    if not len(intervals):
        return np.zeros(1, dtype=int)  # a still picture of each
    far = distance.min(0) > _TIME * intervals.min()
    if far.any():
        raise InputError(
            f"{name}: has no frame at {shortest.times[far][0]:.4g} s, where {shortest_name} has one; "
            "give series of the same times, or resample one (medseq interpolate --times)"
        )
    return distance.argmin(0)
