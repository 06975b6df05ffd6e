"""Golden-angle spokes and spirals, and streams of readouts cut into frames."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from medseq.clip import KSpace, Trajectory
from medseq.errors import InputError, UsageError
from medseq.trajectories import binned, golden_angle, golden_radial, golden_spiral


def angles(trajectory: Trajectory) -> torch.Tensor:
    """Of the last sample of every readout, in their order."""
    y, x = trajectory.points[:, :, -1].double().unbind(-1)
    return torch.atan2(y, x).flatten()


def test_the_golden_angles_are_the_known_ones() -> None:
    """Winkelmann 2007; Wundrak 2015, table 1."""
    for order, degrees in ((1, 111.246), (2, 68.754), (3, 49.751), (7, 23.628), (10, 16.953)):
        assert math.degrees(golden_angle(order)) == pytest.approx(degrees, abs=1e-3)


@pytest.mark.parametrize("tiny", [1, 7])
@pytest.mark.parametrize(("make", "turn"), [(golden_radial, 1), (golden_spiral, 2)])
def test_every_readout_turns_on_by_the_golden_angle(make, turn: int, tiny: int) -> None:
    found = angles(make(3, (24, 32), 5, tiny=tiny))
    steps = torch.remainder(found.diff() - turn * golden_angle(tiny) + math.pi, 2 * math.pi) - math.pi
    assert float(steps.abs().max()) < 1e-5


def test_spokes_run_through_the_centre_from_edge_to_edge() -> None:
    trajectory = golden_radial(2, (24, 32), 3)
    assert trajectory.points.shape == (2, 3, 64, 2) and trajectory.size == (24, 32)
    radius = trajectory.points.norm(dim=-1)
    assert not bool(trajectory.points[:, :, 32].any())
    torch.testing.assert_close(radius[0, 0], ((torch.arange(64) - 32) / 64).abs(), rtol=0, atol=1e-7)


def test_spirals_have_even_turns_and_even_samples() -> None:
    full = 6
    path = golden_spiral(1, (64, 64), 1, full=full).points[0, 0].double() * 64  # in grid places
    radius, angle = path.norm(dim=-1), np.unwrap(np.arctan2(*path.T.numpy()))
    assert float(radius[0]) == 0 and float(radius[-1]) == pytest.approx(32, rel=1e-5)
    turns = (angle[-1] - angle[5]) / (2 * math.pi)
    assert float(radius[-1] - radius[5]) / turns == pytest.approx(full, rel=1e-3)
    steps = path.diff(dim=0).norm(dim=-1)
    assert float(steps.max()) <= 0.5 + 1e-3 and float(steps.min()) > 0.45


def test_together_they_cover_the_disc_and_nothing_else() -> None:
    places = (torch.arange(40) - 20).double().square()
    disc = (places[:, None] + places).sqrt()
    for trajectory in (golden_radial(1, (40, 40), 100), golden_spiral(1, (40, 40), 60, full=24)):
        near = trajectory.nearest[0, 0, 0]
        assert bool(near[disc < 18].all()) and not bool(near[disc > 21.5].any())


def test_the_nearest_places_of_two_points() -> None:
    points = torch.tensor([[0.0, 0.0], [0.25, -0.5], [0.6, 0.0]])[None, None]
    near = Trajectory(points, (4, 6)).nearest
    assert near.shape == (1, 1, 1, 4, 6)
    assert near[0, 0, 0].nonzero().tolist() == [[2, 3], [3, 0]]  # and the third lies beyond


def stream(readouts: int = 7, coils: int = 2, samples: int = 4, interval: float | None = 0.005) -> KSpace:
    """Of one frame, every sample of which says which readout it is of."""
    number = torch.arange(readouts).to(torch.complex64)[:, None].expand(1, coils, 1, readouts, samples)
    points = torch.arange(readouts)[:, None, None].expand(1, readouts, samples, 2) / 20
    keep = torch.ones(1, 1, 1, readouts, 1, dtype=torch.bool)
    keep[..., 4, :] = False
    trajectory = Trajectory(points, (8, 8), interval)
    return replace(KSpace(number, keep, times=np.array([3.0])), trajectory=trajectory)


@pytest.mark.parametrize(
    ("readouts", "step", "frames"),
    [(2, None, [[0, 1], [2, 3], [4, 5]]), (3, 1, [[0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4, 5], [4, 5, 6]])],
)
def test_a_stream_is_cut_into_frames(readouts: int, step: int | None, frames: list[list[int]]) -> None:
    cut = binned(stream(), readouts, step=step)
    assert cut.data[0, 0, :, :, 0].real.int().tolist() == frames
    assert cut.trajectory is not None
    torch.testing.assert_close(cut.trajectory.points[:, :, 0, 0] * 20, torch.tensor(frames).float())
    assert torch.equal(cut.keep[0, 0, :, :, 0], torch.tensor(frames) != 4)
    middle = 3.0 + 0.005 * np.array([sum(f) / len(f) for f in frames])
    np.testing.assert_allclose(cut.times, middle)
    assert cut.period is None and cut.coils == 2


def test_frames_can_be_cut_anew_and_without_an_interval_they_are_counted() -> None:
    whole = stream(6, interval=None)
    again = binned(binned(whole, 2), 3)
    assert torch.equal(again.data, binned(whole, 3).data)
    np.testing.assert_array_equal(again.times, [0, 1])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: binned(stream(), 0),
        lambda: binned(stream(), 2, step=0),
        lambda: binned(stream(), 8),
        lambda: binned(replace(stream(), trajectory=None), 2),
        lambda: golden_radial(0, (8, 8), 3),
        lambda: golden_radial(2, (8, 8), 0),
        lambda: golden_radial(2, (8, 8), 3, tiny=0),
        lambda: golden_spiral(2, (8, 0), 3),
        lambda: golden_spiral(2, (8, 8), 3, full=0),
    ],
)
def test_what_cannot_be_is_a_usage_error(wrong) -> None:
    with pytest.raises(UsageError):
        wrong()


@pytest.mark.parametrize(
    "change",
    [
        {"trajectory": Trajectory(torch.zeros(1, 7, 5, 2), (8, 8))},
        {"trajectory": Trajectory(torch.zeros(2, 7, 4, 2), (8, 8))},
        {"trajectory": Trajectory(torch.zeros(1, 1, 4, 2), (8, 8))},
        {"keep": torch.ones(1, 2, 1, 1, 1, dtype=torch.bool)},
        {"maps": torch.ones(1, 2, 1, 7, 4, dtype=torch.complex64)},
        {"calibration": torch.ones(1, 2, 1, 7, 4, dtype=torch.complex64)},
        {"epi": True},
    ],
)
def test_k_space_that_does_not_fit_its_trajectory_is_refused(change: dict) -> None:
    with pytest.raises(InputError):
        replace(stream(), **change)
    assert replace(stream(), maps=torch.ones(1, 2, 1, 8, 8, dtype=torch.complex64)).size == (8, 8)
