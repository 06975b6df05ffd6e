"""Where a voxel is and when a frame was taken, whatever the format: NIfTI, ISMRMRD and DICOM, any geometry.

The oracle is the position of single voxels by the formula of each format's standard, not another of medseq's readers.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from dicom_files import mr_image, save
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from medseq import Clip, KSpace, MedseqWarning, load_clip, load_kspace, save_clip, save_kspace

RAS = np.diag([-1.0, -1.0, 1.0])  # of what counts to the left and the back
in_folder = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Place:
    """axes: unit vectors of x, y, z as columns, left-handed or not. voxel: mm. origin: of the first voxel, mm."""

    axes: np.ndarray
    voxel: np.ndarray
    origin: np.ndarray
    slices: int
    frames: int
    interval: float
    is_gated: bool

    @property
    def affine(self) -> np.ndarray:
        matrix = np.eye(4)
        matrix[:3, :3], matrix[:3, 3] = self.axes * self.voxel, self.origin
        return matrix

    @property
    def times(self) -> np.ndarray:
        return self.interval * np.arange(self.frames)

    @property
    def period(self) -> float | None:
        return self.interval * self.frames if self.is_gated else None


@st.composite
def places(draw: st.DrawFn) -> Place:
    turn = draw(st.lists(st.floats(-180, 180), min_size=3, max_size=3))
    if draw(st.booleans()):
        turn = [90.0 * round(angle / 90) for angle in turn]  # along the axes of the body
    flips = draw(st.lists(st.sampled_from([-1.0, 1.0]), min_size=3, max_size=3))
    return Place(
        Rotation.from_euler("xyz", turn, degrees=True).as_matrix() * flips,
        np.array(draw(st.lists(st.floats(0.3, 12), min_size=3, max_size=3))),
        np.array(draw(st.lists(st.floats(-400, 400), min_size=3, max_size=3))),
        draw(st.integers(1, 4)),
        draw(st.integers(1, 4)),
        draw(st.floats(0.02, 3)),
        draw(st.booleans()),
    )


def corners(affine: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    grid = np.array(list(itertools.product(*[(0, size - 1) for size in shape])))
    return nib.affines.apply_affine(affine, grid)


def assert_same_place(found: np.ndarray, wanted: np.ndarray, shape: tuple[int, int, int]) -> None:
    """Corners within a hundredth of a millimetre: headers hold single precision."""
    np.testing.assert_allclose(corners(found, shape), corners(wanted, shape), rtol=0, atol=1e-2)


@in_folder
@given(places())
def test_nifti(tmp_path: Path, place: Place) -> None:
    data = torch.arange(1.0, 1 + place.slices * place.frames * 15).reshape(place.slices, 1, place.frames, 3, 5)
    save_clip(Clip(data, place.affine, place.times, place.period), tmp_path / "a.nii")
    again = load_clip(tmp_path / "a.nii")
    assert torch.equal(again.data, data)
    assert_same_place(again.affine, place.affine, (5, 3, place.slices))
    assert_same_place(nib.load(tmp_path / "a.nii").affine, place.affine, (5, 3, place.slices))
    np.testing.assert_allclose(again.times, place.times, rtol=1e-6)
    assert again.period == place.period


@in_folder
@given(places())
def test_ismrmrd(tmp_path: Path, place: Place) -> None:
    """And from there to NIfTI, as a reconstruction goes."""
    data = torch.arange(1.0, 1 + place.slices * place.frames * 60).reshape(place.slices, 2, place.frames, 6, 5) + 0j
    keep = torch.ones(1, 1, 1, 6, 1, dtype=torch.bool)
    save_kspace(KSpace(data, keep, None, 0.1, place.affine, place.times, place.period), tmp_path / "a.h5")
    again = load_kspace(tmp_path / "a.h5")
    assert torch.equal(again.data, data)
    assert_same_place(again.affine, place.affine, (5, 6, place.slices))
    np.testing.assert_array_equal(again.times, place.times)
    # A single frame has no cycle to be a phase of, as far as the format goes; otherwise the period is exact.
    assert place.frames == 1 or again.period == place.period
    save_clip(Clip(again.data[:, :1].abs(), again.affine, again.times), tmp_path / "a.nii")
    assert_same_place(load_clip(tmp_path / "a.nii").affine, place.affine, (5, 6, place.slices))


def dicom(folder: Path, place: Place) -> None:
    """A file for each slice and frame; its values number the voxels, and where they lie is PS3.3 C.7.6.2.1.1."""
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    row, column, across = (RAS @ place.axes).T  # to LPS
    for t, b in itertools.product(range(place.frames), range(place.slices)):
        number = t * place.slices + b
        image = mr_image(np.arange(15, dtype=np.uint16).reshape(3, 5) + np.uint16(15 * b + 100 * t + 1))
        image.SOPInstanceUID = f"1.2.3.{number + 1}"
        image.ImageOrientationPatient = [f"{value:.12f}" for value in (*row, *column)]
        position = RAS @ place.origin + b * place.voxel[2] * across
        image.ImagePositionPatient = [f"{value:.9f}" for value in position]
        image.PixelSpacing = [f"{place.voxel[1]:.9f}", f"{place.voxel[0]:.9f}"]
        image.SliceThickness = image.SpacingBetweenSlices = f"{place.voxel[2]:.9f}"
        image.InstanceNumber, image.SeriesNumber = number + 1, 1
        image.TemporalPositionIdentifier, image.NumberOfTemporalPositions = t + 1, place.frames
        image.RepetitionTime = f"{1000 * place.interval:.6f}"
        image.TriggerTime, image.NominalInterval = (
            f"{1000 * t * place.interval:.6f}",
            round(5000 * place.interval),
        )
        save(image, folder / f"{number}.dcm")


@in_folder
@given(places())
def test_dicom(tmp_path: Path, place: Place) -> None:
    """And from there to NIfTI. A single slice has its normal from the plane, so that its handedness is not told."""
    dicom(tmp_path / "in", place)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedseqWarning)
        clip = load_clip(tmp_path / "in")
        save_clip(clip, tmp_path / "a.nii")
    for affine, data in ((clip.affine, clip.data), (load_clip(tmp_path / "a.nii").affine, clip.data)):
        for b, y, x in ((0, 0, 0), (place.slices - 1, 2, 4), (0, 2, 0)):
            value = 15 * b + 5 * y + x + 1
            z, _, _, row, column = (int(each) for each in (data[:, :, :1] == value).nonzero()[0])
            found = nib.affines.apply_affine(affine, (column, row, z))
            np.testing.assert_allclose(found, nib.affines.apply_affine(place.affine, (x, y, b)), rtol=0, atol=1e-2)
    assert clip.frames == place.frames
    np.testing.assert_allclose(np.diff(clip.times), np.diff(place.times), rtol=1e-5)
