"""Where every readout of an ISMRMRD file goes: which slice, frame and line, and where along the line."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from medseq.io.ismrmrd_library import ismrmrd
from medseq.io.raw_geometry import affine_of, frames_of
from medseq.io.raw_scan import Scan, has

# Of the matrix, over what was measured of it: far more than any scan is undersampled or zero-filled.
_MOST_SAMPLES, _MOST_LINES = 16, 64


@dataclass(frozen=True)
class ReadoutAxis:
    """How a stored readout becomes a row of the grid; lengths in samples.

    It is put into `encoded` samples, cut in image space to `cropped` (which removes oversampling), then zero-filled or
    cut in k-space to `final`.
    """

    encoded: int
    cropped: int
    final: int


@dataclass(frozen=True)
class Window:
    """Which samples of each image readout to use, arrays of one number a readout.

    first, last: slice of the samples, once flipped where `flip`. start: where it goes on the encoded grid.
    """

    first: np.ndarray
    last: np.ndarray
    start: np.ndarray
    flip: np.ndarray


@dataclass(frozen=True)
class Plan:
    """shape: (B, C, T, Y, X) of the k-space. slices, frames, rows: for each image readout its index along B, T and Y
    (row -1: beyond the final resolution). affine, times, period: as in `KSpace`."""

    shape: tuple[int, int, int, int, int]
    axis: ReadoutAxis
    window: Window
    slices: np.ndarray
    frames: np.ndarray
    rows: np.ndarray
    affine: np.ndarray
    times: np.ndarray
    period: float | None


def make_plan(scan: Scan, times: np.ndarray | None) -> Plan:
    """Plan where the readouts go; times: medseq's own frame times (T,) in seconds, if the file holds them.

    Raises InputError, naming the reason, on what is not multi-coil Cartesian 2-D + t, or contradicts itself.
    """
    coils = scan.coils()
    axis, voxel_x = _readout_axis(scan)
    rows, height, voxel_y = _rows(scan)
    _check_measured(scan, max(axis.encoded, axis.final), height)
    window = _window(scan, axis.encoded)
    numbers, rank = np.unique(scan.lines["idx"]["slice"], return_inverse=True)
    affine, place = affine_of(scan, rank, (voxel_x, voxel_y), (axis.final, height))
    frames, times, period = frames_of(scan, times)
    shape = (len(numbers), coils, len(times), height, axis.final)
    return Plan(shape, axis, window, place[rank], frames, rows, affine, times, period)


def _check_measured(scan: Scan, width: int, height: int) -> None:
    """Refuse a matrix beyond all that undersampling and zero-filling do: a damaged header asks for any memory."""
    samples = int(scan.lines["number_of_samples"].max())
    lines = len(np.unique(scan.lines["idx"]["kspace_encode_step_1"]))
    if width > _MOST_SAMPLES * samples or height > _MOST_LINES * lines:
        raise scan.refusal(
            f"a matrix of {width} x {height} for {lines} lines of {samples} samples; correct the matrix in the header"
        )


def calibration_plan(scan: Scan, calibrating: Scan, plan: Plan) -> Plan | None:
    """Plan where the readouts of a calibration scan go: on the grid of the image, as one frame.

    plan: that of the image `scan`. The scan may have a matrix of its own, but needs the lines' spacing of the image:
    None, with a note, where it has not. Slices that the image lacks are left out.
    """
    space, wanted = calibrating.encoding.encodedSpace, scan.encoding.reconSpace
    cropped = round(space.matrixSize.x * wanted.fieldOfView_mm.x / space.fieldOfView_mm.x)
    fov, other = scan.encoding.encodedSpace.fieldOfView_mm.y, space.fieldOfView_mm.y
    if abs(fov - other) > 1e-3 * fov or not 1 <= cropped <= space.matrixSize.x:
        calibrating.assume("the calibration scan has another field of view than the image; it is left aside")
        return None
    *_, height, width = plan.shape
    rows = _offsets(calibrating) + height // 2
    places = dict(zip(scan.lines["idx"]["slice"].tolist(), plan.slices.tolist(), strict=True))
    slices = np.array([places.get(number, -1) for number in calibrating.lines["idx"]["slice"].tolist()])
    used = (rows >= 0) & (rows < height) & (slices >= 0)
    axis = ReadoutAxis(space.matrixSize.x, cropped, width)
    return replace(
        plan,
        shape=(*plan.shape[:2], 1, height, width),
        axis=axis,
        window=_window(calibrating, axis.encoded),
        slices=slices,
        frames=np.zeros(len(rows), np.int64),
        rows=np.where(used, rows, -1),
    )


def frame_plan(scan: Scan, plan: Plan) -> Plan:
    """Plan where the readouts of one more frame of one slice go: on the grid of the frames that were planned before.

    plan: theirs. Frames with few lines are no fault here. Raises InputError when coils or encoding are others.
    """
    rows, height, _ = _rows(scan)
    axis, _ = _readout_axis(scan)
    if (scan.coils(), height, axis) != (plan.shape[1], plan.shape[3], plan.axis):
        raise scan.refusal("a frame with other coils or another encoding than those before; start another measurement")
    first = np.zeros(len(rows), np.int64)
    shape = (1, plan.shape[1], 1, *plan.shape[3:])
    return replace(plan, shape=shape, window=_window(scan, axis.encoded), slices=first, frames=first, rows=rows)


def _readout_axis(scan: Scan) -> tuple[ReadoutAxis, float]:
    """The readout axis and its final voxel size in mm.

    Along a readout the samples are complete, so that the field of view is cut exactly, in image space. The resolution
    becomes that of the reconstruction space: high frequencies are left unmeasured, or left out.
    """
    space, wanted = scan.encoding.encodedSpace, scan.encoding.reconSpace
    encoded, fov, fov_wanted = space.matrixSize.x, space.fieldOfView_mm.x, wanted.fieldOfView_mm.x
    cropped = max(1, round(encoded * fov_wanted / fov))
    if cropped > encoded:
        raise scan.refusal(
            f"the field of view to reconstruct ({fov_wanted:g} mm) exceeds the {fov:g} mm read out; correct it"
        )
    axis = ReadoutAxis(encoded, cropped, wanted.matrixSize.x)
    return axis, cropped * fov / encoded / axis.final


def _rows(scan: Scan) -> tuple[np.ndarray, int, float]:
    """(row of each readout on the final grid or -1, number of rows, voxel size in mm) along the phase encoding.

    Lines may be missing, so that the field of view cannot be cut before the reconstruction: it stays the encoded one,
    and says so. The resolution becomes that of the reconstruction space, as along the readout.
    """
    space, wanted = scan.encoding.encodedSpace, scan.encoding.reconSpace
    fov, fov_wanted = space.fieldOfView_mm.y, wanted.fieldOfView_mm.y
    height = max(1, round(wanted.matrixSize.y * fov / fov_wanted))
    if abs(fov - fov_wanted) > 1e-3 * fov_wanted:
        scan.assume(f"along y the image keeps the encoded field of view, {fov:g} mm instead of {fov_wanted:g} mm")
    rows = _offsets(scan) + height // 2
    outside = (rows < 0) | (rows >= height)
    if outside.any():
        scan.assume(f"{int(outside.sum())} readouts beyond the resolution of the reconstruction are left out")
    return np.where(outside, -1, rows), height, fov / height


def _offsets(scan: Scan) -> np.ndarray:
    """How many lines each readout lies off the central one."""
    encoded = scan.encoding.encodedSpace.matrixSize.y
    offset = scan.lines["idx"]["kspace_encode_step_1"].astype(np.int64) - _centre_line(scan)
    if (offset < -(encoded // 2)).any() or (offset >= encoded - encoded // 2).any():
        span = f"lines {offset.min()} to {offset.max()} from the centre"
        raise scan.refusal(f"{span} do not fit the encoded matrix of {encoded}; correct encodingLimits or matrix")
    return offset


def _centre_line(scan: Scan) -> int:
    """The kspace_encode_step_1 of the central line."""
    limits = scan.encoding.encodingLimits.kspace_encoding_step_1
    if limits is not None and (limits.center > 0 or limits.maximum <= 1):
        return int(limits.center)
    centre = int(scan.encoding.encodedSpace.matrixSize.y) // 2
    scan.assume(f"the header does not say which line is the centre; {centre} is taken")
    return centre


def _window(scan: Scan, encoded: int) -> Window:
    """The samples of each readout on the encoded grid, whose centre is encoded // 2.

    Samples to discard count in the order of acquisition. A reversed readout is flipped first, and its center_sample
    counts in the flipped order (as in mrpro), so that reversed and plain symmetric echoes coincide.
    """
    lines = scan.lines
    samples, centre = lines["number_of_samples"].astype(np.int64), lines["center_sample"].astype(np.int64)
    pre, post = lines["discard_pre"].astype(np.int64), lines["discard_post"].astype(np.int64)
    unset = (centre == 0) & (samples == encoded) & (encoded > 1)
    if unset.any():
        scan.assume(f"{int(unset.sum())} readouts do not say their center_sample; {encoded // 2} is taken")
    centre = np.where(unset, encoded // 2, centre)
    flip = has(lines, ismrmrd.ACQ_IS_REVERSE)
    first, last = np.where(flip, post, pre), samples - np.where(flip, pre, post)
    if (first >= last).any():
        raise scan.refusal("a readout of which every sample is to be discarded; correct discard_pre and discard_post")
    start = encoded // 2 + first - centre
    outside = (start < 0) | (start + last - first > encoded)
    if outside.any():
        worst = int(np.argmax(outside))
        what = f"a readout of {samples[worst]} samples with centre {centre[worst]}"
        raise scan.refusal(f"{what} does not fit the encoded matrix of {encoded}; correct the matrix or center_sample")
    return Window(first, last, start, flip)
