"""DICOM series in and out: what scanners and archives hold, with geometry and timing kept exact.

    find_series     every image series in a file or folder, in order of slice and time, with what is wrong with it
    choose_series   the one of them that is meant
    load_series     the pixels of a series as a Clip
    load_dicom      both at once
    save_derived    a derived series beside its source

What only writing needs is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from medseq.io.dicom.load import Found, Refused, choose_series, find_series, load_dicom, load_series
from medseq.io.dicom.series import DicomSeries, Frame

if TYPE_CHECKING:
    from medseq.io.dicom.write import Derivation, save_derived

__all__ = [
    "Derivation",
    "DicomSeries",
    "Found",
    "Frame",
    "Refused",
    "choose_series",
    "find_series",
    "load_dicom",
    "load_series",
    "save_derived",
]


def __getattr__(name: str) -> object:
    if name in ("Derivation", "save_derived"):
        return getattr(import_module("medseq.io.dicom.write"), name)
    raise AttributeError(f"module 'medseq.io.dicom' has no attribute {name!r}")
