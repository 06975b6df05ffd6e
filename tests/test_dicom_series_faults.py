"""When the frames are, which series is meant, and what is said of folders that cannot be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_folders import edit, only, refusal
from dicom_scanner import Truth, scan

from medseq import InputError, MedseqWarning
from medseq.errors import UsageError
from medseq.io.dicom import find_series, load_dicom, load_series

# --- time ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("attributes", "period", "problem"),
    [
        ({"NominalInterval": None}, 0.8, None),  # HeartRate says the same
        ({"NominalInterval": None, "HeartRate": None}, 0.8, "taken from 5 frames of 160.0 ms"),
        ({"NominalInterval": 400}, 0.8, "shorter than the frames last"),
        ({"CardiacNumberOfImages": 6}, 0.8, "6 frames were planned and 5 are there"),  # but five fill the cycle
        ({"NominalInterval": 1000}, 1.0, None),  # prospective gating leaves the end of the cycle out
    ],
)
@pytest.mark.filterwarnings("ignore::medseq.errors.MedseqWarning")
def test_the_period_is_the_heart_s_cycle(
    tmp_path: Path, attributes: dict[str, object], period: float, problem: str | None
) -> None:
    scan(tmp_path, "ge", "cine")
    edit(tmp_path, **attributes)
    series = only(tmp_path)
    assert load_series(series).period == pytest.approx(period, abs=1e-6)
    assert [problem in text for text in series.problems] == ([True] if problem else [])


def test_a_missing_frame_does_not_pull_the_mean_cycle_to_the_other_slices(tmp_path: Path) -> None:
    truth = scan(tmp_path, "philips", "cine", jitter=0.1, missing=((0, 4),))
    # A plain mean over the slices that are left would be 32 ms late. The delay after the R wave does not scale.
    assert only(tmp_path).times == pytest.approx(truth.times, abs=1e-3)


def test_a_repetition_time_that_is_not_the_volume_s_is_said(tmp_path: Path) -> None:
    """Of one shot of a segmented sequence: the clock knows better."""
    truth = scan(tmp_path, "uih", "bold")
    edit(tmp_path, RepetitionTime="50")
    series = only(tmp_path)
    assert series.times == pytest.approx(truth.times, abs=1e-6)
    assert "RepetitionTime is 0.0500 s but volumes come every 1.5000 s, which is taken" in series.problems


def test_first_pass_perfusion_keeps_its_uneven_beats(tmp_path: Path) -> None:
    """One image a slice and beat, triggered alike in each: the times are those of the clock."""
    scan(tmp_path, "siemens", "bold", slices=2, frames=12)
    beats = np.cumsum(np.r_[0, np.tile([0.8, 0.95, 0.7], 4)])
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        t, b = divmod(int(dataset.InstanceNumber) - 1, 2)
        dataset.AcquisitionTime = f"1000{beats[t] + 0.2 * b:09.6f}"
        dataset.ScanningSequence, dataset.ContrastBolusAgent = "GR", "yes"
        dataset.save_as(path)
    series = only(tmp_path)
    assert series.kind == "perfusion"
    assert series.times == pytest.approx(beats[:12], abs=1e-6)


# --- which series, and what is said --------------------------------------------------------------------------------


def two_series(folder: Path) -> Truth:
    scan(folder, "ge", "cine", name="heart", number=3)
    return scan(folder, "ge", "bold", name="brain", number=5)


def test_one_of_several_series_is_chosen_by_number(tmp_path: Path) -> None:
    truth = two_series(tmp_path)
    assert load_dicom(tmp_path, series=5).data[:, 0].numpy() == pytest.approx(truth.values)
    with pytest.raises(InputError, match="there are series 3, series 5; say which with --series N"):
        load_dicom(tmp_path)
    with pytest.raises(UsageError, match="no series 4; there are series 3, series 5"):
        load_dicom(tmp_path, series=4)


def test_a_single_file_is_a_series(tmp_path: Path) -> None:
    truth = scan(tmp_path, "canon-enhanced", "cine")
    (path,) = tmp_path.iterdir()
    assert load_dicom(path).data[:, 0].numpy() == pytest.approx(truth.values)


def test_what_is_no_image_is_ignored_and_what_is_broken_is_named(tmp_path: Path) -> None:
    scan(tmp_path, "ge", "cine", number=3)
    first, second = sorted(tmp_path.iterdir())[:2]
    (tmp_path / "notes.txt").write_text("nothing")
    report = pydicom.dcmread(first)
    del report.PixelData
    report.save_as(tmp_path / "report")
    scan(tmp_path / "other", "ge", "bold", frames=1, slices=1)
    edit(tmp_path / "other", Modality="CT", SOPClassUID="1.2.840.10008.5.1.4.1.1.2")
    found = find_series(tmp_path)
    assert found.ignored == 2 and len(found.series) == 1
    (refused,) = found.refused
    assert refused.what == str(tmp_path / "other" / "exam-7-IM00000")
    assert refused.reason == "an image of modality CT; medseq reads MR images"
    with pytest.warns(MedseqWarning, match="1 files or series cannot be used"):
        load_dicom(tmp_path)


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"ImagePositionPatient": None}, "says nowhere where in space it is"),
        ({"ImageOrientationPatient": None}, "says nowhere how it lies in space"),
        ({"ImageOrientationPatient": ["1", "0", "0", "1", "0", "0"]}, "no pair of perpendicular unit vectors"),
        ({"PixelSpacing": ["0", "1"]}, "its voxels have no size"),
        ({"RescaleSlope": "0"}, "its rescale slope is zero"),
    ],
)
def test_an_image_that_cannot_be_placed_is_refused(tmp_path: Path, attributes: dict[str, object], reason: str) -> None:
    scan(tmp_path, "ge", "cine", slices=1, frames=1)
    edit(tmp_path, **attributes)
    assert reason in refusal(tmp_path)
    with pytest.raises(InputError, match=r"no MR image series that can be used \(.*exam-7-IM00000: "):
        load_dicom(tmp_path)


@pytest.mark.parametrize(
    ("tag", "value", "reason"),
    [(0x0019100A, 400, "does not fit"), (0x0019100A, 0, "does not say how many slices"), (None, None, "VFRAME")],
)
def test_a_mosaic_that_cannot_be_taken_apart_is_refused(
    tmp_path: Path, tag: int | None, value: int | None, reason: str
) -> None:
    scan(tmp_path, "siemens-mosaic-without-csa", "bold", frames=1)
    (path,) = tmp_path.iterdir()
    dataset = pydicom.dcmread(path)
    if tag is None:
        dataset.ImageType = ["ORIGINAL", "PRIMARY", "VFRAME"]
    else:
        dataset[tag].value = value
    dataset.save_as(path)
    assert reason in refusal(tmp_path)


def test_nothing_but_zeros_is_refused(tmp_path: Path) -> None:
    scan(tmp_path, "ge", "cine", slices=1, frames=3)
    edit(tmp_path, PixelData=bytes(2 * 20 * 24))
    with pytest.raises(InputError, match="every value of series 7 is zero"):
        load_dicom(tmp_path)


def test_a_folder_that_changes_while_it_is_read_is_one_line(tmp_path: Path) -> None:
    scan(tmp_path, "ge", "cine")
    series = only(tmp_path)
    shutil.move(sorted(tmp_path.iterdir())[3], tmp_path / "moved")
    with pytest.raises(InputError, match="no such file"):
        load_series(series)


def test_no_message_names_the_patient(tmp_path: Path) -> None:
    scan(tmp_path, "ge", "cine", missing=((0, 1),), duplicates=2)
    scan(tmp_path, "canon", "cine", components=("M", "P"), name="two", number=9)
    edit(tmp_path, slice(0, 1), ImageOrientationPatient=None)
    found = find_series(tmp_path)
    said = " ".join([*(p for each in found.series for p in each.problems), *(each.reason for each in found.refused)])
    assert said and not any(secret in said for secret in ("Doe", "SECRET", "1970", "Hospital"))
