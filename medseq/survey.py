"""Look at files without changing them: which series are there, in what geometry and timing, and what is wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import nibabel
import numpy as np

from medseq.clip import Clip, KSpace
from medseq.errors import InputError, MedseqError
from medseq.io import NIFTI_ENDINGS, RAW_ENDINGS, load_clip, load_kspace
from medseq.provenance import collected_warnings

# Frame intervals that differ by more than this fraction are reported as irregular.
_IRREGULAR = 0.01


@dataclass(frozen=True)
class Series:
    """What is known of one file; None where it does not apply.

    kind: "image series" or "k-space". matrix: voxels along (X, Y, slices). voxel: millimetres along the same.
    orientation: where the voxel axes point, e.g. "LPS". interval, duration, period: seconds; interval is the median
    from one frame to the next. acceleration: all lines over measured ones. problems: what had to be assumed.
    error: why the file cannot be used, in which case everything else is empty.
    """

    path: str
    kind: str
    matrix: tuple[int, int, int] | None = None
    frames: int | None = None
    data: str | None = None
    voxel: tuple[float, float, float] | None = None
    orientation: str | None = None
    interval: float | None = None
    duration: float | None = None
    period: float | None = None
    coils: int | None = None
    acceleration: float | None = None
    problems: list[str] = field(default_factory=list)
    error: str | None = None


def survey(path: Path) -> list[Series]:
    """Read `path`, or every series in it when it is a folder, in order of name. The data are read too, so that a
    truncated file is found.

    A file that cannot be used is reported with its `error`. Raises InputError when nothing is there to look at.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the name")
    if not path.is_dir():
        return [_look(path)]
    endings = (*NIFTI_ENDINGS, *RAW_ENDINGS)
    files = [file for file in sorted(path.rglob("*")) if file.is_file() and file.name.lower().endswith(endings)]
    if not files:
        raise InputError(f"{path}: holds no series ({', '.join(endings)}); give the folder or file that does")
    return [_look(file) for file in files]


def _look(path: Path) -> Series:
    raw = path.name.lower().endswith(RAW_ENDINGS)
    kind = "k-space" if raw else "image series"
    try:
        with collected_warnings(lambda message: None) as problems:
            series = load_kspace(path) if raw else load_clip(path)
    except MedseqError as error:
        return Series(str(path), kind, error=_without_path(error, path))
    return _describe(str(path), kind, series, [_without_path(problem, path) for problem in problems])


def _without_path(message: object, path: Path) -> str:
    """One line; the path stands above it already."""
    return " ".join(str(message).split()).removeprefix(f"{path}: ")


def _describe(path: str, kind: str, series: Clip | KSpace, problems: list[str]) -> Series:
    slices, _, frames, height, width = series.data.shape
    steps = np.diff(np.asarray(series.times))
    if len(steps) and np.ptp(steps) > _IRREGULAR * np.median(steps):
        problems = [*problems, f"frame intervals vary from {steps.min():.4g} to {steps.max():.4g} s"]
    voxel = np.linalg.norm(series.affine[:3, :3], axis=0)
    return Series(
        path,
        kind,
        matrix=(width, height, slices),
        frames=frames,
        data="complex" if series.data.is_complex() else "magnitude",
        voxel=(round(float(voxel[0]), 4), round(float(voxel[1]), 4), round(float(voxel[2]), 4)),
        orientation="".join(nibabel.aff2axcodes(series.affine)),
        interval=round(float(np.median(steps)), 6) if len(steps) else None,
        duration=round(float(np.sum(steps)), 6) if len(steps) else None,
        period=series.period,
        coils=series.coils if isinstance(series, KSpace) else None,
        acceleration=_acceleration(series) if isinstance(series, KSpace) else None,
        problems=problems,
    )


def _acceleration(series: KSpace) -> float:
    return round(1 / float(series.keep.float().mean()), 2)
