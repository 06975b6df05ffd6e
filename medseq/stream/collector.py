"""Frames from the readouts of one measurement, in the order they come."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from torch import Tensor

from medseq.errors import InputError
from medseq.io.ismrmrd_library import ismrmrd, xsd
from medseq.io.raw import read_scan
from medseq.io.raw_checks import whole_lines
from medseq.io.raw_plan import Plan, frame_plan, make_plan
from medseq.io.raw_samples import grid_samples
from medseq.io.raw_scan import NO_IMAGE, PREFIX, Scan, calibrated_apart, heads_of
from medseq.stream.frames import Frame, Item, Start
from medseq.stream.tally import Tally

Readouts = list[ismrmrd.Acquisition]

NAME = Path("stream")  # what complaints begin with, in the place of a file
# Any of these says that a frame of a slice is complete; without them the next frame does.
_LAST = (
    ismrmrd.ACQ_LAST_IN_SLICE,
    ismrmrd.ACQ_LAST_IN_PHASE,
    ismrmrd.ACQ_LAST_IN_REPETITION,
    ismrmrd.ACQ_LAST_IN_MEASUREMENT,
)
_COUNTERS = ("phase", "repetition")
_WRAP = 1 << 16  # the counters have 16 bits
_LONGEST_GAP = 1000  # frames; beyond, the counters count something else
_MOST_SLICES = 32
_MOST_HELD = 1 << 30  # bytes of readouts that wait to become frames
_MOST_PLACES = 1 << 28  # of k-space in the first frames of all slices; a header may ask for any matrix


class Collector:
    """Sorts readouts into frames by slice and by the counter of phases or repetitions, whichever moves.

    header: of the measurement. first: how many frames of a slice are held back, as calibration. tally: is told of lines
    and frames that are late, missing, short or of no image.
    Raises InputError, naming the fault, on what medseq cannot use (see `medseq.io.raw.load_ismrmrd`), on trajectories,
    partial echoes, and a slice that moves.
    """

    def __init__(self, header: xsd.ismrmrdHeader, first: int, tally: Tally) -> None:
        self._header, self._first, self._tally = _ungated(header), first, tally
        self._apart = calibrated_apart(header)
        self._before: Readouts = []
        self._slices: dict[int, _Slice] = {}
        self._counter: str | None = None
        self._held = self._places = 0

    def add(self, readout: ismrmrd.Acquisition) -> Iterator[Item]:
        """Take one readout; gives the frames that are complete with it."""
        if any(readout.is_flag_set(flag) for flag in NO_IMAGE):
            self._tally.skipped += 1
            return
        if not np.isfinite(readout.data).all():
            raise InputError(f"{NAME}: some samples are not finite; measure again")
        apart = self._apart and readout.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
        if apart or readout.is_flag_set(ismrmrd.ACQ_IS_NOISE_MEASUREMENT):
            self._keep(readout)
            return
        place = self._slice(readout)
        ahead = self._steps_ahead(place, readout)
        if ahead < 0 or (ahead == 0 and place.closed):
            self._tally.late += 1
            return
        if ahead > 0:
            yield from self._close(place)
            self._tally.missed += ahead - 1
            place.number, place.closed = place.number + ahead, False
        self._hold(readout)
        place.readouts.append(readout)
        place.received = time.monotonic()
        if any(readout.is_flag_set(flag) for flag in _LAST):
            yield from self._close(place)

    def end(self) -> Iterator[Item]:
        """No more will come: gives what is left, of slices that had fewer frames than are held back, too."""
        for number, place in self._slices.items():
            yield from self._close(place)
            if place.grid is None and place.first:
                yield self._calibrate(number, place)

    def _keep(self, readout: ismrmrd.Acquisition) -> None:
        """A readout of the noise or of a calibration scan; once a slice is calibrated there is no use for more."""
        if any(place.grid is not None for place in self._slices.values()):
            self._tally.skipped += 1
            return
        self._hold(readout)
        self._before.append(readout)

    def _slice(self, readout: ismrmrd.Acquisition) -> _Slice:
        number = readout.idx.slice
        if number not in self._slices:
            if len(self._slices) == _MOST_SLICES:
                raise InputError(f"{NAME}: more than {_MOST_SLICES} slices; stream fewer")
            self._slices[number] = _Slice(number, _counters(readout))
        return self._slices[number]

    def _steps_ahead(self, place: _Slice, readout: ismrmrd.Acquisition) -> int:
        """How many frames a readout is ahead of the open one of its slice; negative for one that was closed."""
        counters = _counters(readout)
        moved = [name for name in _COUNTERS if counters[name] != place.start[name]]
        if self._counter is None and len(moved) == 1:
            self._counter = moved[0]
        if any(name != self._counter for name in moved):
            raise InputError(f"{NAME}: both phases and repetitions count; let one of them number the frames")
        if self._counter is None:
            return 0
        since_start = counters[self._counter] - place.start[self._counter]
        ahead = (since_start - place.number + _WRAP // 2) % _WRAP - _WRAP // 2
        if ahead > _LONGEST_GAP:
            raise InputError(f"{NAME}: {ahead - 1} frames are left out at once; count frames one by one")
        return ahead

    def _hold(self, readout: ismrmrd.Acquisition) -> None:
        self._held += readout.data.nbytes + readout.traj.nbytes
        if self._held > _MOST_HELD:
            raise InputError(
                f"{NAME}: over {_MOST_HELD >> 20} MiB of readouts wait to become frames; let a counter or flags part "
                "them, or calibrate with fewer"
            )

    def _close(self, place: _Slice) -> Iterator[Item]:
        """Take the open frame of a slice for complete."""
        readouts, place.readouts, place.closed = place.readouts, [], True
        if not readouts:
            return
        self._tally.frames += 1
        if place.grid is None:
            place.first.append(_Held(place.number, readouts, place.received))
            if len(place.first) == self._first:
                yield self._calibrate(place.slice, place)
            return
        self._held -= sum(readout.data.nbytes + readout.traj.nbytes for readout in readouts)
        self._tally.short += len(readouts) < place.fewest
        y, keep, middle = place.grid.frame(readouts)
        yield Frame(place.slice, place.number, y, keep, place.received, readouts[middle].getHead())

    @np.errstate(invalid="ignore", over="ignore")  # what is not finite is refused by name
    def _calibrate(self, number: int, place: _Slice) -> Start:
        held, place.first = place.first, []
        self._held -= sum(each.nbytes for each in held)
        readouts = [*self._before, *(readout for each in held for readout in each.readouts)]
        heads = heads_of(readouts)
        for name in _COUNTERS:
            heads["idx"][name] = 0
        image = len(self._before)
        heads["idx"]["repetition"][image:] = np.repeat(range(len(held)), [len(each.readouts) for each in held])
        scan = Scan(NAME, self._header, heads)
        if not scan.on_grid:
            raise scan.refusal(
                f"a {scan.encoding.trajectory.value} trajectory, where medseq stream takes Cartesian lines; "
                "reconstruct it from a file"
            )
        times = np.arange(len(held), dtype=np.float64)
        plan = make_plan(scan, times)
        self._places += math.prod(plan.shape)
        if self._places > _MOST_PLACES:
            raise scan.refusal(
                f"k-space of {plan.shape} is too large; correct the matrix, or calibrate with fewer frames"
            )
        kspace = read_scan(readouts, scan, times)
        place.grid = _Grid(self._header, plan, scan.lines[0])
        place.fewest = min(len(each.readouts) for each in held)
        frames = []
        for each in held:
            y, keep, middle = place.grid.frame(each.readouts)
            frames.append(Frame(number, each.number, y, keep, each.received, each.readouts[middle].getHead()))
        return Start(number, kspace, frames)


@dataclass
class _Held:
    """A complete frame that waits for calibration."""

    number: int
    readouts: Readouts
    received: float

    @property
    def nbytes(self) -> int:
        return sum(readout.data.nbytes + readout.traj.nbytes for readout in self.readouts)


@dataclass
class _Slice:
    """slice: its number. start: the counters of its first readout. readouts, number, received: of the open frame.
    first: frames held back. fewest: lines of any of them. grid: where readouts go, known with the calibration."""

    slice: int
    start: dict[str, int]
    readouts: Readouts = field(default_factory=list)
    number: int = 0
    closed: bool = False
    received: float = 0.0
    first: list[_Held] = field(default_factory=list)
    fewest: int = 0
    grid: _Grid | None = None


@dataclass(frozen=True)
class _Grid:
    """Where the readouts of a slice go. plan: that of its first frames, placed: the header of one of their readouts."""

    header: xsd.ismrmrdHeader
    plan: Plan
    placed: np.ndarray

    @np.errstate(invalid="ignore", over="ignore")
    def frame(self, readouts: Sequence[ismrmrd.Acquisition]) -> tuple[Tensor, Tensor, int]:
        """(y (1, C, 1, Y, X), keep (1, 1, 1, Y, 1), which readout is next to the centre) of one frame."""
        scan = Scan(NAME, self.header, heads_of(readouts))
        moved = [
            float(np.abs(scan.lines[name] - self.placed[name]).max()) for name in ("position", "read_dir", "phase_dir")
        ]
        if not np.isfinite(moved).all():
            raise scan.refusal("a position or direction is not finite; correct the readouts' headers")
        if max(moved[0], 1e3 * max(moved[1:])) > 1.0:  # a millimetre, and a thousandth of a unit vector
            raise scan.refusal("the slice moved; start another measurement")
        plan = frame_plan(scan, self.plan)
        y, count = grid_samples(readouts, scan, plan)
        keep = whole_lines(count > 0)
        if keep.shape[-1] != 1:
            raise scan.refusal("partial echoes, where medseq stream takes whole lines; reconstruct it from a file")
        return y, keep, int(np.abs(plan.rows - plan.shape[3] // 2).argmin())


def _counters(readout: ismrmrd.Acquisition) -> dict[str, int]:
    return {name: getattr(readout.idx, name) for name in _COUNTERS}


def _ungated(header: xsd.ismrmrdHeader) -> xsd.ismrmrdHeader:
    """The header without the period that medseq noted: frames that arrive are no gated cycle."""
    header = deepcopy(header)
    if header.userParameters:
        stored = header.userParameters.userParameterDouble
        header.userParameters.userParameterDouble = [each for each in stored if each.name != f"{PREFIX}period"]
    return header
