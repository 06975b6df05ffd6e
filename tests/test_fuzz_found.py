"""What fuzzing has found, as small as it gets: each is refused in one line (docs/measurements.md, "Fuzzing")."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from bids_dataset import empty_dataset
from scanner import QUIET, SOURCE, Scanner, write

from medseq import Clip, InputError, MedseqWarning, load_clip, load_kspace, save_clip
from medseq.config import load_config
from medseq.io import hdf5_trial
from medseq.io.bids import find_runs
from medseq.io.weights import read_card
from medseq.study.collect import read_run
from medseq.study.manifest import load_manifest

DEEP = "[" * 50_000
TINY = Scanner(encoded=(8, 6), encoded_fov=(80, 60), recon=(8, 6), recon_fov=(80, 60))


def refusal(read: Callable[[Path], object], path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and text.isprintable()
    return text


YAML = {
    "nested without end": DEEP,
    "an alias": "recipe: &a {steps: 3}\nbold: *a\n",
    "a bomb of aliases": "a: &a [x, x]\nb: &b [*a, *a]\nrecipe: [*b, *b]\n",
    "a date that is none": "recipe: 2001-99-99\n",
    "a number without digits": "recipe: 0b_\n",
    "a name of two lines": '"a\\nb\\e[2J": 1\n',
}


@pytest.mark.parametrize("what", YAML)
def test_yaml(tmp_path: Path, what: str) -> None:
    for name, read in (("a.yaml", load_config), ("study.yaml", lambda path: load_manifest(path.parent))):
        path = tmp_path / name
        path.write_text(YAML[what])
        refusal(read, path)


def test_json_nested_without_end(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(DEEP)
    with pytest.raises(InputError, match="not the card"):
        read_card(tmp_path / "a.safetensors")
    assert read_run(tmp_path / "a.json") == {}


def test_a_number_of_400_digits_in_a_sidecar(tmp_path: Path) -> None:
    save_clip(Clip(torch.ones(1, 1, 2, 2, 2)), tmp_path / "a.nii")
    (tmp_path / "a.json").write_text(json.dumps({"RepetitionTime": 10**400}))
    with pytest.warns(MedseqWarning, match="not readable as a BIDS sidecar"):
        load_clip(tmp_path / "a.nii")


def test_a_note_in_a_nifti_header_that_nests_without_end(tmp_path: Path) -> None:
    path = tmp_path / "a.nii"
    save_clip(Clip(torch.ones(1, 1, 2, 2, 2), period=9.0), path)
    raw = path.read_bytes()
    note = b'{"medseq": ' + b"[" * 50_000
    note += b" " * (-(len(note) + 8) % 16)
    begin = struct.pack("<f", 352 + 8 + len(note))
    path.write_bytes(raw[:108] + begin + raw[112:352] + struct.pack("<ii", len(note) + 8, 6) + note + raw[-32:])
    with pytest.warns(MedseqWarning, match="no longer fits"):
        assert load_clip(path).period is None


def test_a_rule_that_is_no_pattern(tmp_path: Path) -> None:
    root = empty_dataset(tmp_path)
    (root / ".bidsignore").write_text('/sub-*/[x-"]\n[z-a]\n')
    with pytest.raises(InputError, match="not readable as rules"):
        find_runs(root)


class TestHdf5:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return write(tmp_path / "raw.h5", TINY.xml(), TINY.lines(SOURCE[None]))

    @pytest.mark.parametrize("name", ["dataset/xml", "dataset/data", "dataset", "kspace"])
    def test_a_link_to_another_file(self, path: Path, name: str) -> None:
        """Or whoever made the file would have another one of this machine read."""
        path.rename(path.with_name("other.h5"))
        with h5py.File(path, "w") as file:
            file.create_group("dataset" if name == "kspace" else "more")
            file[name] = h5py.ExternalLink("other.h5", f"/{name}")
        assert "a link into another file" in refusal(load_kspace, path)

    @pytest.mark.parametrize("how", ["virtual", "external"])
    def test_values_in_another_file(self, path: Path, how: str) -> None:
        path.with_name("secret").write_bytes(bytes(range(64)) * 8)
        with h5py.File(path, "r+") as file:
            if how == "virtual":
                layout = h5py.VirtualLayout((2, 2), "f4")
                layout[...] = h5py.VirtualSource("other.h5", "x", (2, 2))
                file.create_virtual_dataset("dataset/medseq_frame_times", layout)
            else:
                file.create_dataset("dataset/medseq_frame_times", (64,), "f8", external=[("secret", 0, 512)])
        assert "lie in another file" in refusal(load_kspace, path)

    def test_a_link_that_stays_inside(self, path: Path) -> None:
        with h5py.File(path, "r+") as file:
            file.move("dataset/xml", "header")
            file["dataset/xml"] = h5py.SoftLink("/header")
        assert load_kspace(path).data.shape == (1, 2, 1, 6, 8)

    def test_a_long_array_in_the_place_of_a_group(self, path: Path) -> None:
        """Looking for a name in it would go through all its values."""
        with h5py.File(path, "r+") as file:
            file.create_dataset("more", (2**40,), "f4", chunks=(1024,))
        assert load_kspace(path).data.shape == (1, 2, 1, 6, 8)

    @pytest.mark.parametrize("axis", ["x", "y"])
    def test_a_matrix_for_next_to_no_samples(self, tmp_path: Path, axis: str) -> None:
        header = TINY.xml()
        for space in (header.encoding[0].encodedSpace, header.encoding[0].reconSpace):
            setattr(space.matrixSize, axis, 1_000_000)
        readouts = TINY.lines(SOURCE[None])
        for one in readouts:
            one.center_sample = 4
        assert "correct the matrix in the header" in refusal(load_kspace, write(tmp_path / "raw.h5", header, readouts))

    def test_a_readout_that_says_it_has_gigabytes(self, path: Path) -> None:
        """HDF5 would take the memory, and fill it, before it looks for them."""
        with h5py.File(path) as file:
            place = file["dataset/data"].id.get_chunk_info(0).byte_offset + 372 - 16
        raw = bytearray(path.read_bytes())
        assert struct.unpack_from("<I", raw, place) == (32,)  # 2 channels of 8 complex samples
        raw[place : place + 4] = struct.pack("<I", 2**31)
        path.write_bytes(raw)
        assert "broken or hostile HDF5" in refusal(load_kspace, path)

    def test_more_samples_than_the_file_has_bytes(self, tmp_path: Path) -> None:
        path = write(tmp_path / "raw.h5", QUIET.xml(), QUIET.lines(SOURCE[None]))
        with h5py.File(path, "r+") as file:
            row = file["dataset/data"][0]
            row["head"]["number_of_samples"] = row["head"]["active_channels"] = 65535
            file["dataset/data"][0] = row
        assert "cannot be in so small a file" in refusal(load_kspace, path)

    def test_a_reader_that_is_killed(self, path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        """A fault of the library that ends its process, whichever it is, ends only the child; the next file is read."""
        program = tmp_path / "child.py"
        program.write_text("import os, sys\nprint(flush=True)\nsys.stdin.readline()\nos.abort()\n")
        hdf5_trial._trial.close()
        monkeypatch.setattr(hdf5_trial, "_PROGRAM", program)
        assert "ends or outruns its reader" in refusal(load_kspace, path)
        monkeypatch.undo()
        assert np.isfinite(load_kspace(path).data.numpy()).all()
