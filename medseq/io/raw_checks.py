"""What every raw format has in common: how faults are named, what is checked before and after its samples are read."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from medseq.errors import InputError, MedseqError, ResourceError


@contextmanager
def faults_named(path: Path, kind: str) -> Iterator[None]:
    """Turn whatever a format's library raises on a broken file into one InputError that names it.

    kind: what the file should have been, for the message.
    """
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; check the path")
        yield
    except (MedseqError, MemoryError):
        raise
    except PermissionError as error:
        raise InputError(f"{path}: no right to read it; check its permissions") from error
    except Exception as error:  # noqa: BLE001 - OSError, KeyError, ValueError, ParserError, ... by where it is broken
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{path}: broken or not {kind} raw data ({reason}); get a fresh copy") from error


def check_values(data: Tensor, path: Path) -> None:
    """Raise InputError on k-space that is not finite or zero throughout."""
    if not bool(torch.isfinite(torch.view_as_real(data)).all()):
        raise InputError(f"{path}: some samples are not finite; measure or convert the raw data again")
    if not bool(data.any()):
        raise InputError(f"{path}: every sample is zero; there is nothing to reconstruct")


def check_memory(shape: Sequence[int]) -> None:
    """Raise ResourceError for k-space (B, C, T, Y, X) beyond this machine's memory.

    Said before the system kills the process: damaged counters, too, ask for absurd amounts.
    """
    needed = math.prod(shape) * 12  # the samples and some masks
    there = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if needed > there:
        raise ResourceError(
            f"k-space of {tuple(shape)} needs {needed / 2**30:.0f} GiB of memory, this machine has "
            f"{there / 2**30:.0f} GiB; split the file, or correct its counters and matrix"
        )


def whole_lines(keep: Tensor) -> Tensor:
    """The mask (B, 1, T, Y, X) as one of lines, (B, 1, T, Y, 1), where no line is measured in part."""
    return keep[..., :1].clone() if bool((keep == keep[..., :1]).all()) else keep
