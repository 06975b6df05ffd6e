"""Where and when an ISMRMRD file was measured: LPS positions and directions to an affine, counters to times."""

from __future__ import annotations

import numpy as np

from medseq.io.raw_scan import Scan

# ISMRMRD and DICOM count x to the left and y to the back, NIfTI and medseq to the right and the front.
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])
# No frame of many lines is this short; a TR below it is the time from line to line.
_SHORTEST_FRAME_MS = 10.0


def affine_of(
    scan: Scan, slices: np.ndarray, voxel: tuple[float, float], size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """(4x4 affine voxel -> RAS mm, place of each slice along z).

    slices: for each image readout the rank of its slice number. voxel, size: in mm and voxels, along (x, y).
    `position` is the centre of the slice's field of view, where the phase of the Fourier transform is zero: voxel
    size // 2. Slices are placed along their normal when their numbers are in another order.
    Raises InputError on directions that change or are not perpendicular, and on slices that are not evenly spaced.
    """
    axes = _axes(scan)
    positions, order, step = _slice_positions(scan, slices, axes[:, 2])
    affine = np.eye(4)
    affine[:3, :3] = np.column_stack([axes[:, 0] * voxel[0], axes[:, 1] * voxel[1], step])
    affine[:3, 3] = positions[order[0]] - affine[:3, :2] @ np.array([size[0] // 2, size[1] // 2])
    affine[:3] = LPS_TO_RAS @ affine[:3]
    if abs(np.linalg.det(affine[:3, :3])) < 1e-12:
        raise scan.refusal("the slices lie in one plane; correct positions and directions")
    return affine, np.argsort(order)


def _axes(scan: Scan) -> np.ndarray:
    """Unit vectors in LPS, as columns: read, phase, slice."""
    lines = scan.lines
    vectors = np.stack([lines[name].astype(np.float64) for name in ("read_dir", "phase_dir", "slice_dir")], axis=-1)
    if not np.isfinite(vectors).all() or not np.isfinite(lines["position"]).all():
        raise scan.refusal("a position or direction is not finite; correct the readouts' headers")
    if np.abs(vectors - vectors[0]).max() > 1e-3:
        raise scan.refusal("the directions change from readout to readout; split the file by orientation")
    axes = vectors[0]
    length = np.linalg.norm(axes, axis=0)
    if (length[:2] < 1e-3).any():
        fov = scan.encoding.reconSpace.fieldOfView_mm
        scan.assume(f"no directions; identity axes are taken, with a field of view of {fov.x:g} x {fov.y:g} mm")
        return LPS_TO_RAS.copy()  # the identity, once turned to RAS
    if length[2] < 1e-3:
        scan.assume("no slice direction; the normal of read and phase direction is taken")
        axes[:, 2] = np.cross(axes[:, 0], axes[:, 1])
    axes = axes / np.linalg.norm(axes, axis=0)
    if abs(np.linalg.det(axes)) < 0.9:
        raise scan.refusal("read, phase and slice directions are not perpendicular; correct them")
    return axes


def _slice_positions(scan: Scan, slices: np.ndarray, normal: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(LPS position of each slice, the order of slices along z, step from one to the next in mm)."""
    count = int(slices.max()) + 1
    measured = scan.lines["position"].astype(np.float64)
    positions = np.stack([measured[slices == index][0] for index in range(count)])
    if np.abs(measured - positions[slices]).max() > 0.01:
        scan.assume("the position of a slice changes; its first one is taken")
    thickness = scan.encoding.reconSpace.fieldOfView_mm.z
    if not (np.isfinite(thickness) and thickness > 0):
        thickness = 1.0
        scan.assume("no slice thickness in the header; 1 mm is taken")
    order = np.arange(count)
    if count == 1:
        return positions, order, normal * thickness
    if np.ptp(positions, axis=0).max() < 1e-3:
        scan.assume(f"all slices have one position; they are put {thickness:g} mm apart")
        return positions, order, normal * thickness
    along = positions @ normal
    if not (np.diff(along) < 0).all():  # numbered from the far end: then the z axis points that way
        order = np.argsort(along, kind="stable")
    steps = np.diff(positions[order], axis=0)
    step = steps.mean(axis=0)
    if np.linalg.norm(step) < 1e-3 or np.abs(steps - step).max() > 0.01 * np.linalg.norm(step):
        raise scan.refusal("the slices are not evenly spaced; split the file into one for each slice")
    return positions, order, step


def frames_of(scan: Scan, times: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, float | None]:
    """(frame of each image readout, times (T,) in seconds, period in seconds or None).

    Frames are cardiac phases or repetitions, whichever there are more than one of; both are refused. TR is the time
    from frame to frame. Cardiac phases are gated: they cover one cycle, of period T * TR.
    times: medseq's own frame times, if the file holds them; the header then only says which counter is meant.
    """
    counters = scan.lines["idx"]
    counts = {name: int(counters[name].max()) + 1 for name in ("phase", "repetition")}
    if min(counts.values()) > 1:
        raise scan.refusal(f"{counts['phase']} phases in {counts['repetition']} repetitions; split the repetitions")
    name = "phase" if counts["phase"] > 1 else "repetition"
    frame, count = counters[name].astype(np.int64), counts[name]
    if times is not None:
        if len(times) < count:
            raise scan.refusal(f"{count} frames, but {len(times)} stored times; one of them is wrong")
        return frame, times, scan.own_parameters().get("period")
    limits = getattr(scan.encoding.encodingLimits, name)
    if limits and limits.maximum + 1 != count:
        scan.assume(f"the header announces {limits.maximum + 1} {name}s, {count} were measured")
    empty = count - len(np.unique(frame))
    if empty > count // 2:
        raise scan.refusal(f"{empty} of {count} frames have no readout; correct the {name} counters")
    if empty:
        scan.assume(f"{empty} of {count} frames have no readout")
    interval = _frame_interval(scan, count)
    return frame, interval * np.arange(count), count * interval if name == "phase" else None


def _frame_interval(scan: Scan, frames: int) -> float:
    sequence = scan.header.sequenceParameters
    stored = sequence.TR[0] if sequence and sequence.TR else 0.0
    if not (np.isfinite(stored) and stored > 0):
        if frames > 1:
            scan.assume("no TR; frames are counted, as if 1 s apart")
        return 1.0
    if frames > 1 and stored < _SHORTEST_FRAME_MS:
        scan.assume(f"the TR of {stored:g} ms is taken as the time between frames, though it suits that between lines")
    return stored / 1e3
