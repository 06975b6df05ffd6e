"""When each frame of a derived series is, and which frames of the source it was made of."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medseq.io.dicom.series import Frame

# Trigger times come in steps of at most 0.1 ms: two frames that are closer are the same one.
_SAME = 1e-4


@dataclass(frozen=True)
class Moment:
    """One derived frame of one slice.

    sources: indices of the source's frames of that slice, the nearest first: itself, or both neighbours.
    synthetic: it shows a time at which nothing was measured. time: seconds on the slice's own clock (`Frame.time`).
    """

    sources: tuple[int, ...]
    synthetic: bool
    time: float


def moments(
    frames: tuple[Frame | None, ...], source_times: np.ndarray, period: float | None, times: np.ndarray
) -> list[Moment]:
    """One moment for each of `times`, in a slice that has `frames` (None is missing) at `source_times`.

    source_times, times: seconds on the common clock of the series. period: seconds after which it starts anew, or
    None. The slice's own times are interpolated between those of its frames, across the end of a period too, so that
    slices whose heart beats differ in length each keep their own clock.
    """
    there = np.array([index for index, frame in enumerate(frames) if frame is not None])
    own = np.array([frame.time for frame in frames if frame is not None])
    indices, common = there, source_times[there]
    if period is not None:
        stretch = (own[-1] - own[0]) / (common[-1] - common[0]) if len(own) > 1 else 1.0
        indices = np.concatenate([there, there, there])
        common = np.concatenate([common - period, common, common + period])
        own = np.concatenate([own - period * stretch, own, own + period * stretch])
    return [_moment(time, indices, common, own) for time in times]


def _moment(time: float, indices: np.ndarray, common: np.ndarray, own: np.ndarray) -> Moment:
    distances = np.abs(common - time)
    nearest = int(np.argmin(distances))
    if distances[nearest] <= _SAME:
        return Moment((int(indices[nearest]),), False, float(own[nearest]))
    after = int(np.searchsorted(common, time))
    around = [k for k in (after - 1, after) if 0 <= k < len(common)]
    around.sort(key=lambda k: distances[k])
    sources = tuple(dict.fromkeys(int(indices[k]) for k in around))
    if len(around) == 2:
        return Moment(sources, True, float(np.interp(time, common, own)))
    # Before the first or after the last frame of a series without a period: its clock runs on as the common one.
    return Moment(sources, True, float(own[nearest] + time - common[nearest]))
