"""Real scanner files, against what dcm2niix makes of them. They are read in place and never copied."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from dicom_judges import assert_same_image, converted, in_scan_order

from medseq import MedseqWarning
from medseq.io.dicom import Found, find_series, load_series

SERIES = [("Si", 3), ("Si", 4), ("Si", 5), ("Si", 6), ("GE", 4), ("GE", 5), ("GE", 6), ("GE", 7)]


def reference(real_data: Path, scanner: str, number: int) -> tuple[nib.Nifti1Image, dict]:
    pattern = f"EPI_*_{number}.nii" if scanner == "Si" else f"DCM2NIIX_*_{number}.nii"
    (path,) = (real_data / "dcm_qa_nih" / "Ref").glob(pattern)
    return nib.load(path), json.loads(path.with_suffix(".json").read_text())


@pytest.fixture(scope="module")
def studies(real_data: Path) -> Found:
    """Two studies in one folder, in which series 4, 5 and 6 are there twice."""
    return find_series(real_data / "dcm_qa_nih" / "In")


@pytest.mark.parametrize(("scanner", "number"), SERIES)
@pytest.mark.filterwarnings("ignore:.*InstanceNumber:medseq.errors.MedseqWarning")
def test_a_series_equals_its_reference(real_data: Path, studies: Found, scanner: str, number: int) -> None:
    """GE in four slice orders, Siemens mosaics in four phase-encoding directions: voxels, corners, TR, slice times."""
    (series,) = [each for each in studies.series if (each.vendor[:2], each.number) == (scanner, number)]
    clip = load_series(series)
    image, sidecar = reference(real_data, scanner, number)
    assert_same_image(clip, image)
    interval = sidecar["RepetitionTime"]
    assert clip.times == pytest.approx(interval * np.arange(clip.frames), abs=1e-4)
    assert image.header.get_zooms()[3] == pytest.approx(interval, abs=1e-4)
    # A mosaic's slice times jitter by a tick of the sequence from volume to volume; dcm2niix takes them of one.
    tick = 2.6e-3 if scanner == "Si" else 1e-4
    assert clip.slice_times == pytest.approx(in_scan_order(sidecar["SliceTiming"], image, clip), abs=tick)


def test_a_folder_of_two_studies_is_taken_apart(studies: Found) -> None:
    """Nothing is mixed up, lost or refused."""
    kinds = sorted((each.vendor[:2], each.number, each.kind, len(each.times)) for each in studies.series)
    assert kinds == sorted((scanner, n, "bold", 2 if scanner == "Si" else 10) for scanner, n in SERIES)
    assert not studies.refused
    assert studies.ignored == 10  # the notes beside the images


@pytest.mark.parametrize(("precise", "option"), [(False, "n"), (True, "y")])
def test_a_philips_run_equals_dcm2niix(real_data: Path, tmp_path: Path, precise: bool, option: str) -> None:
    """Displayed and precise values; TriggerTime is when the volume began; the run was planned for 75 volumes."""
    (series,) = find_series(real_data / "fmri_rest_dicom", precise=precise).series
    assert series.kind == "bold" and series.slice_times is None
    with pytest.warns(MedseqWarning, match="75 frames were planned and 3 are there"):
        clip = load_series(series)
    ((image, sidecar),) = converted(real_data / "fmri_rest_dicom", tmp_path / "out", "-p", option)
    assert_same_image(clip, image)
    assert clip.times == pytest.approx(sidecar["RepetitionTime"] * np.arange(3), abs=1e-4)
