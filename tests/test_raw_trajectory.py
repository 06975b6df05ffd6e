"""Radial and spiral ISMRMRD files: there and back, from other programs' hands, and refused by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import ismrmrd
import numpy as np
import pytest
import torch
from ismrmrd import xsd
from raw_examples import AFFINE, assert_same
from scanner import PHASE, POSITION, READ, Scanner, noise_scan, write

from medseq import InputError, KSpace, MedseqWarning, load_kspace, save_kspace
from medseq.clip import Trajectory
from medseq.nonuniform import NonUniform
from medseq.trajectories import golden_radial, golden_spiral

Readouts = list[ismrmrd.Acquisition]


def example(trajectory: Trajectory, slices: int = 2) -> KSpace:
    frames, readouts, samples = trajectory.points.shape[:3]
    rng = np.random.default_rng(0)
    data = rng.normal(size=(slices, 3, frames, readouts, samples, 2)).astype(np.float32)
    keep = torch.ones(1, 1, frames, readouts, 1, dtype=torch.bool)
    keep[:, :, 1, -1] = False
    samples_of = torch.view_as_complex(torch.from_numpy(data)) * keep
    noise = torch.eye(3) + 0.1j * torch.triu(torch.ones(3, 3), 1)
    times = np.arange(frames) * 0.07
    kspace = KSpace(samples_of, keep, None, (noise + noise.mH) / 2, AFFINE, times, frames * 0.07)
    return replace(kspace, trajectory=trajectory)


@pytest.mark.parametrize(
    ("made", "kind"),
    [
        (golden_radial(3, (24, 31), 4, interval=0.004), xsd.trajectoryType.RADIAL),
        (golden_spiral(3, (24, 24), 3), xsd.trajectoryType.OTHER),
    ],
)
def test_there_and_back(tmp_path: Path, made: Trajectory, kind: xsd.trajectoryType) -> None:
    kspace = example(made)
    save_kspace(kspace, tmp_path / "raw.h5")
    back = load_kspace(tmp_path / "raw.h5")
    assert_same(back, kspace, affine=1e-4)
    assert back.trajectory is not None
    # of the readout that was left out no file tells where it lay
    known = kspace.keep[0, 0, :, :, 0]
    assert torch.equal(back.trajectory.points[known], made.points[known])
    assert (back.trajectory.size, back.trajectory.interval) == (made.size, made.interval)
    with ismrmrd.File(str(tmp_path / "raw.h5"), "r") as file:
        assert file["dataset"].header.encoding[0].trajectory == kind
        first = file["dataset"].acquisitions[0]
    np.testing.assert_array_equal(first.traj, made.points[0, 0].flip(-1).numpy())
    assert int(np.hypot(*first.traj.T).argmin()) == first.center_sample


SPOKES = golden_radial(2, (24, 32), 5).points.double()
SCANNER = Scanner(encoded=(64, 48), encoded_fov=(640.0, 480.0))
SOURCE = POSITION + 50.0 * READ - 40.0 * PHASE


def scan(unit: str = "voxel") -> tuple[xsd.ismrmrdHeader, Readouts]:
    """A point source, measured along spokes by the Fourier integral, as a scanner with twofold oversampling would."""
    header = SCANNER.xml()
    header.encoding[0].trajectory = xsd.trajectoryType.RADIAL
    readouts = []
    for t, frame in enumerate(SPOKES):
        for spoke in frame:
            ky, kx = (spoke / 10.0).T.numpy()  # voxels of 10 mm: cycles per mm
            place = (SOURCE - POSITION) @ READ, (SOURCE - POSITION) @ PHASE
            signal = np.exp(-2j * np.pi * (place[0] * kx + place[1] * ky))
            stored = np.stack([kx * 10, ky * 10], 1) if unit == "voxel" else np.stack([kx * 640, ky * 480], 1)
            one = ismrmrd.Acquisition.from_array(
                np.outer([1, 1j], signal).astype(np.complex64), stored.astype(np.float32), sample_time_us=4.0
            )
            one.position[:] = POSITION
            one.read_dir[:], one.phase_dir[:], one.slice_dir[:] = READ, PHASE, np.cross(READ, PHASE)
            one.idx.repetition = t
            readouts.append(one)
    return header, readouts


@pytest.mark.parametrize("unit", ["voxel", "field of view"])
def test_a_point_source_lies_where_it_was(tmp_path: Path, unit: str) -> None:
    kspace = load_kspace(write(tmp_path / "raw.h5", *scan(unit)))
    assert kspace.data.shape == (1, 2, 2, 5, 64) and kspace.size == (24, 32) and bool(kspace.keep.all())
    assert kspace.trajectory is not None and kspace.trajectory.interval is None
    np.testing.assert_allclose(kspace.times, [0, 0.04])
    image = NonUniform(kspace.trajectory).adjoint(kspace.data)[0, 0].sum(0).abs()
    y, x = divmod(int(image.argmax()), 32)
    ras = (kspace.affine @ [x, y, 0, 1])[:3]
    np.testing.assert_allclose(ras * [-1, -1, 1], SOURCE, atol=1e-4)


def test_a_stream_keeps_the_time_between_its_readouts(tmp_path: Path) -> None:
    header, readouts = scan()
    header.sequenceParameters.TR = [3.5]
    each(readouts, repetition=0)
    kspace = load_kspace(write(tmp_path / "raw.h5", header, readouts))
    assert kspace.frames == 1 and kspace.data.shape[3] == 10
    assert kspace.trajectory is not None and kspace.trajectory.interval == pytest.approx(3.5e-3)


def test_noise_scans_and_samples_to_discard(tmp_path: Path) -> None:
    header, readouts = scan()
    for one in readouts:
        one.discard_pre, one.discard_post = 3, 5
    noise = np.random.default_rng(0).normal(size=(2, 5000, 2)) @ [1, 1j]
    kspace = load_kspace(write(tmp_path / "raw.h5", header, [noise_scan(noise), *readouts]))
    assert kspace.data.shape[-1] == 56
    assert isinstance(kspace.noise, torch.Tensor)
    torch.testing.assert_close(kspace.noise, torch.eye(2) + 0j, atol=0.05, rtol=0)
    assert kspace.trajectory is not None
    torch.testing.assert_close(kspace.trajectory.points, SPOKES[:, :, 3:-5].float())


def each(readouts: Readouts, **fields: int) -> None:
    for one in readouts:
        for name, value in fields.items():
            setattr(one.idx if hasattr(one.idx, name) else one, name, value)


def test_frames_of_fewer_readouts_and_a_coarser_image_are_understood(tmp_path: Path) -> None:
    header, readouts = scan()
    header.encoding[0].reconSpace.matrixSize.x, header.encoding[0].reconSpace.matrixSize.y = 16, 12
    path = write(tmp_path / "raw.h5", header, readouts[:-2])
    with pytest.warns(MedseqWarning, match="samples lie beyond the image's resolution"):
        kspace = load_kspace(path)
    assert kspace.size == (12, 16) and kspace.trajectory is not None
    there = kspace.keep[0, 0]
    assert not bool(there[1, 3:].any()) and bool(there[0].any(-1).all())
    assert int(there[0, 0].sum()) == 33  # of 64 samples up to 0.25 cycles of the finer voxel, both ends included
    with pytest.raises(InputError, match="varies along a readout"):
        save_kspace(kspace, tmp_path / "again.h5")


Change = Callable[[xsd.ismrmrdHeader, Readouts], object]


def without_trajectory(one: ismrmrd.Acquisition) -> ismrmrd.Acquisition:
    bare = ismrmrd.Acquisition.from_array(one.data)
    bare.idx.repetition = one.idx.repetition
    return bare


def in_three(one: ismrmrd.Acquisition) -> ismrmrd.Acquisition:
    return ismrmrd.Acquisition.from_array(one.data, np.pad(one.traj, ((0, 0), (0, 1))))


def other_slice(readouts: Readouts) -> None:
    each(readouts[5:], slice=1, repetition=0)


REFUSED: dict[str, Change] = {
    "but not stored with every readout": lambda h, r: r.__setitem__(3, without_trajectory(r[3])),
    "of 3 dimensions": lambda h, r: r.__setitem__(slice(None), [in_three(one) for one in r]),
    "readouts of 60 to 64 samples": lambda h, r: each(r[:2], discard_pre=4),
    "the slices differ in their trajectories": lambda h, r: other_slice(r),
    "the trajectory reaches 100": lambda h, r: r[0].traj.__setitem__((0, 0), 100),
    "a trajectory is not finite": lambda h, r: r[0].traj.__setitem__((0, 0), np.nan),
    "some samples are not finite": lambda h, r: r[0].data.__setitem__((0, 0), np.nan),
    "every sample is zero": lambda h, r: [one.data.__setitem__(slice(None), 0) for one in r],
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_used_is_refused_by_name_in_one_line(tmp_path: Path, message: str) -> None:
    header, readouts = scan()
    REFUSED[message](header, readouts)
    path = write(tmp_path / "raw.h5", header, readouts)
    with pytest.raises(InputError) as caught:
        load_kspace(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["raw.cfl", "raw.mat"])
def test_other_formats_have_no_place_for_a_trajectory(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no place for a trajectory"):
        save_kspace(example(golden_radial(2, (24, 24), 3)), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_mask_that_varies_along_a_readout_is_not_written(tmp_path: Path) -> None:
    kspace = example(golden_radial(2, (24, 24), 3))
    keep = kspace.keep.expand(kspace.keep.shape[:-1] + kspace.data.shape[-1:]).clone()
    keep[..., 5] = False
    with pytest.raises(InputError, match="varies along a readout"):
        save_kspace(replace(kspace, keep=keep), tmp_path / "raw.h5")
