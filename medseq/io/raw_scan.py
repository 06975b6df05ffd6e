"""What an ISMRMRD file holds, before any sample is read: its image readouts and the encoding they share.

What medseq cannot use is refused or left out here, by name.
Source: the MRD documentation, https://ismrmrd.readthedocs.io (raw acquisition data, encoding).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medseq.errors import InputError
from medseq.io.ismrmrd_library import ismrmrd, xsd

# The names of medseq's own parameters in a header start with this: `noise_std` (data units) and `period` (seconds).
PREFIX = "medseq_"
_NO_IMAGE = {
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


@dataclass(frozen=True)
class Scan:
    """One file: its XML header, the headers of all its readouts, and which of them are what.

    heads: structured array of every readout's header. image, noise: indices of the image readouts and noise scans.
    notes: what had to be assumed or left out, one sentence each, added to while the file is understood.
    """

    path: Path
    header: xsd.ismrmrdHeader
    heads: np.ndarray
    notes: list[str] = field(default_factory=list)
    image: np.ndarray = field(init=False)
    noise: np.ndarray = field(init=False)
    encoding: xsd.encodingType = field(init=False)

    def __post_init__(self) -> None:
        image, noise = self._sorted()
        object.__setattr__(self, "image", image)
        object.__setattr__(self, "noise", noise)
        object.__setattr__(self, "encoding", self._encoding())

    @property
    def lines(self) -> np.ndarray:
        """The headers of the image readouts."""
        return self.heads[self.image]

    def assume(self, what: str) -> None:
        self.notes.append(f"{self.path}: {what}")

    def refusal(self, why: str) -> InputError:
        return InputError(f"{self.path}: {why}")

    def _sorted(self) -> tuple[np.ndarray, np.ndarray]:
        """Indices of the image readouts and of the noise scans; what is neither is skipped by name."""
        noise = has(self.heads, ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
        image = ~noise
        for flag, name in _NO_IMAGE.items():
            image = self._without(image, image & has(self.heads, flag), f"{name} readouts")
        parallel = self.header.encoding[0].parallelImaging if self.header.encoding else None
        mode = parallel.calibrationMode if parallel else None
        # Calibration lines of the image itself are as good as any other; a scan of its own has another contrast.
        if mode in (xsd.calibrationModeType.SEPARATE, xsd.calibrationModeType.EXTERNAL):
            calibration = image & has(self.heads, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
            image = self._without(image, calibration, f"readouts of a {mode.value} calibration scan")
        if not image.any():
            raise self.refusal(f"no image readouts among {len(self.heads)}; give a file with raw image data")
        return np.flatnonzero(image), np.flatnonzero(noise)

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
            raise self.refusal(f"the readouts refer to encoding {references[0]}, which the header lacks")
        encoding = self.header.encoding[references[0]]
        if encoding.trajectory != xsd.trajectoryType.CARTESIAN:
            raise self.refusal(f"the trajectory is {encoding.trajectory.value}; only Cartesian raw data can be used")
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
        if (lines["trajectory_dimensions"] > 0).any():
            self.assume("stored trajectories are left aside, as the header says Cartesian")
        return encoding

    def coils(self) -> int:
        """The number of channels, the same in every readout; raises InputError when it is not."""
        counts = np.unique(self.heads["active_channels"][np.concatenate([self.image, self.noise])])
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


def has(heads: np.ndarray, flag: int) -> np.ndarray:
    """Which of the readouts carry the flag (the library's numbers start from 1)."""
    return (heads["flags"] >> np.uint64(flag - 1)) & np.uint64(1) == 1
