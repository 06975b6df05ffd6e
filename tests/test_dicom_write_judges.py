"""Derived MR series before independent judges: dciodvfy, dcentvfy, SimpleITK, highdicom and dcm2niix."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_judges import assert_same_image, converted, corners
from dicom_scanner import scan

from medseq import Clip
from medseq.io.dicom import DicomSeries, find_series, load_series
from medseq.io.dicom.write import Derivation, save_derived

DERIVATION = Derivation("interpolate", "Frames between the frames.", "small", "ab" * 32, {"factor": 2}, 1)
EXAMS = [
    ("ge", "cine"),
    ("ge", "bold"),
    ("siemens", "cine"),
    ("siemens-mosaic", "bold"),
    ("siemens-xa", "cine"),
    ("philips", "cine"),
    ("philips", "bold"),
    ("philips-enhanced", "bold"),
    ("canon", "cine"),
    ("canon-enhanced", "cine"),
    ("uih", "bold"),
    ("legacy", "bold"),
]
# dicom3tools was built before this tag was in the standard (PS3.3 C.12.1, Synthetic Data).
STALE = "Error - </(0008,001c)> - Attribute with an even group number is not a recognized standard attribute"


def needed(tool: str) -> str:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    return tool


def said(*words: str | Path) -> list[str]:
    """The lines that a judge prints; its exit code says nothing, but for a crash."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, timeout=60)
    assert done.returncode < 128, f"{words[0]} crashed"
    return (done.stdout + done.stderr).splitlines()


def errors(paths: Iterable[Path]) -> set[str]:
    """Every error that dciodvfy finds in the files, with the path of its attribute."""
    tool = needed("dciodvfy")
    return {line for path in paths for line in said(tool, "-new", path) if line.startswith("Error")} - {STALE}


def disagreements(paths: Iterable[Path]) -> list[str]:
    """What dcentvfy finds to differ between objects of one patient, study, series or frame of reference."""
    return said(needed("dcentvfy"), *paths)


def source_of(folder: Path) -> tuple[DicomSeries, Clip]:
    (series,) = find_series(folder).series
    return series, load_series(replace(series, problems=()))


def doubled(clip: Clip) -> Clip:
    """Twice the frame rate: each frame stands for the one after it, too."""
    step = (clip.times[1] - clip.times[0]) / 2
    times = np.stack([clip.times, clip.times + step], axis=1).ravel()
    return Clip(clip.data.repeat_interleave(2, dim=2), clip.affine, times, clip.period)


def written(folder: Path, clip: Clip, source: DicomSeries, **options: object) -> list[Path]:
    folder.mkdir()
    return save_derived(clip, folder, source, DERIVATION, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("vendor", "kind", "multiframe"), [(*exam, False) for exam in EXAMS] + [(*exam, True) for exam in EXAMS[::3]]
)
def test_validators_find_nothing_that_the_source_lacks(
    vendor: str, kind: str, multiframe: bool, tmp_path: Path
) -> None:
    scan(tmp_path / "in", vendor, kind, slices=2, frames=3)
    source, clip = source_of(tmp_path / "in")
    clip = doubled(clip)
    files = written(tmp_path / "out", clip, source, std=clip, multiframe=multiframe)
    before = sorted((tmp_path / "in").iterdir())
    some = [*files[:4], *(path for path in files[4:] if path.name == "SD00001.dcm")]  # one of each sort
    assert any(pydicom.dcmread(path).get("SyntheticData") == "YES" for path in some)
    assert errors(some) <= errors(before[:2])
    assert disagreements([*before, *files]) == []


def test_a_gated_series_says_so_even_where_the_scanner_forgot(tmp_path: Path) -> None:
    scan(tmp_path / "in", "ge", "cine", slices=2, frames=3)
    for path in sorted((tmp_path / "in").iterdir()):
        file = pydicom.dcmread(path)
        file.ScanOptions = "FS"
        file.save_as(path)
    source, clip = source_of(tmp_path / "in")
    assert clip.period is not None
    files = written(tmp_path / "out", clip, source)
    assert pydicom.dcmread(files[0]).ScanOptions == ["CG", "FS"]
    assert errors(files[:1]) == set() != errors([min((tmp_path / "in").iterdir())])


@pytest.mark.parametrize("multiframe", [False, True])
def test_what_is_de_identified_is_still_valid(multiframe: bool, tmp_path: Path) -> None:
    scan(tmp_path / "in", "siemens", "cine", slices=2, frames=3)
    source, clip = source_of(tmp_path / "in")
    files = written(tmp_path / "out", clip, source, std=clip, multiframe=multiframe, deidentify=b"k" * 32)
    assert errors([files[0], files[-1]]) == set()
    assert disagreements(files) == []


def test_the_validators_see_what_is_wrong(tmp_path: Path) -> None:
    scan(tmp_path / "in", "ge", "bold", slices=2, frames=3)
    source, clip = source_of(tmp_path / "in")
    files = written(tmp_path / "out", clip, source)
    assert errors(files[:1]) == set() and disagreements(files) == []
    bad = pydicom.dcmread(files[0])
    bad.TriggerTime, bad.PatientSex = 3, "F" if bad.PatientSex != "F" else "M"
    bad.save_as(files[0])
    assert any("TriggerTime" in line for line in errors(files[:1]))
    assert any("PatientSex" in line for line in disagreements(files))


@pytest.mark.parametrize(("vendor", "kind"), EXAMS)
def test_a_voxel_keeps_its_place_in_every_phase(vendor: str, kind: str, tmp_path: Path) -> None:
    """Each voxel's value is its own: SimpleITK and highdicom must find all of them where the scanner had them."""
    truth = scan(tmp_path / "in", vendor, kind, frames=3)
    source, clip = source_of(tmp_path / "in")
    files = written(tmp_path / "out", clip, source)
    for t in range(3):
        phase = [str(path) for path in files[3 * t : 3 * t + 3]]
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(phase)
        image = reader.Execute()
        volume = hd.get_volume_from_series([pydicom.dcmread(path) for path in phase])
        mapping = pydicom.dcmread(phase[0]).get("RealWorldValueMappingSequence")
        slope = mapping[0].RealWorldValueSlope if mapping else 1.0
        for b, y, x in [(0, 0, 0), (2, 19, 23), (1, 7, 11)]:
            place = np.diag([-1, -1, 1, 1]) @ truth.affine @ [x, y, b, 1]
            assert np.abs(np.array(image.TransformIndexToPhysicalPoint((x, y, b))) - place[:3]).max() < 1e-3
            index = np.rint(np.linalg.inv(volume.affine) @ place).astype(int)[:3]
            assert np.abs(volume.affine @ [*index, 1] - place).max() < 1e-3
            # highdicom applies the real world mapping by itself, SimpleITK does not know it.
            for value in (image.GetPixel(x, y, b) * slope, volume.array[tuple(index)]):
                assert value == pytest.approx(truth.values[b, t, y, x], abs=slope / 2)


@pytest.mark.parametrize(("vendor", "kind"), [exam for exam in EXAMS if exam != ("philips", "cine")])
def test_dcm2niix_makes_one_series_of_it(vendor: str, kind: str, tmp_path: Path) -> None:
    scan(tmp_path / "in", vendor, kind, frames=4)
    source, clip = source_of(tmp_path / "in")
    if kind == "bold":
        clip = doubled(clip)
    written(tmp_path / "out", clip, source)
    ((image, sidecar),) = converted(tmp_path / "out", tmp_path / "nii")
    slope = 1.5 if vendor.startswith("philips") else 1.0
    stored = clip.with_data((clip.data / slope).round())
    if float(image.dataobj.slope) != 1:  # it may apply the real world mapping
        stored = clip.with_data((clip.data / slope).round() * slope)
    assert_same_image(stored, image)
    original = pydicom.dcmread(min((tmp_path / "in").iterdir()))
    assert sidecar["Manufacturer"] != "medseq" and sidecar["SoftwareVersions"] == original.SoftwareVersions
    if kind == "bold":
        assert float(image.header.get_zooms()[3]) == pytest.approx(clip.times[1], abs=1e-4)


def test_dcm2niix_makes_one_series_of_philips_cine_when_told_to_merge(tmp_path: Path) -> None:
    """By itself it makes one of each phase, as it does of the scanner's own files: trigger times differ."""
    scan(tmp_path / "in", "philips", "cine", frames=4)
    source, clip = source_of(tmp_path / "in")
    written(tmp_path / "out", clip, source)
    assert len(converted(tmp_path / "in", tmp_path / "a")) == len(converted(tmp_path / "out", tmp_path / "b")) == 4
    ((image, _),) = converted(tmp_path / "out", tmp_path / "c", "-m", "y")
    gap = corners(nib.as_closest_canonical(image).affine, image.shape)
    ours = corners(nib.as_closest_canonical(nib.Nifti1Image(np.zeros((24, 20, 3)), clip.affine)).affine, (24, 20, 3))
    assert image.shape == (24, 20, 3, 4) and np.abs(gap - ours).max() < 1e-3


@pytest.mark.parametrize("fault", ["turned", "shifted", "swapped"])
def test_dcm2niix_sees_what_is_wrong(fault: str, tmp_path: Path) -> None:
    scan(tmp_path / "in", "ge", "cine", frames=4)
    source, clip = source_of(tmp_path / "in")
    for path in written(tmp_path / "out", clip, source):
        image = pydicom.dcmread(path)
        if fault == "turned":
            image.ImageOrientationPatient = [*image.ImageOrientationPatient[3:], *image.ImageOrientationPatient[:3]]
        elif fault == "shifted":
            image.ImagePositionPatient[0] += 0.01
        elif image.TemporalPositionIdentifier in (2, 3):
            image.TemporalPositionIdentifier = 5 - image.TemporalPositionIdentifier
            image.TriggerTime = source.frames[0][image.TemporalPositionIdentifier - 1].time * 1000
            image.InstanceNumber += 3 if image.TemporalPositionIdentifier == 3 else -3
        image.save_as(path)
    read = converted(tmp_path / "out", tmp_path / "nii")
    with pytest.raises((AssertionError, ValueError)):
        assert_same_image(clip, read[0][0])


REAL = ["fmri_rest_dicom", "dcm_qa_nih/In/20180918GE/mr_0006", "dcm_qa_nih/In/20180918Si/mr_0003"]


@pytest.mark.parametrize("name", REAL)
def test_real_scans_come_back_as_valid_as_they_were(name: str, real_data: Path, tmp_path: Path) -> None:
    source, clip = source_of(real_data / name)
    few = Clip(clip.data[:, :, :2], clip.affine, clip.times[:2])
    files = written(tmp_path / "out", few, source, std=few)
    maps = [files.pop(), files.pop()]
    originals = [frame.path for row in source.frames for frame in row[:2] if frame is not None]
    assert len(files) == len(originals)
    assert errors([files[0], files[-1]]) <= errors([originals[0], originals[-1]])
    assert disagreements([*dict.fromkeys(originals[::8]), *files[::8], *maps]) == []
    for path in maps:  # not what the converter is asked about
        path.unlink()
    ((image, _),) = converted(tmp_path / "out", tmp_path / "nii")
    # -p n: Philips' displayed values, which medseq takes, and not its precise ones
    ((reference, _),) = converted(originals[0].parent, tmp_path / "reference", "-p", "n")
    before, after = nib.as_closest_canonical(reference), nib.as_closest_canonical(image)
    gap = corners(before.affine, before.shape) - corners(after.affine, after.shape)
    assert np.abs(gap).max() < 1e-3
    np.testing.assert_allclose(after.get_fdata(), before.get_fdata()[..., :2], rtol=1e-5)
