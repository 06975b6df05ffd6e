"""A scanner for tests: what it would have measured of point sources at known places in its (LPS) coordinates.

Every sample is the Fourier integral itself, and files are written straight with the ismrmrd library.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ismrmrd
import numpy as np
from ismrmrd import xsd

READ = np.array([0.6, 0.8, 0.0])
PHASE = np.array([-0.48, 0.36, 0.8])
POSITION = np.array([11.0, -7.0, 23.0])


@dataclass
class Scanner:
    """A protocol: matrices and fields of view as (x, y), in voxels and millimetres."""

    encoded: tuple[int, int] = (32, 24)
    encoded_fov: tuple[float, float] = (320.0, 240.0)
    recon: tuple[int, int] = (32, 24)
    recon_fov: tuple[float, float] = (320.0, 240.0)
    thickness: float = 6.0
    centre: int | None = None
    coils: int = 2
    header: dict[str, Any] = field(default_factory=dict)

    def xml(self) -> xsd.ismrmrdHeader:
        def space(matrix: tuple[int, int], fov: tuple[float, float]) -> xsd.encodingSpaceType:
            return xsd.encodingSpaceType(
                matrixSize=xsd.matrixSizeType(x=matrix[0], y=matrix[1], z=1),
                fieldOfView_mm=xsd.fieldOfViewMm(x=fov[0], y=fov[1], z=self.thickness),
            )

        centre = self.encoded[1] // 2 if self.centre is None else self.centre
        lines = xsd.limitType(minimum=0, maximum=self.encoded[1] - 1, center=centre)
        encoding = xsd.encodingType(
            encodedSpace=space(self.encoded, self.encoded_fov),
            reconSpace=space(self.recon, self.recon_fov),
            encodingLimits=xsd.encodingLimitsType(kspace_encoding_step_1=lines),
            trajectory=xsd.trajectoryType.CARTESIAN,
        )
        return xsd.ismrmrdHeader(
            experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=63_870_000),
            encoding=[encoding],
            sequenceParameters=xsd.sequenceParametersType(TR=[40.0]),
            **self.header,
        )

    def readout(self, line: int, sources: np.ndarray, position: np.ndarray = POSITION) -> ismrmrd.Acquisition:
        """One fully sampled line of point sources at LPS places, coil c seeing them (1 + i c) times as bright."""
        kx = (np.arange(self.encoded[0]) - self.encoded[0] // 2) / self.encoded_fov[0]
        centre = self.encoded[1] // 2 if self.centre is None else self.centre
        ky = (line - centre) / self.encoded_fov[1]
        x, y = (sources - position) @ READ, (sources - position) @ PHASE
        signal = np.exp(-2j * np.pi * (np.outer(x, kx) + (y * ky)[:, None])).sum(axis=0)
        coils = 1 + 1j * np.arange(self.coils)
        readout = ismrmrd.Acquisition.from_array(
            np.outer(coils, signal).astype(np.complex64), center_sample=self.encoded[0] // 2, sample_time_us=4.0
        )
        readout.idx.kspace_encode_step_1 = line
        readout.position[:] = position
        readout.read_dir[:], readout.phase_dir[:], readout.slice_dir[:] = READ, PHASE, np.cross(READ, PHASE)
        return readout

    def lines(self, sources: np.ndarray, **idx: int) -> list[ismrmrd.Acquisition]:
        readouts = [self.readout(line, sources) for line in range(self.encoded[1])]
        for readout in readouts:
            for name, value in idx.items():
                setattr(readout.idx, name, value)
        return readouts


def write(path: Path, header: xsd.ismrmrdHeader, readouts: list[ismrmrd.Acquisition]) -> Path:
    with ismrmrd.File(str(path), "w") as file:
        file["dataset"].header = header
        file["dataset"].acquisitions = readouts
    return path


def noise_scan(samples: np.ndarray, dwell: float = 4.0) -> ismrmrd.Acquisition:
    scan = ismrmrd.Acquisition.from_array(samples.astype(np.complex64), sample_time_us=dwell)
    scan.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT)
    return scan


SOURCE = POSITION + 60.0 * READ - 40.0 * PHASE  # on a voxel of every grid below
QUIET = Scanner()
