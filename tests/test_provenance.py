"""Outputs appear together or not at all, and `run.json` holds what JSON can hold."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from medseq.errors import InputError, MedseqWarning, ResourceError, UsageError
from medseq.provenance import RunRecord, collected_warnings, sha256, staged, stem


def everything(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


def test_outputs_appear_together_at_the_end(tmp_path):
    out = tmp_path / "a" / "b"
    with staged(out) as folder:
        (folder / "x").write_text("1")
        (folder / "y").write_text("2")
        assert everything(out) == [folder.name, "x", "y"] and not (out / "x").exists()
    assert everything(tmp_path) == ["a", "b", "x", "y"]


@pytest.mark.parametrize("fault", [ValueError, KeyboardInterrupt, MemoryError])
def test_a_fault_leaves_the_disk_as_it_was(tmp_path, fault):
    (tmp_path / "x").write_text("older")
    with pytest.raises(fault), staged(tmp_path) as folder:
        (folder / "x").write_text("newer")
        raise fault
    with pytest.raises(fault), staged(tmp_path / "a" / "b") as folder:
        (folder / "x").write_text("newer")
        raise fault
    assert everything(tmp_path) == ["x"] and (tmp_path / "x").read_text() == "older"


def test_an_output_that_is_a_folder_stops_all_outputs(tmp_path):
    (tmp_path / "y").mkdir()
    with pytest.raises(UsageError, match="y: is a folder"), staged(tmp_path) as folder:
        (folder / "x").write_text("1")
        (folder / "y").write_text("2")
    assert everything(tmp_path) == ["y"]


def test_a_file_in_the_way_is_a_usage_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="file"), staged(tmp_path / "file" / "deeper"):
        pass
    with pytest.raises(UsageError, match="file"), staged(tmp_path / "file"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_the_right_to_write_is_a_resource_error(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ResourceError, match="cannot be written"), staged(tmp_path / "out"):
        pass


def test_messages_name_the_folder_people_know(tmp_path):
    with pytest.raises(ResourceError) as caught, staged(tmp_path) as folder:
        raise ResourceError(f"{folder}/x: no space")
    assert str(caught.value) == f"{tmp_path}/x: no space"


@pytest.mark.parametrize(
    ("path", "expected"),
    [("a/x.nii.gz", "x"), ("x.nii", "x"), ("x.h5", "x"), ("x.y.NII.GZ", "x.y"), ("x", "x"), ("x.gz", "x")],
)
def test_stem(path, expected):
    assert stem(Path(path)) == expected


def test_a_folder_hashes_names_and_content(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text("content")
    first = sha256(tmp_path / "one")
    assert first == sha256(tmp_path / "two")
    (tmp_path / "two" / "file").rename(tmp_path / "two" / "other")
    assert first != sha256(tmp_path / "two")
    with pytest.raises(InputError, match="missing"):
        sha256(tmp_path / "missing")


def test_each_warning_is_gathered_once_in_order():
    shown: list[str] = []
    with collected_warnings(shown.append) as gathered:
        for text in ("b", "a", "b"):
            warnings.warn(text, MedseqWarning, stacklevel=1)
    assert gathered == shown == ["b", "a"]
    with pytest.warns(UserWarning, match="not ours"), collected_warnings(shown.append) as gathered:
        warnings.simplefilter("always")
        warnings.warn("not ours", UserWarning, stacklevel=1)
    assert gathered == []


def test_a_record_holds_plain_values_and_no_folders(tmp_path):
    source = tmp_path / "alice" / "cine.nii.gz"
    source.parent.mkdir()
    source.write_text("x")
    record = RunRecord("denoise", {"times": np.arange(2), "from": source, "sigma": float("nan"), "device": "cpu"})
    record.add_input(source)
    record.warnings = [f"{source}: no TR"]
    record.result = {"levels": (torch.ones(2), 1.5), "dtype": torch.float32}
    with record.timed("read"):
        pass
    record.save(tmp_path / "run.json")
    text = (tmp_path / "run.json").read_text()
    run = json.loads(text)
    assert "alice" not in text
    assert run["options"] == {"times": [0, 1], "from": "cine.nii.gz", "sigma": None, "device": "cpu"}
    assert run["result"] == {"levels": [[1.0, 1.0], 1.5], "dtype": "torch.float32"}
    assert run["warnings"] == ["cine.nii.gz: no TR"] and set(run["seconds"]) == {"read", "total"}
