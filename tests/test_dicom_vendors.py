"""Every vendor's layout of one and the same exam is read to the same series, and other readers see it likewise."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path

import highdicom
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK
from dicom_folders import edit
from dicom_judges import assert_same_image, converted, corners
from dicom_layouts import LAYOUTS
from dicom_scanner import Truth, scan

from medseq import Clip, MedseqWarning
from medseq.io.dicom import DicomSeries, find_series, load_dicom, load_series
from medseq.io.dicom.components import radians_per_unit

EXAMS = [(vendor, kind) for vendor in LAYOUTS for kind in ("cine", "bold") if kind == "bold" or "mosaic" not in vendor]
CLASSIC = ["siemens", "ge", "philips", "canon", "uih"]
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0])


def read(truth: Truth) -> tuple[DicomSeries, Clip]:
    """The one series of the folder, which must be all there is."""
    found = find_series(truth.folder)
    assert not found.refused and not found.ignored
    (series,) = found.series
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", MedseqWarning)  # what is assumed is tested where it is the point
        return series, load_series(series)


def assert_true(clip: Clip, truth: Truth) -> None:
    """Values to single precision, corners to 1e-3 mm, times to 0.1 ms."""
    values = clip.data[:, 0].numpy()
    assert values.shape == truth.values.shape
    np.testing.assert_allclose(values, truth.values, rtol=2e-6, atol=5e-3 if clip.is_complex else 0)
    shape = (values.shape[3], values.shape[2], values.shape[0])
    assert np.abs(corners(clip.affine, shape) - corners(truth.affine, shape)).max() < 1e-3
    assert clip.times == pytest.approx(truth.times, abs=1e-4)
    assert clip.period == pytest.approx(truth.period, abs=1e-4)
    if truth.slice_times is None:
        assert clip.slice_times is None
    else:
        assert clip.slice_times == pytest.approx(truth.slice_times, abs=1e-4)


@pytest.mark.parametrize(("vendor", "kind"), EXAMS)
def test_a_layout_is_read_to_the_truth(tmp_path: Path, vendor: str, kind: str) -> None:
    truth = scan(tmp_path, vendor, kind)
    series, clip = read(truth)
    assert series.kind == kind
    assert series.vendor == {"ca": "Canon", "ge": "GE", "ph": "Philips", "ui": "United Imaging"}.get(
        vendor[:2], "Siemens"
    )
    assert_true(clip, truth)


@pytest.mark.parametrize(("vendor", "kind"), [exam for exam in EXAMS if exam[0] != "siemens-mosaic-without-csa"])
def test_slices_counted_downward_are_turned_round(tmp_path: Path, vendor: str, kind: str) -> None:
    truth = scan(tmp_path, vendor, kind, downward=True)
    assert_true(read(truth)[1], truth)


@pytest.mark.parametrize("vendor", [vendor for vendor, kind in EXAMS if kind == "cine"])
def test_each_slice_has_its_own_heart_rate(tmp_path: Path, vendor: str) -> None:
    """Frames are matched by phase; the clip has the mean cycle, each frame keeps the time on its own slice's clock."""
    truth = scan(tmp_path, vendor, "cine", jitter=0.05)
    series, clip = read(truth)
    assert_true(clip, truth)
    own = np.array([[frame.time for frame in row if frame is not None] for row in series.frames])
    assert truth.triggers is not None
    assert own == pytest.approx(truth.triggers, abs=1e-6)
    assert any("0.760 to 0.840 s" in problem for problem in series.problems)


JOINED = ["siemens", "siemens-mosaic", "siemens-xa", "philips", "philips-enhanced", "ge", "ge-enhanced", "uih-enhanced"]


@pytest.mark.parametrize("vendor", JOINED)
def test_phases_are_joined_with_magnitudes(tmp_path: Path, vendor: str) -> None:
    truth = scan(tmp_path, vendor, "bold", components=("M", "P"))
    series, clip = read(truth)
    assert series.phases is not None and clip.is_complex
    assert_true(clip, truth)


def test_cine_slices_that_are_series_each_are_joined_with_their_phases(tmp_path: Path) -> None:
    truth = scan(tmp_path, "siemens", "cine", components=("M", "P"))
    assert_true(read(truth)[1], truth)


def test_real_and_imaginary_parts_are_joined(tmp_path: Path) -> None:
    truth = scan(tmp_path, "ge", "cine", components=("R", "I"))
    assert_true(read(truth)[1], truth)


def test_phases_of_unknown_unit_stay_by_themselves(tmp_path: Path) -> None:
    """Without a rescale nobody says what a stored value of 0 to 65535 means."""
    scan(tmp_path, "canon", "cine", components=("M", "P"))
    magnitude, phase = find_series(tmp_path).series
    assert (magnitude.kind, phase.kind) == ("cine", "other")
    assert "the unit of its phases is unknown; they are not joined with magnitudes" in phase.problems


@pytest.mark.parametrize(
    ("lowest", "unit"),
    [(np.pi, 1.0), (3142, 1e-3), (4096, np.pi / 4096), (0, None), (2.5, None), (180, None), (9999, None)],
)
def test_the_lowest_value_tells_the_unit_of_a_phase(lowest: float, unit: float | None) -> None:
    found = radians_per_unit("Canon", pydicom.Dataset(), 1.0, -lowest)
    assert found is None if unit is None else found == pytest.approx(unit)


@pytest.mark.parametrize("encoding", ["implicit", "big", "deflated", "rle", "bare", "gzip"])
@pytest.mark.parametrize("vendor", ["philips", "philips-enhanced"])
def test_encodings_change_nothing(tmp_path: Path, vendor: str, encoding: str) -> None:
    truth = scan(tmp_path, vendor, "bold", encoding=encoding, components=("M", "P"), slices=2, frames=3)
    assert_true(read(truth)[1], truth)


@pytest.mark.parametrize("encoding", ["implicit", "rle", "j2k"])
def test_a_mosaic_of_seven_tiles(tmp_path: Path, encoding: str) -> None:
    truth = scan(tmp_path, "siemens-mosaic", "bold", slices=7, encoding=encoding)
    assert_true(read(truth)[1], truth)


# --- other readers -------------------------------------------------------------------------------------------------


def phase_files(series: DicomSeries, t: int) -> list[str]:
    return [str(row[t].path) for row in series.frames if row[t] is not None]


@pytest.mark.parametrize("vendor", CLASSIC)
@pytest.mark.parametrize("kind", ["cine", "bold"])
def test_simpleitk_sees_a_marked_voxel_at_the_same_place(tmp_path: Path, vendor: str, kind: str) -> None:
    series, clip = read(scan(tmp_path, vendor, kind))
    for t in (0, 3):
        image = SimpleITK.ReadImage(phase_files(series, t))
        values = SimpleITK.GetArrayFromImage(image)
        z, y, x = np.unravel_index(values.argmax(), values.shape)  # the phantom has one largest value
        assert float(clip.data[z, 0, t, y, x]) == pytest.approx(values.max(), rel=1e-6)
        theirs = LPS_TO_RAS @ image.TransformContinuousIndexToPhysicalPoint([float(x), float(y), float(z)])
        assert np.abs(theirs - nib.affines.apply_affine(clip.affine, [x, y, z])).max() < 1e-3
        everywhere = [(i, j, k) for i in (0, 23) for j in (0, 19) for k in (0, 2)]
        placed = [LPS_TO_RAS @ image.TransformContinuousIndexToPhysicalPoint([float(v) for v in c]) for c in everywhere]
        assert np.abs(np.array(placed) - nib.affines.apply_affine(clip.affine, everywhere)).max() < 1e-3


def test_simpleitk_notices_a_wrong_place(tmp_path: Path) -> None:
    series, clip = read(scan(tmp_path, "ge", "cine"))
    image = SimpleITK.ReadImage(phase_files(series, 0)[::-1])  # slices in the wrong order
    theirs = LPS_TO_RAS @ image.TransformContinuousIndexToPhysicalPoint([0.0, 0.0, 2.0])
    assert np.abs(theirs - nib.affines.apply_affine(clip.affine, [0, 0, 2])).max() > 1


@pytest.mark.parametrize("vendor", CLASSIC)
def test_highdicom_sees_the_same_volume(tmp_path: Path, vendor: str) -> None:
    series, clip = read(scan(tmp_path, vendor, "bold"))
    volume = highdicom.get_volume_from_series([pydicom.dcmread(path) for path in phase_files(series, 2)])
    # Its axes are (slice, row, column), and it counts slices either way.
    affine = np.diag([-1.0, -1, 1, 1]) @ volume.affine[:, [2, 1, 0, 3]]
    shape = volume.array.shape[::-1]
    if affine[:3, 2] @ clip.affine[:3, 2] < 0:
        affine = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, shape[2] - 1], [0, 0, 0, 1]])
    assert np.abs(corners(affine, shape) - corners(clip.affine, shape)).max() < 1e-3


def test_highdicom_sees_the_same_multi_frame_volume(tmp_path: Path) -> None:
    series, clip = read(scan(tmp_path, "siemens-xa", "bold"))
    volume = highdicom.imread(phase_files(series, 1)[0]).get_volume()
    values = volume.array
    if volume.affine[:3, 0] @ (LPS_TO_RAS @ clip.affine[:3, 2]) < 0:
        values = values[::-1]
    assert np.array_equal(values, clip.data[:, 0, 1].numpy())


# Not Philips, whose slope of each frame makes dcm2niix write a file for each; a real run is in test_dicom_real.py.
CONVERTED = ["siemens", "siemens-mosaic", "ge", "canon", "uih", "philips-enhanced", "canon-enhanced"]


@pytest.mark.parametrize("vendor", CONVERTED)
def test_dcm2niix_sees_the_same_run(tmp_path: Path, vendor: str) -> None:
    truth = scan(tmp_path / "in", vendor, "bold", slices=5)
    clip = read(truth)[1]
    ((image, sidecar),) = converted(truth.folder, tmp_path / "out", "-p", "n")
    assert_same_image(clip, image)
    assert sidecar["RepetitionTime"] == pytest.approx(clip.times[1], abs=1e-4)
    with pytest.raises(AssertionError):
        assert_same_image(replace(clip, affine=clip.affine @ np.diag([1, 1, 1.001, 1])), image)


def test_dcm2niix_sees_a_downward_mosaic_likewise(tmp_path: Path) -> None:
    """Its CSA header says that slices follow each other against row x column."""
    truth = scan(tmp_path / "in", "siemens-mosaic", "bold", slices=5, downward=True)
    ((image, _),) = converted(truth.folder, tmp_path / "out")
    assert_same_image(read(truth)[1], image)


def test_precise_values_are_those_of_dcm2niix(tmp_path: Path) -> None:
    """Philips' private scale: comparable between series, where displayed values are not."""
    truth = scan(tmp_path / "in", "philips", "bold", frames=1)
    edit(truth.folder, RescaleIntercept="-300")
    ((image, _),) = converted(truth.folder, tmp_path / "out", "-p", "y")
    assert_same_image(load_dicom(truth.folder, precise=True), image)
