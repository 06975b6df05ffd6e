"""fastMRI's raw data: HDF5 with an array `kspace` and the ISMRMRD header of the scan that it comes from.

Source: Zbontar et al., "fastMRI: An Open Dataset and Benchmarks for Accelerated MRI", arXiv:1811.08839, and the
repository facebookresearch/fastMRI (fastmri/data/mri_data.py).
"""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from medseq.clip import KSpace
from medseq.errors import InputError, MedseqWarning
from medseq.io.hdf5 import open_hdf5, read_array, write_hdf5
from medseq.io.ismrmrd_library import xsd
from medseq.io.raw_array import array_of, kspace_of, measured, noted
from medseq.io.raw_checks import check_grid, check_memory, raw_faults_named
from medseq.io.raw_header import header_of
from medseq.io.raw_samples import centred, cut_field_of_view

_SAMPLES, _HEADER, _MASK, _NOTE = "kspace", "ismrmrd_header", "mask", "medseq"


def is_fastmri(path: Path) -> bool:
    """Whether an HDF5 file holds an array `kspace`; False, too, for what is no HDF5 file at all.

    Raises InputError for a hostile one (see `medseq.io.hdf5.open_hdf5`).
    """
    try:
        with open_hdf5(path) as file:
            return file.get(_SAMPLES, getclass=True) is h5py.Dataset
    except InputError:
        raise
    except Exception:  # noqa: BLE001 - missing or broken: how, whoever reads it will say
        return False


def load_fastmri(path: str | Path) -> KSpace:
    """Load the slices of a fastMRI file, multi-coil or single-coil; they become k-space of one frame.

    The stored array is (slices, coils, readout, phase encoding) or (slices, readout, phase encoding), centred and
    orthonormal as here. X: the field of view is cut to that of the reconstruction space, which removes the readout
    oversampling, and the resolution becomes its own. Y: all encoded lines.
    keep: lines that are not zero throughout, and that `mask` (test files) says were measured.
    The voxel sizes come from the header; position and orientation are not in it: identity axes are taken, with a
    MedseqWarning, unless medseq wrote the file.
    Raises InputError when the file is broken, its array has other dimensions or its samples are all zero or not finite.
    """
    path = Path(path)
    with raw_faults_named(path, "fastMRI"), open_hdf5(path) as file:
        data = _samples(file, path)
        keep = measured(data).any(dim=-1, keepdim=True)
        if _MASK in file:
            keep &= _mask(file[_MASK], data.shape[3], path)
        data, voxel = _reconstruction_space(data, _encoding(file, path), path)
        note = read_array(file[_NOTE], path).decode() if _NOTE in file else None
        return kspace_of(path, data * keep, keep, note, voxel)


def save_fastmri(kspace: KSpace, path: str | Path) -> None:
    """Save k-space of one frame as a fastMRI file, bit for bit and atomically; its mask, where all slices share one.

    Position and orientation, which the format has no field for, and the noise are noted in an array `medseq` of text.
    Raises InputError for several frames, samples that are not finite or a mask that varies along a readout or over
    coils, ResourceError when it cannot be written.
    """
    path = Path(path)
    if kspace.frames > 1:
        raise InputError(f"{path}: not written, as fastMRI has no time; write {kspace.frames} frames to .h5 or .cfl")
    keep = kspace.keep
    if not bool((keep == keep[..., :1]).all()):
        raise InputError(f"{path}: not written, as the mask varies along a readout; give a mask of lines")
    samples = array_of(kspace, path)[:, :, 0].swapaxes(-1, -2)
    lines = keep[:, 0, 0, :, 0].cpu().numpy()

    def fill(file: h5py.File) -> None:
        file[_SAMPLES] = samples if kspace.coils > 1 else samples[:, 0]
        file[_HEADER] = xsd.ToXML(header_of(kspace))
        file[_NOTE] = noted(kspace)
        if not lines.all() and (lines == lines[:1]).all():
            file[_MASK] = np.broadcast_to(lines[0], samples.shape[-1:])

    write_hdf5(path, fill)


def _samples(file: h5py.File, path: Path) -> Tensor:
    """(B, C, 1, Y, X) complex64 of the stored (slices, coils, X, Y) or (slices, X, Y)."""
    stored = file[_SAMPLES]
    if stored.dtype.kind != "c" or stored.ndim not in (3, 4) or 0 in stored.shape:
        raise InputError(
            f"{path}: `{_SAMPLES}` is {stored.dtype} of {stored.shape}; "
            "it must be complex of (slices, coils, readout, phase encoding)"
        )
    shape = stored.shape if stored.ndim == 4 else (stored.shape[0], 1, *stored.shape[1:])
    check_memory(shape)
    samples = read_array(stored, path).astype(np.complex64, copy=False).reshape(shape)
    return torch.from_numpy(samples).unsqueeze(2).transpose(-1, -2).contiguous()


def _mask(stored: h5py.Dataset, lines: int, path: Path) -> Tensor:
    if stored.shape != (lines,):
        raise InputError(f"{path}: a mask of {stored.shape} for {lines} lines; correct or delete it")
    return torch.from_numpy(stored[...].astype(bool)).reshape(1, 1, 1, lines, 1)


def _encoding(file: h5py.File, path: Path) -> xsd.encodingType | None:
    """The first encoding of the header; None without a header."""
    if _HEADER not in file:
        return None
    header = xsd.CreateFromDocument(read_array(file[_HEADER], path))
    return header.encoding[0]


def _reconstruction_space(
    data: Tensor, encoding: xsd.encodingType | None, path: Path
) -> tuple[Tensor, tuple[float, float, float]]:
    """(data with the readout in the field of view and resolution of the reconstruction, voxel in mm)."""
    if encoding is None:
        return data, (1.0, 1.0, 1.0)
    space, wanted = encoding.encodedSpace, encoding.reconSpace
    encoded, recon = space.fieldOfView_mm, wanted.fieldOfView_mm
    sizes = [encoded.x, encoded.y, recon.x, recon.z, wanted.matrixSize.x]
    if not np.isfinite(sizes).all() or min(sizes) <= 0 or recon.x > encoded.x * (1 + 1e-3):
        raise InputError(f"{path}: impossible matrix or field of view {sizes} in the header; correct it")
    lines, samples = data.shape[3:]
    if (space.matrixSize.x, space.matrixSize.y) != (samples, lines):
        announced = f"{space.matrixSize.x} x {space.matrixSize.y}"
        warnings.warn(
            f"{path}: the header announces {announced}, the array is {samples} x {lines}; it keeps its field of view",
            MedseqWarning,
            stacklevel=4,
        )
    rows = data.numpy()
    cropped = max(1, round(samples * recon.x / encoded.x))
    if cropped != samples:
        rows = cut_field_of_view(rows, cropped)
    check_grid((*rows.shape[:-1], wanted.matrixSize.x), data.numel(), path)
    rows = centred(rows, wanted.matrixSize.x)
    width_mm = cropped * encoded.x / samples
    return torch.from_numpy(rows), (width_mm / rows.shape[-1], encoded.y / lines, recon.z)
