"""Every bad input there is, by kind; see `bad_case.Case`."""

from __future__ import annotations

import hashlib
import os
import stat
from functools import cache
from pathlib import Path

import bad_bids
import bad_dicom
import bad_nifti
import bad_places
import bad_raw
import bad_texts
import bad_weights
from bad_case import Case


@cache
def all_cases() -> tuple[Case, ...]:
    return tuple(
        case
        for module in (bad_nifti, bad_dicom, bad_raw, bad_weights, bad_texts, bad_bids, bad_places)
        for case in module.cases()
    )


def looks(folder: Path) -> dict[str, tuple[object, ...]]:
    """Kind, rights, size and content of everything below a folder; of large files the size and the beginning."""
    found: dict[str, tuple[object, ...]] = {}
    for parent, folders, names in os.walk(os.fsencode(folder)):
        for name in (*folders, *names):
            path = os.path.join(parent, name)
            told = os.lstat(path)
            held: object = os.readlink(path) if stat.S_ISLNK(told.st_mode) else None
            if stat.S_ISREG(told.st_mode) and os.access(path, os.R_OK):
                with open(path, "rb") as stream:
                    held = hashlib.sha256(stream.read(1 << 24)).hexdigest()
            size = 0 if stat.S_ISDIR(told.st_mode) else told.st_size
            found[os.path.relpath(path, os.fsencode(folder)).decode(errors="replace")] = (told.st_mode, size, held)
    return found
