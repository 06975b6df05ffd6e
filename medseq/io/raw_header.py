"""K-space as the ISMRMRD header and readouts that describe it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from torch import Tensor

from medseq.clip import KSpace
from medseq.io.ismrmrd_library import ismrmrd, xsd
from medseq.io.raw_geometry import LPS_TO_RAS
from medseq.io.raw_scan import PREFIX

# The header demands a frequency, which k-space does not know: that of protons at 1.5 T.
_PROTONS_HZ = 63_870_000
_STRAIGHT = 1e-5  # cycles per voxel


def header_of(kspace: KSpace) -> xsd.ismrmrdHeader:
    """The XML header: matrix, field of view, limits, coils, TR in milliseconds, medseq's own parameters."""
    slices, coils, frames, lines, samples = kspace.data.shape
    height, width = kspace.size
    voxel = np.linalg.norm(kspace.affine[:3, :3], axis=0)
    space = xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(x=width, y=height, z=1),
        fieldOfView_mm=xsd.fieldOfViewMm(x=float(voxel[0] * width), y=float(voxel[1] * height), z=float(voxel[2])),
    )
    limits = xsd.encodingLimitsType(
        kspace_encoding_step_0=xsd.limitType(minimum=0, maximum=samples - 1, center=samples // 2),
        kspace_encoding_step_1=xsd.limitType(minimum=0, maximum=lines - 1, center=lines // 2),
        slice=xsd.limitType(minimum=0, maximum=slices - 1, center=0),
    )
    setattr(limits, frame_counter(kspace), xsd.limitType(minimum=0, maximum=frames - 1, center=0))
    return xsd.ismrmrdHeader(
        version=1,
        acquisitionSystemInformation=xsd.acquisitionSystemInformationType(receiverChannels=coils),
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=_PROTONS_HZ),
        encoding=[
            xsd.encodingType(
                encodedSpace=space,
                reconSpace=space,
                encodingLimits=limits,
                trajectory=_trajectory(kspace),
                parallelImaging=_parallel_imaging(kspace),
            )
        ],
        sequenceParameters=_sequence(kspace),
        userParameters=_user_parameters(kspace),
    )


def _trajectory(kspace: KSpace) -> xsd.trajectoryType:
    """Its name: radial where every readout is a straight line; what else there is, no single name fits."""
    if kspace.trajectory is None:
        return xsd.trajectoryType.EPI if kspace.epi else xsd.trajectoryType.CARTESIAN
    points = kspace.trajectory.points.double()
    (y, x), (along_y, along_x) = (points - points[:, :, :1]).unbind(-1), (points[:, :, -1] - points[:, :, 0]).unbind(-1)
    bent = (y * along_x[..., None] - x * along_y[..., None]).abs().max()
    return xsd.trajectoryType.RADIAL if float(bent) < _STRAIGHT else xsd.trajectoryType.OTHER


def frame_counter(kspace: KSpace) -> str:
    """Which counter numbers the frames: a gated cycle has phases, anything else is repeated."""
    return "repetition" if kspace.period is None else "phase"


def _parallel_imaging(kspace: KSpace) -> xsd.parallelImagingType | None:
    if kspace.calibration is None:
        return None
    lines = kspace.keep.expand(kspace.data.shape)[0, 0, 0].any(-1).nonzero()[:, 0]
    factor = int(lines.diff().median()) if len(lines) > 1 else 1
    return xsd.parallelImagingType(
        accelerationFactor=xsd.accelerationFactorType(kspace_encoding_step_1=factor, kspace_encoding_step_2=1),
        calibrationMode=xsd.calibrationModeType.SEPARATE,
    )


def _sequence(kspace: KSpace) -> xsd.sequenceParametersType | None:
    times = kspace.times
    if len(times) == 1:
        return None
    return xsd.sequenceParametersType(TR=[float(times[-1] - times[0]) / (len(times) - 1) * 1e3])


def _user_parameters(kspace: KSpace) -> xsd.userParametersType | None:
    values = {
        "period": kspace.period,
        "noise_std": None if isinstance(kspace.noise, Tensor) else kspace.noise,
        "readout_interval": kspace.trajectory.interval if kspace.trajectory else None,
    }
    stored = [
        xsd.userParameterDoubleType(name=PREFIX + name, value=float(value))
        for name, value in values.items()
        if value is not None
    ]
    return xsd.userParametersType(userParameterDouble=stored) if stored else None


def acquisitions_of(kspace: KSpace, measured: np.ndarray) -> Iterator[ismrmrd.Acquisition]:
    """One readout for each line of the calibration scan, then for each measured line (B, T, Y), frame by frame."""
    if kspace.calibration is not None:
        calibration = _samples(kspace.calibration.expand(kspace.data.shape[0], -1, -1, -1, -1))
        known = (calibration != 0).any(axis=(1, 4))
        for readout in _readouts(calibration, known, kspace):
            readout.set_flag(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
            yield readout
    for number, readout in enumerate(_readouts(_samples(kspace.data), measured, kspace), start=1):
        if number == measured.sum():
            readout.set_flag(ismrmrd.ACQ_LAST_IN_MEASUREMENT)
        yield readout


def _samples(data: Tensor) -> np.ndarray:
    return data.detach().cpu().resolve_conj().numpy()


def _readouts(data: np.ndarray, measured: np.ndarray, kspace: KSpace) -> Iterator[ismrmrd.Acquisition]:
    """One readout of `data` (B, C, T, Y, X) for each measured line (B, T, Y), frame by frame."""
    slices, samples = data.shape[0], data.shape[-1]
    height, width = kspace.size
    places = None if kspace.trajectory is None else kspace.trajectory.points.flip(-1).cpu().numpy()  # (kx, ky)
    axes = LPS_TO_RAS @ kspace.affine[:3, :3]
    axes = axes / np.linalg.norm(axes, axis=0)
    centres = [(kspace.affine @ [width // 2, height // 2, z, 1])[:3] @ LPS_TO_RAS for z in range(slices)]
    lines = np.argwhere(measured.transpose(1, 0, 2))
    for number, (t, b, y) in enumerate(lines):
        path = None if places is None else places[t if len(places) > 1 else 0, y].astype(np.float32)
        readout = ismrmrd.Acquisition.from_array(
            np.ascontiguousarray(data[b, :, t, y], dtype=np.complex64),
            path,
            center_sample=samples // 2 if path is None else int(np.hypot(*path.T).argmin()),
            scan_counter=number,
        )
        readout.idx.kspace_encode_step_1 = int(y)
        readout.idx.slice = int(b)
        setattr(readout.idx, frame_counter(kspace), int(t))
        readout.position[:] = centres[b]
        readout.read_dir[:], readout.phase_dir[:], readout.slice_dir[:] = axes.T
        yield readout
