"""Derived MR series: what they say of themselves, their pixels, times and sources, against the source's own files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
import torch
from dicom_scanner import scan
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

from medseq import Clip, InputError, ResourceError, UsageError
from medseq.io.dicom import DicomSeries, find_series, load_series
from medseq.io.dicom.write import Derivation, save_derived

OPTIONS = {"steps": 3, "strength": 0.5}
DERIVATION = Derivation("denoise", "Denoised with a video diffusion prior.", "small", "ab" * 32, OPTIONS, 1)
VENDORS = ("ge", "siemens", "philips", "canon", "uih", "siemens-xa", "philips-enhanced", "ge-enhanced", "legacy")


def scanned(folder: Path, vendor: str, kind: str = "cine", **options: object) -> tuple[DicomSeries, Clip]:
    """A series of the pretended scanner as medseq reads it."""
    scan(folder, vendor, kind, **options)  # type: ignore[arg-type]
    found = find_series(folder)
    assert not found.refused
    (series,) = found.series
    return series, loaded(series)


def loaded(series: DicomSeries) -> Clip:
    """Its clip, whatever there is to warn of."""
    return load_series(replace(series, problems=()), allow_missing=True)


def derived(clip: Clip, folder: Path, source: DicomSeries, **options: object) -> list[Dataset]:
    """The datasets of a derived series; options: of `save_derived`, and `derivation`."""
    folder.mkdir(parents=True)
    derivation = options.pop("derivation", DERIVATION)
    paths = save_derived(clip, folder, source, derivation, **options)  # type: ignore[arg-type]
    assert sorted(folder.iterdir()) == sorted(paths)
    return [pydicom.dcmread(path) for path in paths]


def real(dataset: Dataset) -> np.ndarray:
    """Real values as the standard maps them."""
    mapping = dataset.get("RealWorldValueMappingSequence")
    slope, intercept = (mapping[0].RealWorldValueSlope, mapping[0].RealWorldValueIntercept) if mapping else (1, 0)
    return dataset.pixel_array * slope + intercept


def volume(datasets: Sequence[Dataset], slices: int) -> np.ndarray:
    """(B, T, Y, X) real values, by InstanceNumber."""
    images = sorted(datasets, key=lambda dataset: dataset.InstanceNumber)
    return np.array([[real(image) for image in images[b::slices]] for b in range(slices)])


def source_of(dataset: Dataset, folder: Path) -> list[Dataset]:
    """The source files that a derived image names."""
    files = {file.SOPInstanceUID: file for file in map(pydicom.dcmread, sorted(folder.iterdir()))}
    return [files[item.ReferencedSOPInstanceUID] for item in dataset.SourceImageSequence]


@pytest.mark.parametrize("kind", ["cine", "bold"])
@pytest.mark.parametrize("vendor", VENDORS)
def test_place_time_and_values_survive(vendor: str, kind: str, tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", vendor, kind, jitter=0.1)
    images = derived(clip, tmp_path / "out", source)
    assert [image.InstanceNumber for image in images] == list(range(1, 16))
    slopes = {frame.slope for row in source.frames for frame in row if frame is not None}
    half_a_step = min(slopes) / 2 if len(slopes) > 1 else 0.0  # one scale for all of Philips' frames: its finest
    np.testing.assert_allclose(volume(images, 3), clip.data[:, 0], rtol=1e-6, atol=half_a_step)
    for number, image in enumerate(images):
        t, b = divmod(number, 3)
        frame = source.frames[b][t]
        assert frame is not None
        np.testing.assert_allclose(image.ImagePositionPatient, frame.position, atol=1e-6)
        assert image.TemporalPositionIdentifier == t + 1 and image.NumberOfTemporalPositions == 5
        assert (kind == "cine") == ("TriggerTime" in image) == (image.get("CardiacNumberOfImages") == 5)
        if kind == "cine":
            assert image.TriggerTime == pytest.approx(1000 * frame.time, abs=0.01)
    again = loaded(find_series(tmp_path / "out").series[0])
    np.testing.assert_allclose(again.times, clip.times, rtol=0, atol=1e-4)
    np.testing.assert_allclose(again.affine, clip.affine, rtol=0, atol=1e-4)
    assert (again.period is None) == (clip.period is None)


def test_a_mosaic_falls_apart_into_its_slices(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "siemens-mosaic", "bold", slices=5)
    images = derived(clip, tmp_path / "out", source)
    np.testing.assert_array_equal(volume(images, 5), clip.data[:, 0])
    assert all("MOSAIC" not in image.ImageType for image in images)
    assert {(image.Rows, image.Columns) for image in images} == {(20, 24)}
    across, down = np.array(images[0].ImageOrientationPatient, float).reshape(2, 3)
    for b, image in enumerate(images[:5]):
        expected = np.diag([-1, -1, 1]) @ (clip.affine @ [0, 0, b, 1])[:3]
        np.testing.assert_allclose(image.ImagePositionPatient, expected, atol=1e-3)
        assert image.SliceLocation == pytest.approx(expected @ np.cross(across, down), abs=1e-3)


def test_what_a_derived_image_says_of_itself(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "siemens")
    image = derived(clip, tmp_path / "out", source)[4]
    (original,) = source_of(image, tmp_path / "in")
    same = "PatientName PatientID StudyInstanceUID FrameOfReferenceUID Manufacturer EchoTime FlipAngle ScanOptions "
    for keyword in (same + "NominalInterval SpecificCharacterSet PixelSpacing").split():
        assert image[keyword] == original[keyword]
    assert image.SOPClassUID == MRImageStorage
    assert image.file_meta.TransferSyntaxUID == ExplicitVRLittleEndian and image.preamble == b"\0" * 128
    assert image.SeriesInstanceUID != original.SeriesInstanceUID and image.SeriesNumber == 701
    assert image.SeriesDescription == original.SeriesDescription + " medseq denoise"
    assert image.ImageType == ["DERIVED", "SECONDARY", "M", "ND"]
    assert image.ContentQualification == "RESEARCH" and image.ImageComments.startswith("RESEARCH ONLY")
    assert [code.CodeValue for code in image.DerivationCodeSequence] == ["113087", "DENOISE"]
    assert image.SourceImageSequence[0].PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
    (series,) = image.ReferencedSeriesSequence
    assert series.SeriesInstanceUID == original.SeriesInstanceUID
    assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == original.SOPInstanceUID
    equipment = image.ContributingEquipmentSequence[0]
    assert equipment.Manufacturer == "medseq" and DERIVATION.model_sha256 in equipment.ContributionDescription
    assert "SyntheticData" not in image and "RescaleSlope" not in image


def test_nothing_private_or_stale_is_kept(tmp_path: Path) -> None:
    scan(tmp_path / "in", "ge", slices=1, frames=2)
    for path in sorted((tmp_path / "in").iterdir()):
        file = pydicom.dcmread(path)
        file.private_block(0x0019, "SOMEBODY", create=True).add_new(1, "LO", "Doe^Jane")
        file.add_new(0x60000010, "US", 20)
        file.add_new(0x00280120, "SS", -1)  # PixelPaddingValue
        file.add_new(0x00080000, "UL", 4)  # group length
        file.RequestAttributesSequence = [Dataset()]
        file.RequestAttributesSequence[0].ScheduledProcedureStepID = "1"
        file.RequestAttributesSequence[0].private_block(0x0019, "SOMEBODY", create=True).add_new(1, "LO", "Doe^Jane")
        file.OtherPatientIDsSequence = [Dataset()]
        file.OtherPatientIDsSequence[0].private_block(0x0019, "SOMEBODY", create=True).add_new(1, "LO", "Doe^Jane")
        file.SAR = pydicom.valuerep.DSfloat(1 / 3, auto_format=True)
        with pydicom.config.disable_value_validation():
            file.PatientAge, file.ProtocolName = "99", "x" * 65  # neither is valid: it stays, it goes
            file.save_as(path)
    (source,) = find_series(tmp_path / "in").series
    clip = loaded(source)
    derived(clip, tmp_path / "enhanced", source, std=clip, multiframe=True)
    image = derived(clip, tmp_path / "out", source)[0]
    assert "ProtocolName" not in image and image.get_item("PatientAge").value == b"99"
    tags = [element.tag for element in image.iterall()]
    assert not any(tag.is_private for tag in tags)
    assert not any(tag.group in range(0x5000, 0x6100) or (tag.element == 0 and tag.group > 2) for tag in tags)
    assert "PixelPaddingValue" not in image
    assert image.RequestAttributesSequence[0].ScheduledProcedureStepID == "1"


def test_decimal_strings_are_short_and_as_exact_as_they_can_be(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "siemens", slices=1, frames=3)
    assert clip.period is not None
    between = Clip(clip.data, clip.affine, clip.times + clip.period / 7, clip.period)
    for number, image in enumerate(derived(between, tmp_path / "out", source), 1):
        raw = pydicom.dcmread(tmp_path / "out" / f"IM{number:05d}.dcm")
        found = [raw.get_item(element.tag).value for element in image if element.VR == "DS"]
        assert found and all(len(part) <= 16 for value in found for part in bytes(value).split(b"\\"))
        assert float(image.TriggerTime) == pytest.approx(1000 * between.times[number - 1], rel=1e-12)


def test_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "philips", slices=2, frames=3)
    std = clip.with_data(0.1 * clip.data)
    shuffled = replace(DERIVATION, options=dict(reversed(OPTIONS.items())))
    derived(clip, tmp_path / "a", source, std=std)
    derived(clip, tmp_path / "b", source, std=std, derivation=shuffled)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(path.name for path in (tmp_path / "b").iterdir()) and len(files) == 9
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_another_uncertainty_has_other_uids(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "ge", slices=2, frames=2)
    first = derived(clip, tmp_path / "a", source, std=clip)
    second = derived(clip, tmp_path / "b", source, std=clip.with_data(2 * clip.data))
    shared = {image.SOPInstanceUID for image in first} & {image.SOPInstanceUID for image in second}
    assert shared == {image.SOPInstanceUID for image in first[:4]}


@pytest.mark.parametrize(
    "change", [{"seed": 2}, {"options": {"steps": 4}}, {"model_sha256": "cd" * 32}, {"task": "reconstruct"}]
)
def test_another_derivation_has_other_uids(change: dict, tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "ge", slices=2, frames=2)
    first = derived(clip, tmp_path / "a", source)
    second = derived(clip, tmp_path / "b", source, derivation=replace(DERIVATION, **change))
    assert not {image.SOPInstanceUID for image in first} & {image.SOPInstanceUID for image in second}
    assert first[0].SeriesInstanceUID != second[0].SeriesInstanceUID


def test_one_other_pixel_has_other_uids(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "ge", slices=2, frames=2)
    data = clip.data.clone()
    data[0, 0, 0, 3, 3] += 5
    first, second = derived(clip, tmp_path / "a", source), derived(clip.with_data(data), tmp_path / "b", source)
    assert not {image.SOPInstanceUID for image in first} & {image.SOPInstanceUID for image in second}
    uids = {image.SOPInstanceUID for image in first}
    assert len(uids) == 4 and all(uid.startswith("2.25.") and len(uid) <= 64 for uid in uids)


def test_interpolated_frames_name_both_neighbours_and_keep_each_slices_clock(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "siemens", jitter=0.2, frames=4)
    assert clip.period is not None
    times = np.sort(np.concatenate([clip.times, clip.times + clip.period / 8]))
    double = Clip(clip.data.repeat_interleave(2, dim=2), clip.affine, times, clip.period)
    images = derived(double, tmp_path / "out", source, derivation=replace(DERIVATION, task="interpolate"))
    for b in range(3):
        own = [frame.time for frame in source.frames[b] if frame is not None]
        mine = images[b::3]
        triggers = np.array([float(image.TriggerTime) for image in mine])
        np.testing.assert_allclose(triggers[::2], 1000 * np.array(own), atol=0.01)
        np.testing.assert_allclose(np.diff(triggers), np.diff(triggers)[0], atol=0.1)
        assert [image.get("SyntheticData") for image in mine] == [None, "YES"] * 4
        assert [len(image.SourceImageSequence) for image in mine] == [1, 2] * 4
        wrapped = {file.TriggerTime for file in source_of(mine[-1], tmp_path / "in")}
        assert wrapped == {1000 * own[0], 1000 * own[-1]}  # between the last frame and the next beat's first
    assert images[0].CardiacNumberOfImages == 8


def test_interpolated_volumes_run_on_the_clock_and_say_their_interval(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "ge", "bold", frames=3)
    times = np.arange(5) * 0.75
    double = Clip(torch.rand(3, 1, 5, 20, 24) * 4000, clip.affine, times)
    images = derived(double, tmp_path / "out", source, derivation=replace(DERIVATION, task="interpolate"))
    assert [image.AcquisitionTime for image in images[::3]] == [f"1000{second:09.6f}" for second in times]
    assert {float(image.RepetitionTime) for image in images} == {750.0}
    again = loaded(find_series(tmp_path / "out").series[0])
    np.testing.assert_allclose(again.times, times, atol=1e-4)


def test_acquisition_runs_past_midnight(tmp_path: Path) -> None:
    scan(tmp_path / "in", "ge", "bold", slices=1, frames=2)
    for path in sorted((tmp_path / "in").iterdir()):
        file = pydicom.dcmread(path)
        file.AcquisitionDate, file.AcquisitionTime = "20240229", "235959.5"
        file.save_as(path)
    (source,) = find_series(tmp_path / "in").series
    images = derived(loaded(source), tmp_path / "out", source)
    assert [(image.AcquisitionDate, image.AcquisitionTime) for image in images] == [
        ("20240229", "235959.500000"),
        ("20240301", "000001.000000"),
    ]


def test_filled_frames_are_marked_and_name_their_neighbours(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "siemens", missing=((1, 2),))
    assert source.missing == [(1, 2)] and clip.present is not None
    made_up = ~clip.present
    made_up[0, 0] = True  # a frame that is there, but was made anew
    filled = replace(DERIVATION, task="fill", synthetic=made_up)
    images = derived(clip, tmp_path / "out", source, derivation=filled)
    marked = [image.InstanceNumber for image in images if image.get("SyntheticData") == "YES"]
    assert marked == [1, 2 * 3 + 1 + 1]
    assert len(images[7].SourceImageSequence) == 2
    assert images[6].TriggerTime == pytest.approx(float(images[7].TriggerTime), abs=0.1)


def test_a_complex_clip_becomes_magnitudes_and_phases(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "siemens", components=("M", "P"))
    images = derived(clip, tmp_path / "out", source)
    magnitudes, phases = images[:15], images[15:]
    np.testing.assert_allclose(volume(magnitudes, 3), clip.data[:, 0].abs(), atol=0.5)
    turn = np.exp(1j * (volume(phases, 3) - clip.data[:, 0].angle().numpy()))
    assert np.abs(np.angle(turn)).max() < np.pi / 4096 * 1.01
    assert magnitudes[0].SeriesNumber + 1 == phases[0].SeriesNumber
    assert magnitudes[0].SeriesInstanceUID != phases[0].SeriesInstanceUID
    assert magnitudes[0].ImageType[2] == "M" and phases[0].ImageType[2] == "P"
    assert phases[0].RealWorldValueMappingSequence[0].MeasurementUnitsCodeSequence[0].CodeValue == "rad"
    assert len(magnitudes[0].SourceImageSequence) == len(phases[0].SourceImageSequence) == 2


def test_uncertainty_is_a_map_of_floats_in_place(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "ge")
    std = clip.with_data(torch.rand_like(clip.data) / 3)
    files = derived(clip, tmp_path / "out", source, std=std)
    images, maps = files[:15], files[15:]
    assert len(maps) == 5 and {each.SeriesNumber for each in maps} == {702}
    for t, each in enumerate(maps):
        assert each.InstanceNumber == t + 1 and each.ContentQualification == "RESEARCH"
        shown = images[3 * t : 3 * t + 3]
        found = hd.pm.ParametricMap.from_dataset(each).get_volume()
        same = found.match_geometry(hd.get_volume_from_series(shown))  # raises unless they share the grid
        heights = {round(float(image.ImagePositionPatient[2]), 3): b for b, image in enumerate(shown)}
        for plane, place in zip(same.array, same.get_plane_positions(), strict=True):
            b = heights[round(float(place[0].ImagePositionPatient[2]), 3)]
            np.testing.assert_array_equal(plane, std.data[b, 0, t].numpy())
        named = {item.ReferencedSOPInstanceUID for item in each.SourceImageSequence}
        assert named == {image.SOPInstanceUID for image in shown}


def test_one_enhanced_file_says_the_same(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "philips")
    enhanced, *maps = derived(clip, tmp_path / "out", source, multiframe=True, std=clip)
    assert enhanced.NumberOfFrames == 15
    contents = [groups.FrameContentSequence[0] for groups in enhanced.PerFrameFunctionalGroupsSequence]
    places = [(content.TemporalPositionIndex, content.InStackPositionNumber) for content in contents]
    assert places == list(product(range(1, 6), range(1, 4)))
    assert [content.DimensionIndexValues for content in contents] == [[1, b, t] for t, b in places]
    slope = float(enhanced.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence[0].RescaleSlope)
    values = enhanced.pixel_array * slope
    np.testing.assert_allclose(values.reshape(5, 3, 20, 24).swapaxes(0, 1), clip.data[:, 0], atol=slope / 2)
    again = loaded(find_series(tmp_path / "out" / "IM00001.dcm").series[0])
    np.testing.assert_allclose(again.times, clip.times, rtol=0, atol=1e-4)
    np.testing.assert_allclose(again.affine, clip.affine, rtol=0, atol=1e-4)
    frame = maps[1].PerFrameFunctionalGroupsSequence[0].DerivationImageSequence[0].SourceImageSequence[0]
    assert frame.ReferencedSOPInstanceUID == enhanced.SOPInstanceUID and frame.ReferencedFrameNumber in (4, 5, 6)


def test_nobody_is_named_in_what_is_de_identified(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "siemens", slices=2, frames=2)
    images = derived(clip, tmp_path / "out", source, std=clip, deidentify=b"k" * 32)
    original = pydicom.dcmread(min((tmp_path / "in").iterdir()))
    kept = {original.StudyInstanceUID, original.SeriesInstanceUID, original.SOPInstanceUID}
    for path in (tmp_path / "out").iterdir():
        content = path.read_bytes()
        assert not any(secret in content for secret in (b"Doe", b"SECRET", b"19700101", b"nowhere", b"Phantom"))
        assert not any(uid.encode() in content for uid in kept)
    for image in images:
        assert image.PatientIdentityRemoved == "YES" and image.ContentQualification == "RESEARCH"
        assert image.ImageComments.startswith("RESEARCH ONLY") and image.SeriesDescription.startswith("medseq denoise")
        assert image.ContributingEquipmentSequence[0].Manufacturer == "medseq"
    assert len({image.StudyInstanceUID for image in images}) == 1
    shown = {image.SOPInstanceUID for image in images}
    assert all(item.ReferencedSOPInstanceUID in shown for item in images[-1].SourceImageSequence)


def test_the_window_shows_the_series(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "ge")
    data = 1000 + 1000 * torch.rand(clip.data.shape)
    data[0, 0, 0, 0, 0] = 30000  # one bright voxel must not make the rest black
    image = derived(clip.with_data(data), tmp_path / "out", source)[0]
    assert image.WindowCenter == pytest.approx(1500, abs=10) and image.WindowWidth == pytest.approx(990, abs=15)
    assert image.LargestImagePixelValue == 30000 == image.pixel_array.max()
    assert image.SmallestImagePixelValue == image.pixel_array.min()


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    source, clip = scanned(tmp_path / "in", "ge")
    moved = clip.affine.copy()
    moved[0, 3] += 1
    broken = clip.data.clone()
    broken[0, 0, 0, 0, 0] = float("nan")
    for bad, reason in (
        (replace(clip, affine=moved), "lie elsewhere"),
        (Clip(clip.data[:, :, :, :-1], clip.affine, clip.times, clip.period), "asks for"),
        (clip.with_data(broken), "not finite"),
    ):
        with pytest.raises(InputError, match=reason):
            save_derived(bad, tmp_path, source, DERIVATION)
    with pytest.raises(InputError, match="synthetic"):
        save_derived(clip, tmp_path, source, replace(DERIVATION, synthetic=np.zeros((1, 1), bool)))
    with pytest.raises(UsageError, match="no derivation"):
        replace(DERIVATION, task="paint")
    with pytest.raises(ResourceError, match="cannot be written"):
        save_derived(clip, tmp_path / "nowhere", source, DERIVATION)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_source_without_a_name_of_its_own_is_refused(tmp_path: Path) -> None:
    scan(tmp_path / "in", "ge", slices=1, frames=2)
    for path in sorted((tmp_path / "in").iterdir()):
        file = pydicom.dcmread(path)
        del file.StudyInstanceUID
        file.save_as(path)
    (source,) = find_series(tmp_path / "in").series
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="has no StudyInstanceUID.*NIfTI"):
        save_derived(loaded(source), tmp_path / "out", source, DERIVATION)
    assert not list((tmp_path / "out").iterdir())
