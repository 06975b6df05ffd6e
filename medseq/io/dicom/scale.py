"""Real values in 16 bits: on the source's scale where that is fine enough, and never clipped."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from medseq.io.dicom.series import Frame

_FEWEST_STEPS = 1000


@dataclass(frozen=True)
class Scale:
    """real value = slope * stored value + intercept, for every frame of a series; `dtype` is uint16 or int16."""

    slope: float
    intercept: float
    dtype: np.dtype

    @property
    def is_identity(self) -> bool:
        return self.slope == 1 and self.intercept == 0

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Real values (slices, ...) rounded to the nearest stored value: at most half a step off."""
        stored = np.empty(values.shape, self.dtype)
        for b, each in enumerate(values):  # slice by slice, as double precision takes several times the memory
            stored[b] = np.rint((each.astype(np.float64) - self.intercept) / self.slope)
        return stored


def choose_scale(values: np.ndarray, slope: float, intercept: float) -> Scale:
    """The scale for real `values` (any shape, finite) whose source has the given slope (> 0) and intercept.

    It is the source's. But where the values would fill fewer than 1000 of its steps, rounding would undo some of a
    noise reduction, and where they would not fit 16 bits, they would be clipped: then the slope is divided or
    multiplied by the power of two that is nearest to 1 and helps. What was representable stays so in finer steps.
    Unsigned, unless a value lies below the intercept.
    """
    low, high = float(values.min()) - intercept, float(values.max()) - intercept
    unsigned = _fitted(slope, max(abs(low), abs(high)), 65535)
    if low / unsigned >= -0.5:
        return Scale(unsigned, intercept, np.dtype(np.uint16))
    return Scale(_fitted(slope, max(abs(low), abs(high)), 32767), intercept, np.dtype(np.int16))


def _fitted(slope: float, reach: float, most: int) -> float:
    """`slope` times the power of two nearest to 1 with which `reach` takes at least 1000 and at most `most` steps."""
    steps = reach / slope
    if 0 < steps < _FEWEST_STEPS:
        return slope / 2.0 ** math.ceil(math.log2(_FEWEST_STEPS / steps))
    if steps > most:
        return slope * 2.0 ** math.ceil(math.log2(steps / most))
    return slope


def source_scale(frames: Iterable[Frame | None]) -> tuple[float, float]:
    """Slope and intercept of a whole series: the finest slope where frames differ in it, as Philips' do."""
    scales = {(frame.slope, frame.intercept) for frame in frames if frame is not None}
    intercepts = {intercept for _, intercept in scales}
    return min(abs(slope) for slope, _ in scales), intercepts.pop() if len(intercepts) == 1 else 0.0
