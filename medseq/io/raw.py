"""Multi-coil 2-D + t raw data as ISMRMRD (HDF5), read and written with the ismrmrd library.

`raw_scan.py` decides what is used and what is refused, `raw_epi.py` which echo-planar data are ready, `raw_plan.py`
where each readout goes, `raw_geometry.py` the affine and the times, `raw_samples.py` moves the samples,
`raw_trajectory.py` reads what lies on no grid, `raw_header.py` describes k-space to be written.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from torch import Tensor

from medseq.clip import KSpace
from medseq.errors import InputError, MedseqWarning
from medseq.io.hdf5 import check_stored_size, open_hdf5, read_array, write_hdf5
from medseq.io.ismrmrd_library import ismrmrd
from medseq.io.raw_checks import check_values, raw_faults_named, whole_lines
from medseq.io.raw_epi import check_echo_trains, is_epi
from medseq.io.raw_header import acquisitions_of, header_of
from medseq.io.raw_plan import Plan, calibration_plan, make_plan
from medseq.io.raw_samples import grid_samples, measured_noise
from medseq.io.raw_scan import PREFIX, Scan
from medseq.io.raw_trajectory import read_readouts

_GROUP = "dataset"
# HDF5 arrays beside the readouts, for what the ISMRMRD header has no exact field for.
_TIMES, _COVARIANCE = PREFIX + "frame_times", PREFIX + "noise_covariance"


def load_ismrmrd(path: str | Path) -> KSpace:
    """Load multi-coil 2-D + t k-space from an ISMRMRD file: Cartesian, or along the trajectories stored with it.

    data: (B, C, T, Y, X): slices (in order along their normal), coils, frames (cardiac phases or repetitions),
    phase-encoding lines, readout samples; repeated readouts of a line (averages) are averaged. DC is at index N // 2.
    X: readout oversampling is removed. Y: the encoded field of view is kept, as lines may be missing. Both have the
    resolution of the reconstruction space; what it asks for beyond the encoded matrix is unmeasured.
    keep: measured samples, (B, 1, T, Y, 1), or (B, 1, T, Y, X) with partial echoes.
    noise: covariance predicted by the noise scans (scaled by dwell time and averages), or what medseq stored, or None.
    maps: None. affine: from position (the voxel at index N // 2) and directions, LPS turned to RAS.
    times: TR is the time between frames. period: T * TR for cardiac phases, None for repetitions.
    calibration: a separate calibration scan, if it has the image's field of view. epi: the trajectory is.
    trajectory: of radial, spiral and other readouts with a stored 2-D trajectory, in the order of the file, as many a
    frame as the fullest has; the data are then (B, C, T, S, N), as measured. A stream of one frame is cut into several
    by `medseq.trajectories.binned`.
    Reversed readouts are flipped, calibration lines of the image used. Navigator, phase-correction, dummy, feedback
    and coil-correction readouts are left out with a MedseqWarning, and so is every assumption warned of (no
    directions, no TR, no centre line, ...).
    Raises InputError when the file is missing, broken or contradicts itself, when its samples are all zero or not
    finite, and, by name, on what cannot be used: a second phase encoding, trajectories that are not stored, several
    encodings, contrasts or sets, phases in several repetitions, slices that are not parallel and evenly spaced, slices
    excited together (multiband), and EPI that is not ghost-corrected and regridded (see `medseq.io.raw_epi`).
    """
    path = Path(path)
    with raw_faults_named(path, "ISMRMRD"), open_hdf5(path) as file:
        group = _group(file, path)
        container = ismrmrd.file.Container(group)
        acquisitions = container.acquisitions
        scan = Scan(path, container.header, _heads(acquisitions.data, path))
        times = read_array(group[_TIMES], path) if _TIMES in group else None
        covariance = read_array(group[_COVARIANCE], path) if _COVARIANCE in group else None
        return read_scan(acquisitions, scan, times, covariance)


def read_scan(
    acquisitions: Any, scan: Scan, times: np.ndarray | None = None, covariance: np.ndarray | None = None
) -> KSpace:
    """The k-space of a scan that is described in ISMRMRD's terms; see `load_ismrmrd` for what comes out.

    acquisitions: its readouts in the order of `scan.heads`: indexing gives one, slicing several objects with `data`
    (coils, samples). times, covariance: what medseq itself stored of them, if the file holds it.
    """
    if not scan.on_grid:
        return _read_along(acquisitions, scan, times, covariance)
    check_echo_trains(scan)
    plan = make_plan(scan, times)
    data, count = grid_samples(acquisitions, scan, plan)
    noise = _noise(scan, covariance, measured_noise(acquisitions, scan), count)
    check_values(data, scan.path)
    calibration = _calibration(acquisitions, scan, plan)
    keep = whole_lines(count > 0)
    with _named(scan):
        return KSpace(
            data, keep, None, noise, plan.affine, plan.times, plan.period, calibration=calibration, epi=is_epi(scan)
        )


def _read_along(acquisitions: Any, scan: Scan, times: np.ndarray | None, covariance: np.ndarray | None) -> KSpace:
    """`read_scan` of readouts that have trajectories."""
    found = read_readouts(acquisitions, scan, times)
    noise = _noise(scan, covariance, measured_noise(acquisitions, scan), found.keep)
    check_values(found.data, scan.path)
    with _named(scan):
        kspace = KSpace(found.data, found.keep, None, noise, found.affine, found.times, found.period)
        return replace(kspace, trajectory=found.trajectory)


@contextmanager
def _named(scan: Scan) -> Iterator[None]:
    """Name the file when its k-space is impossible, and warn of what had to be assumed when it is not."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{scan.path}: {error}") from error
    for note in scan.notes:
        warnings.warn(note, MedseqWarning, stacklevel=5)


def save_ismrmrd(kspace: KSpace, path: str | Path) -> None:
    """Save k-space as ISMRMRD, atomically: one readout for each measured line, in complex64, bit for bit.

    Encoded and reconstruction space are both the matrix of the data. A calibration scan goes before the image. TR is
    the (mean) frame interval; frames are cardiac phases when there is a period, else repetitions. Position and
    directions come from the affine, in single precision, as the format has it. Coil maps are not stored: they are
    estimated again.
    What the format has no exact field for is added in medseq's own: the period and a noise std as user parameters
    (`medseq_period`, `medseq_noise_std`), the frame times and a noise covariance as arrays beside the readouts
    (`medseq_frame_times`, `medseq_noise_covariance` with real and imaginary part as its last axis).
    Along a trajectory every measured readout is stored with its own, in cycles per voxel from -0.5 to 0.5.
    Raises InputError when the mask varies along a readout or from coil to coil, when samples are not finite, or a size
    exceeds the 16-bit counters; ResourceError when the file cannot be written.
    """
    path = Path(path)
    measured = _measured_lines(kspace, path)
    check_values(kspace.data, path)
    if max(kspace.data.shape) > np.iinfo(np.uint16).max:
        raise InputError(f"{path}: not written, as {tuple(kspace.data.shape)} exceeds the format's 16-bit counters")
    write_hdf5(path, lambda file: _fill(file, kspace, measured))


def _calibration(acquisitions: Any, scan: Scan, plan: Plan) -> Tensor | None:
    """The separate calibration scan on the grid of the image; None where there is none that fits."""
    calibrating = scan.calibrating()
    where = calibration_plan(scan, calibrating, plan) if calibrating else None
    if calibrating is None or where is None:
        return None
    data, _ = grid_samples(acquisitions, calibrating, where)
    check_values(data, scan.path)
    return data


def _fill(file: h5py.File, kspace: KSpace, measured: np.ndarray) -> None:
    group = file.create_group(_GROUP)
    container = ismrmrd.file.Container(group)
    container.header = header_of(kspace)
    container.acquisitions = acquisitions_of(kspace, measured)
    group[_TIMES] = kspace.times
    if isinstance(kspace.noise, Tensor):
        # Real and imaginary part apart: HDF5 has no complex numbers, and every library its own way about it.
        group[_COVARIANCE] = torch.view_as_real(kspace.noise.cpu().to(torch.complex128)).numpy()


def _group(file: h5py.File, path: Path) -> h5py.Group:
    """The HDF5 group with the raw data: `dataset`, or the only one there is."""
    found = {name: each for name, each in file.items() if isinstance(each, h5py.Group)}
    groups = {name: group for name, group in found.items() if "xml" in group and "data" in group}
    if _GROUP in groups:
        return groups[_GROUP]
    if len(groups) == 1:
        return next(iter(groups.values()))
    fault = f"several groups with raw data ({', '.join(groups)})" if groups else "no XML header with readouts"
    raise InputError(f"{path}: {fault}; give an ISMRMRD file with one `{_GROUP}`")


def _heads(readouts: h5py.Dataset, path: Path) -> np.ndarray:
    """The headers of all readouts: they are small, and say where everything goes."""
    check_stored_size(readouts, path)
    heads = readouts.fields("head")[:]
    # Their samples lie in the file uncompressed, one readout's beside the other's.
    samples = heads["active_channels"].astype(np.int64) * heads["number_of_samples"]
    if int(samples.sum()) * np.dtype(np.complex64).itemsize > path.stat().st_size:
        raise InputError(f"{path}: damaged, as {samples.sum()} samples cannot be in so small a file; get a fresh copy")
    return heads


def _noise(scan: Scan, covariance: np.ndarray | None, measured: Tensor | None, count: Tensor) -> float | Tensor | None:
    """What medseq stored, else the noise scans' covariance over the number of averages (the fewest of any line)."""
    if covariance is not None:
        return torch.view_as_complex(torch.from_numpy(covariance)).to(torch.complex64)
    if "noise_std" in scan.own_parameters():
        return scan.own_parameters()["noise_std"]
    if measured is None:
        return None
    averages = count[count > 0].int()
    fewest, most = int(averages.min()), int(averages.max())
    if fewest != most:
        scan.assume(f"lines were measured {fewest} to {most} times; the noise is taken as that of {fewest}")
    return measured / fewest


def _measured_lines(kspace: KSpace, path: Path) -> Any:
    """Which lines were measured, (B, T, Y) bool; raises InputError where the mask is not one of whole lines."""
    keep = kspace.keep
    if not bool((keep == keep[:, :1, :, :, :1]).all()):
        raise InputError(f"{path}: not written, as the mask varies along a readout or over coils; give a mask of lines")
    slices, _, frames, height, _ = kspace.data.shape
    return keep[:, 0, :, :, 0].expand(slices, frames, height).cpu().numpy()
