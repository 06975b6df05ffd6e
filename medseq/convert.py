"""Conversion: raw data to another raw format, an image series to NIfTI, NIfTI to a derived DICOM series.

Nothing is computed, only stored elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from medseq import terminal
from medseq.clip import Clip, KSpace
from medseq.errors import MedseqWarning, UsageError
from medseq.io import (
    NIFTI_ENDINGS,
    RAW_OUTPUT_ENDINGS,
    is_nifti,
    is_raw,
    load_clip,
    load_kspace,
    save_clip,
    save_kspace,
)
from medseq.io.kspace import files_of
from medseq.jobs import check_new_folder, check_output
from medseq.provenance import RunRecord, collected_warnings, staged, stem


def convert_file(
    source: Path, output: Path, settings: Mapping[str, Any] | None = None, load: Callable[[Path], Clip] = load_clip
) -> str:
    """Read raw data or an image series, write it as `output` says, and a `.run.json` of what was assumed or lost.

    settings: options that shaped `load`, by name, for `run.json`. load: reads an image series (a DICOM folder may need
    to be told which). Returns what to tell the user.
    Warns with MedseqWarning of everything that the format of `output` has no place for. Raises MedseqError like the
    functions that load and save, and UsageError for an impossible output.
    """
    raw = is_raw(source)
    _check_kinds(raw, source, output)
    record = RunRecord("convert", settings or {})
    with staged(output.parent) as folder, collected_warnings(terminal.warn) as record.warnings:
        with record.timed("read"):
            for file in files_of(source):
                record.add_input(file)
            series: Clip | KSpace = load_kspace(source) if raw else load(source)
        with record.timed("write"):
            if isinstance(series, KSpace):
                save_kspace(series, folder / output.name)
            else:
                _warn_of_loss(series, output)
                save_clip(series, folder / output.name, like=source)
        record.save(folder / f"{stem(output)}.run.json")
    slices, coils, frames, *grid = series.data.shape
    height, width = series.size if isinstance(series, KSpace) else grid
    received = f", {coils} coils" if raw else ""
    return f"{output}: {frames} frames of {width} x {height}, {slices} slices{received}; {record.elapsed:.1f} s"


def store_as_dicom(
    source: Path, output: Path, like: Path, *, number: int | None = None, key: bytes | None = None
) -> str:
    """Write a NIfTI series that was made of a DICOM series, with whatever software, as a derived series beside it.

    output: a new folder. like: file or folder of the DICOM series, whose grid the NIfTI series is still on.
    number: which of several. key: de-identify with this secret. Geometry comes from NIfTI and has to agree with the
    source; times are those of NIfTI, or of the source for as many phases of a cycle. Returns what to tell the user.
    Raises InputError when either cannot be used or they do not fit, UsageError for an impossible output.
    """
    from medseq.io.dicom import Derivation, choose_series, save_derived

    if not is_nifti(source):
        raise UsageError(f"{source}: --like is about a NIfTI series to store as DICOM; give one")
    check_new_folder(output)
    record = RunRecord("convert", {"series": number, "deidentify": key is not None}, anonymous=key is not None)
    with staged(output.parent) as folder, collected_warnings(terminal.warn) as record.warnings:
        record.add_input(source)
        record.add_input(like)
        clip, original = load_clip(source), choose_series(like, number)
        if original.period is not None and len(original.times) == clip.frames:
            # NIfTI has no field for a cycle: the same number of frames are the same phases.
            clip = replace(clip, times=original.times, period=original.period)
        (folder / output.name).mkdir()
        derivation = Derivation("process", "Processed by other software; for research only")
        written = save_derived(clip, folder / output.name, original, derivation, deidentify=key)
        record.save(folder / output.name / "run.json")
    return f"{output}: {len(written)} files; {record.elapsed:.1f} s"


def _check_kinds(raw: bool, source: Path, output: Path) -> None:
    """Raise UsageError where a conversion would have to compute something, or would write over its source."""
    name = output.name.lower()
    if raw and name.endswith(NIFTI_ENDINGS):
        raise UsageError(f"{source}: is raw data; `medseq reconstruct` makes images of it")
    if not raw and name.endswith(RAW_OUTPUT_ENDINGS):
        raise UsageError(f"{source}: is an image series; `medseq simulate --from` makes raw data of it")
    check_output(output, RAW_OUTPUT_ENDINGS if raw else NIFTI_ENDINGS, source)


def _warn_of_loss(clip: Clip, output: Path) -> None:
    """Name what a clip knows and NIfTI has no field for."""
    if clip.slice_times is not None:
        warnings.warn(f"{output.name}: the slice times are not stored in it", MedseqWarning, stacklevel=3)
    if clip.present is not None and not bool(clip.present.all()):
        missing = int((~clip.present).sum())
        warnings.warn(
            f"{output.name}: {missing} missing frames are zeros in it, and not marked", MedseqWarning, stacklevel=3
        )
