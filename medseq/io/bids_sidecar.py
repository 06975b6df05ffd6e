"""What the JSON sidecars of a BIDS dataset say of one file, and what of it a clip can hold.

Source: BIDS 1.11, "The inheritance principle" and "Magnetic Resonance Imaging" (timing, units of phase images).
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from medseq.clip import Clip
from medseq.errors import InputError, MedseqWarning
from medseq.io.bids_names import name_of, parse_name
from medseq.io.faults import check_is_file

Sidecar = dict[str, Any]

# Header and sidecar round the same interval differently; beyond this share they mean different ones.
_SAME_INTERVAL = 0.01
# Slice times are rounded to a few digits, and the last slice may end with the frame.
_ROUNDING = 1e-3


def read_json(path: Path) -> Sidecar:
    """The object in a JSON file. Raises InputError when it is missing, unreadable or holds anything else."""

    check_is_file(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"), parse_constant=_finite, parse_float=_finite)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; check the path") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:100]
        raise InputError(f"{path}: not readable as JSON ({reason}); correct the file") from error
    if not isinstance(content, dict):
        raise InputError(f"{path}: must hold a JSON object of names and values; correct the file")
    return content


def _finite(text: str) -> float:
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text} is no finite number")
    return value


def read_sidecar(dataset: Path, file: Path) -> Sidecar:
    """Everything the dataset says of `file`: the JSON files that apply to it, from the root down, the nearest winning.

    Raises InputError when the file has no BIDS name or one of them is unreadable.
    """
    merged: Sidecar = {}
    for path in sidecars_of(dataset, file):
        merged.update(read_json(path))
    return merged


def sidecars_of(dataset: Path, file: Path) -> Iterator[Path]:
    """The JSON files that speak of `file`, from the root down. Raises InputError when it has no BIDS name."""
    name = name_of(file)
    inner = file.parent.relative_to(dataset).parts
    for depth in range(len(inner) + 1):
        folder = dataset.joinpath(*inner[:depth])
        named = [(parse_name(path.name), path) for path in sorted(folder.glob("*.json"))]
        fitting = [(each, path) for each, path in named if each is not None and each.applies_to(name)]
        # BIDS wants one a folder; of several, the one that names more entities knows better.
        yield from (path for _, path in sorted(fitting, key=lambda pair: len(pair[0].entities)))


def timed(clip: Clip, sidecar: Mapping[str, Any], file: Path) -> Clip:
    """The clip with the times of its sidecar: `VolumeTiming` or `RepetitionTime`, `SliceTiming`, `CardiacPeriod`.

    All are seconds; `CardiacPeriod` is medseq's own. The sidecar wins over the header, with a MedseqWarning where they
    differ by more than 1 %; slice times that cannot be meant are left aside with another.
    Raises InputError when the other times are no increasing positive numbers.
    """
    times = _frame_times(clip, sidecar, file)
    period = _number(sidecar, "CardiacPeriod", file) or clip.period
    try:
        clip = replace(clip, times=times, period=period)
    except InputError as error:
        raise InputError(f"{file}: {error}; correct the sidecar") from error
    return replace(clip, slice_times=slice_times(sidecar, clip, file))


def _frame_times(clip: Clip, sidecar: Mapping[str, Any], file: Path) -> np.ndarray:
    if "VolumeTiming" in sidecar:
        times = _numbers(sidecar["VolumeTiming"])
        if times is None or len(times) != clip.frames:
            raise InputError(f"{file}: VolumeTiming must hold {clip.frames} seconds, one a volume; correct the sidecar")
        return times
    interval = _number(sidecar, "RepetitionTime", file)
    if interval is None or clip.frames == 1:
        return clip.times
    given = float(clip.times[1] - clip.times[0])
    if abs(given - interval) <= _SAME_INTERVAL * interval:
        return clip.times
    warnings.warn(
        f"{file}: {given:g} s between frames in the header, the sidecar's RepetitionTime of {interval:g} s is used",
        MedseqWarning,
        stacklevel=4,
    )
    return clip.times[0] + interval * np.arange(clip.frames)


def slice_times(sidecar: Mapping[str, Any], clip: Clip, file: Path) -> np.ndarray | None:
    """Seconds (B,) from the time of a frame to the acquisition of each slice, or None where they are not known.

    `SliceEncodingDirection` "k-" lists them from the last slice to the first. Warns with MedseqWarning and gives None
    when they lie along another axis, are not one a slice, or not within one frame interval.
    """
    if "SliceTiming" not in sidecar:
        return None
    times, slices = _numbers(sidecar["SliceTiming"]), clip.data.shape[0]
    direction = sidecar.get("SliceEncodingDirection", "k")
    longest = float(np.diff(clip.times).min()) if clip.frames > 1 else math.inf
    if direction not in ("k", "k-"):
        fault = f"SliceEncodingDirection is {direction!r}, but medseq takes slices along k"
    elif times is None or len(times) != slices:
        fault = f"SliceTiming must hold {slices} seconds, one a slice"
    elif times.min() < 0 or times.max() > longest * (1 + _ROUNDING):
        fault = f"SliceTiming reaches from {times.min():g} to {times.max():g} s in frames of {longest:g} s"
    else:
        return times[::-1] if direction == "k-" else times
    warnings.warn(f"{file}: {fault}; it is left aside", MedseqWarning, stacklevel=3)
    return None


def _number(sidecar: Mapping[str, Any], key: str, file: Path) -> float | None:
    if key not in sidecar:
        return None
    value = _numbers([sidecar[key]])
    if value is None or not value[0] > 0:
        raise InputError(f"{file}: {key} must be a positive number of seconds; correct the sidecar")
    return float(value[0])


def _numbers(value: object) -> np.ndarray | None:
    """float64 of a list of finite numbers; None for anything else."""
    if not isinstance(value, list) or not value:
        return None
    if not all(isinstance(each, int | float) and not isinstance(each, bool) and abs(each) < 1e9 for each in value):
        return None
    return np.array(value, dtype=np.float64)


# (lowest, highest, angle of the lowest) of the scales in use, each one turn long: radians about zero or from zero,
# thousandths of them (GE, Philips), and the 12 bits of Siemens, as dcm2niix writes them and as they are stored.
_PHASE_SCALES = (
    (-math.pi, math.pi, -math.pi),
    (0.0, 2 * math.pi, 0.0),
    (-1000 * math.pi, 1000 * math.pi, -math.pi),
    (-4096.0, 4096.0, -math.pi),
    (0.0, 4096.0, -math.pi),
)
# Noise fills the whole range, so that the ends of a scale are met this closely; nothing lies beyond them.
_NEAR_END, _BEYOND_END = 0.05, 1e-3


def phase_in_radians(stored: Tensor, units: object, file: Path) -> Tensor:
    """A phase image (any shape) in radians. units: the sidecar's `Units`, "rad" or "arbitrary"; None: it has none.

    "arbitrary" (BIDS 1.11, MRI, "Phase images") and absent units are recognised by the range of the values, which
    noise fills from end to end; absent ones with a MedseqWarning.
    Raises InputError on other units, on "rad" that spans more than a turn, and on a range of no known scale.
    """
    lowest, highest = float(stored.min()), float(stored.max())
    if units == "rad":
        if highest - lowest > 2 * math.pi * (1 + _BEYOND_END):
            raise InputError(
                f"{file}: Units is rad, but values reach from {lowest:g} to {highest:g}; correct Units or the values"
            )
        return stored
    if units not in ("arbitrary", None):
        raise InputError(
            f'{file}: Units of a phase image must be "rad" or "arbitrary", not {units!r}; correct the sidecar'
        )
    for low, high, start in _PHASE_SCALES:
        near, beyond = _NEAR_END * (high - low), _BEYOND_END * (high - low)
        if -beyond <= lowest - low <= near and -beyond <= high - highest <= near:
            if units is None:
                warnings.warn(
                    f"{file}: no Units; {lowest:g} to {highest:g} is taken as one turn from {low:g} to {high:g}",
                    MedseqWarning,
                    stacklevel=3,
                )
            return (stored - low) * (2 * math.pi / (high - low)) + start
    raise InputError(
        f"{file}: the scale of this phase image, {lowest:g} to {highest:g}, is not known; store radians, with Units rad"
    )
