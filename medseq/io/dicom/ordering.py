"""Which frame each image of a slice is: the first clue that every image has and that tells the frames apart.

File names never count. InstanceNumber counts last, and then the series says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medseq.errors import InputError
from medseq.io.dicom.records import Record

_GATED = ("trigger", "temporal", "acquired", "content", "instance")
_RUNNING = ("temporal", "offset", "acquisition", "acquired", "trigger", "timer", "content", "instance")
_COUNTS = ("temporal", "offset", "acquisition")  # the same for all slices of a frame, where they are used


@dataclass(frozen=True)
class Order:
    """frame: (images,) index of the frame of each image; frames: how many there should be; clue: what told."""

    frame: np.ndarray
    frames: int
    clue: str
    problems: tuple[str, ...] = ()


def clue_values(records: Sequence[Record], clue: str) -> np.ndarray:
    """(images,) float64, NaN where an image does not say."""
    found = [getattr(record.clues, clue) for record in records]
    return np.array([np.nan if value is None else value for value in found])


def order_frames(records: Sequence[Record], slices: np.ndarray, gated: bool) -> Order:
    """The frame of each image. slices: (images,) slice indices. gated: frames are phases of the heart's cycle.

    Frames that are missing leave gaps: in a vendor's count, in the even run of times, or against the number of frames
    that the header plans (PS3.3 C.7.6.16.2.2, C.7.6.18.1, C.8.3.1).
    Raises InputError when slices have different numbers of frames and nothing tells which are missing.
    """
    if np.bincount(slices).max() == 1:
        return Order(np.zeros(len(records), np.int64), 1, "instance")
    clue = _telling_clue(records, slices, _GATED if gated else _RUNNING)
    told = clue_values(records, clue)
    if clue == "instance":
        frame = _by_instance(told, slices)
        note = "nothing but the order of InstanceNumber tells its frames apart"
        return _checked(frame, records, clue, (note,))
    regular: np.ndarray | None = None
    if clue in _COUNTS:
        regular = _by_count(told, records[0].planned)
    elif gated or records[0].is_planar:
        regular = _by_even_times(told, slices, gated)
    return _checked(_by_rank(told, slices) if regular is None else regular, records, clue)


def _telling_clue(records: Sequence[Record], slices: np.ndarray, clues: Sequence[str]) -> str:
    for clue in clues:
        told = clue_values(records, clue)
        if np.isnan(told).any() or not _is_distinct(told, slices):
            continue
        if clue not in _COUNTS or _is_shared(told, slices):
            return clue
    raise InputError("nothing tells its frames apart (no times, no numbers); get the original files")


def _is_distinct(told: np.ndarray, slices: np.ndarray) -> bool:
    return len(np.unique(np.stack([slices, np.round(told, 6)]), axis=1)[0]) == len(told)


def _is_shared(told: np.ndarray, slices: np.ndarray) -> bool:
    """Whether a count tells frames and not images, running on from slice to slice."""
    return len(np.unique(np.round(told, 6))) < 2 * int(np.bincount(slices).max())


def _checked(frame: np.ndarray, records: Sequence[Record], clue: str, problems: tuple[str, ...] = ()) -> Order:
    """The order, with as many frames as there should be. What is missing at the end no gap shows."""
    frames = int(frame.max()) + 1
    planned = records[0].planned or frames
    if planned > frames:
        if clue == "trigger" and _is_cut_short(frame, records, planned):
            frames = planned
        else:
            problems += (f"{planned} frames were planned and {frames} are there; it is taken to have stopped early",)
    return Order(frame, frames, clue, problems)


def _is_cut_short(frame: np.ndarray, records: Sequence[Record], planned: int) -> bool:
    """Whether the last phases of a cycle are missing: there is room for them before the next R wave.

    Only where few are: prospective gating leaves the end of the cycle out, and some announce what they acquired rather
    than what they reconstructed.
    """
    frames = int(frame.max()) + 1
    cycle = records[0].cycle
    interval = np.ptp(clue_values(records, "trigger")) / (frames - 1)
    has_room = cycle is None or cycle > (planned - 0.5) * interval
    return bool(has_room) and planned - frames <= max(1, planned // 10)


def _by_rank(told: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """The rank of each image among those of its slice."""
    counts = np.bincount(slices)
    if len(set(counts.tolist())) > 1:
        numbers = f"{counts.min()} to {counts.max()}"
        raise InputError(f"its slices have {numbers} frames, and nothing tells which are missing; get the whole series")
    order = np.lexsort((told, slices))
    frame = np.empty(len(told), np.int64)
    frame[order] = np.arange(len(told)) % counts[0]
    return frame


def _by_count(told: np.ndarray, planned: int | None) -> np.ndarray:
    """Frames by a count that all slices share, from 1 where as many are planned; what it leaves out is missing."""
    known, frame = np.unique(np.round(told, 6), return_inverse=True)
    if planned is not None and known[0] >= 1 and known[-1] <= planned and (known == np.rint(known)).all():
        return np.rint(told).astype(np.int64) - 1
    counts = (known - known[0]) / np.diff(known).min()
    if (np.abs(counts - np.rint(counts)) < 0.01).all() and counts[-1] < 2 * len(known):
        return np.rint(counts).astype(np.int64)[frame]
    return frame


def _by_even_times(told: np.ndarray, slices: np.ndarray, gated: bool) -> np.ndarray | None:
    """Frames by times that run evenly in each slice, lost ones leaving a gap; None when they do not run evenly."""
    times = [np.sort(told[slices == b]) for b in range(slices.max() + 1)]
    steps = [float(np.median(np.diff(own))) for own in times if len(own) > 2]
    if not steps:
        return None
    usual = float(np.median(steps))
    frame = np.empty(len(told), np.int64)
    first = min(own[0] for own in times)
    for b, own in enumerate(times):
        # Each slice has its own cycle; in a run all slices have the same repetition.
        step = float(np.median(np.diff(own))) if gated and len(own) > 2 else usual
        counts = (told[slices == b] - own[0]) / step
        if np.abs(counts - np.rint(counts)).max() > 0.2 or len(set(np.rint(counts))) < len(own):
            return None
        late = (own[0] - first) / step
        # Slices of a volume begin up to a repetition later than the first; the phases of all cycles begin together.
        whole = int(np.rint(late) if gated else np.floor(late + 0.02))
        frame[slices == b] = np.rint(counts).astype(np.int64) + (whole if whole <= len(own) else 0)
    return frame


def _by_instance(told: np.ndarray, slices: np.ndarray) -> np.ndarray:
    """Frames by InstanceNumber: volume by volume where it runs so, which shows gaps, else by rank in each slice."""
    count = int(slices.max()) + 1
    volume, place = np.divmod(told.astype(np.int64) - 1, count)
    if all(len(set(place[slices == b].tolist())) == 1 for b in range(count)):
        return volume - volume.min()
    return _by_rank(told, slices)
