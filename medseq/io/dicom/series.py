"""What a DICOM series is to medseq: 2-D frames ordered by slice and time, and what they have in common."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

Kind = Literal["cine", "bold", "perfusion", "other"]


@dataclass(frozen=True)
class Frame:
    """One 2-D image: a classic file, one frame of a multi-frame file, or one tile of a mosaic.

    index: which frame of the file, or which tile of the mosaic (row by row); 0 in a classic file.
    position: LPS millimetres of the centre of its first voxel. time: seconds, on the clock of its series.
    slope, intercept: from stored to real values.
    """

    path: Path
    index: int
    position: tuple[float, float, float]
    time: float
    slope: float = 1.0
    intercept: float = 0.0


@dataclass(frozen=True)
class DicomSeries:
    """One image series, ready to be read: nothing of its pixels has been touched.

    uid, number, description: of its first file; description is what the scanner's user typed.
    vendor: "GE", "Siemens", "Philips", "Canon", "United Imaging" or the Manufacturer as it stands.
    frames: [slice][time]; slices increase along the image normal (row x column direction), None is missing.
    phases: the phase images that belong to the magnitudes in `frames`, likewise ordered, or None.
    is_cartesian: `frames` are real parts and `phases` imaginary ones instead, as GE can store them.
    matrix: (columns, rows) of a frame. affine, times, period: as in `Clip`, with (x, y, z) = (column, row, slice).
    slice_times: (slices,) seconds from the time of a frame to the acquisition of each slice, or None (unknown).
    problems: what had to be assumed, one sentence each.
    """

    uid: str
    number: int | None
    description: str
    vendor: str
    kind: Kind
    frames: tuple[tuple[Frame | None, ...], ...]
    phases: tuple[tuple[Frame | None, ...], ...] | None
    matrix: tuple[int, int]
    affine: np.ndarray
    times: np.ndarray
    period: float | None
    slice_times: np.ndarray | None = None
    problems: tuple[str, ...] = ()
    is_cartesian: bool = False

    @property
    def folder(self) -> Path:
        """Where its first file lies."""
        return next(frame.path.parent for row in self.frames for frame in row if frame is not None)

    @property
    def missing(self) -> list[tuple[int, int]]:
        """(slice, frame) of each frame that the series should have and lacks, counted from 0."""
        return [(b, t) for b, row in enumerate(self.frames) for t, frame in enumerate(row) if frame is None]
