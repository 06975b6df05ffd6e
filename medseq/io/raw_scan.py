"""What an ISMRMRD file holds, before any sample is read: its image readouts and the encoding they share.

What medseq cannot use is refused or left out here, by name.
Source: the MRD documentation, https://ismrmrd.readthedocs.io (raw acquisition data, encoding).
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseq.errors import InputError
from medseq.io.ismrmrd_library import ismrmrd, xsd

# The names of medseq's own parameters in a header start with this: `noise_std` (data units), `period` and
# `readout_interval` (seconds).
PREFIX = "medseq_"
NO_IMAGE = {
    ismrmrd.ACQ_IS_NAVIGATION_DATA: "navigator",
    ismrmrd.ACQ_IS_PHASECORR_DATA: "phase-correction",
    ismrmrd.ACQ_IS_HPFEEDBACK_DATA: "HP-feedback",
    ismrmrd.ACQ_IS_DUMMYSCAN_DATA: "dummy",
    ismrmrd.ACQ_IS_RTFEEDBACK_DATA: "real-time feedback",
    ismrmrd.ACQ_IS_SURFACECOILCORRECTIONSCAN_DATA: "surface-coil correction",
    ismrmrd.ACQ_IS_PHASE_STABILIZATION_REFERENCE: "phase-stabilisation reference",
    ismrmrd.ACQ_IS_PHASE_STABILIZATION: "phase-stabilisation",
}
# Counters that medseq has no axis for: more than one value among the image readouts is refused.
_ONE_VALUE = {
    "contrast": "contrasts (echoes)",
    "set": "sets",
    "kspace_encode_step_2": "steps of a second phase encoding (3-D)",
}
_ON_GRID = (xsd.trajectoryType.CARTESIAN, xsd.trajectoryType.EPI)


@dataclass(frozen=True)
class Scan:
    """One file: its XML header, the headers of all its readouts, and which of them are what.

    heads: structured array of every readout's header. image, noise, calibration: indices of the image readouts, of the
    noise scans, and of the calibration scan that is not part of the image.
    notes: what had to be assumed or left out, one sentence each, added to while the file is understood.
    """

    path: Path
    header: xsd.ismrmrdHeader
    heads: np.ndarray
    notes: list[str] = field(default_factory=list)
    image: np.ndarray = field(init=False)
    noise: np.ndarray = field(init=False)
    calibration: np.ndarray = field(init=False)
    encoding: xsd.encodingType = field(init=False)

    def __post_init__(self) -> None:
        for name, readouts in zip(("image", "noise", "calibration"), self._sorted(), strict=True):
            object.__setattr__(self, name, readouts)
        object.__setattr__(self, "encoding", self._encoding())

    @property
    def lines(self) -> np.ndarray:
        """The headers of the image readouts."""
        return self.heads[self.image]

    def assume(self, what: str) -> None:
        self.notes.append(f"{self.path}: {what}")

    def refusal(self, why: str) -> InputError:
        return InputError(f"{self.path}: {why}")

    def calibrating(self) -> Scan | None:
        """The same file with its calibration scan in the place of the image; None where there is none."""
        if not len(self.calibration):
            return None
        twin = copy(self)
        object.__setattr__(twin, "image", self.calibration)
        object.__setattr__(twin, "encoding", twin._encoding())
        return twin

    def _sorted(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Indices of the image readouts, the noise scans and the calibration scan; the rest is skipped by name."""
        noise = has(self.heads, ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        image = ~noise
        for flag, name in NO_IMAGE.items():
            image = self._without(image, image & has(self.heads, flag), f"{name} readouts")
        calibration = image & has(self.heads, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION) & calibrated_apart(self.header)
        image &= ~calibration
        if not image.any():
            raise self.refusal(f"no image readouts among {len(self.heads)}; give a file with raw image data")
        return np.flatnonzero(image), np.flatnonzero(noise), np.flatnonzero(calibration)

    def _without(self, image: np.ndarray, found: np.ndarray, name: str) -> np.ndarray:
        if found.any():
            self.assume(f"{int(found.sum())} {name} are skipped")
        return image & ~found

    def _encoding(self) -> xsd.encodingType:
        """The one encoding of the image, if medseq can use it."""
        lines = self.lines
        references = np.unique(lines["encoding_space_ref"])
        if len(references) > 1:
            raise self.refusal(f"the image has {len(references)} encodings; split it into one file for each")
        if references[0] >= len(self.header.encoding):
            raise self.refusal(
                f"the readouts refer to encoding {references[0]}, which the header lacks; correct either"
            )
        encoding = self.header.encoding[references[0]]
        self._check_one_slice_at_a_time(encoding)
        if encoding.encodedSpace.matrixSize.z > 1 or encoding.reconSpace.matrixSize.z > 1:
            raise self.refusal("the matrix is 3-D (z > 1); only 2-D series can be used")
        for counter, name in _ONE_VALUE.items():
            count = len(np.unique(lines["idx"][counter]))
            if count > 1:
                raise self.refusal(f"{count} {name}; split the file into one for each")
        for space in (encoding.encodedSpace, encoding.reconSpace):
            sizes = [space.matrixSize.x, space.matrixSize.y, space.fieldOfView_mm.x, space.fieldOfView_mm.y]
            if not np.isfinite(sizes).all() or min(sizes) <= 0:
                raise self.refusal(f"impossible matrix or field of view {sizes} in the header; correct it")
        if encoding.trajectory in _ON_GRID and (lines["trajectory_dimensions"] > 0).any():
            self.assume("stored trajectories are left aside, as the header says Cartesian")
        return encoding

    def _check_one_slice_at_a_time(self, encoding: xsd.encodingType) -> None:
        multiband = encoding.parallelImaging.multiband if encoding.parallelImaging else None
        if multiband is not None and multiband.multiband_factor > 1:
            raise self.refusal(
                f"{multiband.multiband_factor} slices were excited at once (multiband); separate them first, and take "
                "multiband out of the header"
            )

    @property
    def on_grid(self) -> bool:
        """Whether the readouts are lines of a grid; else their own trajectories say where they lie."""
        return self.encoding.trajectory in _ON_GRID

    def coils(self) -> int:
        """The number of channels, the same in every readout; raises InputError when it is not."""
        used = np.concatenate([self.image, self.noise, self.calibration])
        counts = np.unique(self.heads["active_channels"][used])
        if len(counts) > 1 or counts[0] < 1:
            raise self.refusal(f"readouts of {counts.tolist()} channels; every readout needs the same coils")
        system = self.header.acquisitionSystemInformation
        announced = system.receiverChannels if system else None
        if announced is not None and announced < counts[0]:
            raise self.refusal(
                f"readouts of {counts[0]} channels, but the header says {announced}; correct one of them"
            )
        return int(counts[0])

    def own_parameters(self) -> dict[str, float]:
        """What medseq itself wrote into the header: see `PREFIX`."""
        stored = self.header.userParameters.userParameterDouble if self.header.userParameters else []
        return {each.name.removeprefix(PREFIX): each.value for each in stored if each.name.startswith(PREFIX)}


def calibrated_apart(header: xsd.ismrmrdHeader) -> bool:
    """Whether calibration lines are a scan of their own, which has another contrast; else they are of the image, and as
    good as any other."""
    parallel = header.encoding[0].parallelImaging if header.encoding else None
    mode = parallel.calibrationMode if parallel else None
    return mode in (xsd.calibrationModeType.SEPARATE, xsd.calibrationModeType.EXTERNAL)


def heads_of(readouts: Sequence[ismrmrd.Acquisition]) -> np.ndarray:
    """The headers of readouts that are not in a file, as `Scan` takes them."""
    heads = b"".join(bytes(readout.getHead()) for readout in readouts)
    return np.frombuffer(heads, ismrmrd.hdf5.acquisition_header_dtype).copy()


def has(heads: np.ndarray, flag: int) -> np.ndarray:
    """Which of the readouts carry the flag (the library's numbers start from 1)."""
    return (heads["flags"] >> np.uint64(flag - 1)) & np.uint64(1) == 1
