"""Formats that hold k-space as one plain array: what reading and writing them have in common.

Unmeasured samples are exactly zero there, and geometry, timing, noise and whether it is EPI have no field. What medseq
knows of them it adds as one line of JSON, its note, in a place that other programs skip; affine and times come back bit
for bit.
"""

from __future__ import annotations

import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseq.clip import KSpace
from medseq.errors import InputError, MedseqWarning
from medseq.io.raw_checks import check_values, whole_lines


def kspace_of(path: Path, data: Tensor, keep: Tensor, note: str | None, voxel: tuple[float, float, float]) -> KSpace:
    """K-space (B, C, T, Y, X) as read from an array.

    keep: as in `KSpace`. note: what `noted` wrote, or None. voxel: millimetres along (x, y, z), for identity axes.
    Warns with MedseqWarning of what has to be assumed without a note. Raises InputError on samples that are all zero or
    not finite, and when nothing was measured.
    """
    check_values(data, path)
    try:
        if note is not None:
            return KSpace(data, keep, **_understood(note))
    except (InputError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        warnings.warn(
            f"{path}: what medseq noted in the file no longer fits; it is left aside", MedseqWarning, stacklevel=4
        )
    sizes = " x ".join(f"{length:g}" for length in voxel)
    assumed = f"no position or orientation; identity axes with voxels of {sizes} mm are taken"
    if data.shape[2] > 1:
        assumed += ", and no times; frames are counted, as if 1 s apart and not periodic"
    warnings.warn(f"{path}: {assumed}", MedseqWarning, stacklevel=4)
    try:
        return KSpace(data, keep, affine=np.diag([*voxel, 1.0]))
    except InputError as error:
        raise InputError(f"{path}: {error}") from error


def array_of(kspace: KSpace, path: Path) -> np.ndarray:
    """The samples (B, C, T, Y, X) complex64 to be written, zero where unmeasured.

    Warns with MedseqWarning when measured samples are zero, as they will read as unmeasured, and of a calibration scan,
    which has no place. Raises InputError on
    samples that are all zero or not finite, and on a mask that varies from coil to coil.
    """
    if kspace.trajectory is not None:
        raise InputError(f"{path}: not written, as the format has no place for a trajectory; end it in .h5 (ISMRMRD)")
    keep = kspace.keep
    if not bool((keep == keep[:, :1]).all()):
        raise InputError(f"{path}: not written, as the mask varies from coil to coil; give one mask for all")
    data = (kspace.data * keep).detach().cpu().resolve_conj().to(torch.complex64)
    check_values(data, path)
    lost = int((keep[:, :1].cpu() & ~measured(data)).expand_as(data[:, :1]).sum())
    if lost:
        warnings.warn(
            f"{path.name}: {lost} measured samples are zero in every coil, which here means unmeasured",
            MedseqWarning,
            stacklevel=4,
        )
    if kspace.calibration is not None:
        warnings.warn(f"{path.name}: the separate calibration scan is not stored in it", MedseqWarning, stacklevel=4)
    return data.numpy()


def measured(data: Tensor) -> Tensor:
    """Which samples of (B, C, T, Y, X) are not zero in every coil: a mask for `KSpace`, of lines where it can be."""
    return whole_lines((data != 0).any(dim=1, keepdim=True))


def noted(kspace: KSpace) -> str:
    """Affine, times, period, noise, and whether it is EPI, as one line of JSON."""
    noise: Any = kspace.noise
    if isinstance(noise, Tensor):
        noise = torch.view_as_real(noise.detach().cpu().resolve_conj().to(torch.complex64)).tolist()
    affine, times = kspace.affine.tolist(), kspace.times.tolist()
    note = {"affine": affine, "times": times, "period": kspace.period, "noise": noise}
    return json.dumps({**note, "epi": True} if kspace.epi else note)


def _understood(note: str) -> dict[str, Any]:
    """The arguments of `KSpace` in a note. Raises ValueError, TypeError or KeyError when it is broken."""
    content = json.loads(note)
    noise = content["noise"]
    if isinstance(noise, list):
        noise = torch.view_as_complex(torch.tensor(noise, dtype=torch.float32))
    elif noise is not None and not (math.isfinite(noise) and noise > 0):
        raise ValueError(f"a noise of {noise}")
    known = {name: content[name] for name in ("affine", "times", "period")}
    return {**known, "noise": noise, "epi": content.get("epi") is True}
