"""DICOM to NIfTI and back: what other software did to a series is stored beside it, in its place and time."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from cli_shelf import command
from dicom_judges import converted
from dicom_scanner import scan

from medseq.io.dicom import load_dicom

MARK = 20000  # brighter than anything that the scanner of the tests makes


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def marked(path: Path, voxel: tuple[int, int, int, int]) -> np.ndarray:
    """Set one voxel (x, y, z, t) of a NIfTI file apart, as foreign software would, and return its place, RAS mm."""
    image = nib.load(path)
    values = np.asarray(image.dataobj).copy()
    values[voxel] = MARK
    image.header.extensions.clear()  # where medseq keeps the period, and other software keeps nothing
    nib.save(nib.Nifti1Image(values, image.affine, image.header), path)
    return nib.affines.apply_affine(image.affine, voxel[:3])


@pytest.mark.parametrize(
    ("vendor", "kind"), [("ge", "cine"), ("siemens-mosaic", "bold"), ("philips-enhanced", "bold"), ("canon", "cine")]
)
def test_a_marked_voxel_keeps_its_place_and_time_there_and_back(here: Path, vendor: str, kind: str):
    truth = scan(here / "study", vendor, kind, slices=3, frames=4)
    assert command("convert study -o series.nii.gz") == 0
    voxel = (5, 11, 2, 1)
    place = marked(here / "series.nii.gz", voxel)
    np.testing.assert_allclose(place, nib.affines.apply_affine(truth.affine, voxel[:3]), atol=1e-3)
    assert command("convert series.nii.gz --like study -o back") == 0
    back = load_dicom(here / "back")
    np.testing.assert_allclose(back.times, truth.times, atol=1e-4)
    assert back.period == pytest.approx(truth.period)
    # InstanceNumber runs phase by phase: the files of the marked frame are the second three.
    files = sorted((here / "back").glob("*.dcm"))[3:6]
    image = sitk.ReadImage([str(file) for file in files])
    values = sitk.GetArrayFromImage(image)
    ((z, y, x),) = np.argwhere(values == values.max()).tolist()
    lps = np.array(image.TransformIndexToPhysicalPoint((x, y, z)))
    np.testing.assert_allclose(lps * [-1, -1, 1], place, atol=1e-3)


def test_another_converter_finds_the_mark_at_its_place(here: Path):
    scan(here / "study", "siemens-mosaic", "bold", slices=3, frames=4)
    assert command("convert study -o series.nii.gz") == 0
    place = marked(here / "series.nii.gz", (5, 11, 2, 1))
    assert command("convert series.nii.gz --like study -o back") == 0
    ((image, sidecar),) = converted(here / "back", here / "judge")
    ((x, y, z, t),) = np.argwhere(image.get_fdata() == MARK).tolist()
    np.testing.assert_allclose(nib.affines.apply_affine(image.affine, (x, y, z)), place, atol=1e-3)
    assert t == 1 and sidecar["RepetitionTime"] == pytest.approx(load_dicom(here / "study").times[1])


def test_what_is_stored_says_that_others_made_it(here: Path):
    scan(here / "study", "ge", "cine", slices=1, frames=3)
    assert command("convert study -o series.nii.gz") == 0
    assert command("convert series.nii.gz --like study -o back") == 0
    image = pydicom.dcmread(here / "back" / "IM00001.dcm")
    assert image.DerivationCodeSequence[0].CodeValue == "PROCESS"
    assert "model" not in image.ImageComments and "RESEARCH ONLY" in image.ImageComments
    assert json.loads((here / "back" / "run.json").read_text())["command"] == "convert"


def test_it_can_be_deidentified(here: Path):
    scan(here / "Doe", "ge", "cine", slices=1, frames=3)
    for file in (here / "Doe").iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PatientName = "Doe^Jane"
        dataset.save_as(file)
    assert command("convert Doe -o series.nii.gz") == 0
    assert command("convert series.nii.gz --like Doe -o back --deidentify") == 0
    assert all(b"Doe" not in file.read_bytes() for file in (here / "back").iterdir())


@pytest.mark.parametrize(
    ("words", "code", "named"),
    [
        ("convert moved.nii.gz --like study -o back", 4, "lie elsewhere"),
        ("convert study --like study -o back", 2, "NIfTI"),
        ("convert series.nii.gz --like study -o back.dcm", 2, "folder"),
        ("convert series.nii.gz --like missing -o back", 4, "missing"),
        ("convert series.nii.gz -o back.nii.gz --deidentify", 2, "--like"),
    ],
)
def test_what_does_not_fit_is_refused(here: Path, capsys, words: str, code: int, named: str):
    scan(here / "study", "ge", "cine", slices=1, frames=3)
    assert command("convert study -o series.nii.gz") == 0
    image = nib.load(here / "series.nii.gz")
    elsewhere = image.affine.copy()
    elsewhere[:3, 3] += 5
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), elsewhere), here / "moved.nii.gz")
    capsys.readouterr()
    before = sorted(here.rglob("*"))
    assert command(words) == code
    lines = [line for line in capsys.readouterr().err.splitlines() if "warning" not in line]
    assert len(lines) == 1 and named in lines[0]
    assert sorted(here.rglob("*")) == before
