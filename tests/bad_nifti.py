"""NIfTI files of which none can be meant."""

from __future__ import annotations

import gzip
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from bad_case import NIFTI, Case, Make, content, cut, flipped, gzip_bomb, others
from test_nifti import FAULTS, patched, write

NAN, INF = float("nan"), float("inf")
HEADER = 352


def with_fields(**fields: Any) -> Make:
    return lambda path: patched(write(path), **fields)


def voxels(*sizes: float) -> Make:
    """pixdim[1:4] with the forms uncoded, so that nothing else says how large a voxel is."""
    return with_fields(sform_code=0, qform_code=0, pixdim=[1, *sizes, 0.8, 0, 0, 0])


def of_values(change: Callable[[np.ndarray], object], dtype: str = "float32", **options: Any) -> Make:
    """A file whose stored values are changed."""

    def made(path: Path) -> None:
        write(path, dtype, **options)
        raw = bytearray(path.read_bytes())
        values = np.frombuffer(raw, dtype, offset=HEADER)
        change(values)
        path.write_bytes(raw)

    return made


def put(place: int, value: Any) -> Callable[[np.ndarray], object]:
    return lambda values: values.__setitem__(place, value)


def extension(size: int, code: int = 6, text: bytes = b"x" * 8) -> Make:
    """A header extension of a size that may be a lie, before the data."""

    def made(path: Path) -> None:
        patched(write(path), vox_offset=HEADER + 16)
        raw = path.read_bytes()
        path.write_bytes(raw[:348] + b"\1\0\0\0" + struct.pack("<ii", size, code) + text + raw[HEADER:])

    return made


def packed(change: Callable[[bytes], bytes]) -> Make:
    """A gzipped file whose bytes are changed."""

    def made(path: Path) -> None:
        write(path)
        path.write_bytes(change(path.read_bytes()))

    return made


def header_of(*dim: int) -> bytes:
    """A good header of other dimensions, with the four bytes that follow it."""
    header = nib.Nifti1Header()
    header.set_data_dtype("int16")
    header["dim"], header["pixdim"] = [len(dim), *dim, *(1,) * (7 - len(dim))], [1, 1, 1, 1, 1, 0, 0, 0]
    header["magic"], header["vox_offset"], header["xyzt_units"] = b"n+1", HEADER, 10
    header["sform_code"] = 1
    header["srow_x"], header["srow_y"], header["srow_z"] = [1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]
    return bytes(header.binaryblock) + bytes(4)


def sparse(size: int, *dim: int) -> Make:
    """A file of zeros that takes no room on the disk."""

    def made(path: Path) -> None:
        path.write_bytes(header_of(*dim))
        os.truncate(path, size)

    return made


def _geometry() -> Iterator[tuple[str, Make, str]]:
    for axis in "xyz":
        yield f"NaN in srow_{axis}", with_fields(**{f"srow_{axis}": [1, 0, NAN, 0]}), "sform"
        yield f"infinite offset in srow_{axis}", with_fields(**{f"srow_{axis}": [1, 0, 0, INF]}), "sform"
        yield f"no extent in srow_{axis}", with_fields(**{f"srow_{axis}": [0, 0, 0, 7]}), "singular"
    yield "two equal rows in the sform", with_fields(srow_x=[1, 2, 3, 0], srow_y=[1, 2, 3, 0]), "singular"
    yield "an axis of the sform of no length", with_fields(srow_x=[1, 0, 0, 0], srow_y=[0, 0, 0, 0]), "singular"
    yield "sform of kilometres", with_fields(srow_z=[0, 0, 1e12, 0]), "absurd"
    yield "sform in metres, far away", with_fields(xyzt_units=1 | 8, srow_x=[1, 0, 0, 1e8]), "absurd"
    for field in ("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"):
        yield f"NaN in {field}", with_fields(sform_code=0, **{field: NAN}), "qform"
        yield f"{field} is 1e20", with_fields(sform_code=0, **{field: 1e20}), "qform"
    for handedness in (0.5, 2.0, NAN, -3.0):
        fields = {"sform_code": 0, "pixdim": [handedness, 1.8, 2, 5, 0.8, 0, 0, 0]}
        yield f"qfac {handedness}", with_fields(**fields), "qform"
    for axis, name in enumerate("xyz"):
        for size in (NAN, INF, -1.0, 1e12):
            sizes = [1.8, 2.0, 5.0]
            sizes[axis] = size
            yield f"voxels of {size} mm along {name}", voxels(*sizes), "voxel size"
        sizes = [1.8, 2.0, 5.0]
        sizes[axis] = 0.0
        yield f"no voxel size along {name}", voxels(*sizes), "singular"
        yield (
            f"qform without voxel size along {name}",
            with_fields(sform_code=0, pixdim=[1, *sizes, 0.8, 0, 0, 0]),
            "singular",
        )
    for code in (4, 5, 6, 7):
        yield f"unit of length {code}", with_fields(xyzt_units=code | 8), "unit of length"


def _sizes() -> Iterator[tuple[str, Make, str]]:
    for axis, name in enumerate("xyzt", start=1):
        for size in (0, -1, -32768):
            dim = [4, 6, 5, 3, 4, 1, 1, 1]
            dim[axis] = size
            yield f"{size} along {name}", with_fields(dim=dim), "impossible array size"
        dim = [4, 6, 5, 3, 4, 1, 1, 1]
        dim[axis] += 1
        yield f"one more along {name} than there is", with_fields(dim=dim), "truncated"
    for count in (0, 8, -1, 32767, 1024):
        yield f"{count} dimensions", with_fields(dim=[count, 6, 5, 3, 4, 1, 1, 1]), "convert the file anew"
    for count in (5, 6, 7):
        dim = [count, 6, 5, 3, 2, *(1,) * (count - 5), 2, *(1,) * (7 - count)]
        yield f"{count} dimensions that all count", with_fields(dim=dim), f"{count}-D"
    yield "32767 x 32767 x 32767 x 32767", with_fields(dim=[4, *(32767,) * 4, 1, 1, 1]), "promises"
    yield "32767 voxels along seven axes", with_fields(dim=[7, *(32767,) * 7]), "7-D"
    for offset in (NAN, INF, -1.0, -1e30, 1e30, 1e6):
        yield f"data at byte {offset}", with_fields(vox_offset=offset), ""
    yield "data inside the header", with_fields(vox_offset=100), ""


def _numbers() -> Iterator[tuple[str, Make, str]]:
    for code in (0, 1, 3, 77, 255, 1000, -1, 32767):
        yield f"data type {code}", with_fields(datatype=code), "data type"
    yield "RGB of 24 bits", lambda path: patched(write(path, "uint8"), datatype=128, bitpix=24), "RGB"
    yield "RGBA of 32 bits", lambda path: patched(write(path, "int32"), datatype=2304, bitpix=32), "RGB"
    for slope in (NAN, INF, -INF):
        yield f"slope {slope}", with_fields(scl_slope=slope), "scl_slope"
        yield f"intercept {slope}", with_fields(scl_slope=2.0, scl_inter=slope), "scl_inter"
    yield "a slope beyond single precision", with_fields(scl_slope=3e38), "not finite"
    for value in (NAN, INF, -INF):
        for place, name in ((0, "first"), (-1, "last"), (slice(None), "every")):
            yield f"{value} as the {name} value", of_values(put(place, value)), "not finite"
        yield f"{value} in a double", of_values(put(7, value), "float64"), "not finite"
        yield f"{value} in the real part", of_values(put(7, value), "complex64"), "not finite"
        yield f"{value} in the imaginary part", of_values(put(7, complex(0, value)), "complex128"), "not finite"
    yield "a double beyond single precision", of_values(put(3, 1e300), "float64"), "not finite"
    yield "zeros in float", of_values(put(slice(None), 0.0)), "zero"
    yield "minus zeros", of_values(put(slice(None), -0.0), "float64"), "zero"
    yield "zeros in complex", of_values(put(slice(None), 0), "complex64"), "zero"
    yield "zeros in integers", of_values(put(slice(None), 0), "int16"), "zero"
    yield "values too small for single precision", of_values(put(slice(None), 1e-60), "float64"), "zero"


def _timing() -> Iterator[tuple[str, Make, str]]:
    for interval in (NAN, INF, -0.8, 1e12):
        yield f"frames {interval} s apart", with_fields(interval=interval), "frame interval"
    for offset in (NAN, INF, -INF, 1e20):
        yield f"begins at {offset} s", with_fields(toffset=offset), "offset"
    for code, name in ((32, "Hz"), (40, "ppm"), (48, "rad/s"), (56, "nothing known")):
        yield f"a fourth axis in {name}", with_fields(xyzt_units=2 | code), "not time"


def _layout() -> Iterator[tuple[str, Make, str]]:
    for size in (-1, 0, 349, 540, 1_543_569_408 + 1):
        yield f"a header of {size} bytes", with_fields(sizeof_hdr=size), ""
    for magic in (b"ni1", b"n+3", b"", b"NI+1"):
        yield f"magic {magic!r}", with_fields(magic=magic), ""
    for size in (-16, 7, 1 << 30, 2**31 - 1):
        yield f"an extension of {size} bytes", extension(size), ""
    for share in (0.05, 0.3, 0.45, 0.48, 0.7, 0.999):
        yield f"cut after {share:.1%}", cut(write, share), ""


def _gzip() -> Iterator[tuple[str, Make, str]]:
    says = "broken or not NIfTI"
    for share in (0.01, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 0.99):
        yield f"gzip cut after {share:.0%}", cut(write, share), says
    for share in (0.2, 0.5, 0.8):
        yield f"a bit changed at {share:.0%} of a gzip", flipped(write, share), ""
    yield "gzip without its checksum", packed(lambda raw: raw[:-8]), says
    yield "gzip with another checksum", packed(lambda raw: raw[:-8] + b"abcd" + raw[-4:]), "CRC"
    yield "gzip with another length", packed(lambda raw: raw[:-4] + b"\1\2\3\4"), says
    yield "gzip with a text behind it", packed(lambda raw: raw + b"and so on"), says
    yield "gzip with half of another behind it", packed(lambda raw: raw + raw[: len(raw) // 2]), says
    yield "gzip of an unknown method", packed(lambda raw: raw[:2] + b"\7" + raw[3:]), says
    yield "gzip of a gzip", packed(lambda raw: gzip.compress(raw, mtime=0)), "not a NIfTI file"
    yield "not compressed", packed(gzip.decompress), says
    yield "a bomb behind good data", packed(lambda raw: gzip_bomb(gzip.decompress(raw), 64)), "after its data"
    yield "a bomb that the header announces", content(gzip_bomb(header_of(1024, 1024, 1024, 8), 16)), "inflate"
    yield "a bomb in place of a header", content(gzip_bomb(b"", 64)), "not a NIfTI file"


def cases() -> Iterator[Case]:
    for says, fault in FAULTS.items():
        yield Case("NIfTI", f"refused as: {says}", "bad.nii", _as_made(fault), says.split(";")[0].rstrip(" -"), NIFTI)
    families = (_geometry, _sizes, _numbers, _timing, _layout)
    for family in families:
        for fault, make, says in family():
            yield Case("NIfTI", fault, "bad.nii", make, says, NIFTI)
    for fault, make, says in _gzip():
        yield Case("NIfTI", fault, "bad.nii.gz", make, says, NIFTI)
    yield Case("NIfTI", "a sparse file of 4 TiB", "bad.nii", sparse(1 << 42, *(1024,) * 4), "memory", NIFTI[1:], 5)
    yield from others("NIfTI", "bad.nii", NIFTI, "NIfTI")
    yield from others("NIfTI", "bad.nii.gz", NIFTI, "NIfTI")


def _as_made(fault: Callable[[Path], object]) -> Make:
    return lambda path: fault(write(path))
