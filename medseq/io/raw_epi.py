"""Echo-planar (EPI) readouts: which are lines of k-space already, and which are not yet.

An EPI train reads every other line backwards, and often while the gradient still ramps. Until lines are flipped, the
small shift and phase between both directions is corrected by navigators, and samples are moved to even places, an
image of them is blurred and has ghosts. medseq does none of this: it takes lines for which it is done. A file says so
by what it no longer holds; docs/raw-formats.md has the rules.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from medseq.io.ismrmrd_library import ismrmrd, xsd
from medseq.io.raw_scan import Scan, has

_REMEDY = "have the lines flipped, ghost-corrected and regridded first, and its header say so (docs/raw-formats.md)"


def check_echo_trains(scan: Scan) -> None:
    """Raise InputError, naming what is left to do, for EPI readouts that are not lines of k-space yet.

    A Cartesian scan is taken for EPI where it has reversed readouts and phase-correction navigators.
    """
    navigators = int(has(scan.heads, ismrmrd.ACQ_IS_PHASECORR_DATA).sum())
    used = scan.heads[np.concatenate([scan.image, scan.calibration])]
    reverse = int(has(used, ismrmrd.ACQ_IS_REVERSE).sum())
    if not is_epi(scan) and not (navigators and reverse):
        return
    left = []
    if reverse:
        left.append(f"{reverse} reversed readouts are not flipped and ghost-corrected")
    if navigators:
        left.append(f"{navigators} phase-correction navigators are not applied")
    if is_epi(scan):
        left += _not_regridded(scan)
    if left:
        raise scan.refusal(f"raw EPI data: {', '.join(left)}; {_REMEDY}")


def is_epi(scan: Scan) -> bool:
    return bool(scan.encoding.trajectory == xsd.trajectoryType.EPI)


def _not_regridded(scan: Scan) -> Iterator[str]:
    lines, matrix = scan.lines, scan.encoding.encodedSpace.matrixSize.x
    if (lines["trajectory_dimensions"] > 0).any():
        yield "the readouts have trajectories, so that their samples are not evenly spaced"
    uneven = np.unique(lines["number_of_samples"][lines["number_of_samples"] != matrix])
    if len(uneven):
        yield f"readouts of {uneven[0]} samples are not regridded to the encoded matrix of {matrix}"
    elif _on_ramps(scan):
        yield "samples were taken on the gradient's ramps and are not regridded"


def _on_ramps(scan: Scan) -> bool:
    """Whether the readouts are those of the gradient's description (its `numSamples`) and reach beyond its flat top.

    The description and its names are those of ISMRMRD's converters for `ConventionalEPI`, times in microseconds.
    """
    description = scan.encoding.trajectoryDescription
    if description is None:
        return False
    stored = [*description.userParameterLong, *description.userParameterDouble]
    given = {each.name: float(each.value) for each in stored}
    if given.get("numSamples") != float(scan.lines["number_of_samples"][0]):
        return False  # their number has changed since
    names = ("rampUpTime", "flatTopTime", "acqDelayTime", "dwellTime")
    if any(name not in given for name in names):
        return True  # nothing says that they are even
    ramp, flat, delay, dwell = (given[name] for name in names)
    return delay < ramp or delay + given["numSamples"] * dwell > ramp + flat
