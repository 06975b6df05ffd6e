"""Raw data in and out: the ending and the content of a file say which format it is of.

    .h5, .mrd     ISMRMRD (`raw.py`), or fastMRI (`fastmri.py`) when it holds an array `kspace`
    .fastmri.h5   fastMRI, to write
    .cfl          BART, with its .hdr (`bart.py`)
    .mat          CMRxRecon (`cmrxrecon.py`)
    .dat          Siemens twix (`twix.py`), to read

What the formats say and leave out: docs/raw-formats.md.
"""

from __future__ import annotations

from pathlib import Path

from medseq.clip import KSpace
from medseq.errors import UsageError
from medseq.io.bart import header_path, load_bart, save_bart
from medseq.io.cmrxrecon import load_cmrxrecon, save_cmrxrecon
from medseq.io.fastmri import is_fastmri, load_fastmri, save_fastmri
from medseq.io.faults import check_is_file
from medseq.io.raw import load_ismrmrd, save_ismrmrd
from medseq.io.twix import load_twix

_FASTMRI_OUTPUT = ".fastmri.h5"


def load_kspace(path: str | Path) -> KSpace:
    """Load multi-coil Cartesian 2-D + t k-space; ending and content decide the format (see `medseq.io.kspace`).

    data: (B, C, T, Y, X) complex64, Y the phase encoding, DC at index N // 2. What a format cannot say (geometry,
    timing, noise) is assumed, and warned of with MedseqWarning; see the function that reads the format.
    Raises InputError when the file is missing, broken or holds what medseq cannot use, ResourceError when it does not
    fit into memory.
    """
    path = Path(path)
    check_is_file(path)
    ending = path.suffix.lower()
    if ending == ".cfl":
        return load_bart(path)
    if ending == ".mat":
        return load_cmrxrecon(path)
    if ending == ".dat":
        return load_twix(path)
    return load_fastmri(path) if is_fastmri(path) else load_ismrmrd(path)


def save_kspace(kspace: KSpace, path: str | Path) -> None:
    """Save k-space, atomically, in the format that the ending names (see `medseq.io.kspace`); coil maps are not stored.

    Raises UsageError for an ending that medseq does not write, InputError for k-space that the format cannot hold,
    ResourceError when it cannot be written.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith(_FASTMRI_OUTPUT):
        save_fastmri(kspace, path)
    elif name.endswith((".h5", ".mrd")):
        save_ismrmrd(kspace, path)
    elif name.endswith(".cfl"):
        save_bart(kspace, path)
    elif name.endswith(".mat"):
        save_cmrxrecon(kspace, path)
    else:
        raise UsageError(f"{path}: no raw data format that medseq writes; end it in .h5, .fastmri.h5, .cfl or .mat")


def files_of(path: Path) -> list[Path]:
    """Every file that raw data at `path` consist of, `path` first."""
    return [path, header_path(path)] if path.suffix.lower() == ".cfl" else [path]
