"""Commands about files: info, convert."""

from __future__ import annotations

import json as json_format
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from medseq import terminal
from medseq.commands.options import app, examples
from medseq.errors import InputError, UsageError


@app.command(help_epilogue=examples("info cine.nii.gz", "info raw.h5 --json", "info study"))
def info(
    path: Annotated[Path, Parameter(help="NIfTI, DICOM or raw data: a file or a folder.")],
    /,
    *,
    json: Annotated[bool, Parameter(help="Machine-readable.")] = False,
) -> int:
    """Say what a file or folder holds: kind, frames, geometry, timing, problems."""
    from medseq.survey import survey

    found = survey(path)
    bad = [series for series in found if series.error]
    if bad and not path.is_dir():
        raise InputError(f"{path}: {bad[0].error}")
    if json:
        print(json_format.dumps([asdict(series) for series in found], indent=2))
    else:
        terminal.print_series(found)
    if not bad:
        return 0
    return InputError.exit_code if len(bad) == len(found) else 3


@app.command(
    help_epilogue=examples(
        "convert raw.h5 -o raw.cfl",
        "convert multicoil.fastmri.h5 -o raw.mat",
        "convert study --series 5 -o cine.nii.gz",
        "convert cine.nii.gz --like study --series 5 -o derived",
    )
)
def convert(
    source: Annotated[Path, Parameter(help="Raw data (ISMRMRD, fastMRI, CMRxRecon, BART, twix) or an image series.")],
    /,
    *,
    output: Annotated[
        Path,
        Parameter(name=("--output", "-o"), help="Raw data: .h5, .fastmri.h5, .cfl or .mat; images: .nii or .nii.gz."),
    ],
    series: Annotated[int | None, Parameter(help="DICOM: the number of the series to take of several.")] = None,
    precise: Annotated[
        bool, Parameter(help="DICOM: Philips' precise values, not those that the console displays.")
    ] = False,
    allow_missing_frames: Annotated[bool, Parameter(help="DICOM: let zeros stand for missing frames.")] = False,
    like: Annotated[
        Path | None, Parameter(help="Write NIfTI as a DICOM series derived from this one, on whose grid it is.")
    ] = None,
    deidentify: Annotated[bool, Parameter(help="With --like: write nothing that tells who was scanned.")] = False,
    deidentify_key: Annotated[
        Path | None, Parameter(help="File of secret bytes, so that pseudonyms are equal from run to run.")
    ] = None,
) -> None:
    """Store raw data or an image series in another format; nothing is computed."""
    from medseq.convert import convert_file, store_as_dicom
    from medseq.io import load_clip
    from medseq.jobs import pseudonym_key

    if like is not None:
        key = pseudonym_key(deidentify, deidentify_key)
        print(store_as_dicom(source, output, like, number=series, key=key))
        return
    if deidentify or deidentify_key:
        raise UsageError("--deidentify goes with --like here; denoise and interpolate take it too")

    settings = {"series": series, "precise": precise, "allow_missing_frames": allow_missing_frames}
    load = partial(load_clip, series=series, allow_missing=allow_missing_frames, precise=precise)
    print(convert_file(source, output, settings, load))
