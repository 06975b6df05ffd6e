"""What every raw format has in common: how faults are named, what is checked before and after its samples are read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import torch
from torch import Tensor

from medseq.errors import InputError, ResourceError
from medseq.io.faults import faults_named, machine_memory, reason

_THINNEST = 1000  # samples of the grid for each measured one


def raw_faults_named(path: Path, kind: str) -> AbstractContextManager[None]:
    """`faults_named` for raw data. kind: what the file should have been, for the message."""
    if not path.exists():  # HDF5 says so in other words
        raise InputError(f"{path}: no such file; check the path")
    return faults_named(path, lambda error: f"broken or not {kind} raw data ({reason(error)}); get a fresh copy")


def check_values(data: Tensor, path: Path) -> None:
    """Raise InputError on k-space that is not finite or zero throughout."""
    if not bool(torch.isfinite(torch.view_as_real(data)).all()):
        raise InputError(f"{path}: some samples are not finite; measure or convert the raw data again")
    if not bool(data.any()):
        raise InputError(f"{path}: every sample is zero; there is nothing to reconstruct")


def check_grid(shape: Sequence[int], samples: int, path: Path) -> None:
    """Raise InputError for k-space (B, C, T, Y, X) in which `samples` measured ones are lost.

    A few bytes of a header can ask for a matrix of gigabytes; no acceleration and no interpolation comes near this.
    """
    if math.prod(shape) > _THINNEST * samples:
        raise InputError(f"{path}: {samples} samples for k-space of {tuple(shape)}; correct its counters and matrix")


def check_memory(shape: Sequence[int]) -> None:
    """Raise ResourceError for k-space (B, C, T, Y, X) beyond this machine's memory.

    Said before the system kills the process: damaged counters, too, ask for absurd amounts.
    """
    needed = math.prod(shape) * 12  # the samples and some masks
    there = machine_memory()
    if needed > there:
        raise ResourceError(
            f"k-space of {tuple(shape)} needs {needed / 2**30:.0f} GiB of memory, this machine has "
            f"{there / 2**30:.0f} GiB; split the file, or correct its counters and matrix"
        )


def whole_lines(keep: Tensor) -> Tensor:
    """The mask (B, 1, T, Y, X) as one of lines, (B, 1, T, Y, 1), where no line is measured in part."""
    return keep[..., :1].clone() if bool((keep == keep[..., :1]).all()) else keep
