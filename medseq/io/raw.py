"""Multi-coil Cartesian 2-D + t raw data as ISMRMRD (HDF5), read and written with the ismrmrd library.

`raw_scan.py` decides what is used and what is refused, `raw_plan.py` where each readout goes, `raw_geometry.py` the
affine and the times, `raw_samples.py` moves the samples, `raw_header.py` describes k-space to be written.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
import torch
from torch import Tensor

from medseq.clip import KSpace
from medseq.errors import InputError, MedseqWarning
from medseq.io.files import atomic_write
from medseq.io.raw_header import acquisitions_of, header_of
from medseq.io.raw_plan import make_plan
from medseq.io.raw_samples import grid_samples, measured_noise
from medseq.io.raw_scan import PREFIX, Scan

_GROUP = "dataset"
# HDF5 arrays beside the readouts, for what the ISMRMRD header has no exact field for.
_TIMES, _COVARIANCE = PREFIX + "frame_times", PREFIX + "noise_covariance"


def load_kspace(path: str | Path) -> KSpace:
    """Load multi-coil Cartesian 2-D + t k-space from an ISMRMRD file.

    data: (B, C, T, Y, X): slices (in order along their normal), coils, frames (cardiac phases or repetitions),
    phase-encoding lines, readout samples; repeated readouts of a line (averages) are averaged. DC is at index N // 2.
    X: readout oversampling is removed. Y: the encoded field of view is kept, as lines may be missing. Both have the
    resolution of the reconstruction space; what it asks for beyond the encoded matrix is unmeasured.
    keep: measured samples, (B, 1, T, Y, 1), or (B, 1, T, Y, X) with partial echoes.
    noise: covariance predicted by the noise scans (scaled by dwell time and averages), or what medseq stored, or None.
    maps: None. affine: from position (the voxel at index N // 2) and directions, LPS turned to RAS.
    times: TR is the time between frames. period: T * TR for cardiac phases, None for repetitions.
    Reversed readouts are flipped, calibration lines of the image used. Navigator, phase-correction, dummy, feedback
    and coil-correction readouts and separate calibration scans are left out with a MedseqWarning, and so is every
    assumption warned of (no directions, no TR, no centre line, ...).
    Raises InputError when the file is missing, broken or contradicts itself, when its samples are all zero or not
    finite, and, by name, on what cannot be used: a second phase encoding, other trajectories, several encodings,
    contrasts or sets, phases in several repetitions, slices that are not parallel and evenly spaced.
    """
    path = Path(path)
    with _faults_named(path):
        group = _group(path)
        times, covariance = _own_arrays(path, group)
        with ismrmrd.File(str(path), "r") as file:
            acquisitions = file[group].acquisitions
            # Only the headers first: they are small, and say where everything goes.
            scan = Scan(path, file[group].header, acquisitions.data.fields("head")[:])
            plan = make_plan(scan, times)
            data, count = grid_samples(acquisitions, scan, plan)
            noise = _noise(scan, covariance, measured_noise(acquisitions, scan), count)
    _check_values(data, path)
    keep = count > 0
    if bool((keep == keep[..., :1]).all()):
        keep = keep[..., :1].clone()
    try:
        kspace = KSpace(data, keep, None, noise, plan.affine, plan.times, plan.period)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    for note in scan.notes:
        warnings.warn(note, MedseqWarning, stacklevel=2)
    return kspace


def save_kspace(kspace: KSpace, path: str | Path) -> None:
    """Save k-space as ISMRMRD, atomically: one readout for each measured line, in complex64, bit for bit.

    Encoded and reconstruction space are both the matrix of the data. TR is the (mean) frame interval; frames are
    cardiac phases when there is a period, else repetitions. Position and directions come from the affine, in single
    precision, as the format has it. The exact frame times and a noise covariance are stored as arrays beside the
    readouts (`medseq_frame_times`, `medseq_noise_covariance`), a noise std and the period as user parameters
    (`medseq_noise_std`, `medseq_period`). Coil maps are not stored: they are estimated again.
    Raises InputError when the mask varies along a readout or from coil to coil, when samples are not finite, or a size
    exceeds the 16-bit counters; ResourceError when the file cannot be written.
    """
    path = Path(path)
    measured = _measured_lines(kspace, path)
    _check_values(kspace.data, path)
    if max(kspace.data.shape) > np.iinfo(np.uint16).max:
        raise InputError(f"{path}: not written, as {tuple(kspace.data.shape)} exceeds the format's 16-bit counters")
    with atomic_write(path) as temporary:
        with ismrmrd.Dataset(str(temporary), _GROUP, mode="w") as dataset:
            dataset.write_xml_header(header_of(kspace).toXML())
            dataset.append_array(_TIMES, np.array(kspace.times))
            if isinstance(kspace.noise, Tensor):
                dataset.append_array(_COVARIANCE, kspace.noise.cpu().to(torch.complex128).numpy())
        with ismrmrd.File(str(temporary), "r+") as file:
            file[_GROUP].acquisitions = acquisitions_of(kspace, measured)


@contextmanager
def _faults_named(path: Path) -> Iterator[None]:
    """Turn whatever h5py, ismrmrd or its XML parser raise on a broken file into one InputError that names it."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; check the path")
        yield
    except (InputError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(f"{path}: no right to read it; check its permissions") from error
    except Exception as error:  # noqa: BLE001 - OSError, KeyError, ValueError, ParserError, ... by where it is broken
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: broken or not ISMRMRD raw data ({reason}); get a fresh copy") from error


def _group(path: Path) -> str:
    """The name of the HDF5 group with the raw data: `dataset`, or the only one there is."""
    with ismrmrd.File(str(path), "r") as file:
        names = [name for name in file if file[name].has_header() and file[name].has_acquisitions()]
        if _GROUP in names:
            return _GROUP
        if len(names) == 1:
            return str(names[0])
    found = (
        f"several groups with raw data ({', '.join(names)})" if names else "no group with an XML header and readouts"
    )
    raise InputError(f"{path}: {found}; give an ISMRMRD file with one `{_GROUP}`")


def _own_arrays(path: Path, group: str) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Frame times (T,) in seconds and noise covariance (C, C), where medseq stored them."""
    with ismrmrd.Dataset(str(path), group, mode="r") as dataset:
        times, covariance = (
            dataset.read_array(name, 0) if name in dataset.list() else None for name in (_TIMES, _COVARIANCE)
        )
    return times, covariance


def _noise(scan: Scan, covariance: np.ndarray | None, measured: Tensor | None, count: Tensor) -> float | Tensor | None:
    """What medseq stored, else the noise scans' covariance over the number of averages (the fewest of any line)."""
    if covariance is not None:
        return torch.from_numpy(np.asarray(covariance)).to(torch.complex64)
    if "noise_std" in scan.own_parameters():
        return scan.own_parameters()["noise_std"]
    if measured is None:
        return None
    averages = count[count > 0]
    fewest, most = int(averages.min()), int(averages.max())
    if fewest != most:
        scan.assume(f"lines were measured {fewest} to {most} times; the noise is taken as that of {fewest}")
    return measured / fewest


def _check_values(data: Tensor, path: Path) -> None:
    if not bool(torch.isfinite(torch.view_as_real(data)).all()):
        raise InputError(f"{path}: some samples are not finite; measure or convert the raw data again")
    if not bool(data.any()):
        raise InputError(f"{path}: every sample is zero; there is nothing to reconstruct")


def _measured_lines(kspace: KSpace, path: Path) -> Any:
    """Which lines were measured, (B, T, Y) bool; raises InputError where the mask is not one of whole lines."""
    keep = kspace.keep
    if not bool((keep == keep[:, :1, :, :, :1]).all()):
        raise InputError(f"{path}: not written, as the mask varies along a readout or over coils; give a mask of lines")
    slices, _, frames, height, _ = kspace.data.shape
    return keep[:, 0, :, :, 0].expand(slices, frames, height).cpu().numpy()
