"""Siemens raw data: the point sources of `scanner.py`, written as twix, are found where they are.

These files are made from the documented layout; none comes from a scanner.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from scanner import POSITION, SOURCE, Scanner, noise_scan, write
from twix_scanner import NOISE, PATREFANDIMASCAN, PATREFSCAN, PHASCOR, REFLECT, Measurement, write_vb, write_vd

from medseq import Fourier, InputError, KSpace, UsageError, load_kspace

pytest.importorskip("mapvbvd", reason="pymapvbvd is not installed: pip install medseq[twix]")
OVERSAMPLED = Scanner(encoded=(64, 24), encoded_fov=(640, 240))


def readouts(scanner: Scanner = OVERSAMPLED, **idx: int) -> list:
    lines = scanner.lines(SOURCE[None], **idx)
    for line in lines:
        line.user_int[0] = 12 if scanner.centre is None else scanner.centre
    return lines


def place(kspace: KSpace) -> np.ndarray:
    """LPS place of the brightest voxel of the first slice, frame and coil."""
    pixels = Fourier().adjoint(kspace.data)[0, 0, 0].abs().numpy()
    y, x = np.unravel_index(pixels.argmax(), pixels.shape)
    return (kspace.affine @ [x, y, 0, 1])[:3] * [-1, -1, 1]


@pytest.mark.parametrize("save", [write_vb, write_vd])
def test_a_point_source_is_found_where_it_is(tmp_path: Path, save: Callable[..., Path]) -> None:
    path = save(tmp_path / "meas.dat", Measurement(OVERSAMPLED, [(line, 0) for line in readouts()]))
    kspace = load_kspace(path)
    assert kspace.data.shape == (1, 2, 1, 24, 32)
    np.testing.assert_allclose(place(kspace), SOURCE, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(kspace.affine[:3, :3], axis=0), [10, 10, 6], rtol=1e-6)
    # The same measurement as ISMRMRD, written with the ismrmrd library, is the same k-space.
    other = load_kspace(write(tmp_path / "raw.h5", OVERSAMPLED.xml(), OVERSAMPLED.lines(SOURCE[None])))
    torch.testing.assert_close(kspace.data, other.data)
    np.testing.assert_allclose(kspace.affine[:3, [0, 1, 3]], other.affine[:3, [0, 1, 3]], atol=1e-4)


def test_frames_missing_lines_and_reflected_readouts(tmp_path: Path) -> None:
    flagged = []
    for frame in range(3):
        for line in readouts(phase=frame)[frame % 2 :: 2]:
            reverse = line.idx.kspace_encode_step_1 % 3 == 0
            if reverse:
                line.data[:] = line.data[:, ::-1].copy()
            flagged.append((line, REFLECT if reverse else 0))
    kspace = load_kspace(write_vd(tmp_path / "meas.dat", Measurement(OVERSAMPLED, flagged)))
    assert kspace.keep[0, 0, :, :, 0].sum(1).tolist() == [12, 12, 12]
    assert bool(kspace.keep[0, 0, 1, 1::2].all()) and kspace.period == pytest.approx(0.12)
    full = load_kspace(write(tmp_path / "raw.h5", OVERSAMPLED.xml(), OVERSAMPLED.lines(SOURCE[None])))
    torch.testing.assert_close(kspace.data, full.data * kspace.keep)


def test_a_noise_measurement_gives_the_covariance(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    noise = noise_scan(3 * (rng.normal(size=(2, 4096)) + 1j * rng.normal(size=(2, 4096))))
    adjust = Measurement(OVERSAMPLED, [(noise, NOISE)], {"sRXSPEC.alDwellTime[0]": "8000"})
    image = Measurement(OVERSAMPLED, [(line, 0) for line in readouts()])
    kspace = load_kspace(write_vd(tmp_path / "meas.dat", adjust, image))
    assert isinstance(kspace.noise, torch.Tensor)
    # Half the dwell time doubles the bandwidth, and with it the variance.
    np.testing.assert_allclose(kspace.noise.diagonal().real, 2 * 9.0, rtol=0.05)


def test_calibration_lines_are_used_where_they_belong_to_the_image(tmp_path: Path) -> None:
    lines = readouts()
    image = [(line, 0) for line in lines[::2] if line.idx.kspace_encode_step_1 != 12]
    image += [(lines[11], PATREFSCAN), (lines[12], PATREFSCAN | PATREFANDIMASCAN), (lines[13], PATREFSCAN)]
    embedded = Measurement(OVERSAMPLED, image, {"sPat.ucRefScanMode": "0x2"})
    kspace = load_kspace(write_vd(tmp_path / "embedded.dat", embedded))
    assert torch.flatten(kspace.keep).nonzero().flatten().tolist() == sorted([*range(0, 24, 2), 11, 13])
    separate = Measurement(OVERSAMPLED, image, {"sPat.ucRefScanMode": "0x4"})
    kspace = load_kspace(write_vd(tmp_path / "separate.dat", separate))
    assert torch.flatten(kspace.keep).nonzero().flatten().tolist() == list(range(0, 24, 2))
    assert kspace.calibration is not None
    assert (kspace.calibration[0, 0, 0] != 0).any(-1).nonzero().flatten().tolist() == [11, 13]


@pytest.mark.parametrize(
    ("protocol", "message"),
    [
        ({"sKSpace.ucTrajectory": "0x2"}, "the trajectory is radial"),
        ({"sSliceArray.asSlice[0].dReadoutFOV": ""}, "broken or not Siemens twix"),
        ({"sSliceAcceleration.lMultiBandFactor": 3}, "3 slices were excited at once"),
    ],
)
def test_what_cannot_be_used_is_refused(tmp_path: Path, protocol: dict[str, str], message: str) -> None:
    measurement = Measurement(OVERSAMPLED, [(line, 0) for line in readouts()], protocol)
    with pytest.raises(InputError, match=message):
        load_kspace(write_vd(tmp_path / "meas.dat", measurement))


def test_echo_trains_are_refused(tmp_path: Path) -> None:
    lines = [(line, REFLECT if number % 2 else 0) for number, line in enumerate(readouts())]
    navigators = [(line, PHASCOR | (REFLECT if number % 2 else 0)) for number, line in enumerate(readouts()[:3])]
    epi = Measurement(OVERSAMPLED, [*navigators, *lines], {"sFastImaging.lEPIFactor": 24})
    with pytest.raises(InputError, match="12 reversed readouts .* 3 phase-correction navigators are not applied"):
        load_kspace(write_vd(tmp_path / "meas.dat", epi))
    ready = Measurement(OVERSAMPLED, [(line, 0) for line in readouts()], {"sFastImaging.lEPIFactor": 24})
    assert load_kspace(write_vd(tmp_path / "ready.dat", ready)).epi


def test_partitions_of_a_3d_scan_are_refused(tmp_path: Path) -> None:
    lines = [(line, 0) for line in [*readouts(), *readouts(kspace_encode_step_2=1)]]
    with pytest.raises(InputError, match="second phase encoding"):
        load_kspace(write_vd(tmp_path / "meas.dat", Measurement(OVERSAMPLED, lines)))


@pytest.mark.parametrize("kept", [0, 3, 100, 10300, 11000, 0.5, 0.99])
def test_a_broken_file_is_refused_in_one_line(tmp_path: Path, kept: float) -> None:
    path = write_vd(tmp_path / "meas.dat", Measurement(OVERSAMPLED, [(line, 0) for line in readouts()]))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else int(kept)])
    with pytest.raises(InputError) as caught:
        load_kspace(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_a_readout_without_channels_is_refused_and_no_endless_loop(tmp_path: Path) -> None:
    path = write_vb(tmp_path / "meas.dat", Measurement(OVERSAMPLED, [(line, 0) for line in readouts()]))
    content = bytearray(path.read_bytes())
    fifth = 16384 + 5 * 2 * (128 + 8 * 64)
    assert content[fifth + 28 : fifth + 32] == bytes([64, 0, 2, 0])
    content[fifth + 30] = 0
    path.write_bytes(content)
    with pytest.raises(InputError, match="no channels"):
        load_kspace(path)


def test_without_pymapvbvd_the_message_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_vd(tmp_path / "meas.dat", Measurement(OVERSAMPLED, [(line, 0) for line in readouts()]))
    monkeypatch.setitem(sys.modules, "mapvbvd", None)
    with pytest.raises(UsageError, match=r"pip install medseq\[twix\]"):
        load_kspace(path)


def test_the_place_depends_on_the_position(tmp_path: Path) -> None:
    """The test above would see it: a readout elsewhere moves the image."""
    lines = readouts()
    for line in lines:
        line.position[:] = POSITION + [5.0, 0, 0]
    kspace = load_kspace(write_vd(tmp_path / "meas.dat", Measurement(OVERSAMPLED, [(line, 0) for line in lines])))
    np.testing.assert_allclose(place(kspace), SOURCE + [5.0, 0, 0], atol=1e-3)
