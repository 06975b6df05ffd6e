"""BART's raw data: `.cfl`, complex64 samples in column-major order, and `.hdr`, a text with the 16 dimensions.

Source: BART's src/misc/mri.h (the dimensions) and src/misc/io.c (the header).
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch

from medseq.clip import KSpace
from medseq.errors import InputError
from medseq.io.files import atomic_write
from medseq.io.raw_array import array_of, kspace_of, measured, noted
from medseq.io.raw_checks import check_memory, raw_faults_named

_DIMENSIONS = (
    *("READ", "PHS1", "PHS2", "COIL", "MAPS", "TE", "COEFF", "COEFF2"),
    *("ITER", "CSHIFT", "TIME", "TIME2", "LEVEL", "SLICE", "AVG", "BATCH"),
)
_USED = {"READ", "PHS1", "COIL", "TIME", "TIME2", "SLICE"}
_SAMPLE = np.dtype("<c8")
_LARGEST_HEADER = 16 << 20  # bytes; the noise covariance of 128 coils takes less than one million
_NOTE = "Medseq"


def header_path(path: Path) -> Path:
    """The `.hdr` beside a `.cfl`."""
    return path.with_suffix(".hdr")


def load_bart(path: str | Path) -> KSpace:
    """Load Cartesian k-space from a BART `.cfl`, whose `.hdr` lies beside it.

    READ becomes X, PHS1 Y, COIL C, SLICE B, and TIME or TIME2 T; the centre of k-space is at N // 2 in both programs.
    keep: samples that are not zero in every coil. Geometry, times, period and noise are those that medseq noted in the
    header, else identity axes with voxels of 1 mm and counted frames, with a MedseqWarning.
    Raises InputError when a file is missing or of the wrong size, on samples that are all zero or not finite, and, by
    name, on other dimensions than these (3-D, echoes, several maps, averages, ...).
    """
    path = Path(path)
    header = header_path(path)
    with raw_faults_named(header, "BART"):
        sections = _sections(header)
        shape = _shape(sections.get("Dimensions", ""), header)
    slices, coils, frames, height, width = shape
    with raw_faults_named(path, "BART"):
        _check_size(path, math.prod(shape))
        check_memory(shape)
        samples = np.fromfile(path, _SAMPLE).astype(np.complex64, copy=False)
    stored = torch.from_numpy(samples.reshape(slices, frames, coils, height, width))
    data = stored.transpose(1, 2).contiguous()
    return kspace_of(path, data, measured(data), sections.get(_NOTE), (1.0, 1.0, 1.0))


def save_bart(kspace: KSpace, path: str | Path) -> None:
    """Save k-space as a BART `.cfl` with its `.hdr`, bit for bit; each is written atomically, the header last.

    Frames go into TIME. Geometry, times, period and noise are noted in a section of the header that BART skips, and
    does not hand on. Warns of measured samples that are zero. Raises InputError on samples that are not finite and on
    a mask that varies over coils, ResourceError when a file cannot be written.
    """
    path = Path(path)
    samples = array_of(kspace, path)
    slices, coils, frames, height, width = samples.shape
    sizes = dict(zip(("READ", "PHS1", "COIL", "TIME", "SLICE"), (width, height, coils, frames, slices), strict=True))
    dimensions = " ".join(str(sizes.get(name, 1)) for name in _DIMENSIONS)
    with atomic_write(header_path(path)) as header:
        with atomic_write(path) as temporary, temporary.open("wb") as stream:
            for one in samples:
                stream.write(np.ascontiguousarray(one.swapaxes(0, 1), dtype=_SAMPLE).data)
        # The dimensions come first: BART reads no further than 4096 bytes.
        header.write_text(f"# Dimensions\n{dimensions}\n# {_NOTE}\n{noted(kspace)}\n", encoding="ascii")


def _sections(header: Path) -> dict[str, str]:
    """The text after each `# Keyword` line of a header."""
    if header.stat().st_size > _LARGEST_HEADER:
        raise InputError(f"{header}: too large for a BART header; give the .hdr that belongs to the .cfl")
    sections: dict[str, list[str]] = {}
    for line in header.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("#"):
            lines = sections.setdefault(line[1:].strip(), [])
        elif sections:
            lines.append(line)
    return {keyword: "\n".join(lines).strip() for keyword, lines in sections.items()}


def _shape(text: str, header: Path) -> tuple[int, int, int, int, int]:
    """(B, C, T, Y, X) of the text under `# Dimensions`."""
    words = text.split()
    if not words or not all(word.isascii() and word.isdigit() and 0 < len(word) < 12 for word in words):
        raise InputError(f"{header}: no list of dimensions; it is not a BART header, or a broken one")
    sizes = dict(zip(_DIMENSIONS, map(int, words), strict=False))
    sizes = {name: sizes.get(name, 1) for name in _DIMENSIONS}
    if min(map(int, words)) < 1:
        raise InputError(f"{header}: a dimension of 0; write the file again")
    if sizes["PHS2"] > 1 and sizes["READ"] == 1:
        raise InputError(f"{header}: samples along a trajectory (not Cartesian); only Cartesian k-space can be used")
    other = [f"{name} {size}" for name, size in sizes.items() if size > 1 and name not in _USED]
    if other or any(int(word) > 1 for word in words[len(_DIMENSIONS) :]):
        raise InputError(
            f"{header}: dimensions that a 2-D series has no place for ({', '.join(other) or 'beyond the 16th'}); "
            "take one part with `bart slice`"
        )
    if sizes["TIME"] > 1 and sizes["TIME2"] > 1:
        raise InputError(f"{header}: two time dimensions (TIME and TIME2); take one of either with `bart slice`")
    frames = max(sizes["TIME"], sizes["TIME2"])
    return sizes["SLICE"], sizes["COIL"], frames, sizes["PHS1"], sizes["READ"]


def _check_size(path: Path, samples: int) -> None:
    have, wanted = path.stat().st_size, samples * _SAMPLE.itemsize
    if have != wanted:
        fault = "truncated, or" if have < wanted else "longer than that:"
        raise InputError(
            f"{path}: {have} bytes, its .hdr promises {wanted}; {fault} the .hdr is of another file; copy both again"
        )
