"""EPI raw data: taken where every line is ready for a Fourier transform, refused by name where something is left to do.

Ready lines of a point source must land where those of a Cartesian scan do; a calibration scan on its own matrix, too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
import torch
from ismrmrd import xsd
from scanner import POSITION, QUIET, SOURCE, Scanner, write

from medseq import InputError, KSpace, MedseqWarning, load_kspace, save_kspace
from medseq.cli import main

Readouts = list[ismrmrd.Acquisition]


def epi_header(scanner: Scanner = QUIET) -> xsd.ismrmrdHeader:
    header = scanner.xml()
    header.encoding[0].trajectory = xsd.trajectoryType.EPI
    return header


def separate(header: xsd.ismrmrdHeader) -> None:
    header.encoding[0].parallelImaging = xsd.parallelImagingType(
        accelerationFactor=xsd.accelerationFactorType(kspace_encoding_step_1=2, kspace_encoding_step_2=1),
        calibrationMode=xsd.calibrationModeType.SEPARATE,
    )


def frames(count: int = 2) -> Readouts:
    return [readout for t in range(count) for readout in QUIET.lines(SOURCE[None], repetition=t)]


def flag(readouts: Readouts, which: int) -> None:
    for readout in readouts:
        readout.set_flag(which)


def described(header: xsd.ismrmrdHeader, samples: int, delay: int, dwell: float = 4.0) -> None:
    """Ramps of 40 us, a flat top of 130 us, in the words of ISMRMRD's converters."""
    times = {"rampUpTime": 40, "rampDownTime": 40, "flatTopTime": 130, "acqDelayTime": delay, "numSamples": samples}
    header.encoding[0].trajectoryDescription = xsd.trajectoryDescriptionType(
        identifier="ConventionalEPI",
        userParameterLong=[xsd.userParameterLongType(name=name, value=value) for name, value in times.items()],
        userParameterDouble=[xsd.userParameterDoubleType(name="dwellTime", value=dwell)],
    )


def navigators() -> Readouts:
    found = QUIET.lines(SOURCE[None])[:3]
    flag(found, ismrmrd.ACQ_IS_PHASECORR_DATA)
    return found


def with_trajectory(readout: ismrmrd.Acquisition) -> ismrmrd.Acquisition:
    head = readout.getHead()
    head.trajectory_dimensions = 2
    return ismrmrd.Acquisition(head, readout.data, np.zeros((readout.data.shape[1], 2), np.float32))


def multiband(header: xsd.ismrmrdHeader, factor: int) -> None:
    separate(header)
    header.encoding[0].parallelImaging.multiband = xsd.multibandType(
        spacing=[xsd.multibandSpacingType(dZ=[0.0, 20.0])],
        deltaKz=1.0,
        multiband_factor=factor,
        calibration=xsd.multibandCalibrationType.OTHER,
        calibration_encoding=0,
    )


def test_ready_lines_are_those_of_a_cartesian_scan(tmp_path: Path) -> None:
    cartesian = load_kspace(write(tmp_path / "cartesian.h5", QUIET.xml(), frames()))
    header = epi_header()
    multiband(header, 1)  # one slice at a time
    epi = load_kspace(write(tmp_path / "epi.h5", header, frames()))
    assert epi.epi and not cartesian.epi
    assert torch.equal(epi.data, cartesian.data) and torch.equal(epi.keep, cartesian.keep)
    np.testing.assert_array_equal(epi.times, [0, 0.04])
    assert epi.period is None


@pytest.mark.parametrize(
    ("samples", "delay"),
    [(40, 0), (32, 40)],
    ids=["regridded: another number of samples", "sampled on the flat top alone"],
)
def test_the_gradient_s_description_may_stay(tmp_path: Path, samples: int, delay: int) -> None:
    header = epi_header()
    described(header, samples, delay)
    assert load_kspace(write(tmp_path / "epi.h5", header, frames())).epi


def test_oversampled_readouts_and_partial_fourier_are_fine(tmp_path: Path) -> None:
    scanner = Scanner(encoded=(64, 24), encoded_fov=(640, 240))
    readouts = scanner.lines(SOURCE[None])[6:]
    kspace = load_kspace(write(tmp_path / "epi.h5", epi_header(scanner), readouts))
    assert kspace.data.shape[3:] == (24, 32)
    assert not bool(kspace.keep[..., :6, :].any()) and bool(kspace.keep[..., 6:, :].all())


Change = Callable[[xsd.ismrmrdHeader, Readouts], object]

REFUSED: dict[str, Change] = {
    "24 reversed readouts are not flipped and ghost-corrected": lambda h, r: flag(r[1::2], ismrmrd.ACQ_IS_REVERSE),
    "3 phase-correction navigators are not applied": lambda h, r: r.extend(navigators()),
    "the readouts have trajectories": lambda h, r: r.__setitem__(slice(None), [with_trajectory(one) for one in r]),
    "readouts of 32 samples are not regridded to the encoded matrix of 40": lambda h, r: setattr(
        h.encoding[0].encodedSpace.matrixSize, "x", 40
    ),
    "samples were taken on the gradient's ramps": lambda h, r: described(h, 32, 20),
    "on the gradient's ramps and are not regridded": lambda h, r: described(h, 32, 40, dwell=4.2),
    "2 slices were excited at once (multiband)": lambda h, r: multiband(h, 2),
    "2 contrasts": lambda h, r: [setattr(one.idx, "contrast", 1) for one in r[:9]],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_ready_is_refused_by_name(tmp_path: Path, message: str) -> None:
    header, readouts = epi_header(), frames()
    REFUSED[message](header, readouts)
    path = write(tmp_path / "raw.h5", header, readouts)
    with pytest.raises(InputError) as caught:
        load_kspace(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_raw_scanner_data_are_told_everything_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    header, readouts = epi_header(), frames()
    flag(readouts[1::2], ismrmrd.ACQ_IS_REVERSE)
    described(header, 32, 0)
    write(tmp_path / "raw.h5", header, [*navigators(), *readouts])
    assert main(["reconstruct", str(tmp_path / "raw.h5"), "-o", str(tmp_path / "out.nii.gz")]) == 4
    (line,) = capsys.readouterr().err.splitlines()
    for word in ("raw.h5", "24 reversed", "3 phase-correction", "ramps", "ghost-corrected and regridded first"):
        assert word in line
    assert [file.name for file in tmp_path.iterdir()] == ["raw.h5"]


def test_an_echo_train_that_calls_itself_cartesian_is_known_by_its_navigators(tmp_path: Path) -> None:
    readouts = frames()
    flag(readouts[1::2], ismrmrd.ACQ_IS_REVERSE)
    load_kspace(write(tmp_path / "flipped.h5", QUIET.xml(), readouts))
    with pytest.raises(InputError, match="raw EPI data: 24 reversed readouts .* 3 phase-correction navigators"):
        load_kspace(write(tmp_path / "raw.h5", QUIET.xml(), [*navigators(), *readouts]))


def calibration_lines(scanner: Scanner, **idx: int) -> Readouts:
    """Central lines, in another contrast: twice as bright."""
    found = scanner.lines(SOURCE[None], **idx)[2:-2]
    for readout in found:
        readout.data[:] *= 2
    flag(found, ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)
    return found


def second_encoding(header: xsd.ismrmrdHeader, scanner: Scanner, readouts: Readouts) -> None:
    """The calibration scan is a plain gradient echo with an encoding of its own."""
    header.encoding.append(scanner.xml().encoding[0])
    for readout in readouts:
        readout.encoding_space_ref = 1


@pytest.mark.parametrize(
    "scanner",
    [
        QUIET,
        Scanner(encoded=(32, 16), recon=(32, 16)),  # fewer lines, of the same distance
        Scanner(encoded=(32, 12), encoded_fov=(640, 240), recon=(16, 12)),  # coarser, with oversampling
    ],
    ids=lambda scanner: str(scanner.encoded),
)
def test_a_calibration_scan_lies_on_the_grid_of_the_image(tmp_path: Path, scanner: Scanner) -> None:
    whole = load_kspace(write(tmp_path / "whole.h5", QUIET.xml(), QUIET.lines(SOURCE[None])))
    header, image = epi_header(), [readout for readout in frames() if readout.idx.kspace_encode_step_1 % 2 == 0]
    separate(header)
    calibration = calibration_lines(scanner)
    if scanner is not QUIET:
        second_encoding(header, scanner, calibration)
    kspace = load_kspace(write(tmp_path / "raw.h5", header, [*calibration, *image]))
    assert int(kspace.keep.sum()) == 24
    assert kspace.calibration is not None and kspace.calibration.shape == (1, 2, 1, 24, 32)
    known = (kspace.calibration != 0).any(1, keepdim=True)
    rows = known.any(-1)[0, 0, 0]
    assert int(rows.sum()) == scanner.encoded[1] - 4 and bool(rows[12])
    # The source is on a voxel of every grid: samples agree, but for their scale, wherever both scans have them.
    scale = float((kspace.calibration.abs() * known).sum() / (whole.data.abs() * known).sum())
    torch.testing.assert_close(kspace.calibration, scale * whole.data * known, rtol=0, atol=1e-4 * scale)


def test_a_calibration_scan_of_another_field_of_view_is_left_aside(tmp_path: Path) -> None:
    header, other = epi_header(), Scanner(encoded=(32, 24), encoded_fov=(320, 300))
    separate(header)
    calibration = calibration_lines(other)
    second_encoding(header, other, calibration)
    path = write(tmp_path / "raw.h5", header, [*calibration, *frames()])
    with pytest.warns(MedseqWarning, match="calibration scan has another field of view"):
        assert load_kspace(path).calibration is None


def test_calibration_lines_that_are_read_backwards_are_refused(tmp_path: Path) -> None:
    header, calibration = epi_header(), calibration_lines(QUIET)
    separate(header)
    flag(calibration[::2], ismrmrd.ACQ_IS_REVERSE)
    with pytest.raises(InputError, match="10 reversed readouts"):
        load_kspace(write(tmp_path / "raw.h5", header, [*calibration, *frames()]))


def epi_kspace() -> KSpace:
    """Two slices, three frames, every second line, ten calibration lines."""
    g = torch.Generator().manual_seed(0)
    keep = (torch.arange(16) % 2 == 0)[None, None, None, :, None]
    data = torch.randn(2, 3, 3, 16, 12, dtype=torch.complex64, generator=g) * keep
    calibration = torch.randn(2, 3, 1, 16, 12, dtype=torch.complex64, generator=g)
    calibration[..., :3, :] = calibration[..., 13:, :] = 0
    affine = np.diag([3.0, 3.0, 4.0, 1.0])
    affine[:3, 3] = POSITION
    return KSpace(data, keep, noise=0.5, affine=affine, times=2.0 * np.arange(3), calibration=calibration, epi=True)


def test_saving_and_loading_keeps_the_calibration_scan(tmp_path: Path) -> None:
    kspace, path = epi_kspace(), tmp_path / "raw.h5"
    save_kspace(kspace, path)
    again = load_kspace(path)
    assert again.epi and again.calibration is not None and kspace.calibration is not None
    assert torch.equal(again.data, kspace.data) and torch.equal(again.calibration, kspace.calibration)
    assert torch.equal(again.keep, kspace.keep.expand_as(again.keep))


def test_the_library_itself_reads_what_was_written(tmp_path: Path) -> None:
    kspace = epi_kspace()
    save_kspace(kspace, tmp_path / "raw.h5")
    with ismrmrd.Dataset(str(tmp_path / "raw.h5"), mode="r") as dataset:
        header = xsd.CreateFromDocument(dataset.read_xml_header())
        readouts = [dataset.read_acquisition(i) for i in range(dataset.number_of_acquisitions())]
    assert header.encoding[0].trajectory == xsd.trajectoryType.EPI
    assert header.encoding[0].parallelImaging.accelerationFactor.kspace_encoding_step_1 == 2
    calibration = [one for one in readouts if one.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)]
    image = [one for one in readouts if not one.is_flag_set(ismrmrd.ACQ_IS_PARALLEL_CALIBRATION)]
    assert len(calibration) == 2 * 10 and len(image) == 2 * 3 * 8
    assert [one.is_flag_set(ismrmrd.ACQ_LAST_IN_MEASUREMENT) for one in image] == [False] * 47 + [True]
    for one in image:
        line = kspace.data[one.idx.slice, :, one.idx.repetition, one.idx.kspace_encode_step_1]
        np.testing.assert_array_equal(one.data, line.numpy())


def test_plain_arrays_know_that_it_is_epi_and_lose_the_calibration_scan(tmp_path: Path) -> None:
    kspace = epi_kspace()
    with pytest.warns(MedseqWarning, match="raw.cfl: the separate calibration scan is not stored"):
        save_kspace(kspace, tmp_path / "raw.cfl")
    again = load_kspace(tmp_path / "raw.cfl")
    assert again.epi and again.calibration is None and torch.equal(again.data, kspace.data)
    save_kspace(replace(kspace, epi=False, calibration=None), tmp_path / "plain.cfl")
    assert not load_kspace(tmp_path / "plain.cfl").epi


def test_a_calibration_scan_must_be_on_the_grid() -> None:
    kspace = epi_kspace()
    with pytest.raises(InputError, match="on the grid of the data"):
        replace(kspace, calibration=torch.zeros(2, 3, 1, 16, 10, dtype=torch.complex64))
