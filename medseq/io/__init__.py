"""Series and raw data in and out: one format a file, one load and one save each.

    load_clip, save_clip        an image series; the ending of the path decides the format
    load_kspace, save_kspace    raw data (ISMRMRD)

The libraries behind a format are imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from medseq.clip import Clip
from medseq.errors import InputError, UsageError

if TYPE_CHECKING:
    from medseq.io.raw import load_kspace, save_kspace

__all__ = ["load_clip", "load_kspace", "save_clip", "save_kspace"]

NIFTI_ENDINGS = (".nii", ".nii.gz")
RAW_ENDINGS = (".h5", ".mrd")


def load_clip(path: str | Path) -> Clip:
    """Load an image series; NIfTI (.nii, .nii.gz): see `medseq.io.nifti.load_nifti`.

    Raises InputError when the file is missing, of an unknown kind or broken; warns with MedseqWarning of every
    assumption.
    """
    if is_nifti(path):
        from medseq.io.nifti import load_nifti

        return load_nifti(path)
    if Path(path).name.lower().endswith(RAW_ENDINGS):
        raise InputError(f"{path}: this is raw data, not an image series; reconstruct it first")
    if not Path(path).exists():
        raise InputError(f"{path}: no such file; check the path")
    raise InputError(f"{path}: not a kind of image series that medseq reads; give a .nii or .nii.gz file")


def save_clip(clip: Clip, path: str | Path, like: str | Path | None = None) -> None:
    """Save an image series; NIfTI (.nii, .nii.gz): see `medseq.io.nifti.save_nifti`.

    like: the file this series was derived from. Its header is inherited when it is of the same format as `path`;
    from any other file nothing but the clip's own geometry and timing is written.
    Raises UsageError when the ending of `path` names no format, ResourceError when it cannot be written.
    """
    if not is_nifti(path):
        raise UsageError(f"{path}: the ending names no format that medseq writes; use .nii or .nii.gz")
    from medseq.io.nifti import save_nifti

    save_nifti(clip, path, like if like is not None and is_nifti(like) else None)


def is_nifti(path: str | Path) -> bool:
    """Whether the ending of the path says NIfTI; the file need not exist."""
    return Path(path).name.lower().endswith(NIFTI_ENDINGS)


def __getattr__(name: str) -> object:
    if name in ("load_kspace", "save_kspace"):
        return getattr(import_module("medseq.io.raw"), name)
    raise AttributeError(f"module 'medseq.io' has no attribute {name!r}")
