"""When the frames of a series are, in seconds: phases of the heart's mean cycle, or the run of the scan."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseq.io.dicom.ordering import Order, clue_values
from medseq.io.dicom.records import Record
from medseq.io.dicom.series import Kind

# What runs on the scanner's clock, the best first.
_CLOCKS = ("offset", "acquired", "trigger", "timer")


@dataclass(frozen=True)
class Timing:
    """times (T,), period, slice_times (B,) or None: as in `DicomSeries`. own: (B, T), on each slice's own clock."""

    times: np.ndarray
    period: float | None
    own: np.ndarray
    slice_times: np.ndarray | None = None
    problems: tuple[str, ...] = ()


def kind_of(records: Sequence[Record], slices: np.ndarray, order: Order, gated: bool) -> Kind:
    """What the series shows.

    cine: gated magnitudes (or a real part) of at least three phases. perfusion: said by the header, or an EPI series
    with contrast medium, or at least ten frames of anything else at 0.3 to 3 s from one to the next. bold: an EPI
    series of at least two frames, diffusion aside. other: the rest, derived maps above all.
    """
    first = records[0]
    if order.frames < 2 or first.component not in ("M", "R") or "diffusion" in first.marks:
        return "other"
    if gated:
        return "cine" if order.frames > 2 else "other"
    if "perfusion" in first.marks or (first.is_planar and "contrast" in first.marks):
        return "perfusion"
    if first.is_planar:
        return "bold"
    interval = _measured(records, slices, order)
    return "perfusion" if order.frames >= 10 and interval is not None and 0.3 <= interval <= 3 else "other"


def cycle_times(records: Sequence[Record], slices: np.ndarray, order: Order) -> Timing:
    """Times of a gated series: those of the mean cycle, while each slice keeps its own.

    Slices are scanned in different breath-holds, during which the heart beats at different rates. Frames are matched by
    their phase; the times of a frame are scaled from each slice's cycle to the mean one and averaged over the slices.
    The period is the mean R-R interval (NominalInterval, RRIntervalTimeNominal or HeartRate), else what the frames of
    each slice last, and one interval more.
    """
    own = _table(clue_values(records, "trigger"), slices, order)
    cycles, problems = _cycles(records, slices, own)
    mean = float(cycles.mean())
    times = _mean_times(own * (mean / cycles)[:, None])
    if np.ptp(cycles) > 0.02 * mean:
        spread = f"{cycles.min():.3f} to {cycles.max():.3f} s"
        problems.append(f"its slices have cycles of {spread}; frames are matched by phase")
    own = np.where(np.isnan(own), times * (cycles / mean)[:, None], own)
    return Timing(times, mean, own, None, tuple(problems))


def _cycles(records: Sequence[Record], slices: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """(B,) R-R intervals, and what was assumed. own: (B, T) trigger times."""
    said = np.full(len(own), np.nan)
    for record, b in zip(records, slices, strict=True):
        said[b] = np.nan if record.cycle is None else record.cycle
    span = np.nanmax(own, axis=1) - np.nanmin(own, axis=1)
    if (said > span).all():
        return said, []
    span = np.where(span > 0, span, span.max())
    interval = span / (own.shape[1] - 1)
    what = f"its period is taken from {own.shape[1]} frames of {1000 * interval.mean():.1f} ms"
    return interval * own.shape[1], [f"an R-R interval is not said, or is shorter than the frames last; {what}"]


def _mean_times(own: np.ndarray) -> np.ndarray:
    """(T,) means over the slices of times (B, T), along the run of the others where no slice has the frame."""
    known = ~np.isnan(own)
    times = np.where(known, own, 0).sum(axis=0) / np.maximum(known.sum(axis=0), 1)
    there = known.any(axis=0)
    frames = np.arange(own.shape[1])
    slope, start = np.polyfit(frames[there], times[there], 1)
    return np.where(there, times, start + slope * frames)


def running_times(records: Sequence[Record], slices: np.ndarray, order: Order, kind: Kind) -> Timing:
    """Times of a series that is not gated: 0, TR, 2 TR ... in fMRI, as measured elsewhere.

    TR is RepetitionTime where the clock agrees to 2 % (or to a second over the whole run), else what the clock says:
    the repetition of a segmented or 3-D sequence is not that of its volumes.
    """
    said = records[0].repetition
    measured = _measured(records, slices, order)
    problems: list[str] = []
    interval = said or measured
    if said is not None and measured is not None and abs(measured - said) > max(0.02 * said, 1.0 / order.frames):
        interval = measured
        if kind == "bold":
            problems.append(f"RepetitionTime is {said:.4f} s but volumes come every {measured:.4f} s, which is taken")
    if interval is None:
        interval = 1.0
        if order.frames > 1:
            problems.append("nothing says how long a frame lasts; 1 s is taken")
    times = interval * np.arange(order.frames)
    if kind != "bold" and (clock := _uneven(records, slices, order)) is not None:
        times = clock
    own = np.tile(times, (int(slices.max()) + 1, 1))
    delays = slice_delays(records, slices, order, interval) if kind == "bold" else None
    return Timing(times, None, own, delays, tuple(problems))


def slice_delays(records: Sequence[Record], slices: np.ndarray, order: Order, interval: float) -> np.ndarray | None:
    """(B,) seconds from the beginning of a volume to each slice; None when the header does not tell.

    Sources: MosaicRefAcqTimes (Siemens), the times of the images within a volume, GE's timer (0021,105E), GE's slice
    order in the protocol block: scanned in the order of InstanceNumber, interleaved ones first the odd ones (1, 3 ...).
    """
    count = int(slices.max()) + 1
    if count < 2:
        return None
    said = _delays(records)
    if not np.isnan(said).any():
        # They jitter by a tick (2.5 ms) from volume to volume.
        return np.nanmedian(_table(said, slices, order), axis=1)
    for clue in ("acquired", "timer"):
        table = _table(clue_values(records, clue), slices, order)
        table = table[:, ~np.isnan(table).any(axis=0)]
        if table.size:
            delays = np.median(table - table.min(axis=0), axis=1)
            if 1e-3 < delays.max() < interval:
                return delays - delays.min()
    return _by_protocol(records, slices, order, interval)


def _delays(records: Sequence[Record]) -> np.ndarray:
    return np.array([np.nan if record.delay is None else record.delay for record in records])


def _by_protocol(records: Sequence[Record], slices: np.ndarray, order: Order, interval: float) -> np.ndarray | None:
    interleaved = records[0].interleaved
    instances = _table(clue_values(records, "instance"), slices, order)[:, 0]
    if interleaved is None or np.isnan(instances).any():
        return None
    count = len(instances)
    scanned = np.argsort(np.argsort(instances))
    if interleaved:
        scanned = scanned // 2 + np.where(scanned % 2, (count + 1) // 2, 0)
    return scanned * interval / count


def _table(told: np.ndarray, slices: np.ndarray, order: Order) -> np.ndarray:
    """(B, T) values, NaN where an image is missing."""
    table = np.full((int(slices.max()) + 1, order.frames), np.nan)
    table[slices, order.frame] = told
    return table


def _measured(records: Sequence[Record], slices: np.ndarray, order: Order) -> float | None:
    """The mean interval between frames by the first clock that runs; None when none does."""
    if order.frames < 2:
        return None
    for clue in _CLOCKS:
        told = clue_values(records, clue)
        if np.isnan(told).any():
            continue
        steps = []
        for b in range(int(slices.max()) + 1):
            own, frame = told[slices == b], order.frame[slices == b]
            if np.ptp(frame):
                steps.append((own[frame.argmax()] - own[frame.argmin()]) / np.ptp(frame))
        if steps and np.median(steps) > 0:
            return float(np.median(steps))
    return None


def _uneven(records: Sequence[Record], slices: np.ndarray, order: Order) -> np.ndarray | None:
    """(T,) times of the frames by the clock, the mean over slices, from 0; None when they do not increase."""
    for clue in _CLOCKS:
        table = _table(clue_values(records, clue), slices, order)
        if order.frames > 1 and not np.isnan(table).any():
            times = (table - table[:, :1]).mean(axis=0)
            if (np.diff(times) > 0).all():
                return times
    return None
