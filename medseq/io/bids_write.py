"""A BIDS dataset of derivatives: what stands at its root, and each series with the sidecar that explains it.

Source: BIDS 1.11, "BIDS Derivatives" (Common data types and metadata) and "Dataset description".
"""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import nibabel as nib
import numpy as np
from nibabel.nifti1 import Nifti1Header

from medseq.clip import Clip
from medseq.errors import MedseqWarning, UsageError
from medseq.io.bids import DESCRIPTION, read_description
from medseq.io.bids_names import BidsName
from medseq.io.bids_sidecar import Sidecar, read_json
from medseq.io.files import atomic_write
from medseq.io.nifti import save_nifti
from medseq.io.nifti_header import is_even

BIDS_VERSION = "1.11.0"
_GENERATOR = "medseq"
_SOURCE = "raw"  # the name of the source dataset in BIDS URIs
# Validators know no heart, and take pages for strays; `heart/` would match nothing in the implementation they use.
_BIDSIGNORE = "**/heart\n**/*_doflost.*\n**/*_removed.*\n*.html\n"
_README = """\
# Series restored by medseq

Derivatives of the dataset that `dataset_description.json` names, for research only: what medseq has denoised,
interpolated or reconstructed. The sidecar of each series names its sources, the model and the options.

- `desc-denoised`, `desc-interpolated`, `desc-recon`: the series; with `std` at the end: the standard deviation of its
  magnitude over the samples drawn.
- `sub-*/[ses-*/]heart/`: cardiac series, which BIDS has no name for; `.bidsignore` hides them from validators.
- `*_doflost`: degrees of freedom to take off in a model of the denoised series, a map; `*_removed`: the standard
  deviation of what was taken away. `.bidsignore` hides them, too.
- `sub-*.html`: every series of a subject to look at, before and after. Not for diagnosis.
- `logs/`: how each series was made, to the versions of the libraries.
"""

# What a derived series inherits: how it was acquired (BIDS 1.11, MRI, "Common metadata fields"), and what of the task
# says what was shown. Nothing of who, when and where: institutions, stations, serial numbers, dates, free comments.
ACQUISITION = (
    *("Manufacturer", "ManufacturersModelName", "SoftwareVersions", "MagneticFieldStrength", "ReceiveCoilName"),
    *("ReceiveCoilActiveElements", "NumberReceiveCoilActiveElements", "GradientSetType", "MatrixCoilMode"),
    *("CoilCombinationMethod", "PulseSequenceType", "ScanningSequence", "SequenceVariant", "ScanOptions"),
    *("SequenceName", "NonlinearGradientCorrection", "MRAcquisitionType", "MTState", "SpoilingState", "NumberShots"),
    *("ParallelReductionFactorInPlane", "ParallelReductionFactorOutOfPlane", "ParallelAcquisitionTechnique"),
    *("PartialFourier", "PartialFourierDirection", "WaterFatShift", "EchoTrainLength", "EffectiveEchoSpacing"),
    *("TotalReadoutTime", "PhaseEncodingDirection", "MixingTime", "EchoTime", "InversionTime", "DwellTime"),
    *("SliceEncodingDirection", "SliceThickness", "SpacingBetweenSlices", "FlipAngle", "NegativeContrast"),
    *("MultibandAccelerationFactor", "NumberOfVolumesDiscardedByScanner", "NumberOfVolumesDiscardedByUser"),
    *("TaskName", "TaskDescription", "CogAtlasID", "CogPOID"),
)
# True of a series only as long as it has the frames that were acquired.
ACQUIRED_FRAMES = ("FrameAcquisitionDuration", "AcquisitionDuration", "DelayTime", "DelayAfterTrigger")


def describe_dataset(out: Path, source: Path, version: str) -> dict[str, str]:
    """What makes `out` a dataset of derivatives of `source`: description, `.bidsignore`, README, as texts by file name.

    version: of medseq. Warns with MedseqWarning when no path without the names of other folders leads from `out` to
    `source`, which has no DOI either: its BIDS URIs then stay unresolved.
    Raises InputError when the description of the source is unreadable.
    """
    doi = read_description(source).get("DatasetDOI")
    link = _way(out, source) or doi
    if link is None:
        warnings.warn(
            f"{out}: does not say where its source is; put it into derivatives/ of the source, or beside it",
            MedseqWarning,
            stacklevel=2,
        )
    description = {
        "Name": "Series restored by medseq",
        "BIDSVersion": BIDS_VERSION,
        "DatasetType": "derivative",
        "GeneratedBy": [{"Name": _GENERATOR, "Version": version}],
        "SourceDatasets": [{"DOI": doi} if doi else {"URL": link}] if link else [],
        "DatasetLinks": {_SOURCE: link} if link else {},
    }
    return {DESCRIPTION: _as_json(description), ".bidsignore": _BIDSIGNORE, "README.md": _README}


def check_dataset(out: Path) -> None:
    """Raise UsageError when `out` holds a dataset that medseq did not make."""
    if not (out / DESCRIPTION).is_file():
        return
    makers = read_json(out / DESCRIPTION).get("GeneratedBy")
    first = makers[0] if isinstance(makers, list) and makers else None
    if not isinstance(first, dict) or first.get("Name") != _GENERATOR:
        raise UsageError(f"{out}: holds a dataset that medseq did not make; choose another folder for the output")


def _way(start: Path, end: Path) -> str | None:
    """The relative path, unless it goes through folders that the two do not share: their names may be a person's."""
    path = Path(os.path.relpath(end.resolve(), start.resolve()))
    climbs = path.parts.count("..")
    return path.as_posix() if climbs == 0 or len(path.parts) - climbs <= 1 else None


def source_uri(file: Path) -> str:
    """The BIDS URI of a file, relative to the source dataset."""
    return f"bids:{_SOURCE}:{file.as_posix()}"


def inherited(sidecar: Mapping[str, Any], *, same_frames: bool) -> Sidecar:
    """What a derived series takes over from its source. same_frames: it has the frames that were acquired."""
    keys = (*ACQUISITION, *ACQUIRED_FRAMES) if same_frames else ACQUISITION
    return {key: sidecar[key] for key in keys if key in sidecar}


def write_series(folder: Path, name: BidsName, clip: Clip, sidecar: Mapping[str, Any], like: Path | None) -> None:
    """Write `clip` and its sidecar into `folder`; the times in the sidecar are those of the header, digit by digit.

    like: the NIfTI file it was derived from, which lends its header, or None. Times in seconds: `RepetitionTime`, or
    `VolumeTiming` where they are uneven (BIDS knows no other way); `SliceTiming` where the clip has any, lying within
    one frame interval; `CardiacPeriod` (medseq's own) for a gated cycle.
    Raises ResourceError when it cannot be written.
    """
    path = folder / str(name)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*one frame interval", MedseqWarning)  # VolumeTiming has them all
        save_nifti(clip, path, like=like)
        if like is not None and not _tells_interval(path, clip):  # in seconds: the source's header may do otherwise
            save_nifti(clip, path)
    write_text(folder / str(name.ending(".json")), _as_json({**sidecar, **_timing(path, clip, sidecar)}))


def _timing(path: Path, clip: Clip, sidecar: Mapping[str, Any]) -> Sidecar:
    timing: Sidecar = {}
    if clip.frames > 1 and is_even(clip.times):
        timing["RepetitionTime"] = _interval(path)
    elif clip.frames > 1:
        timing["VolumeTiming"] = [_short(each) for each in clip.times]
    # Zeros throughout: corrected already, and nobody shall correct it again.
    if clip.slice_times is not None and clip.slice_times.any() and _within_a_frame(clip, clip.slice_times):
        reverse = sidecar.get("SliceEncodingDirection") == "k-"
        timing["SliceTiming"] = [_short(each) for each in (clip.slice_times[::-1] if reverse else clip.slice_times)]
    if clip.period is not None:
        timing["CardiacPeriod"] = clip.period
    return timing


def _within_a_frame(clip: Clip, slice_times: np.ndarray) -> bool:
    """Between interpolated frames less time passes than the scanner took for its slices, which BIDS cannot say."""
    return clip.frames == 1 or float(slice_times.max()) <= float(np.diff(clip.times).min())


def _interval(path: Path) -> float:
    """The shortest decimal that is the frame interval of the header, a float32."""
    return float(str(np.float32(_header(path)["pixdim"][4])))


def _tells_interval(path: Path, clip: Clip) -> bool:
    if clip.frames == 1:
        return True
    interval = float(clip.times[-1] - clip.times[0]) / (clip.frames - 1)
    _, unit = _header(path).get_xyzt_units()
    return unit == "sec" and abs(_interval(path) - interval) <= 1e-6 * interval


def _header(path: Path) -> Nifti1Header:
    return cast(Nifti1Header, nib.load(path).header)


def _short(seconds: float) -> float:
    return round(float(seconds), 9)


def _as_json(content: Mapping[str, Any] | Sequence[Any]) -> str:
    return json.dumps(content, indent=2, allow_nan=False) + "\n"


def write_text(path: Path, text: str) -> None:
    """Write a small file atomically. Raises ResourceError when it cannot be written."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
