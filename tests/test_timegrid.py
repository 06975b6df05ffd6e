"""Known and wanted times on one grid."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseq.clip import Clip
from medseq.errors import UsageError
from medseq.operators import Mask, Resample
from medseq.timegrid import TimeGrid, linear_weights


def clip(times: np.ndarray, period: float | None = None) -> Clip:
    return Clip(torch.zeros(1, 1, len(times), 4, 4), np.eye(4), times, period)


def test_factor_refines_between_the_frames_and_around_the_cycle() -> None:
    grid = TimeGrid.for_clip(clip(np.arange(4) * 0.5), factor=3)
    assert grid.frames == 10 and np.allclose(grid.wanted_times, np.arange(10) / 6)
    assert grid.known.flatten().nonzero().flatten().tolist() == [0, 3, 6, 9]
    circle = TimeGrid.for_clip(clip(np.arange(4) * 0.5, 2.0), factor=2)
    assert circle.frames == 8 and np.allclose(circle.wanted_times, np.arange(8) * 0.25)
    assert isinstance(circle.operator(torch.device("cpu")), Mask)


def test_dropped_frames_share_the_grid_of_those_that_are_there() -> None:
    times = np.delete(np.arange(10) * 0.8, [3, 6, 7])
    grid = TimeGrid.for_clip(clip(times), times=np.arange(10) * 0.8)
    assert grid.frames == 10 and int(grid.known.sum()) == 7
    data = torch.arange(7.0).reshape(1, 1, 7, 1, 1).expand(1, 1, 7, 4, 4)
    on_grid = grid.measured(data)
    assert torch.equal(on_grid[:, :, grid.known.flatten()], data) and (on_grid[:, :, [3, 6, 7]] == 0).all()
    assert torch.equal(grid.wanted(on_grid), on_grid)


def test_times_without_a_common_grid_are_resampled_not_rounded() -> None:
    """A ramp over time comes back exactly at any times: linear weights know straight lines."""
    known, wanted = np.array([0.0, 1.0, 2.37, 3.1]), np.array([0.137, 1.9, 2.713])
    grid = TimeGrid.for_clip(clip(known), times=wanted)
    assert isinstance(grid.operator(torch.device("cpu")), Resample) and not grid.known.any()
    ramp = torch.tensor(grid.times, dtype=torch.float32).reshape(1, 1, -1, 1, 1)
    assert np.allclose(grid.wanted(ramp).flatten(), wanted, atol=1e-5)
    assert np.allclose(grid.operator(torch.device("cpu"))(ramp).flatten(), known, atol=1e-5)


def test_one_per_cent_of_a_frame_is_forgiven_and_more_is_not() -> None:
    near, far = np.array([0.5, 1.5 + 0.008]), np.array([0.5, 1.5 + 0.03])
    assert TimeGrid.for_clip(clip(np.arange(4.0)), times=near).wanted_index is not None
    assert TimeGrid.for_clip(clip(np.arange(4.0)), times=far).wanted_index is None


@pytest.mark.parametrize(
    ("times", "period", "fault"),
    [
        (np.array([-0.5, 1.0]), None, "reach"),
        (np.array([1.0, 3.5]), None, "reach"),
        (np.array([1.0, 4.2]), 4.0, "reach"),
        (np.array([1.0, 1.0]), None, "increase"),
        (np.array([1.0, np.nan]), None, "increase"),
        (np.array([]), None, "increase"),
    ],
)
def test_impossible_times(times: np.ndarray, period: float | None, fault: str) -> None:
    with pytest.raises(UsageError, match=fault):
        TimeGrid.for_clip(clip(np.arange(4.0), period), times=times)


def test_beyond_the_last_frame_only_with_a_period() -> None:
    assert TimeGrid.for_clip(clip(np.arange(4.0), 4.0), times=np.array([3.5])).frames == 8
    with pytest.raises(UsageError, match="reach"):
        TimeGrid.for_clip(clip(np.arange(4.0)), times=np.array([3.5]))
    with pytest.raises(UsageError, match="one frame"):
        TimeGrid.for_clip(clip(np.arange(1.0)), factor=2)
    with pytest.raises(UsageError, match="factor"):
        TimeGrid.for_clip(clip(np.arange(4.0)), factor=0)


def test_weights_wrap_around_the_cycle() -> None:
    weights = linear_weights(np.arange(4.0), np.array([3.25]), 4.0)
    assert torch.allclose(weights, torch.tensor([[0.25, 0, 0, 0.75]]))
