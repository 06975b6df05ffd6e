"""Siemens twix files for tests: the readouts of `scanner.py`, written as software VB and VD lay them out.

There is no real one here. The layout is that of Siemens's MdhProxy.h, as pymapvbvd and siemens_to_ismrmrd read it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

import ismrmrd
import numpy as np
from scanner import PHASE, READ, Scanner
from scipy.spatial.transform import Rotation

ACQEND, PHASCOR, PATREFSCAN, PATREFANDIMASCAN, REFLECT, NOISE = (1 << bit for bit in (0, 21, 22, 23, 24, 25))
# Siemens's rotation takes (phase, read, slice) to patient coordinates; scalar last here, first there.
_X, _Y, _Z, _W = Rotation.from_matrix(np.column_stack([PHASE, READ, np.cross(PHASE, READ)])).as_quat()
QUATERNION = (_W, _X, _Y, _Z)


@dataclass
class Measurement:
    """One measurement: its protocol and readouts, each with the bits of its evalInfoMask."""

    scanner: Scanner
    readouts: list[tuple[ismrmrd.Acquisition, int]]
    protocol: dict[str, str] = field(default_factory=dict)

    def header(self, least: int = 0) -> bytes:
        """The buffers of the header, `least` bytes long or more."""
        x, y = self.scanner.recon
        protocol = {
            "sKSpace.lBaseResolution": x,
            "sKSpace.lPhaseEncodingLines": y,
            "sKSpace.ucTrajectory": "0x1",
            "sSliceArray.asSlice[0].dReadoutFOV": self.scanner.recon_fov[0],
            "sSliceArray.asSlice[0].dPhaseFOV": self.scanner.recon_fov[1],
            "sSliceArray.asSlice[0].dThickness": self.scanner.thickness,
            "alTR[0]": 40000,
            "sRXSPEC.alDwellTime[0]": 4000,
            **self.protocol,
        }
        lines = "".join(f"{name} = {value}\n" for name, value in protocol.items() if value != "")
        text = f"### ASCCONV BEGIN ###\n{lines}### ASCCONV END ###\n\0".encode()
        buffers = struct.pack("<I", 1) + b"MeasYaps\0" + struct.pack("<I", len(text)) + text
        size = max(least, -(-(4 + len(buffers)) // 64) * 64)
        return (struct.pack("<I", size) + buffers).ljust(size, b"\0")


def write_vb(path: Path, measurement: Measurement) -> Path:
    """Every channel has a whole header of 128 bytes of its own."""
    content = measurement.header(16384)  # a real one is larger; readers tell VB from VD by it
    for readout, flags in measurement.readouts:
        samples = readout.data.astype("<c8")
        head = _head(readout, flags, len(samples) * (128 + 8 * samples.shape[1]))
        head = head[0] + head[1] + bytes(16) + head[2] + bytes(4)
        content += b"".join(head + row.tobytes() for row in samples)
    end = ismrmrd.Acquisition.from_array(np.zeros((1, 16), np.complex64))
    head = _head(end, ACQEND, 128 + 128)
    path.write_bytes(content + head[0] + head[1] + bytes(16) + head[2] + bytes(4) + bytes(128))
    return path


def write_vd(path: Path, *measurements: Measurement) -> Path:
    """One header of 192 bytes a readout, one of 32 bytes a channel; several measurements, the last with the image."""
    bodies = [_vd_body(measurement) for measurement in measurements]
    starts = np.cumsum([10240, *map(len, bodies)])
    entries = b"".join(
        struct.pack("<IIQQ", number, number, start, len(body)).ljust(152, b"\0")
        for number, (start, body) in enumerate(zip(starts[:-1], bodies, strict=True))
    )
    path.write_bytes((struct.pack("<II", 0, len(bodies)) + entries).ljust(10240, b"\0") + b"".join(bodies))
    return path


def _vd_body(measurement: Measurement) -> bytes:
    content = measurement.header()
    for readout, flags in measurement.readouts:
        samples = readout.data.astype("<c8")
        head = _head(readout, flags, 192 + len(samples) * (32 + 8 * samples.shape[1]))
        content += head[0][:20] + bytes(20) + head[0][20:] + head[1] + head[2] + bytes(48 + 8 + 8)
        content += b"".join(bytes(32) + row.tobytes() for row in samples)
    end = ismrmrd.Acquisition.from_array(np.zeros((1, 16), np.complex64))
    head = _head(end, ACQEND, 192 + 32 + 128)
    return content + head[0][:20] + bytes(20) + head[0][20:] + head[1] + head[2] + bytes(64) + bytes(32 + 128)


def _head(readout: ismrmrd.Acquisition, flags: int, length: int) -> tuple[bytes, bytes, bytes]:
    """(up to the eval info mask and counters, from there to the centre line, position with quaternion) of a header."""
    idx = readout.idx
    counters = (idx.kspace_encode_step_1, idx.average, idx.slice, idx.kspace_encode_step_2, idx.contrast)
    counters += (idx.phase, idx.repetition, idx.set, *(0,) * 6)
    coils, samples = readout.data.shape
    first = struct.pack("<5I2I", length, 1, readout.scan_counter, 0, 0, flags, 0)
    second = struct.pack("<2H14H2H", samples, coils, *counters, readout.discard_pre, readout.discard_post)
    centre = readout.user_int[0]  # the central line
    second += struct.pack("<2HfI2H", readout.center_sample, 0, 0.0, 0, centre, 0)
    return first, second, struct.pack("<7f", *readout.position, *QUATERNION)
