"""Target of NIfTI: header, extensions and data, plain and gzipped."""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from fuzz.chance import changed_bytes, odd_number
from fuzz.target import Target
from medseq.clip import Clip
from medseq.io.nifti import load_nifti, save_nifti

_GZIP = b"\x1f\x8b"
_FIELDS = {348: nib.Nifti1Header.template_dtype, 540: nib.Nifti2Header.template_dtype}


def fuzz_nifti(data: bytes, folder: Path) -> None:
    path = folder / ("a.nii.gz" if data.startswith(_GZIP) else "a.nii")
    path.write_bytes(data)
    load_nifti(path)


def _seeds(folder: Path) -> Sequence[bytes]:
    rng = np.random.default_rng(0)
    real = torch.from_numpy(rng.normal(size=(2, 1, 3, 4, 5)).astype(np.float32))
    affine = np.array([[1.2, 0.1, 0, 3], [-0.1, 1.3, 0.2, 4], [0, 0.1, 5, -7], [0, 0, 0, 1]])
    clips = {
        "plain.nii": Clip(real, affine, np.array([0.0, 0.1, 0.25]), 0.5),
        "complex.nii": Clip(torch.complex(real, real), affine),
        "one.nii": Clip(real[:1, :, :1]),
        "packed.nii.gz": Clip(real, affine),
    }
    for name, clip in clips.items():
        save_nifti(clip, folder / name)
    stored = nib.Nifti1Image(rng.integers(0, 99, (5, 4, 2, 3)).astype(np.int16), affine)
    stored.header["scl_slope"], stored.header["scl_inter"] = 0.5, 3
    nib.save(stored, folder / "stored.nii")
    nib.save(nib.Nifti2Image(rng.random((5, 4, 2)), affine), folder / "two.nii")
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def _mutate(data: bytes, chance: random.Random) -> bytes:
    if not data.startswith(_GZIP):
        return _changed(data, chance)
    if chance.random() < 0.3:
        return changed_bytes(data, chance)
    try:
        content = zlib.decompressobj(31).decompress(data, 1 << 20)
    except zlib.error:
        return changed_bytes(data, chance)
    packed = gzip.compress(_changed(content, chance), 1, mtime=0)
    return packed + chance.choice((b"", b"", bytes(9), packed, b"x"))


def _changed(data: bytes, chance: random.Random) -> bytes:
    """A field of the header, or any bytes."""
    dtype = _FIELDS.get(int.from_bytes(data[:4], "little"))
    if dtype is None or chance.random() < 0.3 or len(data) < dtype.itemsize:
        return changed_bytes(data, chance, 0, chance.choice((None, 600)))
    header = np.frombuffer(bytearray(data[: dtype.itemsize]), dtype)
    for _ in range(chance.choice((1, 1, 2, 3))):
        field = header[chance.choice(dtype.names)]
        if field.dtype.kind == "S":
            field[...] = chance.randbytes(4)
            continue
        place = field.reshape(-1)[chance.randrange(field.size) :][:1]
        number = odd_number(chance, float(place[0]))
        if field.dtype.kind == "f":
            with np.errstate(over="ignore"):
                place[...] = number
        else:
            limits = np.iinfo(field.dtype)
            place[...] = int(min(max(number if np.isfinite(number) else 0, limits.min), min(limits.max, 2**62)))
    return header.tobytes() + data[dtype.itemsize :]


NIFTI = Target("nifti", 200_000, _seeds, fuzz_nifti, _mutate)
