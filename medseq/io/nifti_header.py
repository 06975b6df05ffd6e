"""What a NIfTI header says about geometry, timing and stored numbers, and how to say it in one.

Source: the NIfTI-1 data format, https://nifti.nimh.nih.gov/nifti-1/documentation/nifti1fields. Functions that read
return what they had to assume as a list of sentences; `nifti.py` turns those into warnings.
"""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Extension, Nifti1Header

from medseq.errors import InputError

# xyzt_units: the lowest three bits are the unit of space, the next three that of the fourth axis.
_MILLIMETRES = {0: 1.0, 1: 1e3, 2: 1.0, 3: 1e-3}  # unknown (taken as mm by everybody), metre, mm, micron
_SECONDS = {8: 1.0, 16: 1e-3, 24: 1e-6}
_IN_SECONDS, _IN_MILLIMETRES = 8, 2
# A repetition time above this without a unit can only be milliseconds: no series waits half a minute for a frame.
_LONGEST_SECONDS = 30.0
# qform and sform are both float32: they never agree better than this fraction of a voxel, and need not.
_SAME_VOXEL = 0.01
# Beyond this many millimetres or seconds a number is damage, not geometry or time (and squares begin to overflow).
_FARTHEST = 1e9
_QFORM_FIELDS = ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
_SCANNER = 1
_COMMENT = 6  # the code of a plain-text header extension
_OURS = "medseq"


def check_header(header: Nifti1Header, path: Path) -> None:
    """Raise InputError when the header cannot describe a series: its sizes, type, scaling or voxel sizes."""
    if int(header["sizeof_hdr"]) != header.sizeof_hdr:
        raise InputError(f"{path}: the header says it is {int(header['sizeof_hdr'])} bytes long; convert the file anew")
    if header["magic"].item()[:3] not in (b"n+1", b"n+2"):
        raise InputError(f"{path}: a header without its image (.hdr/.img pair); convert it into one .nii file")
    sizes = [int(size) for size in header["dim"][1 : 1 + int(header["dim"][0])]]
    if not 1 <= int(header["dim"][0]) <= 7 or min(sizes) < 1:
        raise InputError(f"{path}: impossible array size {header['dim'].tolist()}; convert the file anew")
    if any(size > 1 for size in sizes[4:]):
        raise InputError(f"{path}: {len(sizes)}-D data of size {sizes}; split it into series of 3 or 4 dimensions")
    dtype = _dtype(header, path)
    if dtype.names is not None:
        raise InputError(f"{path}: colour (RGB) data; give a series of numbers")
    if dtype.kind not in "iufc":
        raise InputError(f"{path}: unknown data type {int(header['datatype'])}; convert the file anew")
    if not header.single_vox_offset <= header.get_data_offset() < _FARTHEST:
        raise InputError(f"{path}: impossible vox_offset {float(header['vox_offset'])}; convert the file anew")
    slope, inter = float(header["scl_slope"]), float(header["scl_inter"])
    if not (np.isfinite(slope) and np.isfinite(inter)):
        raise InputError(f"{path}: scl_slope is {slope} and scl_inter {inter}; set finite values in the header")
    if not ((header["pixdim"][1:4] >= 0) & (header["pixdim"][1:4] < _FARTHEST)).all():
        raise InputError(
            f"{path}: impossible voxel size {header['pixdim'][1:4].tolist()}; correct pixdim in the header"
        )


def _dtype(header: Nifti1Header, path: Path) -> np.dtype:
    try:
        return header.get_data_dtype()
    except Exception as error:  # KeyError or HeaderDataError, depending on the code
        raise InputError(f"{path}: unknown data type {int(header['datatype'])}; convert the file anew") from error


def shape_4d(header: Nifti1Header) -> tuple[int, int, int, int]:
    """Sizes (x, y, z, t) of the array, missing axes being 1."""
    x, y, z, t = [int(size) for size in (*header.get_data_shape(), 1, 1, 1)[:4]]
    return x, y, z, t


def scaling(header: Nifti1Header) -> tuple[float, float]:
    """(slope, inter) of value = slope * stored + inter; a slope of zero says: not scaled."""
    slope = float(header["scl_slope"])
    return (slope, float(header["scl_inter"])) if slope != 0 else (1.0, 0.0)


def read_affine(header: Nifti1Header, path: Path) -> tuple[np.ndarray, list[str]]:
    """(4x4 float64 affine: voxel -> RAS mm, assumptions): the sform when coded, else the qform, else the voxel sizes.

    When both are coded and differ by more than 1 % of a voxel somewhere in the volume, the sform wins and says so.
    Raises InputError on a chosen transform that is not finite or singular, and on a unit that is no length.
    """
    unit = int(header["xyzt_units"]) & 7
    if unit not in _MILLIMETRES:
        raise InputError(f"{path}: unknown unit of length (code {unit}); correct xyzt_units in the header")
    sform, qform = _sform(header), None if int(header["qform_code"]) <= 0 else _qform(header, path)
    notes = []
    if sform is not None:
        affine, name = sform, "sform"
    elif qform is not None:
        affine, name = qform, "qform"
    else:
        # Method 1 of the standard: x = pixdim * i, without nibabel's (Analyze) habit of flipping x.
        affine, name = np.diag([*header["pixdim"][1:4].astype(np.float64), 1.0]), "voxel size"
        notes.append(f"{path}: neither qform nor sform is coded; axes and origin are taken from the voxel sizes alone")
    scaled = affine * np.array([[_MILLIMETRES[unit]]] * 3 + [[1.0]])
    if not (np.abs(scaled) < _FARTHEST).all() or abs(np.linalg.det(scaled[:3, :3])) < 1e-12:
        raise InputError(f"{path}: the {name} in the header is not finite, absurd or singular; correct the geometry")
    if sform is not None and qform is not None and _largest_shift(sform, qform, header) > _SAME_VOXEL:
        notes.append(f"{path}: qform and sform disagree; the sform is used")
    return scaled, notes


def _sform(header: Nifti1Header) -> np.ndarray | None:
    return header.get_sform().astype(np.float64) if int(header["sform_code"]) > 0 else None


def _qform(header: Nifti1Header, path: Path) -> np.ndarray:
    numbers = [float(header[name]) for name in _QFORM_FIELDS]
    if not (np.abs(numbers) < _FARTHEST).all() or float(header["pixdim"][0]) not in (-1.0, 0.0, 1.0):
        raise InputError(f"{path}: the qform in the header is not a rotation; correct the geometry")
    copy = header.copy()
    if float(header["pixdim"][0]) == 0:
        copy["pixdim"][0] = 1  # the standard: zero means 1
    try:
        return copy.get_qform().astype(np.float64)
    except ValueError as error:  # a quaternion longer than 1
        raise InputError(f"{path}: the qform in the header is not a rotation; correct the geometry") from error


def _largest_shift(a: np.ndarray, b: np.ndarray, header: Nifti1Header) -> float:
    """How far apart two affines put the same corner of the volume, in voxels."""
    far = np.array(shape_4d(header)[:3]) - 1
    corners = np.array([[i, j, k, 1] for i in (0, far[0]) for j in (0, far[1]) for k in (0, far[2])])
    shift = np.linalg.norm(corners @ (a - b).T, axis=1).max()
    voxel = np.linalg.norm(a[:3, :3], axis=0).min()
    return float(shift / voxel) if voxel > 0 else np.inf


def write_affine(header: Nifti1Header, affine: np.ndarray) -> None:
    """Set sform and qform (and the voxel sizes) from a 4x4 affine in mm, keeping their codes; code 1 where none was.

    A qform cannot shear: a sheared affine leaves it uncoded.
    """
    unit = int(header["xyzt_units"]) & 7
    affine = affine.copy()
    affine[:3] /= _MILLIMETRES[unit]
    header.set_sform(affine, code=int(header["sform_code"]) or _SCANNER)
    header.set_qform(affine, code=int(header["qform_code"]) or _SCANNER)
    if _largest_shift(affine, header.get_qform().astype(np.float64), header) > _SAME_VOXEL:
        header["qform_code"] = 0


def read_times(header: Nifti1Header, path: Path) -> tuple[np.ndarray, list[str]]:
    """((T,) float64 seconds, assumptions): toffset + pixdim[4] * frame, in the unit of the header.

    Without a unit pixdim[4] is taken as seconds, or as milliseconds above 30; where it is zero the `RepetitionTime` of
    a BIDS sidecar (same name, .json) is used, else the frames are counted. Raises InputError on a time that is
    negative or not finite, or a fourth axis that is not time.
    """
    frames = shape_4d(header)[3]
    stored, offset = float(header["pixdim"][4]), float(header["toffset"])
    code = int(header["xyzt_units"]) & 0x38
    if frames == 1:  # no interval to speak of: whatever pixdim[4] holds
        return np.array([offset * _SECONDS.get(code, 1.0) if abs(offset) < _FARTHEST else 0.0]), []
    if code not in (0, *_SECONDS):
        raise InputError(f"{path}: the fourth axis is not time (unit code {code}); give a time series")
    if not (0 <= stored < _FARTHEST and abs(offset) < _FARTHEST):
        raise InputError(f"{path}: impossible frame interval {stored} or offset {offset}; correct pixdim and toffset")
    unit, notes = _SECONDS.get(code, 1.0), []
    sidecar, sidecar_notes = _sidecar_interval(path)
    if code == 0 and stored > 0:
        unit = 1e-3 if stored > _LONGEST_SECONDS else 1.0
        notes.append(f"{path}: no unit of time; {stored:g} is taken as {'ms' if unit < 1 else 's'} between frames")
    interval = stored * unit
    if interval == 0:
        interval, source = (sidecar, "the sidecar's RepetitionTime") if sidecar else (1.0, "1 s, which counts frames,")
        notes.append(f"{path}: no frame interval in the header; {source} is used")
    elif sidecar and abs(sidecar - interval) > 0.01 * interval:
        notes.append(f"{path}: the sidecar's RepetitionTime is {sidecar:g} s, the header's {interval:g} s is used")
    if code and interval > _LONGEST_SECONDS:
        notes.append(f"{path}: {interval:g} s between frames, as the header says; is its unit of time wrong?")
    return offset * unit + interval * np.arange(frames), notes + sidecar_notes


def _sidecar_interval(path: Path) -> tuple[float | None, list[str]]:
    sidecar = path.with_name(path.name[: path.name.lower().rindex(".nii")] + ".json")
    if not sidecar.is_file():
        return None, []
    try:
        content = json.loads(sidecar.read_text(encoding="utf-8"))
        interval = float(content["RepetitionTime"]) if "RepetitionTime" in content else None
    except (OSError, ValueError, TypeError, ArithmeticError, RecursionError):
        return None, [f"{sidecar}: not readable as a BIDS sidecar; it is left aside"]
    return (interval, []) if interval is None or interval > 0 else (None, [f"{sidecar}: impossible RepetitionTime"])


def write_times(header: Nifti1Header, times: np.ndarray) -> list[str]:
    """Set pixdim[4] and toffset from times (T,) in seconds, in the header's own unit (seconds where it has none).

    Times that are not evenly spaced are stored as their mean interval; returns that as a warning.
    """
    code = int(header["xyzt_units"]) & 0x38
    if code not in _SECONDS:
        header["xyzt_units"] = (int(header["xyzt_units"]) & 7) | _IN_SECONDS
        code = _IN_SECONDS
    header["toffset"] = times[0] / _SECONDS[code]
    if len(times) == 1:
        return []
    interval = float(times[-1] - times[0]) / (len(times) - 1)
    header["pixdim"][4] = interval / _SECONDS[code]
    if is_even(times):
        return []
    return [f"NIfTI has one frame interval: the mean of the uneven times, {interval:g} s, is stored beside them"]


def is_even(times: np.ndarray) -> bool:
    """Whether times (T,) are evenly spaced, to a ten-thousandth of the interval (float32 headers round)."""
    even = np.linspace(times[0], times[-1], len(times))
    return bool(np.abs(times - even).max() <= 1e-4 * (times[-1] - times[0]) / max(len(times) - 1, 1))


def read_extension(header: Nifti1Header) -> dict[str, object]:
    """What medseq noted in a header of its own making: `period` in seconds, `times` where they are uneven."""
    for extension in header.extensions:
        if _is_ours(extension):
            return json.loads(_text(extension))[_OURS]
    return {}


def write_extension(header: Nifti1Header, content: dict[str, object]) -> None:
    """Replace medseq's note in the header (a plain-text extension) by this one; an empty one is left out."""
    others = [extension for extension in header.extensions if not _is_ours(extension)]
    del header.extensions[:]
    header.extensions.extend(others)
    if content:
        text = json.dumps({_OURS: content}).encode()
        header.extensions.append(Nifti1Extension(_COMMENT, text))


def _text(extension: Nifti1Extension) -> str:
    content = extension.get_content()
    return content.decode("utf-8", "replace") if isinstance(content, bytes) else str(content)


def _is_ours(extension: Nifti1Extension) -> bool:
    return extension.get_code() == _COMMENT and _text(extension).startswith(f'{{"{_OURS}"')


def new_header(shape: tuple[int, ...]) -> Nifti1Header:
    """An empty header in millimetres and seconds; NIfTI-2 when an axis is too long for NIfTI-1."""
    header = nib.Nifti2Header() if max(shape) > np.iinfo(np.int16).max else nib.Nifti1Header()
    header["xyzt_units"] = _IN_MILLIMETRES | _IN_SECONDS
    return header
