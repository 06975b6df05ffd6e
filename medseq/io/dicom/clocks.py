"""The times of a derived image, in the attributes that say them."""

from __future__ import annotations

from datetime import datetime, timedelta

import numpy as np
from pydicom import Dataset
from pydicom.valuerep import DA, TM

from medseq.clip import Clip
from medseq.io.dicom import values
from medseq.io.dicom.classic import decimal
from medseq.io.dicom.moments import Moment
from medseq.io.dicom.series import DicomSeries

WHEN = ("AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime")
_SAME = 1e-4  # seconds


def set_cardiac_times(dataset: Dataset, clip: Clip, frame: int, moment: Moment) -> None:
    """Times of frame `frame` of a gated series: milliseconds after the R wave, on the clock of its slice.

    TriggerTime is only legal in a series whose ScanOptions say that it was gated (PS3.3 C.8.3.1), and trigger times
    mean that it was: CG is added where the scanner forgot it.
    """
    _set_position(dataset, clip, frame)
    dataset.TriggerTime = decimal(1000 * moment.time)
    dataset.CardiacNumberOfImages = clip.frames
    options = values.words(dataset, "ScanOptions")
    if not {"CG", "PPG"} & set(options):
        dataset.ScanOptions = ["CG", *options]


def set_running_times(dataset: Dataset, clip: Clip, frame: int, elapsed: float, source: DicomSeries) -> None:
    """Times of frame `frame` of a series that is not gated.

    dataset: with the times of the first frame of its slice; elapsed: seconds since then.
    TriggerTime goes: Philips keeps the begin of a dynamic scan in it, which is no trigger. RepetitionTime follows the
    interval of the frames where the source's did, as every reader takes it for that.
    """
    _set_position(dataset, clip, frame)
    for keyword in ("TriggerTime", "CardiacNumberOfImages", "NominalInterval"):
        if keyword in dataset:
            del dataset[keyword]
    for event in ("Acquisition", "Content"):
        _shift(dataset, event, elapsed)
    before, after, repetition = _interval(source.times), _interval(clip.times), values.number(dataset, "RepetitionTime")
    if before and after and repetition and abs(repetition / 1000 - before) < _SAME < abs(before - after):
        dataset.RepetitionTime = decimal(1000 * after)


def _set_position(dataset: Dataset, clip: Clip, frame: int) -> None:
    dataset.TemporalPositionIdentifier = frame + 1
    dataset.NumberOfTemporalPositions = clip.frames


def _interval(times: np.ndarray) -> float | None:
    return float(np.median(np.diff(times))) if len(times) > 1 else None


def _shift(dataset: Dataset, event: str, elapsed: float) -> None:
    """Move the date and time of an event; one that cannot be read is dropped."""
    date, time = (values.text(dataset, f"{event}{part}") for part in ("Date", "Time"))
    if time is None:
        return
    try:
        moved = datetime.combine(DA(date or "20000101"), TM(time)) + timedelta(seconds=elapsed)
    except (TypeError, ValueError, OverflowError):
        del dataset[f"{event}Time"]
        return
    dataset[f"{event}Time"].value = moved.strftime("%H%M%S.%f")
    if date is not None:
        dataset[f"{event}Date"].value = moved.strftime("%Y%m%d")
