"""What holds for every raw format: nothing is lost there and back, and nothing left behind by a failure."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from raw_examples import assert_same, example, refused

from medseq import InputError, MedseqWarning, ResourceError, UsageError, load_kspace, save_kspace

PAIR = np.dtype([("real", "<f8"), ("imag", "<f8")])


@pytest.mark.parametrize("name", ["x.cfl", "x.mat", "x.h5"])
@pytest.mark.parametrize("noise", [None, 0.25, "covariance"])
def test_a_round_trip_changes_no_bit(tmp_path: Path, name: str, noise: float | str | None) -> None:
    kspace = example()
    if noise != "covariance":
        kspace = replace(kspace, noise=noise, period=None)
    save_kspace(kspace, tmp_path / name)
    # ISMRMRD has positions and directions in single precision.
    assert_same(load_kspace(tmp_path / name), kspace, affine=1e-5 if name == "x.h5" else 0.0)
    assert not list(tmp_path.glob(".*"))


def test_a_foreign_ismrmrd_file_survives_every_format(tmp_path: Path) -> None:
    tool = shutil.which("ismrmrd_generate_cartesian_shepp_logan")
    if tool is None:
        pytest.skip("ismrmrd_generate_cartesian_shepp_logan (Debian's ismrmrd-tools) is not installed")
    options = ["-m", "64", "-c", "4", "-r", "5", "-a", "2"]
    subprocess.run([tool, *options, "-o", str(tmp_path / "k.h5")], check=True, capture_output=True)
    with pytest.warns(MedseqWarning):
        kspace = load_kspace(tmp_path / "k.h5")
    there = kspace
    for name in ("a.cfl", "b.mat", "c.h5"):
        save_kspace(there, tmp_path / name)
        there = load_kspace(tmp_path / name)
    assert_same(there, kspace, affine=1e-4)


@pytest.mark.parametrize("name", ["x.cfl", "x.mat", "x.h5"])
def test_what_lies_outside_the_mask_is_not_written(tmp_path: Path, name: str) -> None:
    kspace = example()
    save_kspace(replace(kspace, data=kspace.data + ~kspace.keep * (1 + 2j)), tmp_path / name)
    assert torch.equal(load_kspace(tmp_path / name).data, kspace.data)


@pytest.mark.parametrize("name", ["x.cfl", "x.mat"])
def test_a_coil_that_sees_nothing_of_a_line_does_not_unmeasure_it(tmp_path: Path, name: str) -> None:
    kspace = example()
    kspace.data[:, 0, 1:] = 0
    save_kspace(kspace, tmp_path / name)
    assert_same(load_kspace(tmp_path / name), kspace)


def test_measured_samples_that_are_zero_are_said_to_be_lost(tmp_path: Path) -> None:
    kspace = example()
    kspace.data[0, :, 0, 12] = 0
    for name in ("x.cfl", "x.mat"):
        with pytest.warns(MedseqWarning, match="^x.*32 measured samples are zero"):
            save_kspace(kspace, tmp_path / name)


def test_what_a_format_cannot_hold_is_refused_and_leaves_nothing_behind(tmp_path: Path) -> None:
    whole = example()
    over_coils = torch.ones(2, 3, 4, 25, 1, dtype=torch.bool)
    over_coils[:, 1, :, 3] = False
    along_readout = torch.ones(1, 1, 1, 25, 32, dtype=torch.bool)
    along_readout[..., :3] = False
    cases = [
        ("x.fastmri.h5", whole, "no time"),
        ("x.fastmri.h5", replace(example(frames=1), keep=along_readout), "varies along a readout"),
        ("x.cfl", replace(whole, keep=over_coils), "from coil to coil"),
        ("x.mat", replace(whole, keep=over_coils), "from coil to coil"),
        ("x.cfl", replace(whole, data=whole.data * torch.nan), "not finite"),
    ]
    for name, kspace, message in cases:
        with pytest.raises(InputError, match=message):
            save_kspace(kspace, tmp_path / name)
    with pytest.raises(UsageError, match="end it in"):
        save_kspace(whole, tmp_path / "x.dat")
    for name in ("x.cfl", "x.mat", "x.h5"):
        with pytest.raises(ResourceError, match="cannot be written"):
            save_kspace(whole, tmp_path / "nowhere" / name)
    assert not list(tmp_path.iterdir())


def test_a_header_appears_only_with_its_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.cfl").mkdir()  # no file can take its place
    with pytest.raises(ResourceError, match="x.cfl"):
        save_kspace(example(), tmp_path / "x.cfl")
    assert [path.name for path in tmp_path.iterdir()] == ["x.cfl"]


@pytest.mark.parametrize("name", ["x.cfl", "x.mat", "x.h5", "x.mrd", "x.dat"])
@pytest.mark.parametrize("how", ["missing", "folder", "text", "empty"])
def test_files_that_are_something_else_are_refused_in_one_line(tmp_path: Path, name: str, how: str) -> None:
    path = tmp_path / name
    path.with_suffix(".hdr").write_text("# Dimensions\n8 6\n")
    if how == "folder":
        path.mkdir()
    elif how != "missing":
        path.write_text("not raw data" if how == "text" else "")
    refused(path, "")


@pytest.mark.parametrize("name", ["x.mat", "x.fastmri.h5"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.95])
def test_truncated_files_are_refused_in_one_line(tmp_path: Path, name: str, kept: float) -> None:
    path = tmp_path / name
    save_kspace(example(frames=1), path)
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    refused(path, "")


def test_an_array_that_cannot_be_in_so_small_a_file_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.mat", "w") as file:
        file.create_dataset("kspace", (64, 8, 8, 64, 64), PAIR, chunks=(1, 1, 1, 64, 64))
    refused(tmp_path / "x.mat", "cannot be in so small a file")
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("kspace", (64, 64, 64, 64), np.complex64, chunks=(1, 1, 64, 64))
    refused(tmp_path / "x.h5", "cannot be in so small a file")
