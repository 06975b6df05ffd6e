"""A file is there and complete, or not there at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from medseq import Clip, InputError, ResourceError, UsageError, load_clip, save_clip
from medseq.io.files import atomic_write


def test_content_arrives_with_the_usual_rights(tmp_path: Path) -> None:
    target = tmp_path / "result.nii.gz"
    with atomic_write(target) as temporary:
        assert temporary.parent == tmp_path and temporary.name.endswith("result.nii.gz")
        assert not target.exists()
        temporary.write_bytes(b"whole")
    (tmp_path / "plain").write_bytes(b"")
    assert target.read_bytes() == b"whole"
    assert target.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain", "result.nii.gz"]


@pytest.mark.parametrize("failure", [ValueError("bug"), KeyboardInterrupt(), SystemExit(3)])
def test_failure_keeps_the_old_file_and_nothing_else(tmp_path: Path, failure: BaseException) -> None:
    target = tmp_path / "result"
    target.write_bytes(b"old")
    with pytest.raises(type(failure)), atomic_write(target) as temporary:
        temporary.write_bytes(b"half")
        raise failure
    assert target.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [target]


def test_full_disk_and_missing_folder_are_resource_errors(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="No space left"), atomic_write(tmp_path / "full"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(ResourceError, match="gone"), atomic_write(tmp_path / "gone" / "result"):
        pass
    (tmp_path / "folder").mkdir()
    with pytest.raises(ResourceError, match="folder"), atomic_write(tmp_path / "folder") as temporary:
        temporary.write_bytes(b"whole")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_killed_writer_leaves_the_old_file(tmp_path: Path) -> None:
    target = tmp_path / "result"
    target.write_bytes(b"old")
    program = (
        "import os, signal, sys\n"
        "from medseq.io.files import atomic_write\n"
        "with atomic_write(sys.argv[1]) as temporary:\n"
        "    temporary.write_bytes(b'half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", program, str(target)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert target.read_bytes() == b"old"


def test_unknown_endings_are_refused_by_name(tmp_path: Path) -> None:
    clip = Clip(torch.ones(1, 1, 2, 4, 4))
    with pytest.raises(UsageError, match=r"result\.tif"):
        save_clip(clip, tmp_path / "result.tif")
    with pytest.raises(InputError, match="no such file"):
        load_clip(tmp_path / "missing.tif")
    with pytest.raises(InputError, match="raw data"):
        load_clip(tmp_path / "raw.h5")
    (tmp_path / "text.txt").write_text("text")
    with pytest.raises(InputError, match=r"text\.txt: no MR image series"):
        load_clip(tmp_path / "text.txt")


def test_a_source_of_another_format_lends_no_header(tmp_path: Path) -> None:
    clip = Clip(torch.ones(1, 1, 2, 4, 4), times=[0, 0.5])
    save_clip(clip, tmp_path / "alone.nii")
    save_clip(clip, tmp_path / "derived.nii", like=tmp_path / "raw.h5")
    assert (tmp_path / "alone.nii").read_bytes() == (tmp_path / "derived.nii").read_bytes()
