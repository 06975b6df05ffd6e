"""Independent readers of DICOM series, asked for what medseq must find too."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medseq import Clip


def converted(folder: Path, out: Path, *options: str) -> list[tuple[nib.Nifti1Image, dict]]:
    """Every series of a folder as dcm2niix reads it, with its sidecar, by file name."""
    if shutil.which("dcm2niix") is None:
        pytest.skip("dcm2niix is not installed")
    out.mkdir(parents=True, exist_ok=True)
    words = ["dcm2niix", "-b", "y", "-z", "n", "-f", "%s_%d", *options, "-o", str(out), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    # It may write a file and return 1, or none and return 0: what counts is what is there.
    assert done.returncode < 128, f"dcm2niix crashed: {done.stdout}{done.stderr}"
    return [(nib.load(path), json.loads(path.with_suffix(".json").read_text())) for path in sorted(out.glob("*.nii"))]


def corners(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(8, 3) RAS mm of the corners of a volume of this (x, y, z) shape."""
    grid = np.array(np.meshgrid(*[(0, size - 1) for size in shape[:3]], indexing="ij")).reshape(3, -1)
    return nib.affines.apply_affine(affine, grid.T)


def canonical(values: np.ndarray, affine: np.ndarray) -> nib.Nifti1Image:
    """Voxels (x, y, z, t) and affine, turned so that the axes run to the right, the front and the top."""
    return nib.as_closest_canonical(nib.Nifti1Image(values, affine))


def clip_image(clip: Clip) -> nib.Nifti1Image:
    """A real clip in the same orientation."""
    return canonical(clip.data[:, 0].permute(3, 2, 0, 1).numpy(), clip.affine)


def assert_same_image(clip: Clip, image: nib.Nifti1Image) -> None:
    """Equal voxels once both are turned the same way, and corners within 1e-3 mm."""
    ours, theirs = clip_image(clip), nib.as_closest_canonical(image)
    # A slope is rounded to single precision in a NIfTI header; without one nothing may differ.
    slope = 0.0 if image.dataobj.slope == 1 else 3e-7
    np.testing.assert_allclose(np.squeeze(ours.get_fdata()), np.squeeze(theirs.get_fdata()), rtol=slope, atol=0)
    gap = corners(ours.affine, ours.shape) - corners(theirs.affine, theirs.shape)
    assert np.abs(gap).max() < 1e-3


def in_scan_order(slice_times: list[float], image: nib.Nifti1Image, clip: Clip) -> np.ndarray:
    """SliceTiming of a sidecar, in the order of the clip's slices."""
    same_way = float(image.affine[:3, 2] @ clip.affine[:3, 2]) > 0
    return np.array(slice_times if same_way else slice_times[::-1])
