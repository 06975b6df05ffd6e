"""Slices in space: which images lie at the same place, in what order, and the affine of the whole (PS3.3 C.7.6.2)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseq.errors import InputError
from medseq.io.dicom.records import Record

# Millimetres by which images of one slice may lie apart: more than rounding, less than any slice.
_SAME_PLACE = 0.05
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def slice_centres(records: Sequence[Record]) -> tuple[np.ndarray, np.ndarray]:
    """Which slice each image belongs to, and where the slices are.

    Slices count along the normal (row x column), by the projection of ImagePositionPatient on it: SliceLocation and
    InstanceNumber follow each vendor's taste. Returns (images,) slice indices and (slices, 3) LPS mm of first voxels.
    Raises InputError when images of one slice lie beside each other.
    """
    positions = np.array([record.position for record in records])
    height = positions @ normal(records[0])
    order = np.argsort(height, kind="stable")
    index = np.empty(len(records), np.int64)
    index[order] = np.r_[0, np.cumsum(np.diff(height[order]) > _SAME_PLACE)]
    centres = np.array([np.median(positions[index == b], axis=0) for b in range(index.max() + 1)])
    if np.abs(positions - centres[index]).max() > _SAME_PLACE:
        raise InputError("images of one slice lie at different places in its plane; medseq keeps one geometry a series")
    return index, centres


def normal(record: Record) -> np.ndarray:
    """The unit vector (LPS) along which slices are counted: row x column."""
    row, column = np.array(record.orientation[:3]), np.array(record.orientation[3:])
    return np.cross(row, column)


def are_even(centres: np.ndarray) -> bool:
    """Whether slices (slices, 3) follow each other by one and the same vector, to 1 % of it (at least 0.02 mm)."""
    if len(centres) < 3:
        return True
    step = (centres[-1] - centres[0]) / (len(centres) - 1)
    ideal = centres[0] + np.arange(len(centres))[:, None] * step
    return bool(np.abs(centres - ideal).max() <= max(0.02, 0.01 * float(np.linalg.norm(step))))


def affine(record: Record, centres: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """The 4x4 matrix (column, row, slice) -> RAS mm, and what was assumed.

    Columns: PixelSpacing[1] along the row direction, PixelSpacing[0] along the column direction (PS3.3 10.7.1.3), and
    the vector from slice to slice, which need not be the normal (a sheared stack stays sheared).
    Raises InputError when the slices are not evenly spaced, saying which are missing where that is what it looks like.
    """
    if not are_even(centres):
        raise InputError(_unevenness(centres @ normal(record)))
    row, column = np.array(record.orientation[:3]), np.array(record.orientation[3:])
    problems = []
    if len(centres) > 1:
        step = (centres[-1] - centres[0]) / (len(centres) - 1)
        if np.linalg.norm(np.cross(step, normal(record))) > 0.01 * np.linalg.norm(step):
            problems.append("slices are shifted in their plane from one to the next (a sheared stack)")
    else:
        step = (record.step or 1.0) * normal(record)
        if record.step is None:
            problems.append("the single slice has no thickness; 1 mm is taken")
    matrix = np.eye(4)
    matrix[:3] = np.stack([row * record.spacing[1], column * record.spacing[0], step, centres[0]], axis=1)
    return _LPS_TO_RAS @ matrix, problems


def _unevenness(heights: np.ndarray) -> str:
    gaps = np.diff(heights)
    steps = gaps / gaps.min()
    if (np.abs(steps - np.rint(steps)) < 0.05).all():
        lost = [int(b) for b, count in enumerate(np.rint(steps).astype(int), 1) if count > 1]
        where = ", ".join(f"after slice {b}" for b in lost[:5])
        return f"slices are missing {where} (every {gaps.min():.3f} mm there is one elsewhere); get the whole series"
    return f"slices lie {gaps.min():.3f} to {gaps.max():.3f} mm apart; medseq needs even distances"
