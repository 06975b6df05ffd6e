"""Series and raw data in and out: one format a file, one load and one save each.

    load_clip, save_clip        an image series; the path decides the format
    load_kspace, save_kspace    raw data: ISMRMRD, BART, fastMRI, CMRxRecon, and Siemens twix to read

The libraries behind a format are imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from medseq.clip import Clip
from medseq.errors import InputError, UsageError

if TYPE_CHECKING:
    from medseq.io.kspace import load_kspace, save_kspace

__all__ = ["load_clip", "load_kspace", "save_clip", "save_kspace"]

NIFTI_ENDINGS = (".nii", ".nii.gz")
RAW_ENDINGS = (".h5", ".mrd", ".cfl", ".mat", ".dat")
RAW_OUTPUT_ENDINGS = (".h5", ".mrd", ".cfl", ".mat")


def load_clip(
    path: str | Path, *, series: int | None = None, allow_missing: bool = False, precise: bool = False
) -> Clip:
    """Load an image series: a NIfTI file (`medseq.io.nifti.load_nifti`), or a folder or file of DICOM.

    series: the number of one DICOM series of several. allow_missing: accept a DICOM series that lacks frames; zeros
    stand for them and `Clip.present` is False there. precise: scale Philips images to precise values rather than to
    those that the console displays (see `medseq.io.dicom.find_series`). NIfTI knows none of these.
    Raises InputError when the file is missing, of an unknown kind or broken; warns with MedseqWarning of every
    assumption.
    """
    path = Path(path)
    if is_nifti(path):
        from medseq.io.nifti import load_nifti

        return load_nifti(path)
    if is_raw(path):
        raise InputError(f"{path}: this is raw data, not an image series; reconstruct it first")
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; check the path")
    if is_bids(path):
        raise InputError(f"{path}: this is a BIDS dataset, not one series; give one of its files, or use medseq-bids")
    from medseq.io.dicom import load_dicom

    return load_dicom(path, series=series, allow_missing=allow_missing, precise=precise)


def save_clip(clip: Clip, path: str | Path, like: str | Path | None = None) -> None:
    """Save an image series as a NIfTI file (`medseq.io.nifti.save_nifti`).

    like: the file this series was derived from. Its header is inherited when it is NIfTI too; from any other nothing
    but the clip's own geometry and timing is written. DICOM is written by `medseq.io.dicom.save_derived`, which needs
    to know how the series was made.
    Raises UsageError when the ending of `path` names no format, ResourceError when it cannot be written.
    """
    if not is_nifti(path):
        raise UsageError(f"{path}: the ending names no format that medseq writes; use .nii or .nii.gz")
    from medseq.io.nifti import save_nifti

    save_nifti(clip, path, like if like is not None and is_nifti(like) else None)


def is_nifti(path: str | Path) -> bool:
    """Whether the ending of the path says NIfTI; the file need not exist."""
    return Path(path).name.lower().endswith(NIFTI_ENDINGS)


def is_raw(path: str | Path) -> bool:
    """Whether the ending of the path says raw data; the file need not exist."""
    return Path(path).name.lower().endswith(RAW_ENDINGS)


def is_bids(path: str | Path) -> bool:
    """Whether the path is a BIDS dataset: a folder with a `dataset_description.json`."""
    return (Path(path) / "dataset_description.json").is_file()


def __getattr__(name: str) -> object:
    if name in ("load_kspace", "save_kspace"):
        return getattr(import_module("medseq.io.kspace"), name)
    raise AttributeError(f"module 'medseq.io' has no attribute {name!r}")
