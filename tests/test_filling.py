"""Missing frames: filled in close to the truth, what is there untouched, and no more made up than can be known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medseq import Clip, InputError, denoise, fill_missing, interpolate
from medseq.metrics import nrmse
from medseq.simulate import simulate_cine


def beating(lacking: list[tuple[int, int]], frames: int = 12) -> tuple[Clip, Clip]:
    """A heart, and the same without the (slice, frame)s of `lacking`."""
    truth = simulate_cine(frames=frames, size=(48, 48), slices=2, seed=3)
    truth = truth.with_data(truth.data.abs())
    present = torch.ones(2, frames, dtype=torch.bool)
    data = truth.data.clone()
    for b, t in lacking:
        present[b, t] = False
        data[b, :, t] = 0
    return truth, replace(truth, data=data, present=present)


def test_missing_frames_come_nearer_to_the_truth_than_the_mean_of_their_neighbours():
    lacking = [(0, 4), (1, 4), (1, 7)]
    truth, series = beating(lacking)
    filled = fill_missing(series, seed=1)
    ours, line = [], []
    for b, t in lacking:
        ours.append(nrmse(filled.data[b, :, t], truth.data[b, :, t]))
        line.append(nrmse((truth.data[b, :, t - 1] + truth.data[b, :, t + 1]) / 2, truth.data[b, :, t]))
    assert sum(ours) < 0.9 * sum(line)


def test_frames_that_are_there_keep_every_bit():
    truth, series = beating([(0, 4)])
    filled = fill_missing(series)
    assert torch.equal(filled.data[1], truth.data[1])
    assert torch.equal(filled.data[0, :, 5:], truth.data[0, :, 5:])
    assert filled.present is None


def test_the_ends_of_a_cycle_are_filled_from_across_it():
    truth, series = beating([(0, 11), (1, 0)])
    filled = fill_missing(series)
    assert nrmse(filled.data[0, :, 11], truth.data[0, :, 11]) < 0.7 * nrmse(truth.data[0, :, 10], truth.data[0, :, 11])


@pytest.mark.parametrize(("frame", "end"), [(0, "first"), (11, "last")])
def test_the_ends_of_a_series_that_is_no_cycle_are_refused(frame, end):
    _, series = beating([(1, frame)])
    with pytest.raises(InputError, match=f"slice 2 lacks its {end} frame"):
        fill_missing(replace(series, period=None))


def test_a_slice_that_is_mostly_missing_is_refused():
    _, series = beating([(0, t) for t in range(1, 8)])
    with pytest.raises(InputError, match="lacks 7 of 12 frames"):
        fill_missing(series)


@pytest.mark.parametrize("task", [denoise, interpolate])
def test_no_task_takes_the_zeros_of_a_missing_frame_for_an_image(task):
    _, series = beating([(0, 4)])
    with pytest.raises(InputError, match="frames of the series are missing"):
        task(series)


def test_a_complete_series_is_returned_as_it_is():
    truth, _ = beating([])
    assert fill_missing(truth) is truth


def test_presence_must_fit_the_series():
    with pytest.raises(InputError, match="present must be bool"):
        Clip(torch.ones(2, 1, 3, 4, 4), present=torch.ones(3, 2, dtype=torch.bool))
    with pytest.raises(InputError, match="slice times must be 2"):
        Clip(torch.ones(2, 1, 3, 4, 4), slice_times=np.zeros(3))
