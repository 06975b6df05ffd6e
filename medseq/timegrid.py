"""Frames between frames: the uniform time grid that holds known and wanted times."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseq.clip import Clip
from medseq.errors import UsageError
from medseq.operators import LinearOp, Mask, Resample, interpolation_matrix

_TOLERANCE = 0.01  # of a frame interval
_FINEST = 16  # grid steps a frame interval
_LARGEST = 4096  # frames


@dataclass(frozen=True)
class TimeGrid:
    """A uniform grid over a series.

    times: (frames,) seconds. known_index: (T,) the grid frame of each known frame, and wanted_index that of each wanted
    one; both are None when the times don't share a grid, and then matrices of linear weights take their place.
    """

    times: np.ndarray
    known_times: np.ndarray
    wanted_times: np.ndarray
    period: float | None
    known_index: np.ndarray | None
    wanted_index: np.ndarray | None

    @staticmethod
    def for_clip(clip: Clip, *, factor: int = 2, times: np.ndarray | None = None) -> TimeGrid:
        """The grid for `factor` times as many frames, or for `times`. Raises UsageError for what can't be had."""
        if clip.frames < 2:
            raise UsageError("a series of one frame can't be interpolated")
        known = np.asarray(clip.times)
        wanted = _refined(clip, factor) if times is None else _checked(times, clip)
        interval = float(np.diff(known).min())
        end = known[0] + clip.period if clip.period is not None else known[-1]
        for parts in range(1, _FINEST + 1):
            grid = _uniform(known[0], end, interval / parts, clip.period is not None)
            if grid is None:
                continue
            indices = [_index(t, grid, interval) for t in (known, wanted)]
            if indices[0] is not None and indices[1] is not None:
                return TimeGrid(grid, known, wanted, clip.period, indices[0], indices[1])
        count = int(np.ceil((end - known[0]) / interval)) * 4
        fine = known[0] + (end - known[0]) / count * np.arange(count + (clip.period is None))
        return TimeGrid(fine, known, wanted, clip.period, None, None)

    @property
    def frames(self) -> int:
        return len(self.times)

    @property
    def periodic(self) -> bool:
        return self.period is not None

    @property
    def known(self) -> Tensor:
        """(1, 1, frames, 1, 1) bool: which grid frames were measured."""
        keep = torch.zeros(1, 1, self.frames, 1, 1, dtype=torch.bool)
        if self.known_index is not None:
            keep[:, :, self.known_index] = True
        return keep

    def operator(self, device: torch.device) -> LinearOp:
        """From frames on the grid to what `measured` returns."""
        if self.known_index is not None:
            return Mask(self.known.to(device))
        return Resample(linear_weights(self.times, self.known_times, self.period).to(device))

    def measured(self, known: Tensor) -> Tensor:
        """The known frames (B, 1, T, Y, X) as the data of `operator`: at their places on the grid, zero elsewhere."""
        if self.known_index is None:
            return known
        y = known.new_zeros(*known.shape[:2], self.frames, *known.shape[3:])
        y[:, :, self.known_index] = known
        return y

    def wanted(self, series: Tensor) -> Tensor:
        """The wanted frames of a series on the grid."""
        if self.wanted_index is not None:
            return series[:, :, self.wanted_index]
        weights = linear_weights(self.times, self.wanted_times, self.period).to(series.device)
        return Resample(weights)(series)


def linear_weights(known: np.ndarray, wanted: np.ndarray, period: float | None) -> Tensor:
    """(wanted, known) float32 weights of linear interpolation in time, circular with a period (seconds).

    Times a rounding error outside the known span count as its ends.
    """
    inside = wanted if period is not None else np.clip(wanted, known[0], known[-1])
    return interpolation_matrix(torch.tensor(known), torch.tensor(inside), period).float()


def _refined(clip: Clip, factor: int) -> np.ndarray:
    if factor < 1 or factor != int(factor):
        raise UsageError(f"the factor must be a whole number of at least 1, got {factor}")
    known = np.asarray(clip.times)
    if clip.period is not None:
        known = np.append(known, known[0] + clip.period)
    places = np.arange((len(known) - 1) * factor + 1) / factor
    wanted = np.interp(places, np.arange(len(known)), known)
    return wanted[:-1] if clip.period is not None else wanted


def _checked(times: np.ndarray, clip: Clip) -> np.ndarray:
    wanted = np.asarray(times, dtype=np.float64).ravel()
    if len(wanted) == 0 or not np.isfinite(wanted).all() or (np.diff(wanted) <= 0).any():
        raise UsageError("wanted times must be finite seconds that increase strictly")
    known = np.asarray(clip.times)
    slack = _TOLERANCE * float(np.diff(known).min())
    last = known[0] + clip.period - slack if clip.period is not None else known[-1] + slack
    if wanted[0] < known[0] - slack or wanted[-1] > last:
        raise UsageError(
            f"wanted times reach from {wanted[0]:g} to {wanted[-1]:g} s, but the series only from {known[0]:g} to "
            f"{known[-1]:g} s" + ("" if clip.period is None else f" (period {clip.period:g} s)")
        )
    return wanted


def _uniform(start: float, end: float, step: float, periodic: bool) -> np.ndarray | None:
    """start, start + step, ... to `end` (without it if periodic), or None when `end` is off by more than a little."""
    count = round((end - start) / step)
    if count > _LARGEST or abs(start + count * step - end) > _TOLERANCE * step * max(1, count / 64):
        return None
    return start + (end - start) / count * np.arange(count + (not periodic))


def _index(times: np.ndarray, grid: np.ndarray, interval: float) -> np.ndarray | None:
    step = grid[1] - grid[0]
    index = np.rint((times - grid[0]) / step).astype(int)
    if index.min() < 0 or index.max() >= len(grid):
        return None
    return index if np.abs(grid[index] - times).max() <= _TOLERANCE * interval else None
