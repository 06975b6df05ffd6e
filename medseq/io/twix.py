"""Siemens raw data (twix, `.dat`) of software VB, VD, VE and XA, whose headers are read with pymapvbvd.

A twix file is put into the terms of ISMRMRD, and understood by the code that reads ISMRMRD.
Source: siemens_to_ismrmrd (https://github.com/ismrmrd/siemens_to_ismrmrd), for what corresponds to what.
"""

from __future__ import annotations

import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from traceback import clear_frames
from typing import Any, BinaryIO

import numpy as np

from medseq.clip import KSpace
from medseq.errors import InputError, UsageError
from medseq.io.ismrmrd_library import ismrmrd, xsd
from medseq.io.raw import read_scan
from medseq.io.raw_checks import raw_faults_named
from medseq.io.raw_scan import Scan

_TRAJECTORIES = {1: "CARTESIAN", 2: "RADIAL", 4: "SPIRAL"}  # sKSpace.ucTrajectory
_CALIBRATIONS = {2: "EMBEDDED", 4: "SEPARATE", 8: "SEPARATE", 16: "INTERLEAVED"}  # sPat.ucRefScanMode
_PAIR = np.dtype("<c8")
_VB_HEADER = 128  # bytes before the samples of each channel
_END, _SYNC = 1 << 0, 1 << 5  # bits of the evalInfoMask: no readouts after this, no readout but other data
# Siemens samples every readout twice as densely as its matrix says.
_OVERSAMPLING = 2


def load_twix(path: str | Path) -> KSpace:
    """Load the image readouts of the last measurement of a twix file; noise scans of any measurement give the noise.

    Positions and directions come from the readouts, matrix, fields of view, TR and dwell times from the protocol. What
    becomes of them, what is left out and what is refused: see `medseq.io.raw.load_ismrmrd`. Calibration lines that
    belong to the image (embedded) are used.
    Raises UsageError when pymapvbvd is not installed, InputError when the file is broken, truncated or not Cartesian.
    """
    path = Path(path)
    with raw_faults_named(path, "Siemens twix"):
        measurements = _parsed(path)
        protocol = measurements[-1]["hdr"]["MeasYaps"]
        parts = _parts(measurements, path)
        heads = np.concatenate([_heads(part) for part in parts])
        header = _header(protocol, parts[0].readouts)
        with path.open("rb") as stream:
            scan = Scan(path, header, heads)
            return read_scan(_Readouts(stream, parts), scan)


@dataclass(frozen=True)
class _Part:
    """Readouts of one kind: pymapvbvd's object for them, which of its readouts, their dwell time and ISMRMRD flag."""

    readouts: Any
    chosen: np.ndarray
    dwell_us: float = 0.0
    flag: int | None = None


class _Readouts:
    """The samples of all parts, one after the other, read from the file when they are asked for."""

    def __init__(self, stream: BinaryIO, parts: list[_Part]) -> None:
        self._stream = stream
        self._places = [(part.readouts, int(index)) for part in parts for index in part.chosen]

    def __getitem__(self, key: int | slice) -> Any:
        if isinstance(key, slice):
            return [self._read(*place) for place in self._places[key]]
        return self._read(*self._places[key])

    def _read(self, readouts: Any, index: int) -> ismrmrd.Acquisition:
        """Not through pymapvbvd, which holds all readouts in memory and draws progress bars."""
        samples, coils, layout = int(readouts.NCol), int(readouts.NCha), readouts.freadInfo
        lead = layout.szChannelHeader // _PAIR.itemsize
        start = int(readouts.memPos[index]) + layout.szScanHeader
        content = _at(self._stream, start, coils * (lead + samples) * _PAIR.itemsize)
        rows = np.frombuffer(content, _PAIR).reshape(coils, lead + samples)
        return ismrmrd.Acquisition.from_array(np.ascontiguousarray(rows[:, lead:]))


def _parsed(path: Path) -> list[Mapping[str, Any]]:
    """Header and readouts of every measurement in the file, as pymapvbvd describes them."""
    try:
        from mapvbvd import mapVBVD
    except ImportError as error:
        raise UsageError(f"{path}: reading Siemens raw data needs pymapvbvd; pip install medseq[twix]") from error
    _check_channels(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("error", UserWarning)  # its way to say that the file ends too early
        try:
            found = mapVBVD(str(path), quiet=True)
        except Exception as error:
            clear_frames(error.__traceback__)  # where it has left the file open
            raise
    return found if isinstance(found, list) else [found]


def _check_channels(path: Path) -> None:
    """Raise InputError for a readout without channels in a file of software VB, over which pymapvbvd never gets."""
    with path.open("rb") as stream:
        position, measurements = struct.unpack("<2I", stream.read(8))
        if position < 10000 and measurements <= 64:  # VD and later: every readout has a header of its own to pass
            return
        while len(head := _at(stream, position, _VB_HEADER)) == _VB_HEADER:
            length, flags = struct.unpack_from("<I16xI", head)
            samples, channels = struct.unpack_from("<2H", head, 28)
            if flags & _END or not length & 0xFFFFFF:
                return
            if not flags & _SYNC and not channels:
                raise InputError(f"{path}: damaged, as a readout has no channels; get a fresh copy")
            position += length & 0x1FFFFFF if flags & _SYNC else channels * (_VB_HEADER + _PAIR.itemsize * samples)


def _at(stream: BinaryIO, position: int, size: int) -> bytes:
    stream.seek(position)
    return stream.read(size)


def _parts(measurements: list[Mapping[str, Any]], path: Path) -> list[_Part]:
    """The image first, then calibration lines that are no lines of the image, navigators of EPI, noise scans."""
    last = measurements[-1]
    if "image" not in last:
        raise InputError(f"{path}: no image readouts in its last measurement; give a file with raw image data")
    image = last["image"]
    parts = [_Part(image, np.arange(image.NAcq), _dwell_us(last))]
    if "refscan" in last:
        calibration = last["refscan"]
        extra = np.flatnonzero(~np.isin(calibration.memPos, image.memPos))
        parts.append(_Part(calibration, extra, _dwell_us(last), ismrmrd.ACQ_IS_PARALLEL_CALIBRATION))
    if "phasecor" in last:
        navigators = last["phasecor"]
        every = np.arange(navigators.NAcq)
        parts.append(_Part(navigators, every, _dwell_us(last), ismrmrd.ACQ_IS_PHASECORR_DATA))
    for measurement in measurements:
        if "noise" in measurement:
            noise = measurement["noise"]
            # The protocol's dwell time is that of the image; a noise scan beside one does not say its own.
            dwell = 0.0 if "image" in measurement else _dwell_us(measurement)
            parts.append(_Part(noise, np.arange(noise.NAcq), dwell, ismrmrd.ACQ_IS_NOISE_MEASUREMENT))
    return parts


def _dwell_us(measurement: Mapping[str, Any]) -> float:
    return float(measurement["hdr"]["MeasYaps"].get(("sRXSPEC", "alDwellTime", "0"), 0.0)) / 1e3


def _heads(part: _Part) -> np.ndarray:
    """ISMRMRD's headers of the readouts of one part."""
    source, chosen = part.readouts, part.chosen
    heads = np.zeros(len(chosen), ismrmrd.hdf5.acquisition_header_dtype)
    heads["number_of_samples"], heads["active_channels"] = int(source.NCol), int(source.NCha)
    heads["available_channels"] = int(source.NCha)
    heads["center_sample"] = source.centerCol[chosen]
    heads["discard_pre"], heads["discard_post"] = source.cutOff[chosen].T
    heads["sample_time_us"] = part.dwell_us
    heads["flags"] = _bit(ismrmrd.ACQ_IS_REVERSE) * source.IsReflected[chosen].astype(np.uint64)
    if part.flag is not None:
        heads["flags"] |= _bit(part.flag)
    counters = heads["idx"]
    counters["kspace_encode_step_1"], counters["kspace_encode_step_2"] = source.Lin[chosen], source.Par[chosen]
    counters["average"], counters["slice"], counters["contrast"] = (
        getattr(source, name)[chosen] for name in ("Ave", "Sli", "Eco")
    )
    counters["phase"], counters["repetition"], counters["set"] = (
        getattr(source, name)[chosen] for name in ("Phs", "Rep", "Set")
    )
    heads["position"] = source.slicePos[chosen, :3]
    heads["phase_dir"], heads["read_dir"], heads["slice_dir"] = _directions(source.slicePos[chosen, 3:])
    return heads


def _bit(flag: int) -> np.uint64:
    return np.uint64(1) << np.uint64(flag - 1)


def _directions(quaternions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Phase, read and slice direction (n, 3) in LPS: the columns of the rotations by quaternions (w, x, y, z).

    All zero for quaternions that are zero, which noise scans have.
    """
    w, x, y, z = quaternions.T
    length = w**2 + x**2 + y**2 + z**2
    phase = np.stack([length - 2 * (y**2 + z**2), 2 * (x * y + z * w), 2 * (x * z - y * w)], axis=-1)
    read = np.stack([2 * (x * y - z * w), length - 2 * (x**2 + z**2), 2 * (y * z + x * w)], axis=-1)
    normal = np.stack([2 * (x * z + y * w), 2 * (y * z - x * w), length - 2 * (x**2 + y**2)], axis=-1)
    return phase, read, normal


def _header(protocol: Mapping[Any, Any], image: Any) -> xsd.ismrmrdHeader:
    """What ISMRMRD's header says of the protocol (MeasYaps, whose names are Siemens's)."""
    base, lines = int(protocol["sKSpace", "lBaseResolution"]), int(protocol["sKSpace", "lPhaseEncodingLines"])
    slice_ = ("sSliceArray", "asSlice", "0")
    read, phase, thickness = (float(protocol[*slice_, name]) for name in ("dReadoutFOV", "dPhaseFOV", "dThickness"))
    phase *= 1 + float(protocol.get(("sKSpace", "dPhaseOversamplingForDialog"), 0.0))
    trajectory = _TRAJECTORIES.get(int(_number(protocol.get(("sKSpace", "ucTrajectory"), 1))), "OTHER")
    if trajectory == "CARTESIAN" and _number(protocol.get(("sFastImaging", "lEPIFactor"), 1)) > 1:
        trajectory = "EPI"
    calibration = _CALIBRATIONS.get(int(_number(protocol.get(("sPat", "ucRefScanMode"), 1))), "OTHER")
    limits = xsd.limitType(minimum=0, maximum=max(lines - 1, int(image.Lin.max())), center=int(image.centerLin[0]))
    return xsd.ismrmrdHeader(
        experimentalConditions=xsd.experimentalConditionsType(H1resonanceFrequency_Hz=0),
        encoding=[
            xsd.encodingType(
                encodedSpace=_space(_OVERSAMPLING * base, lines, _OVERSAMPLING * read, phase, thickness),
                reconSpace=_space(base, lines, read, phase, thickness),
                encodingLimits=xsd.encodingLimitsType(kspace_encoding_step_1=limits),
                trajectory=xsd.trajectoryType[trajectory],
                parallelImaging=xsd.parallelImagingType(
                    accelerationFactor=xsd.accelerationFactorType(kspace_encoding_step_1=1, kspace_encoding_step_2=1),
                    calibrationMode=xsd.calibrationModeType[calibration],
                    multiband=_multiband(protocol),
                ),
            )
        ],
        sequenceParameters=xsd.sequenceParametersType(TR=[float(protocol.get(("alTR", "0"), 0.0)) / 1e3]),
    )


def _multiband(protocol: Mapping[Any, Any]) -> xsd.multibandType | None:
    factor = int(_number(protocol.get(("sSliceAcceleration", "lMultiBandFactor"), 1)))
    if factor < 2:
        return None
    calibration = xsd.multibandCalibrationType.OTHER
    return xsd.multibandType(multiband_factor=factor, deltaKz=0.0, calibration=calibration, calibration_encoding=0)


def _number(value: float | str) -> float:
    """Protocols of older software write some numbers as hexadecimal text."""
    return float(int(value, 0)) if isinstance(value, str) else value


def _space(x: int, y: int, fov_x: float, fov_y: float, fov_z: float) -> xsd.encodingSpaceType:
    return xsd.encodingSpaceType(
        matrixSize=xsd.matrixSizeType(x=x, y=y, z=1), fieldOfView_mm=xsd.fieldOfViewMm(x=fov_x, y=fov_y, z=fov_z)
    )
