"""NIfTI series (.nii, .nii.gz), NIfTI-1 and NIfTI-2, read and written with nibabel.

nibabel accepts much that cannot be meant (a bad checksum, a NaN slope, a singular affine) and raises seven kinds of
exceptions for the rest. Here the whole file is read to its end, checked, and every fault is one InputError.
"""

from __future__ import annotations

import gzip
import io
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import nibabel as nib
import numpy as np
import torch
from nibabel.nifti1 import Nifti1Header

from medseq.clip import Clip
from medseq.errors import InputError, MedseqWarning
from medseq.io import nifti_header as fields
from medseq.io.faults import check_fits_memory, faults_named, reason
from medseq.io.files import atomic_write

_CHUNK = 1 << 20
# Deflate cannot do better than this many bytes out of one: a header that promises more is wrong (RFC 1951).
_DEFLATE_LIMIT = 1032
# A gzip that inflates to more than this, and more than so many times itself, is no series but made to fill memory.
_MOST_INFLATED, _MOST_DEFLATED = 256 << 20, 100
# What may follow the data, as where frames were taken out of the header only.
_LONGEST_TAIL = 256 << 20


def load_nifti(path: str | Path) -> Clip:
    """Load a NIfTI series: real data as float32, complex data as complex64, stored integers scaled.

    The array (x, y, z, t) becomes (B = z, 1, T = t, Y = y, X = x); up to three dimensions are one frame.
    affine: the sform where coded, else the qform, else the voxel sizes; lengths in mm. times: toffset + TR * frame in
    seconds. period: NIfTI has no field for it, so it is None unless medseq itself wrote the file and noted it in a
    header extension; add it with `dataclasses.replace`.
    Warns with MedseqWarning of each assumption: disagreeing qform and sform, no coded geometry, no TR or no unit for
    it, a JSON sidecar that says another RepetitionTime.
    Raises InputError when the file is missing, truncated, of a wrong checksum, of more than four dimensions or RGB,
    when its geometry, timing or scaling is impossible, and when its values are all zero or not finite.
    """
    path = Path(path)
    with _faults_named(path):
        header, stored = _read(path)
    affine, notes = fields.read_affine(header, path)
    times, time_notes = fields.read_times(header, path)
    times, period, own_notes = _own_timing(header, times, path)
    data = _decoded(stored, header)
    if not bool(torch.isfinite(data).all()):
        raise InputError(f"{path}: some values are not finite; set them to zero or mask them out of the file")
    if not bool(data.any()):
        raise InputError(f"{path}: every value is zero; there is nothing to work on")
    with _faults_named(path):
        clip = Clip(data, affine, times, period)
    for note in (*notes, *time_notes, *own_notes):
        warnings.warn(note, MedseqWarning, stacklevel=2)
    return clip


def save_nifti(clip: Clip, path: str | Path, like: str | Path | None = None) -> None:
    """Save a clip as NIfTI, atomically; equal clips give equal bytes.

    like: the NIfTI file that the clip was derived from. Its header is inherited (qform and sform with their codes,
    units, TR, description, extensions, byte order), geometry and timing being rewritten only where the clip's differ.
    Values are stored in its type and scaling when each of them is exactly representable there, so that a loaded file
    is saved bit for bit; otherwise, and without `like`, as float32 or complex64, unscaled.
    Without `like` the affine is stored as qform and sform (code 1, scanner), in mm and seconds.
    The period, and times that are not evenly spaced, are noted in a text extension of the header; uneven times are
    warned of (MedseqWarning), as other tools will see their mean interval.
    Raises InputError when a value is not finite or `like` is unusable, ResourceError when the file cannot be written.
    """
    path = Path(path)
    if not bool(torch.isfinite(clip.data).all()):
        raise InputError(f"{path}: not written, as some values of the series are not finite")
    values = clip.data[:, 0].permute(3, 2, 0, 1).detach().cpu().resolve_conj().numpy()
    header = fields.new_header(values.shape) if like is None else _inherited(Path(like))
    stored = None if like is None else _encoded(values, header)
    shape = _stored_shape(header, values.shape)
    notes = _describe(header, clip, None if like is None else Path(like), shape)
    if stored is None:
        stored = values.astype(np.complex64 if np.iscomplexobj(values) else np.float32, copy=False)
        header["scl_slope"], header["scl_inter"] = 1, 0
    header.set_data_dtype(stored.dtype.newbyteorder("="))
    with atomic_write(path) as temporary, _writer(temporary) as stream:
        # Not through a nibabel image, which recodes qform and sform and repairs the header as it thinks fit.
        header.write_to(stream)
        stream.write(b"\0" * (header.get_data_offset() - stream.tell()))
        for frame in np.moveaxis(stored, 3, 0):
            stream.write(frame.astype(header.get_data_dtype(), copy=False).tobytes(order="F"))
    for note in notes:
        # By its name: the folder may be one that only stands for the place where the file will appear.
        warnings.warn(f"{path.name}: {note}", MedseqWarning, stacklevel=2)


def _faults_named(path: Path) -> AbstractContextManager[None]:
    return faults_named(
        path, lambda error: f"broken or not NIfTI ({reason(error)}); get a fresh copy or convert it anew"
    )


def _read(path: Path) -> tuple[Nifti1Header, np.ndarray]:
    """The unchecked header and the stored array (x, y, z, t); a gzip is read to its end, which verifies it."""
    with _reader(path) as stream:
        header = _read_header(stream, path)
        fields.check_header(header, path)
        count = int(np.prod(header.get_data_shape(), dtype=object)) * header.get_data_dtype().itemsize
        limit = path.stat().st_size * (_DEFLATE_LIMIT if _is_gzip(path) else 1)
        if header.get_data_offset() + count > limit:
            raise InputError(f"{path}: truncated, as the header promises {count} bytes of data; get a fresh copy")
        if _is_gzip(path) and count > max(_MOST_INFLATED, _MOST_DEFLATED * path.stat().st_size):
            raise InputError(f"{path}: would inflate to {count >> 20} MiB, which is no series; get a fresh copy")
        check_fits_memory(path, 2 * count)
        stored = header.raw_data_from_fileobj(stream).reshape(fields.shape_4d(header), order="F")
        if _is_gzip(path):
            _read_tail(stream, path)
    return header, stored


def _read_tail(stream: BinaryIO, path: Path) -> None:
    """Read a gzip to its end, where its checksum is."""
    for _ in range(_LONGEST_TAIL // _CHUNK):
        if not stream.read(_CHUNK):
            return
    raise InputError(f"{path}: goes on for over {_LONGEST_TAIL >> 20} MiB after its data; get a fresh copy")


def _read_header(stream: BinaryIO, path: Path) -> Nifti1Header:
    start = stream.read(nib.Nifti2Header.sizeof_hdr)
    classes = [kind for kind in (nib.Nifti1Header, nib.Nifti2Header) if kind.may_contain_header(start)]
    if not classes:
        raise InputError(f"{path}: not a NIfTI file; convert it to NIfTI")
    stream.seek(0)
    # Unchecked: nibabel's own check repairs or overlooks some faults, and mentions none of them to the caller.
    return cast(Nifti1Header, classes[0].from_fileobj(stream, check=False))


def _inherited(like: Path) -> Nifti1Header:
    with _faults_named(like), _reader(like) as stream:
        header = _read_header(stream, like)
        fields.check_header(header, like)
    return header


def _is_gzip(path: Path) -> bool:
    return path.name.lower().endswith(".gz")


def _reader(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if _is_gzip(path) else path.open("rb")


@contextmanager
def _writer(path: Path) -> Iterator[io.IOBase]:
    """A stream into the file, compressed when it ends in .gz, without name and time: equal content, equal bytes."""
    with path.open("wb") as plain:
        if not _is_gzip(path):
            yield plain
            return
        # Level 1, nibabel's own default: noise hardly compresses, and higher levels cost many times more.
        with gzip.GzipFile(filename="", mode="wb", compresslevel=1, fileobj=plain, mtime=0) as packed:
            yield packed


def _decoded(stored: np.ndarray, header: Nifti1Header) -> torch.Tensor:
    """Values (B, 1, T, Y, X), float32 or complex64, of the stored array (x, y, z, t)."""
    x, y, z, t = stored.shape
    values = np.empty((z, 1, t, y, x), np.complex64 if stored.dtype.kind == "c" else np.float32)
    slope, inter = fields.scaling(header)
    for frame in range(t):  # frame by frame, as scaling in double precision takes several times the memory
        values[:, 0, frame] = _scaled(stored[..., frame], slope, inter).transpose(2, 1, 0)
    return torch.from_numpy(values)


def _scaled(stored: np.ndarray, slope: float, inter: float) -> np.ndarray:
    """slope * stored + inter in double precision, rounded once to single."""
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows becomes infinite, and is refused as such
        if stored.dtype.kind == "c":
            return (stored.astype(np.complex128) * slope + inter).astype(np.complex64)
        return (stored.astype(np.float64) * slope + inter).astype(np.float32)


def _encoded(values: np.ndarray, header: Nifti1Header) -> np.ndarray | None:
    """`values` (x, y, z, t) in the stored type and scaling of the header, or None when any would be changed by it."""
    dtype = header.get_data_dtype()
    if (dtype.kind == "c") != np.iscomplexobj(values):
        return None
    slope, inter = fields.scaling(header)
    stored = np.empty(values.shape, dtype, order="F")
    for frame in range(values.shape[3]):
        wanted = values[..., frame]
        exact = (wanted.astype(np.complex128 if dtype.kind == "c" else np.float64) - inter) / slope
        with np.errstate(over="ignore", invalid="ignore"):  # out of range: the comparison below finds it
            stored[..., frame] = np.rint(exact) if dtype.kind in "iu" else exact
        if not np.array_equal(_scaled(stored[..., frame], slope, inter), wanted):
            return None
    return stored


def _stored_shape(header: Nifti1Header, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The shape to write: the inherited one where it only lacks or adds axes of size 1, else 3-D for one frame."""
    inherited = tuple(int(size) for size in header.get_data_shape())
    if len(inherited) > 1 and fields.shape_4d(header) == shape:
        return inherited
    return shape[:3] if shape[3] == 1 else shape


def _describe(header: Nifti1Header, clip: Clip, like: Path | None, shape: tuple[int, ...]) -> list[str]:
    """Put the clip's geometry and timing into the header where they differ from what it says; returns warnings."""
    affine = times = None
    if like is not None:
        affine, _ = fields.read_affine(header, like)
        times, _ = fields.read_times(header, like)
    voxel = header["pixdim"].copy()
    header.set_data_shape(shape)
    header["pixdim"] = voxel  # set_data_shape fills in ones
    header["vox_offset"] = 0  # nibabel fills it in, extensions considered
    if affine is None or not np.allclose(affine, clip.affine, rtol=0, atol=1e-6):
        fields.write_affine(header, clip.affine)
    clip_times = clip.times
    notes = []
    if times is None or times.shape != clip_times.shape or not np.allclose(times, clip_times, rtol=0, atol=1e-9):
        notes = fields.write_times(header, clip_times)
    content: dict[str, object] = {} if clip.period is None else {"period": clip.period}
    if not fields.is_even(clip_times):
        content["times"] = clip_times.tolist()
    fields.write_extension(header, content)
    return notes


def _own_timing(header: Nifti1Header, times: np.ndarray, path: Path) -> tuple[np.ndarray, float | None, list[str]]:
    """Times and period as medseq noted them in the header, unless another tool has changed the frames since."""
    try:
        content = fields.read_extension(header)
        if not content:
            return times, None, []
        noted = np.array(content.get("times", times), dtype=np.float64)
        period = content.get("period")
        checked = Clip(torch.zeros(1, 1, len(times), 1, 1), times=noted, period=cast("float | None", period))
    except (InputError, ValueError, TypeError, KeyError, AttributeError, ArithmeticError, RecursionError):
        return times, None, [f"{path}: the timing that medseq noted in the header no longer fits; it is left aside"]
    return checked.times, checked.period, []
