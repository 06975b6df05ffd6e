"""Frames that a series should have and lacks, filled in by the prior from those that are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from medseq.clip import Clip
from medseq.errors import InputError
from medseq.prior import Prior
from medseq.restore import interpolate
from medseq.runtime import Progress

# A slice that lacks more than this share of its frames would be made up rather than filled in.
LARGEST_SHARE = 0.5


def fill_missing(
    clip: Clip,
    *,
    prior: Prior | str | Path | None = None,
    steps: int = 2,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Clip:
    """The series with its missing frames (`clip.present` False) interpolated in time; the others keep every bit.

    Slices that lack the same frames are filled in together: `medseq.interpolate` from the frames they have to the times
    of those they lack. Nothing is missing in the result (`present` is None).
    Raises InputError for a slice that lacks more than half of its frames or, in a series that is not periodic, its
    first or last one: nothing is known of what lies beyond.
    """
    if clip.present is None or bool(clip.present.all()):
        return clip
    data = clip.data.clone()
    for slices, have in _patterns(clip.present):
        if have.all():
            continue
        _check(slices, have, clip.period is not None)
        part = Clip(clip.data[slices][:, :, have], clip.affine, clip.times[have], clip.period)
        lacking = np.flatnonzero(~have)
        wanted = clip.times[lacking]
        if clip.period is not None:  # what comes before the first frame that is there comes after the last one too
            wanted = np.where(wanted < part.times[0], wanted + clip.period, wanted)
            lacking, wanted = lacking[np.argsort(wanted)], np.sort(wanted)
        filled = interpolate(
            part,
            times=wanted,
            prior=prior,
            steps=steps,
            seed=seed,
            device=device,
            precision=precision,
            progress=progress,
        )
        data[torch.tensor(slices)[:, None], :, torch.from_numpy(lacking)] = filled.clip.data.permute(0, 2, 1, 3, 4)
    return replace(clip, data=data, present=None)


def _patterns(present: torch.Tensor) -> Iterator[tuple[list[int], np.ndarray]]:
    """Slices that have the same frames, and which those are, (T,) bool."""
    groups: dict[tuple[bool, ...], list[int]] = defaultdict(list)
    for b, row in enumerate(present.tolist()):
        groups[tuple(row)].append(b)
    for row, slices in groups.items():
        yield slices, np.array(row)


def _check(slices: list[int], have: np.ndarray, periodic: bool) -> None:
    where = f"slice {slices[0] + 1}"
    if np.mean(~have) > LARGEST_SHARE:
        raise InputError(
            f"{where} lacks {int((~have).sum())} of {len(have)} frames: too many to fill in; get the whole series"
        )
    if not periodic and not (have[0] and have[-1]):
        end = "first" if not have[0] else "last"
        raise InputError(
            f"{where} lacks its {end} frame, and nothing is known of what lies beyond; get the whole series"
        )
