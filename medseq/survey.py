"""Look at files without changing them: which series are there, in what geometry and timing, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import nibabel
import numpy as np

from medseq.clip import Clip, KSpace
from medseq.errors import InputError, MedseqError
from medseq.io import is_nifti, is_raw, load_clip, load_kspace
from medseq.provenance import collected_warnings

if TYPE_CHECKING:
    from medseq.io.dicom import DicomSeries

# Frame intervals that differ by more than this fraction are reported as irregular.
_IRREGULAR = 0.01
_COMMON_ENDINGS = (".mat", ".dat")


@dataclass(frozen=True)
class Series:
    """What is known of one series; None where it does not apply.

    path: the file, or the folder of a DICOM series. format: "NIfTI", "DICOM" or "raw data". kind: "cine", "bold",
    "perfusion" or "other" where the format tells, "image series" where it does not, "k-space". number: of a DICOM
    series, as `--series` takes it. matrix: voxels along (X, Y, slices). voxel: millimetres along the same.
    orientation: where the voxel axes point, e.g. "LPS". interval, duration, period: seconds; interval is the median
    from one frame to the next. acceleration: all lines over measured ones.
    trajectory: (readouts a frame, samples of each) where they are no lines of a grid. problems: what had to be assumed.
    error: why it cannot be used, in which case little else is known.
    """

    path: str
    format: str
    kind: str
    number: int | None = None
    description: str | None = None
    vendor: str | None = None
    matrix: tuple[int, int, int] | None = None
    frames: int | None = None
    data: str | None = None
    voxel: tuple[float, float, float] | None = None
    orientation: str | None = None
    interval: float | None = None
    duration: float | None = None
    period: float | None = None
    slice_timing: bool | None = None
    coils: int | None = None
    acceleration: float | None = None
    trajectory: tuple[int, int] | None = None
    problems: list[str] = field(default_factory=list)
    error: str | None = None


def survey(path: Path) -> list[Series]:
    """Read `path`, or every series in it when it is a folder: NIfTI and raw files in order of name, then DICOM series.

    The data are read too, so that a truncated file is found. What cannot be used is reported with its `error`.
    Raises InputError when nothing is there to look at.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the name")
    if not path.is_dir():
        found = [_look(path)] if is_nifti(path) or is_raw(path) else list(_dicom(path))
        if not found:
            raise InputError(f"{path}: no MR image series that medseq reads (NIfTI, DICOM, raw data); check the path")
        return found
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and (is_nifti(file) or is_raw(file))]
    looked = [_look(file) for file in files]
    # Much else ends like these: only what can be read is a series.
    looked = [each for each in looked if not (each.error and each.path.lower().endswith(_COMMON_ENDINGS))]
    found = [*looked, *_dicom(path)]
    if not found:
        raise InputError(f"{path}: holds no series (NIfTI, DICOM, raw data); give the folder or file that does")
    return found


def _look(path: Path) -> Series:
    raw = is_raw(path)
    blank = Series(str(path), "raw data" if raw else "NIfTI", "k-space" if raw else "image series")
    try:
        with collected_warnings(lambda message: None) as problems:
            series = load_kspace(path) if raw else load_clip(path)
    except MedseqError as error:
        return replace(blank, error=_without_path(error, path))
    return _described(blank, series, [_without_path(problem, path) for problem in problems])


def _dicom(path: Path) -> Iterator[Series]:
    """Every DICOM series under `path`, then what looked like one and cannot be used."""
    from medseq.io.dicom import find_series

    found = find_series(path)
    yield from map(_look_at_dicom, found.series)
    for refused in found.refused:
        yield Series(refused.what, "DICOM", "other", error=refused.reason)


def _look_at_dicom(series: DicomSeries) -> Series:
    from medseq.io.dicom import load_series

    blank = Series(
        str(series.folder),
        "DICOM",
        series.kind,
        number=series.number,
        description=series.description or None,
        vendor=series.vendor,
        slice_timing=series.slice_times is not None,
    )
    try:
        with collected_warnings(lambda message: None) as problems:
            clip = load_series(series)
    except MedseqError as error:
        return replace(blank, error=_without_path(error, series.folder))
    return _described(blank, clip, [_without_path(problem, series.folder) for problem in problems])


def _without_path(message: object, path: Path) -> str:
    """One line; the path stands above it already."""
    return " ".join(str(message).split()).removeprefix(f"{path}: ")


def _described(blank: Series, series: Clip | KSpace, problems: list[str]) -> Series:
    slices, _, frames, height, width = series.data.shape
    readouts = None
    if isinstance(series, KSpace) and series.trajectory is not None:
        readouts, (height, width) = (height, width), series.size
    steps = np.diff(np.asarray(series.times))
    if len(steps) and np.ptp(steps) > _IRREGULAR * np.median(steps):
        problems = [*problems, f"frame intervals vary from {steps.min():.4g} to {steps.max():.4g} s"]
    voxel = np.linalg.norm(series.affine[:3, :3], axis=0)
    return replace(
        blank,
        matrix=(width, height, slices),
        frames=frames,
        data="complex" if series.data.is_complex() else "magnitude",
        voxel=(round(float(voxel[0]), 4), round(float(voxel[1]), 4), round(float(voxel[2]), 4)),
        orientation="".join(nibabel.aff2axcodes(series.affine)),
        interval=round(float(np.median(steps)), 6) if len(steps) else None,
        duration=round(float(np.sum(steps)), 6) if len(steps) else None,
        period=series.period,
        coils=series.coils if isinstance(series, KSpace) else None,
        acceleration=round(series.acceleration, 2) if isinstance(series, KSpace) else None,
        trajectory=readouts,
        problems=problems,
    )
