"""ISMRMRD files that are odd, of another kind, or broken: each is understood with a warning, or refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import h5py
import ismrmrd
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ismrmrd import xsd
from scanner import PHASE, POSITION, QUIET, READ, SOURCE, Scanner, write

from medseq import InputError, MedseqWarning, load_kspace

Change = Callable[[xsd.ismrmrdHeader, list[ismrmrd.Acquisition]], object]


def each(readouts: list[ismrmrd.Acquisition], **fields: object) -> None:
    """Set header fields, vectors or counters of every readout."""
    for readout in readouts:
        for name, value in fields.items():
            target = readout.idx if hasattr(readout.idx, name) else readout
            if isinstance(value, list):
                getattr(target, name)[:] = value
            else:
                setattr(target, name, value)


def encoding(header: xsd.ismrmrdHeader) -> xsd.encodingType:
    return header.encoding[0]


ASSUMED: dict[str, Change] = {
    "no directions; identity axes": lambda h, r: each(r, read_dir=[0] * 3, phase_dir=[0] * 3, slice_dir=[0] * 3),
    "no slice direction": lambda h, r: each(r, slice_dir=[0] * 3),
    "no TR; frames are counted": lambda h, r: setattr(h, "sequenceParameters", None),
    "TR of 3 ms": lambda h, r: setattr(h.sequenceParameters, "TR", [3.0]),
    "which line is the centre": lambda h, r: setattr(encoding(h).encodingLimits, "kspace_encoding_step_1", None),
    "do not say their center_sample": lambda h, r: each(r, center_sample=0),
    "no slice thickness": lambda h, r: setattr(encoding(h).reconSpace.fieldOfView_mm, "z", 0.0),
    "the position of a slice changes": lambda h, r: each(r[5:], position=[0, 0, 0]),
    "announces 9 repetitions, 2 were": lambda h, r: setattr(
        encoding(h).encodingLimits, "repetition", xsd.limitType(minimum=0, maximum=8, center=0)
    ),
    "1 of 3 frames have no readout": lambda h, r: each(r[24:], repetition=2),
}


def two_frames() -> list[ismrmrd.Acquisition]:
    return [*QUIET.lines(SOURCE[None]), *QUIET.lines(SOURCE[None], repetition=1)]


@pytest.mark.parametrize("message", ASSUMED)
def test_every_assumption_is_warned_of(tmp_path: Path, message: str) -> None:
    header, readouts = QUIET.xml(), two_frames()
    ASSUMED[message](header, readouts)
    path = write(tmp_path / "raw.h5", header, readouts)
    with pytest.warns(MedseqWarning, match=message) as caught:
        kspace = load_kspace(path)
    assert [str(warning.message) for warning in caught] == [str(caught[0].message)]
    assert str(caught[0].message).startswith(str(path))
    if "identity" in message:
        np.testing.assert_allclose(kspace.affine[:3, :3], np.diag([10, 10, 6]), atol=1e-9)
    if "no TR" in message:
        np.testing.assert_array_equal(kspace.times, [0, 1])


REFUSED: dict[str, Change] = {
    "steps of a second phase encoding": lambda h, r: each(r[:9], kspace_encode_step_2=1),
    "the matrix is 3-D": lambda h, r: setattr(encoding(h).encodedSpace.matrixSize, "z", 8),
    "the trajectory is radial": lambda h, r: setattr(encoding(h), "trajectory", xsd.trajectoryType.RADIAL),
    "2 encodings": lambda h, r: (h.encoding.append(encoding(h)), each(r[:9], encoding_space_ref=1)),
    "refer to encoding 4": lambda h, r: each(r, encoding_space_ref=4),
    "2 contrasts": lambda h, r: each(r[:9], contrast=1),
    "2 sets": lambda h, r: each(r[:9], set=1),
    "2 phases in 2 repetitions": lambda h, r: each(r[:9], phase=1),
    "frames have no readout": lambda h, r: each(r[24:], repetition=60_000),
    "the header says 1": lambda h, r: setattr(
        h, "acquisitionSystemInformation", xsd.acquisitionSystemInformationType(receiverChannels=1)
    ),
    "[2, 3] channels": lambda h, r: r.append(Scanner(coils=3).readout(3, SOURCE[None])),
    "does not fit the encoded matrix of 16": lambda h, r: setattr(encoding(h).encodedSpace.matrixSize, "x", 16),
    "do not fit the encoded matrix of 20": lambda h, r: setattr(encoding(h).encodedSpace.matrixSize, "y", 20),
    "exceeds the 320 mm read out": lambda h, r: setattr(encoding(h).reconSpace.fieldOfView_mm, "x", 400.0),
    "impossible matrix or field of view": lambda h, r: setattr(encoding(h).encodedSpace.fieldOfView_mm, "y", 0.0),
    "every sample is to be discarded": lambda h, r: each(r, discard_pre=20, discard_post=20),
    "the directions change": lambda h, r: each(r[24:], read_dir=[0, 1, 0]),
    "are not perpendicular": lambda h, r: each(r, phase_dir=[0.6, 0.7, 0.4]),
    "a position or direction is not finite": lambda h, r: each(r[:1], position=[float("nan"), 0, 0]),
    "no image readouts": lambda h, r: [one.set_flag(ismrmrd.ACQ_IS_NOISE_MEASUREMENT) for one in r],
    "some samples are not finite": lambda h, r: r[7].data.__setitem__((0, 0), float("nan")),
    "every sample is zero": lambda h, r: [one.data.__setitem__(slice(None), 0) for one in r],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_used_is_refused_by_name_in_one_line(tmp_path: Path, message: str) -> None:
    header, readouts = QUIET.xml(), two_frames()
    REFUSED[message](header, readouts)
    path = write(tmp_path / "raw.h5", header, readouts)
    with pytest.raises(InputError) as caught:
        load_kspace(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_slices_unevenly_spaced_are_refused(tmp_path: Path) -> None:
    readouts = []
    for number, offset in enumerate((0.0, 6.0, 15.0)):
        position = POSITION + offset * np.cross(READ, PHASE)
        readout = QUIET.readout(12, SOURCE[None], position)
        readout.idx.slice = number
        readouts.append(readout)
    with pytest.raises(InputError, match="not evenly spaced"):
        load_kspace(write(tmp_path / "raw.h5", QUIET.xml(), readouts))


def broken(path: Path, how: str) -> None:
    if how == "missing":
        path.unlink()
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif how == "text":
        path.write_text("not HDF5")
    elif how == "folder":
        path.unlink()
        path.mkdir()
    else:
        with h5py.File(path, "r+") as file:
            data = file["dataset/data"]
            if how == "no header":
                del file["dataset/xml"]
            elif how == "no readouts":
                del file["dataset/data"]
            elif how == "bad xml":
                file["dataset/xml"][0] = b"<ismrmrdHeader><encoding>"
            elif how == "foreign xml":
                file["dataset/xml"][0] = b"<html/>"
            elif how == "other columns":
                del file["dataset/data"]
                file["dataset/data"] = np.zeros(5)
            elif how == "absurd length":
                del file["dataset/data"]
                file.create_dataset("dataset/data", (2**31,), ismrmrd.hdf5.acquisition_dtype, chunks=(1024,))
            elif how == "short readout":
                row = data[3]
                row["data"] = row["data"][:-2]
                data[3] = row


@pytest.mark.parametrize(
    "how",
    [
        *("missing", "truncated", "text", "folder"),
        *("no header", "no readouts", "bad xml", "foreign xml", "other columns", "short readout", "absurd length"),
    ],
)
def test_broken_files_are_refused_in_one_line_that_names_them(tmp_path: Path, how: str) -> None:
    path = write(tmp_path / "raw.h5", QUIET.xml(), two_frames())
    load_kspace(path)
    broken(path, how)
    with pytest.raises(InputError) as caught:
        load_kspace(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 339), st.integers(0, 255)), min_size=1, max_size=4))
def test_any_damaged_readout_gives_kspace_or_an_input_error(tmp_path: Path, damage: list[tuple[int, int]]) -> None:
    tiny = Scanner(encoded=(8, 6), encoded_fov=(80, 60), recon=(8, 6), recon_fov=(80, 60))
    path = write(tmp_path / "fuzz.h5", tiny.xml(), tiny.lines(POSITION[None]))
    with h5py.File(path, "r+") as file:
        row = file["dataset/data"][2]
        raw = bytearray(row["head"].tobytes())
        for place, value in damage:
            raw[place] = value
        row["head"] = np.frombuffer(bytes(raw), dtype=ismrmrd.hdf5.acquisition_header_dtype)[0]
        file["dataset/data"][2] = row
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedseqWarning)
        try:
            load_kspace(path)
        except InputError as error:
            assert str(path) in str(error)
