"""CMRxRecon's raw data: MATLAB files with one complex array, (nx, ny, coils, slices, frames) in MATLAB's order.

Source: the data pages of the challenges of 2023, 2024 and 2025 (https://cmrxrecon.github.io). x is the readout, y the
phase encoding. MATLAB writes version 7.3 as HDF5, with the order of the dimensions reversed and complex numbers as
pairs (real, imag), and older versions in a format of its own.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import torch

from medseq.clip import KSpace
from medseq.errors import InputError
from medseq.io.hdf5 import check_stored_size, open_hdf5, read_array, write_hdf5
from medseq.io.hdf5_trial import DEFLATE_LIMIT
from medseq.io.matlab_child import NOT_COMPLEX
from medseq.io.raw_array import array_of, kspace_of, measured, noted
from medseq.io.raw_checks import check_memory, raw_faults_named

# `kspace` (2025), `kspace_full`, `kspace_sub04`, `kspace_single_full` (2023), `kus` (2024): one of them in a file.
_NAMES = ("kspace", "kus")
_SINGLE = "kspace_single"
_NOTE = "medseq"
_PROGRAM = Path(__file__).with_name("matlab_child.py")
# To read a file before version 7.3: some for the program, and several times what sound files need for each byte.
_SECONDS, _BYTES_A_SECOND = 30.0, 4e6
_MEMORY = 2 << 30
_MATLAB_HEADER = b"MATLAB 7.3 MAT-file, Platform: medseq, HDF5 schema 1.00 ."


def load_cmrxrecon(path: str | Path) -> KSpace:
    """Load a CMRxRecon file: the variable whose name begins with `kspace` or `kus`.

    Its dimensions are (X, Y, coils, slices, frames), missing ones being 1; without coils where the name begins with
    `kspace_single`. keep: samples that are not zero in every coil, so that masks (which may vary along x) need no file.
    The format has no geometry or timing: identity axes with voxels of 1 mm and counted frames are taken, with a
    MedseqWarning, unless medseq wrote the file.
    Raises InputError when the file is broken, has no or several such variables, or one that is not a complex array of
    2 to 5 dimensions, and on samples that are all zero or not finite.
    """
    path = Path(path)
    with raw_faults_named(path, "CMRxRecon"):
        name, samples, note = _read_hdf5(path) if h5py.is_hdf5(path) else _read_matlab(path)
    if name.startswith(_SINGLE):
        samples = np.expand_dims(samples, -3)
    samples = samples.reshape((1,) * (5 - samples.ndim) + samples.shape).transpose(1, 2, 0, 3, 4)
    data = torch.from_numpy(np.ascontiguousarray(samples, dtype=np.complex64))
    return kspace_of(path, data, measured(data), note, (1.0, 1.0, 1.0))


def save_cmrxrecon(kspace: KSpace, path: str | Path) -> None:
    """Save k-space as MATLAB 7.3 with a variable `kspace` (X, Y, coils, slices, frames), bit for bit and atomically.

    Geometry, times, period and noise are noted in a variable `medseq`, of text for `jsondecode`. Warns of measured
    samples that are zero. Raises InputError on samples that are not finite and on a mask that varies over coils,
    ResourceError when it cannot be written.
    """
    path = Path(path)
    samples = array_of(kspace, path).transpose(2, 0, 1, 3, 4)
    pairs = np.ascontiguousarray(samples).view([("real", "<f4"), ("imag", "<f4")])
    text = np.frombuffer(noted(kspace).encode("ascii"), np.uint8).astype(np.uint16)

    def fill(file: h5py.File) -> None:
        file["kspace"] = pairs
        file["kspace"].attrs["MATLAB_class"] = np.bytes_("single")
        file[_NOTE] = text[:, None]
        file[_NOTE].attrs["MATLAB_class"] = np.bytes_("char")
        file[_NOTE].attrs["MATLAB_int_decode"] = np.int32(2)

    # 116 bytes of text, the place of data that is not there, version 2.0 of the format, the byte order.
    write_hdf5(path, fill, preamble=(_MATLAB_HEADER.ljust(116) + bytes(8) + b"\x00\x02IM").ljust(512, b"\0"))


def _read_hdf5(path: Path) -> tuple[str, np.ndarray, str | None]:
    """(name, samples (frames, slices, coils, Y, X), note) of a file of version 7.3."""
    with open_hdf5(path) as file:
        name = _chosen([name for name, item in file.items() if isinstance(item, h5py.Dataset)], path)
        stored = file[name]
        if stored.dtype.names != ("real", "imag"):
            raise InputError(f"{path}: `{name}` is {stored.dtype}, not complex; save the k-space itself")
        _check_shape(name, stored.shape, path)
        check_stored_size(stored, path)
        samples = np.empty(stored.shape, np.complex64)
        samples.real, samples.imag = stored.fields("real")[...], stored.fields("imag")[...]
        note = read_array(file[_NOTE], path).astype(np.uint16).tobytes().decode("utf-16-le") if _NOTE in file else None
        return name, samples, note


def _read_matlab(path: Path) -> tuple[str, np.ndarray, None]:
    """(name, samples (frames, slices, coils, Y, X), None) of a file before version 7.3."""
    shapes = {name: tuple(shape) for name, shape in json.loads(_from_child(path, _MEMORY)).items()}
    name = _chosen(list(shapes), path)
    _check_shape(name, shapes[name], path)
    if math.prod(shapes[name]) > DEFLATE_LIMIT * path.stat().st_size:
        raise InputError(f"{path}: damaged, as {shapes[name]} cannot be in so small a file; get a fresh copy")
    memory = _MEMORY + 64 * math.prod(shapes[name])  # four times, as pairs of doubles
    # torch wants memory that can be written to
    samples = np.frombuffer(bytearray(_from_child(path, memory, name)), "<c8")
    return name, samples.reshape(shapes[name][::-1]), None


def _from_child(path: Path, memory: int, *name: str) -> bytes:
    """What `matlab_child.py` writes. Raises InputError when it fails, takes too long or too much memory."""
    words = [sys.executable, "-P", str(_PROGRAM), str(memory), str(path.absolute()), *name]
    seconds = _SECONDS + path.stat().st_size / _BYTES_A_SECOND
    # One thread a library, as the stacks of more would count against its memory.
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds, env=environment)
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{path}: takes more than {seconds:.0f} s to read; save it anew with -v7.3") from error
    if done.returncode == NOT_COMPLEX:
        raise InputError(f"{path}: `{name[0]}` is not complex; save the k-space itself")
    if done.returncode:
        raise InputError(f"{path}: broken or no MATLAB file; get a fresh copy")
    return done.stdout


def _chosen(names: list[str], path: Path) -> str:
    chosen = [name for name in names if name.startswith(_NAMES)]
    if len(chosen) == 1:
        return chosen[0]
    found = f"several arrays of k-space ({', '.join(chosen)})" if chosen else f"no k-space among {', '.join(names)}"
    raise InputError(f"{path}: {found[:150]}; give a file with one array called `kspace`")


def _check_shape(name: str, shape: tuple[int, ...], path: Path) -> None:
    """Raise InputError on dimensions that cannot be meant, ResourceError on those that do not fit into memory."""
    most = 4 if name.startswith(_SINGLE) else 5
    if not 2 <= len(shape) <= most or min(shape) < 1:
        raise InputError(f"{path}: `{name}` has dimensions {shape}; it must have 2 to {most}, x first in MATLAB")
    check_memory(shape)
