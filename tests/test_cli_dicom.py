"""The commands on DICOM: series in, derived series or NIfTI out, and every refusal one line that leaves nothing."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from cli_shelf import command, noisy_scan
from dicom_scanner import scan

from medseq.cli import main
from medseq.io import load_clip
from medseq.io.dicom import load_dicom


@pytest.fixture
def here(shelf, tmp_path, monkeypatch) -> Path:
    """An empty working folder beside a prior."""
    for name in ("tiny.safetensors", "tiny.json"):
        (tmp_path / name).symlink_to(shelf / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.dcm"))


def test_a_study_is_denoised_into_a_derived_series(here):
    truth = noisy_scan(here / "study", "siemens", slices=2, frames=4)
    assert command("denoise study -o out/clean --prior tiny.safetensors") == 0
    derived = load_dicom(here / "out" / "clean")
    np.testing.assert_allclose(derived.affine, truth.affine, atol=1e-3)
    np.testing.assert_allclose(derived.times, truth.times, atol=1e-4)
    assert len(files(here / "out" / "clean")) == 8
    record = json.loads((here / "out" / "clean" / "run.json").read_text())
    assert record["command"] == "denoise" and record["inputs"][0]["name"] == "input 1"
    one = pydicom.dcmread(files(here / "out" / "clean")[0])
    assert list(one.ImageType[:2]) == ["DERIVED", "SECONDARY"]


def test_a_study_becomes_nifti(here):
    truth = noisy_scan(here / "study", "philips", kind="bold", slices=3, frames=12)
    assert command("denoise study -o clean.nii.gz") == 0
    clip = load_clip(here / "clean.nii.gz")
    np.testing.assert_allclose(clip.affine, truth.affine, atol=1e-3)
    assert not clip.is_complex and clip.data.shape[:3] == (3, 1, 12)
    record = json.loads((here / "clean.run.json").read_text())
    assert record["result"]["method"] == "bold" and record["model"] is None
    assert load_clip(here / "clean_dof_lost.nii.gz").frames == load_clip(here / "clean_removed.nii.gz").frames == 1


def test_phases_are_written_as_complex_values_on_request_only(here):
    noisy_scan(here / "study", "siemens", slices=1, frames=4, components=("M", "P"))
    assert command("denoise study -o magnitude.nii.gz --prior tiny.safetensors") == 0
    assert command("denoise study -o complex.nii.gz --complex --prior tiny.safetensors") == 0
    assert not load_clip(here / "magnitude.nii.gz").is_complex
    assert load_clip(here / "complex.nii.gz").is_complex


def test_missing_frames_are_refused_and_filled_in_on_request(here, capsys):
    noisy_scan(here / "study", "ge", slices=2, frames=6, missing=((1, 3),))
    assert command("denoise study -o out --prior tiny.safetensors") == 4
    error = capsys.readouterr().err
    assert "slice 2" in error and "--allow-missing-frames" in error
    assert not (here / "out").exists()
    assert command("denoise study -o out --prior tiny.safetensors --allow-missing-frames") == 0
    assert json.loads((here / "out" / "run.json").read_text())["result"]["filled_in"] == [{"slice": 2, "frame": 4}]
    synthetic = [pydicom.dcmread(file).get("SyntheticData") for file in files(here / "out")]
    assert len(synthetic) == 12 and synthetic.count("YES") == 1


def test_interpolated_frames_lie_between_those_of_the_scanner(here):
    truth = noisy_scan(here / "study", "ge", slices=1, frames=4)
    assert command("interpolate study -o out --prior tiny.safetensors") == 0
    derived = load_dicom(here / "out")
    np.testing.assert_allclose(derived.times[::2], truth.times, atol=1e-4)
    assert derived.frames == 8
    synthetic = [pydicom.dcmread(file).get("SyntheticData") for file in files(here / "out")]
    assert synthetic.count("YES") == 4


def test_one_of_several_series_must_be_chosen(here, capsys):
    noisy_scan(here / "study", "ge", slices=1, frames=4, number=5)
    noisy_scan(here / "study", "ge", slices=2, frames=10, number=6, kind="bold", name="other")
    assert command("denoise study -o out --prior tiny.safetensors") == 4
    error = capsys.readouterr().err
    assert "5" in error and "6" in error and "--series" in error
    assert command("denoise study -o out --prior tiny.safetensors --series 6") == 0
    assert len(files(here / "out")) == 20
    image = pydicom.dcmread(files(here / "out")[0])
    assert "haemodynamic" in image.DerivationDescription and "model" not in image.ImageComments
    for name in ("dof_lost", "removed"):
        np.testing.assert_allclose(load_clip(here / "out" / f"{name}.nii.gz").affine, load_dicom(here / "out").affine)
    assert command("denoise study -o other --prior tiny.safetensors --series 7") == 2


def test_deidentified_results_tell_nobody(here, monkeypatch):
    noisy_scan(here / "Doe^Jane", "siemens", slices=1, frames=3)
    for file in (here / "Doe^Jane").iterdir():
        dataset = pydicom.dcmread(file)
        dataset.PatientName, dataset.PatientID = "Doe^Jane", "JD-4711"
        dataset.InstitutionName, dataset.StudyID = "Doe Clinic", "Doe-1"
        dataset.save_as(file)
    assert command("denoise Doe^Jane -o out --deidentify --prior tiny.safetensors --samples 2") == 0
    written = list((here / "out").iterdir())
    assert len(written) >= 5
    for file in written:
        content = file.read_bytes()
        assert b"Doe" not in content and b"JD-4711" not in content, file.name
    assert command("denoise Doe^Jane -o out.nii.gz --deidentify --prior tiny.safetensors") == 0
    assert "Doe" not in (here / "out.run.json").read_text()


def test_a_deidentified_nifti_inherits_no_text(here, shelf):
    image = nib.load(shelf / "cine.nii.gz")
    image.header["descrip"] = b"Doe, Jane"
    nib.save(image, here / "cine.nii")
    for name, option, there in (("kept", "", True), ("clean", " --deidentify", False)):
        assert command(f"denoise cine.nii -o {name}.nii{option} --prior tiny.safetensors") == 0
        assert (b"Doe" in (here / f"{name}.nii").read_bytes()) == there


def test_a_key_keeps_pseudonyms_equal_from_run_to_run(here, capsys):
    noisy_scan(here / "study", "ge", slices=1, frames=3)
    (here / "key").write_bytes(bytes(range(32)))
    (here / "short").write_bytes(b"secret")
    patients = []
    for out, option in (("a", " --deidentify-key key"), ("b", " --deidentify-key key"), ("c", "")):
        assert command(f"denoise study -o {out} --deidentify{option} --prior tiny.safetensors") == 0
        image = pydicom.dcmread(files(here / out)[0])
        patients.append((image.PatientID, image.StudyInstanceUID))
    assert patients[0] == patients[1] != patients[2]
    assert command("denoise study -o d --deidentify --deidentify-key short --prior tiny.safetensors") == 4
    assert command("denoise study -o d --deidentify-key key --prior tiny.safetensors") == 2
    assert not (here / "d").exists()


def test_enhanced_output_is_one_file(here):
    truth = noisy_scan(here / "study", "siemens", slices=2, frames=4)
    assert command("denoise study -o out --multiframe --prior tiny.safetensors") == 0
    (file,) = files(here / "out")
    assert pydicom.dcmread(file).NumberOfFrames == 8
    np.testing.assert_allclose(load_dicom(here / "out").affine, truth.affine, atol=1e-3)


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("denoise study -o out.dcm", "folder"),
        ("denoise study -o full", "exists"),
        ("denoise cine.nii.gz -o out", "NIfTI"),
        ("denoise cine.nii.gz -o out.nii.gz --series 3", "--series"),
        ("denoise study -o out.nii.gz --multiframe", "--multiframe"),
    ],
)
def test_impossible_targets_are_usage_errors(here, shelf, capsys, words, named):
    noisy_scan(here / "study", "ge", slices=1, frames=3)
    (here / "cine.nii.gz").symlink_to(shelf / "cine.nii.gz")
    (here / "full").mkdir()
    (here / "full" / "old.dcm").write_text("an earlier result")
    before = sorted(here.rglob("*"))
    assert command(f"{words} --prior tiny.safetensors") == 2
    error = capsys.readouterr().err
    assert named in error and error.count("\n") == 1
    assert sorted(here.rglob("*")) == before


def test_info_lists_every_series_of_a_study(here, capsys):
    scan(here / "study", "ge", slices=1, frames=4, number=5)
    scan(here / "study", "siemens", slices=2, frames=4, number=6, kind="bold", name="other")
    (here / "study" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 64)
    assert main(["info", "study", "--json"]) == 3
    found = {series["number"]: series for series in json.loads(capsys.readouterr().out)}
    assert found[5]["kind"] == "cine" and found[5]["vendor"] == "GE" and found[5]["frames"] == 4
    assert found[6]["kind"] == "bold" and found[6]["matrix"][2] == 2
    assert found[None]["error"]
    assert main(["info", "study"]) == 3
    table = capsys.readouterr().out.splitlines()
    assert len(table) >= 4 and "cine" in table[1] + table[2]


def test_a_dicom_series_is_converted_to_nifti(here):
    truth = scan(here / "study", "ge", kind="bold", slices=3, frames=2)
    assert command("convert study -o bold.nii.gz") == 0
    clip = load_clip(here / "bold.nii.gz")
    np.testing.assert_allclose(clip.affine, truth.affine, atol=1e-3)
    np.testing.assert_allclose(clip.data[:, 0].numpy(), truth.values, rtol=1e-6)


def test_precise_values_of_philips_are_a_choice(here):
    scan(here / "study", "philips", kind="bold", slices=2, frames=2)
    for name, option, precise in (("shown", "", False), ("precise", " --precise", True)):
        assert command(f"convert study -o {name}.nii.gz{option}") == 0
        assert torch.equal(load_clip(here / f"{name}.nii.gz").data, load_dicom(here / "study", precise=precise).data)
    assert not torch.equal(load_clip(here / "shown.nii.gz").data, load_clip(here / "precise.nii.gz").data)


def test_a_bids_dataset_becomes_derivatives(here, shelf, capsys):
    name = "sub-01_acq-sa_cine.nii.gz"
    (here / "dataset" / "sub-01" / "heart").mkdir(parents=True)
    (here / "dataset" / "dataset_description.json").write_text('{"Name": "test", "BIDSVersion": "1.10.0"}')
    (here / "dataset" / "sub-01" / "heart" / name).write_bytes((shelf / "cine.nii.gz").read_bytes())
    for task, made in (("denoise", "denoised"), ("interpolate --factor 3", "interpolated")):
        assert command(f"{task} dataset -o out --prior tiny.safetensors") == 0
        assert "1 restored, 0 unchanged, 0 failed" in capsys.readouterr().out
        assert (here / "out" / "sub-01" / "heart" / f"sub-01_acq-sa_desc-{made}_cine.nii.gz").is_file()
    assert load_clip(here / "out" / "sub-01" / "heart" / "sub-01_acq-sa_desc-interpolated_cine.nii.gz").frames == 18
    assert command("denoise dataset -o out --series 3") == 2
    assert "BIDS" in capsys.readouterr().err


def test_missing_bold_frames_are_filled_in_without_the_prior_of_hearts(here):
    noisy_scan(here / "study", "philips", kind="bold", slices=3, frames=14, missing=((1, 6),))
    assert command("denoise study -o out --allow-missing-frames --prior nowhere.safetensors") == 0
    record = json.loads((here / "out" / "run.json").read_text())
    assert record["model"] is None and record["result"]["filled_in"] == [{"slice": 2, "frame": 7}]
    assert [pydicom.dcmread(file).get("SyntheticData") for file in files(here / "out")].count("YES") == 1
    assert command("interpolate study -o finer --allow-missing-frames --prior nowhere.safetensors") == 0
    assert "band-limited" in pydicom.dcmread(files(here / "finer")[0]).DerivationDescription
