"""What belongs to a series, in what order, and what is wrong with it: folders as they come from scanners and people."""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from dicom_folders import edit, only, refusal
from dicom_scanner import scan
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.uid import generate_uid

from medseq import InputError, MedseqWarning
from medseq.io.dicom import find_series, load_dicom, load_series

# --- order ---------------------------------------------------------------------------------------------------------

SHUFFLED = [
    "siemens",
    "siemens-mosaic",
    "siemens-xa",
    "siemens-xa30",
    "philips",
    "philips-enhanced",
    "ge",
    "canon",
    "uih",
]


@settings(max_examples=12)
@given(
    vendor=st.sampled_from(SHUFFLED),
    kind=st.sampled_from(["cine", "bold"]),
    file_names=st.integers(0, 99),
    instance_numbers=st.integers(0, 99),
)
def test_names_and_numbers_never_change_the_clip(
    vendor: str, kind: str, file_names: int, instance_numbers: int
) -> None:
    kind = "bold" if "mosaic" in vendor else kind
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", MedseqWarning)
        one = scan(Path(folder, "one"), vendor, kind, slices=2, frames=3)
        other = scan(
            Path(folder, "other"),
            vendor,
            kind,
            slices=2,
            frames=3,
            file_names=file_names,
            instance_numbers=instance_numbers,
        )
        a, b = load_dicom(one.folder), load_dicom(other.folder)
    assert torch.equal(a.data, b.data) and np.array_equal(a.affine, b.affine) and np.array_equal(a.times, b.times)
    assert a.data[:, 0].numpy() == pytest.approx(one.values, rel=1e-6)


def test_instance_numbers_are_the_last_resort_and_said(tmp_path: Path) -> None:
    """As GE writes fMRI without its timer: nothing else differs between the frames of a slice."""
    truth = scan(tmp_path, "ge", "bold")
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        del dataset[0x0021105E]
        dataset.save_as(path)
    series = only(tmp_path)
    assert series.problems == ("nothing but the order of InstanceNumber tells its frames apart",)
    with pytest.warns(MedseqWarning, match="InstanceNumber"):
        clip = load_series(series)
    assert clip.data[:, 0].numpy() == pytest.approx(truth.values)
    assert clip.slice_times is None


def test_slice_location_is_not_believed(tmp_path: Path) -> None:
    truth = scan(tmp_path, "ge", "cine")
    edit(tmp_path, SliceLocation="0")
    assert load_dicom(tmp_path).data[:, 0].numpy() == pytest.approx(truth.values)


def test_an_acquisition_number_that_runs_on_counts_no_frames(tmp_path: Path) -> None:
    """Some scanners number every image: the clock tells the frames then."""
    truth = scan(tmp_path, "canon", "bold", slices=2, frames=3)
    for number in range(6):
        edit(tmp_path, slice(number, number + 1), AcquisitionNumber=(number * 5) % 7)
    assert load_dicom(tmp_path).data[:, 0].numpy() == pytest.approx(truth.values)


# --- what belongs together -----------------------------------------------------------------------------------------


def test_studies_and_series_in_one_folder_are_told_apart(tmp_path: Path) -> None:
    """Two patients with equal series numbers, and an fMRI run of two echoes in one series."""
    scan(tmp_path, "ge", "cine", name="one")
    scan(tmp_path, "siemens", "cine", name="two")
    scan(tmp_path, "canon", "bold", name="echoes", number=9, echo=12.0)
    second = scan(tmp_path / "more", "canon", "bold", name="echoes", number=9, echo=31.0)
    for number in range(15):
        edit(second.folder, slice(number, number + 1), SOPInstanceUID=generate_uid())
    found = find_series(tmp_path)
    assert not found.refused
    assert [(each.number, each.vendor, each.kind) for each in found.series] == [
        *((7, "GE", "cine"), (7, "Siemens", "cine")),
        *((9, "Canon", "bold"), (9, "Canon", "bold")),
    ]
    assert all(len(each.frames) == 3 and len(each.times) == 5 and not each.missing for each in found.series)


def test_derived_maps_stay_beside_their_source(tmp_path: Path) -> None:
    scan(tmp_path, "siemens-mosaic", "bold")
    scan(tmp_path, "siemens-mosaic", "bold", frames=1, name="t-map", number=8)
    edit(tmp_path, slice(-1, None), ImageType=["DERIVED", "PRIMARY", "M", "MOSAIC", "TMAP"])
    with pytest.warns(MedseqWarning, match="series 7 is taken, the only one of 2 with more than one frame"):
        assert load_dicom(tmp_path).frames == 5
    assert [each.kind for each in find_series(tmp_path).series] == ["bold", "other"]


def test_a_field_map_in_the_file_of_the_magnitudes_is_a_series_of_its_own(tmp_path: Path) -> None:
    """Philips: all in one enhanced file."""
    truth = scan(tmp_path, "philips-enhanced", "bold", components=("M", "P"), frames=2)
    (path,) = tmp_path.iterdir()
    dataset = pydicom.dcmread(path)
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        kind = groups.MRImageFrameTypeSequence[0]
        if kind.ComplexImageComponent == "PHASE":
            kind.FrameType, kind.ComplexImageComponent = ["DERIVED", "PRIMARY", "B0 MAP", "NONE"], "MAGNITUDE"
    dataset.save_as(path)
    magnitude, field_map = find_series(tmp_path).series
    assert (magnitude.kind, field_map.kind) == ("bold", "other")
    assert magnitude.phases is None and field_map.phases is None
    assert load_series(magnitude).data[:, 0].numpy() == pytest.approx(np.abs(truth.values), rel=1e-6)


def test_cine_slices_at_uneven_distances_stay_apart(tmp_path: Path) -> None:
    """Long-axis views of one protocol, or a stack with a gap: nobody is to make a volume of them."""
    scan(tmp_path, "siemens", "cine", slices=4)
    for path in sorted(tmp_path.iterdir())[5:10]:
        path.unlink()
    series = find_series(tmp_path).series
    assert [(each.number, len(each.frames)) for each in series] == [(7, 1), (9, 1), (10, 1)]
    assert all("uneven distances" in each.problems[0] for each in series)


def test_two_runs_of_the_same_cine_are_two_series(tmp_path: Path) -> None:
    scan(tmp_path, "siemens", "cine")
    scan(tmp_path / "again", "siemens", "cine", number=20)
    for number in range(15):
        (path,) = sorted((tmp_path / "again").iterdir())[number : number + 1]
        series = generate_uid(entropy_srcs=[f"again{number // 5}"])
        edit(path.parent, slice(number, number + 1), SOPInstanceUID=generate_uid(), SeriesInstanceUID=series)
    assert [(each.number, len(each.frames)) for each in find_series(tmp_path).series] == [(7, 3), (20, 3)]


def test_a_slice_that_was_scanned_again_does_not_tear_the_stack(tmp_path: Path) -> None:
    """Its second version comes between the others, and stands by itself."""
    scan(tmp_path, "siemens", "cine", slices=4, frames=3)
    scan(tmp_path, "siemens", "cine", slices=2, frames=3, name="again", number=7)
    files = sorted(tmp_path.glob("again*"))
    for path in files[:3]:
        path.unlink()
    study, reference = (pydicom.dcmread(next(tmp_path.glob("exam*")))[key].value for key in (0x0020000D, 0x00200052))
    edit(tmp_path, slice(0, 3), StudyInstanceUID=study, FrameOfReferenceUID=reference)
    assert sorted((len(each.frames), each.number) for each in find_series(tmp_path).series) == [(1, 8), (4, 7)]


@pytest.mark.parametrize("begin", ["100002.0", "111111.5"])  # 1.33 and 2847.67 repetitions later
def test_volumes_that_do_not_follow_by_the_repetition_time_are_not_one_run(tmp_path: Path, begin: str) -> None:
    """XA30 numbers each volume; reference scans of several runs look alike but do not follow by the repetition time."""
    scan(tmp_path, "siemens-xa30", "bold", frames=2)
    last = sorted(tmp_path.iterdir())[-1]
    dataset = pydicom.dcmread(last)
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        groups.FrameContentSequence[0].FrameAcquisitionDateTime = "20240229" + begin
    dataset.save_as(last)
    assert [len(each.times) for each in find_series(tmp_path).series] == [1, 1]


# --- what is missing, or there twice -------------------------------------------------------------------------------

MISSING = [
    ("siemens", "cine", ((1, 2),)),
    ("siemens", "cine", ((1, 0),)),
    ("siemens", "cine", ((2, 4),)),
    ("ge", "cine", ((0, 2), (1, 2), (2, 2))),
    ("philips", "cine", ((0, 4), (1, 4), (2, 4))),
    ("ge", "bold", ((0, 2),)),
    ("siemens-mosaic", "bold", ((0, 2), (1, 2), (2, 2))),
    ("philips", "bold", ((0, 0),)),
    ("canon", "bold", ((0, 0), (2, 4))),
    ("uih", "bold", ((1, 0), (1, 1))),
    ("ge-enhanced", "cine", ((1, 0),)),
    ("canon-enhanced", "bold", ((1, 4),)),
    ("siemens-xa30", "bold", ((0, 2), (1, 2), (2, 2))),
]


@pytest.mark.parametrize(("vendor", "kind", "missing"), MISSING)
@pytest.mark.filterwarnings("ignore::medseq.errors.MedseqWarning")
def test_missing_frames_are_refused_by_name_or_marked(
    tmp_path: Path, vendor: str, kind: str, missing: tuple[tuple[int, int], ...]
) -> None:
    truth = scan(tmp_path, vendor, kind, missing=missing)
    series = only(tmp_path)
    assert series.missing == list(missing)
    named = ", ".join(f"slice {b + 1} frame {t + 1}" for b, t in missing)
    with pytest.raises(InputError, match=f"series 7 lacks {named}; --allow-missing-frames fills them in"):
        load_series(series)
    clip = load_series(series, allow_missing=True)
    present = np.ones((3, 5), bool)
    present[tuple(np.transpose(missing))] = False
    assert clip.present is not None and np.array_equal(clip.present.numpy(), present)
    assert clip.data[:, 0].numpy() == pytest.approx(truth.values * present[..., None, None], rel=1e-6)
    assert clip.times == pytest.approx(truth.times, abs=1e-4)


def test_a_first_phase_that_is_missing_is_found_though_slices_start_a_little_apart(tmp_path: Path) -> None:
    scan(tmp_path, "ge", "cine", missing=((1, 0),))
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        if abs(dataset.ImagePositionPatient[2] - 27.55) < 0.1:  # the second slice
            dataset.TriggerTime -= 20
            dataset.save_as(path)
    assert only(tmp_path).missing == [(1, 0)]


def test_a_complete_series_has_nothing_to_mark(tmp_path: Path) -> None:
    scan(tmp_path, "ge", "cine")
    assert load_dicom(tmp_path, allow_missing=True).present is None


def test_a_missing_slice_is_always_refused(tmp_path: Path) -> None:
    scan(tmp_path, "ge", "cine", slices=5, missing=tuple((3, t) for t in range(5)))
    assert "slices are missing after slice 3 (every 8.000 mm there is one elsewhere)" in refusal(tmp_path)


def test_uneven_slices_are_refused_with_their_distances(tmp_path: Path) -> None:
    scan(tmp_path, "ge", "cine", slices=3, frames=2)
    edit(tmp_path, slice(4, 6), ImagePositionPatient=["2.0", "-46.6", "41.0"])
    assert "mm apart; medseq needs even distances" in refusal(tmp_path)


def test_a_sheared_stack_stays_sheared(tmp_path: Path) -> None:
    """Slices shifted in their plane: the vector between them goes into the affine, as it is."""
    truth = scan(tmp_path, "ge", "cine", frames=2)
    shift = np.array([0.6, 0.8, 0.0]) * 2.5  # along rows, LPS
    for path in tmp_path.iterdir():
        dataset = pydicom.dcmread(path)
        place = np.array(dataset.ImagePositionPatient, float)
        b = round(float((place - [11.25, -37.5, 22.75]) @ np.cross([0.6, 0.8, 0], [-0.48, 0.36, 0.8])) / 8)
        dataset.ImagePositionPatient = [f"{value:.8f}" for value in place + b * shift]
        dataset.save_as(path)
    series = only(tmp_path)
    step = truth.affine[:3, 2] + shift * [-1, -1, 1]
    assert series.affine[:3, 2] == pytest.approx(step, abs=1e-6)
    assert any("sheared" in problem for problem in series.problems)


@pytest.mark.parametrize("renamed", [False, True])
def test_images_that_are_there_twice_are_taken_once(tmp_path: Path, renamed: bool) -> None:
    """Copied as they are, or sent again under new UIDs."""
    truth = scan(tmp_path, "philips", "bold", duplicates=4)
    if renamed:
        for number in range(15, 19):
            edit(tmp_path, slice(number, number + 1), SOPInstanceUID=generate_uid())
    with pytest.warns(MedseqWarning, match="4 images are there more than once, with the same pixels"):
        clip = load_dicom(tmp_path)
    assert clip.data[:, 0].numpy() == pytest.approx(truth.values, rel=1e-6)


def test_two_images_that_claim_to_be_one_are_refused(tmp_path: Path) -> None:
    scan(tmp_path, "philips", "bold", duplicates=1)
    last = sorted(tmp_path.iterdir())[-1]
    dataset = pydicom.dcmread(last)
    dataset.PixelData = bytes(100) + dataset.PixelData[100:]
    dataset.save_as(last)
    assert "claim to be one image and differ; remove the wrong one" in refusal(tmp_path)


def test_a_run_that_stopped_early_is_whole(tmp_path: Path) -> None:
    scan(tmp_path, "ge", "bold")
    edit(tmp_path, NumberOfTemporalPositions=8)
    series = only(tmp_path)
    assert not series.missing
    assert "8 frames were planned and 5 are there; it is taken to have stopped early" in series.problems
