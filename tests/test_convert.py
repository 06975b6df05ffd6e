"""Conversion of files: what goes in comes out, what does not fit is said, and `run.json` names no folder."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from medseq import Clip, InputError, KSpace, UsageError, load_clip, load_kspace, save_clip, save_kspace
from medseq.convert import convert_file

BOLD = "sub-01_task-rest_bold.nii.gz"
AFFINE = np.diag([2.0, 2.0, 5.0, 1.0])


def clip(**known: object) -> Clip:
    data = torch.randn(3, 1, 4, 6, 8, generator=torch.Generator().manual_seed(0)) + 5
    return Clip(data, AFFINE, np.arange(4) * 0.5, **known)


def kspace() -> KSpace:
    generator = torch.Generator().manual_seed(1)
    keep = torch.rand(1, 1, 4, 16, 1, generator=generator) > 0.4
    keep[..., 6:10, :] = True
    data = torch.randn(2, 3, 4, 16, 12, dtype=torch.complex64, generator=generator) * keep
    return KSpace(data, keep, None, 0.5, AFFINE, np.arange(4) * 0.05, 0.2)


def notes(path: Path) -> dict:
    return json.loads(path.read_text())


@pytest.mark.parametrize("output", ["out.cfl", "out.mat", "out.h5", "out.mrd"])
def test_raw_data_become_any_raw_format_and_come_back(tmp_path: Path, output: str) -> None:
    save_kspace(kspace(), tmp_path / "raw.h5")
    line = convert_file(tmp_path / "raw.h5", tmp_path / "there" / output)
    assert line.startswith(str(tmp_path / "there" / output)) and "4 frames of 12 x 16, 2 slices, 3 coils" in line
    convert_file(tmp_path / "there" / output, tmp_path / "back.h5")
    one, two = load_kspace(tmp_path / "raw.h5"), load_kspace(tmp_path / "back.h5")
    assert torch.equal(one.data, two.data) and torch.equal(one.keep, two.keep)
    assert one.noise == two.noise and one.period == two.period
    np.testing.assert_array_equal(one.times, two.times)
    np.testing.assert_allclose(one.affine, two.affine, atol=1e-5)


def test_the_record_names_every_file_and_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "Doe_Jane"
    folder.mkdir()
    save_kspace(kspace(), folder / "raw.cfl")
    (folder / "raw.hdr").write_text((folder / "raw.hdr").read_text().split("# Medseq")[0])
    convert_file(folder / "raw.cfl", folder / "out.h5", {"series": 3})
    text = (folder / "out.run.json").read_text()
    record = json.loads(text)
    assert record["command"] == "convert" and record["options"] == {"series": 3}
    assert [file["name"] for file in record["inputs"]] == ["raw.cfl", "raw.hdr"]
    assert len(record["warnings"]) == 1 and record["warnings"][0].startswith("raw.cfl: no position")
    assert "Doe" not in text
    assert sorted(path.name for path in folder.iterdir()) == ["out.h5", "out.run.json", "raw.cfl", "raw.hdr"]


def test_nifti_keeps_its_header(tmp_path: Path) -> None:
    save_clip(clip(), tmp_path / "plain.nii")
    image = nib.load(tmp_path / "plain.nii")
    image.header["descrip"] = b"sagittal localiser"
    nib.save(image, tmp_path / "in.nii")
    convert_file(tmp_path / "in.nii", tmp_path / "out.nii.gz")
    assert nib.load(tmp_path / "out.nii.gz").header["descrip"] == b"sagittal localiser"
    one, two = load_clip(tmp_path / "in.nii"), load_clip(tmp_path / "out.nii.gz")
    assert torch.equal(one.data, two.data)
    np.testing.assert_array_equal(one.affine, two.affine)
    np.testing.assert_array_equal(one.times, two.times)


def test_what_nifti_cannot_hold_is_named(tmp_path: Path) -> None:
    present = torch.ones(3, 4, dtype=torch.bool)
    present[1, 2] = False
    save_clip(clip(), tmp_path / "in.nii")
    known = clip(slice_times=np.array([0.0, 0.1, 0.2]), present=present)
    convert_file(tmp_path / "in.nii", tmp_path / "out.nii", load=lambda path: known)
    said = notes(tmp_path / "out.run.json")["warnings"]
    assert said == [
        "out.nii: the slice times are not stored in it",
        "out.nii: 1 missing frames are zeros in it, and not marked",
    ]
    convert_file(tmp_path / "in.nii", tmp_path / "out.nii", load=lambda path: replace(known, present=present | True))
    assert len(notes(tmp_path / "out.run.json")["warnings"]) == 1


def test_a_dicom_folder_becomes_nifti(tmp_path: Path, real_data: Path) -> None:
    """Three volumes of a real run, against what dcm2niix made of 24 of its slices, voxel by voxel in the world."""
    convert_file(real_data / "fmri_rest_dicom", tmp_path / "out.nii.gz")
    ours, theirs = load_clip(tmp_path / "out.nii.gz"), load_clip(real_data / "fmri_rest" / BOLD)
    slices, _, _, height, width = theirs.data.shape
    z, y, x = (axis.ravel() for axis in np.indices((slices, height, width)))
    place = np.linalg.inv(ours.affine) @ theirs.affine @ np.stack([x, y, z, np.ones_like(x)])
    i, j, k = np.rint(place[:3]).astype(int)
    np.testing.assert_allclose(place[:3], [i, j, k], atol=1e-2)
    for frame in range(3):
        one, two = ours.data[k, 0, frame, j, i], theirs.data[z, 0, frame, y, x]
        assert np.corrcoef(one, two)[0, 1] > 0.999999  # the same but for the scale, displayed or precise
    np.testing.assert_allclose(np.diff(ours.times), np.diff(theirs.times[:3]), atol=1e-4)


@pytest.mark.parametrize(
    ("source", "output", "message"),
    [
        ("raw.h5", "out.nii.gz", "medseq reconstruct"),
        ("in.nii", "out.h5", "medseq simulate"),
        ("raw.h5", "out.dat", "must end in"),
        ("raw.h5", "raw.h5", "is the input"),
        ("in.nii", "in.nii", "is the input"),
        ("in.nii", "out.dcm", "must end in"),
    ],
)
def test_what_is_no_conversion_is_refused(tmp_path: Path, source: str, output: str, message: str) -> None:
    save_kspace(kspace(), tmp_path / "raw.h5")
    save_clip(clip(), tmp_path / "in.nii")
    with pytest.raises(UsageError, match=message):
        convert_file(tmp_path / source, tmp_path / output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.nii", "raw.h5"]


@pytest.mark.parametrize("source", ["none.h5", "none.nii", "none.cfl", "none"])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, source: str) -> None:
    output = "out.nii" if source in ("none.nii", "none") else "out.h5"
    with pytest.raises(InputError, match="no such file"):
        convert_file(tmp_path / source, tmp_path / "new" / output)
    assert not list(tmp_path.iterdir())


def test_several_frames_do_not_fit_into_fastmri(tmp_path: Path) -> None:
    save_kspace(kspace(), tmp_path / "raw.h5")
    with pytest.raises(InputError, match="out.fastmri.h5: not written, as fastMRI has no time"):
        convert_file(tmp_path / "raw.h5", tmp_path / "out.fastmri.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["raw.h5"]


def test_options_reach_the_reader(tmp_path: Path) -> None:
    save_clip(clip(), tmp_path / "in.nii")
    asked = []
    read = partial(lambda path, series: asked.append(series) or load_clip(path), series=7)
    convert_file(tmp_path / "in.nii", tmp_path / "out.nii", {"series": 7}, read)
    assert asked == [7]
