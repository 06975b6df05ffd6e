"""Frames of several series are matched by time, and grids that differ are refused by name."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medseq.clip import Clip
from medseq.errors import InputError
from medseq.matching import matched

AFFINE = np.diag([1.4, 1.4, 8.0, 1.0])


def clip(times: list[float]) -> Clip:
    """Every frame holds its own time in ms."""
    data = (1000 * torch.tensor(times)).view(1, 1, -1, 1, 1).expand(2, 1, len(times), 4, 5).contiguous()
    return Clip(data, AFFINE, np.array(times), period=1.0)


def shown(one: Clip) -> list[float]:
    return [round(float(value), 3) for value in one.data[0, 0, :, 0, 0]]


def test_the_moments_of_the_shortest_series_are_taken_of_all() -> None:
    reference, finer, coarse = (
        clip([0, 0.04, 0.08, 0.12]),
        clip([0, 0.02, 0.04, 0.06, 0.08, 0.1, 0.12]),
        clip([0.04, 0.12]),
    )
    found = matched({"reference": reference, "finer": finer, "coarse": coarse})
    assert list(found) == ["reference", "finer", "coarse"]
    for one in found.values():
        assert shown(one) == [40, 120]
        assert one.times.tolist() == [0.04, 0.12] and one.period == 1.0


def test_times_and_grids_may_be_rounded() -> None:
    rounded = replace(clip([0, 0.0333, 0.0667]), affine=AFFINE + 1e-3 * np.eye(4, k=3))
    found = matched({"reference": clip([0, 1 / 30, 2 / 30]), "rounded": rounded})
    assert found["rounded"].times.tolist() == [0, 1 / 30, 2 / 30]
    assert np.array_equal(found["rounded"].affine, AFFINE)


def test_still_pictures_need_no_common_time() -> None:
    assert matched({"one": clip([0.0]), "other": clip([3.0])})["other"].frames == 1


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (replace(clip([0, 0.04, 0.08]), affine=AFFINE @ np.diag([-1, 1, 1, 1])), "affines differ"),
        (replace(clip([0, 0.04, 0.08]), affine=AFFINE + 0.2 * np.eye(4, k=3)), "0.2 mm"),
        (Clip(torch.ones(2, 1, 3, 5, 4), AFFINE, np.array([0, 0.04, 0.08])), "4 x 5 x 2 voxels"),
        (clip([0, 0.043, 0.08]), "no frame at 0.043 s"),
        (clip([0, 0.04, 0.08, 0.13]), "no frame at 0.12 s"),
        (replace(clip([0, 0.04, 0.08]), present=torch.tensor([[True, False, True]] * 2)), "lacks frames"),
    ],
)
def test_what_does_not_agree_is_refused_by_name(other: Clip, words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        matched({"first.nii.gz": clip([0, 0.04, 0.08, 0.12]), "second.nii.gz": other})
    assert str(error.value).startswith("second.nii.gz: ") or "no frame" in words
