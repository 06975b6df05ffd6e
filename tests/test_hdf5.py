"""A file of raw data is read alone: nothing in it makes HDF5 open another file or load a program."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from cli_shelf import beating_disc, fails, undersampled

from medseq.clip import Clip
from medseq.errors import InputError
from medseq.io import load_kspace, save_kspace
from medseq.io.hdf5 import open_hdf5

FORMATS = {"raw.h5": ("dataset", "data"), "one.fastmri.h5": ("", "kspace"), "raw.mat": ("", "kspace")}


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Raw data of somebody else in every format, by the names that the formats have."""
    clip = beating_disc()
    for name in FORMATS:
        few = Clip(clip.data[:, :, :1], clip.affine) if "fastmri" in name else clip
        save_kspace(undersampled(few), tmp_path / f"secret-{name}")
    return tmp_path


def linked(path: Path, secret: Path, group: str, name: str) -> None:
    """The array is a link into another file."""
    with h5py.File(path, "r+") as file:
        place = file[group or "/"]
        del place[name]
        place[name] = h5py.ExternalLink(secret.name, f"{group}/{name}")


def outside(path: Path, secret: Path, group: str, name: str) -> None:
    """The values of the array are bytes of another file, of whatever kind."""
    with h5py.File(path, "r+") as file:
        place = file[group or "/"]
        shape = place[name].shape
        del place[name]
        place.create_dataset(name, (4, *shape[1:]), "c8", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])


def virtual(path: Path, secret: Path, group: str, name: str) -> None:
    """The array is a view of one in another file."""
    with h5py.File(path, "r+") as file, h5py.File(secret) as other:
        place, there = file[group or "/"], other[group or "/"][name]
        layout = h5py.VirtualLayout(there.shape, there.dtype)
        layout[...] = h5py.VirtualSource(there)
        del place[name]
        place.create_virtual_dataset(name, layout)


def whole_group(path: Path, secret: Path, group: str, name: str) -> None:
    """All of the file is elsewhere."""
    with h5py.File(path, "w") as file:
        file["other"] = h5py.ExternalLink(secret.name, "/")
        file[group or name] = h5py.SoftLink(f"/other/{group or name}")


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("lead", [linked, outside, virtual, whole_group])
def test_no_file_leads_to_another(secret: Path, name: str, lead: Callable[..., None]) -> None:
    path, other = secret / name, secret / f"secret-{name}"
    shutil.copy(other, path)
    load_kspace(path)
    lead(path, other, *FORMATS[name])
    with pytest.raises(InputError, match=r"another file.*h5repack") as told:
        load_kspace(path)
    assert str(told.value).startswith(f"{path}: ") and "\n" not in str(told.value)


def test_the_command_says_so_in_one_line(secret: Path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(secret)
    shutil.copy("secret-raw.h5", "raw.h5")
    linked(Path("raw.h5"), Path("secret-raw.h5"), "dataset", "data")
    fails(capsys, "reconstruct raw.h5 -o image.nii.gz", 4, "raw.h5", "another file")
    assert not Path("image.nii.gz").exists()


def test_no_filter_is_looked_for_on_the_disk(tmp_path: Path, monkeypatch) -> None:
    """An unknown filter makes HDF5 load every program in its plugin folder that might be it."""
    path = tmp_path / "raw.h5"
    with h5py.File(path, "w") as file:
        created = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        created.set_chunk((4,))
        created.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (3,))  # Zstandard, as registered with The HDF Group
        space = h5py.h5s.create_simple((8,))
        h5py.h5d.create(file.id, b"kspace", h5py.h5t.IEEE_F64LE, space, created)
    with pytest.raises(InputError, match="filter 32015.*h5repack"):
        load_kspace(path)


@pytest.mark.parametrize(
    "options", [{"compression": "gzip", "shuffle": True, "fletcher32": True}, {"compression": "lzf"}]
)
def test_built_in_filters_and_links_within_the_file_are_fine(tmp_path: Path, options: dict) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("deep/er/values", data=np.arange(100.0), chunks=(10,), **options)
        file["same"] = file["deep"]
        file["deep/loop"] = file["deep"]
        file["soft"] = h5py.SoftLink("/deep/er/values")
        file["nowhere"] = h5py.SoftLink("/not/there")
    with open_hdf5(tmp_path / "a.h5") as file:
        assert file["soft"][:].sum() == 4950


def test_a_file_of_endless_objects_is_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        first = file.create_group("g")
        for number in range(10_001):
            file[f"{number}"] = first
    with pytest.raises(InputError, match="10000 objects"):
        load_kspace(tmp_path / "a.h5")


def test_a_fault_of_the_reader_leaves_no_file_open(secret: Path) -> None:
    path = secret / "raw.h5"
    shutil.copy(secret / "secret-raw.h5", path)
    linked(path, secret / "secret-raw.h5", "dataset", "data")
    with pytest.raises(InputError):
        load_kspace(path)
    held = Path("/proc/self/fd")
    assert path.name not in {Path(os.readlink(each)).name for each in held.iterdir() if each.is_symlink()}
