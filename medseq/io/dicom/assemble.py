"""From stacks of images to series: slices by frames, with geometry and time."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medseq.errors import InputError
from medseq.io.dicom.components import IMAGINARY
from medseq.io.dicom.geometry import affine, slice_centres
from medseq.io.dicom.grouping import Stack
from medseq.io.dicom.ordering import Order, order_frames
from medseq.io.dicom.records import Record
from medseq.io.dicom.series import DicomSeries, Frame
from medseq.io.dicom.timing import Timing, cycle_times, kind_of, running_times

Rows = tuple[tuple[Frame | None, ...], ...]


def assemble(stack: Stack, half: Stack | None = None) -> DicomSeries:
    """One series of a stack, joined with its other half (its phases, or its imaginary part) where there is one.

    Raises InputError when its images cannot be laid out as slices by frames, or the halves do not match.
    """
    records = stack.records
    slices, centres = slice_centres(records)
    order = order_frames(records, slices, stack.is_gated)
    matrix, notes = affine(stack.first, centres)
    if not stack.first.is_scaled:
        notes.append("the unit of its phases is unknown; they are not joined with magnitudes")
    kind = kind_of(records, slices, order, stack.is_gated)
    is_cyclic = order.clue == "trigger" and stack.is_gated
    timing = cycle_times(records, slices, order) if is_cyclic else running_times(records, slices, order, kind)
    frames = _layout(records, slices, order, timing)
    first = min(records, key=lambda record: (record.path, record.index))
    return DicomSeries(
        uid=first.series,
        number=min((record.number for record in records if record.number is not None), default=None),
        description=first.description,
        vendor=first.vendor,
        kind=kind,
        frames=frames,
        phases=None if half is None else _other_half(half, order, timing, frames),
        matrix=first.matrix,
        affine=matrix,
        times=timing.times,
        period=timing.period,
        slice_times=timing.slice_times,
        problems=(*stack.problems, *notes, *order.problems, *timing.problems),
        is_cartesian=half is not None and half.first.component == IMAGINARY,
    )


def _other_half(half: Stack, order: Order, timing: Timing, frames: Rows) -> Rows:
    slices, _ = slice_centres(half.records)
    other = order_frames(half.records, slices, half.is_gated)
    if other.frames != order.frames:
        raise InputError(f"{order.frames} magnitude frames and {other.frames} phase frames; get the whole series")
    rows = _layout(half.records, slices, other, timing)
    if [[f is None for f in row] for row in rows] != [[f is None for f in row] for row in frames]:
        raise InputError("magnitude and phase lack different frames; get the whole series")
    return rows


def _layout(records: Sequence[Record], slices: np.ndarray, order: Order, timing: Timing) -> Rows:
    rows: list[list[Frame | None]] = [[None] * order.frames for _ in range(int(slices.max()) + 1)]
    for record, b, t in zip(records, slices.tolist(), order.frame.tolist(), strict=True):
        if rows[b][t] is not None:
            raise InputError(f"two images of slice {b + 1}, frame {t + 1}; leave one of them out")
        time = float(timing.own[b, t])
        rows[b][t] = Frame(record.path, record.index, record.position, time, record.slope, record.intercept)
    return tuple(tuple(row) for row in rows)
