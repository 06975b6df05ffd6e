"""How a series is read and written by the command line, apart from what is done to it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


@Parameter(name="*")
@dataclass(frozen=True)
class SeriesOptions:
    """How a series is read and written, whatever is done to it; most of it concerns DICOM alone.

    number: of the one to take of several. precise: Philips' precise values rather than those that the console displays.
    allow_missing_frames: let the prior fill in what is missing.
    multiframe: write one enhanced file instead of one a frame. deidentify: write nothing that tells who was scanned.
    deidentify_key: a file of secret bytes that keeps pseudonyms equal from run to run. keep_phase: write NIfTI of a
    series with phases as complex values.
    """

    number: Annotated[
        int | None, Parameter(name="--series", help="DICOM: the number of the series to take of several.")
    ] = None
    precise: Annotated[bool, Parameter(help="DICOM: Philips' precise values, not those that the console displays.")] = (
        False
    )
    allow_missing_frames: Annotated[bool, Parameter(help="DICOM: let the prior fill in missing frames.")] = False
    multiframe: Annotated[bool, Parameter(help="DICOM: write one enhanced file instead of one a frame.")] = False
    deidentify: Annotated[bool, Parameter(help="Write nothing that tells who was scanned (PS3.15 basic profile).")] = (
        False
    )
    deidentify_key: Annotated[
        Path | None, Parameter(help="DICOM: file of secret bytes, so that pseudonyms are equal from run to run.")
    ] = None
    keep_phase: Annotated[
        bool, Parameter(name="--complex", help="DICOM to NIfTI: write complex values, which few viewers open.")
    ] = False
