"""A small BIDS dataset as a study would hold it, and the official validator's word on any dataset."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch

from medseq.clip import Clip
from medseq.io import save_clip, save_kspace
from medseq.simulate import acquire, simulate_bold, simulate_cine

FRAMES, SIZE, SLICES = 10, (32, 32), 2
BOLD = "sub-01/func/sub-01_task-rest_bold.nii.gz"
CINE = "sub-01/heart/sub-01_acq-sa_cine.nii.gz"
RAW = "sub-01/heart/sub-01_acq-sa_kspace.h5"


def write_json(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def empty_dataset(root: Path) -> Path:
    write_json(root / "dataset_description.json", {"Name": "study", "BIDSVersion": "1.10.0", "DatasetType": "raw"})
    (root / "README").write_text("A study of nobody.\n")
    (root / ".bidsignore").write_text("**/heart\n")
    return root


def bold(repetition_time: float = 2.0, seed: int = 0) -> Clip:
    return simulate_bold(FRAMES, SIZE, SLICES, repetition_time, seed=seed)[0]


def put(root: Path, name: str, clip: Clip, sidecar: dict[str, Any] | None = None) -> Path:
    """Write a series at `name` in the dataset, with its sidecar if it is to have one."""
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    save_clip(clip, path)
    if sidecar is not None:
        write_json(path.with_name(path.name.split(".")[0] + ".json"), sidecar)
    return path


def put_bold(root: Path, name: str = BOLD, **sidecar: Any) -> Path:
    return put(root, name, bold(), {"TaskName": "rest", "RepetitionTime": 2.0, **sidecar})


def put_complex_bold(root: Path, stem: str = "sub-02/func/sub-02_task-rest") -> Clip:
    """Magnitude and phase (radians) of one series, which is returned."""
    magnitude = bold(seed=1)
    turn = torch.linspace(-3, 3, SIZE[1]).expand_as(magnitude.data)
    about = {"TaskName": "rest", "RepetitionTime": 2.0}
    put(root, f"{stem}_part-mag_bold.nii.gz", magnitude, about)
    put(root, f"{stem}_part-phase_bold.nii.gz", magnitude.with_data(turn), {**about, "Units": "rad"})
    return magnitude.with_data(torch.polar(magnitude.data, turn))


def put_heart(root: Path) -> None:
    """A cine as images and as raw data."""
    clip = simulate_cine(FRAMES, SIZE, 1)
    put(root, CINE, clip.with_data(clip.data.abs()))
    save_kspace(acquire(clip, coils=4, acceleration=2), root / RAW)


def errors_of(dataset: Path) -> list[str]:
    """`CODE location` of every error that bids-validator finds; it answers 16 when there are any, else 0."""
    judge = Path(sys.executable).with_name("bids-validator-deno")
    done = subprocess.run([judge, "--format", "json", dataset], capture_output=True, text=True, timeout=120)
    assert done.returncode in (0, 16), f"the judge failed: {done.stderr}"
    errors = [issue for issue in json.loads(done.stdout)["issues"]["issues"] if issue["severity"] == "error"]
    assert (done.returncode == 16) == bool(errors)
    return [f"{issue['code']} {issue.get('location', '')}" for issue in errors]


def stored_interval(path: Path) -> float:
    """pixdim4 as it stands in the header, in seconds or not."""
    return np.float32(nib.load(path).header["pixdim"][4])
