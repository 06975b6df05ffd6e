"""Cavities, curves and slopes against what is drawn: discs of known radius, straight lines, known masks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medseq.clinical import (
    area_curve,
    blood_threshold,
    cavity,
    ejection_fraction,
    region_curve,
    upslope,
    volume_curve,
)
from medseq.errors import UsageError

RADII = 8 + 3 * np.cos(2 * np.pi * np.arange(10) / 10)
AFFINE = np.diag([1.5, 2.0, 8.0, 1.0])


def distance(y: float, x: float) -> Tensor:
    rows, columns = torch.arange(48.0).view(-1, 1), torch.arange(56.0)
    return ((rows - y) ** 2 + (columns - x) ** 2).sqrt()


def ventricle(slices: int = 1) -> Tensor:
    """Blood (0.8) of known radius in a wall (0.2), with a papillary muscle inside, and a small vessel beside it."""
    frames = torch.stack([torch.where(distance(24, 24) < r, 0.8, 0.2) for r in RADII])
    frames[:, 24:26, 24:26] = 0.2
    frames[:, distance(24, 42) < 3] = 0.9
    return frames.expand(slices, 1, -1, -1, -1)


def around() -> Tensor:
    return (distance(24, 28) < 20)[None, None, None]


def discs() -> Tensor:
    """(T,) voxels of the drawn discs."""
    return torch.tensor([float((distance(24, 24) < r).sum()) for r in RADII])


def test_the_cavity_is_the_disc_with_its_muscles_and_without_its_neighbour() -> None:
    series, noise = ventricle(2), torch.randn(2, 1, 10, 48, 56, generator=torch.Generator().manual_seed(0))
    threshold = blood_threshold(series, around())
    assert 0.2 <= threshold < 0.8
    found = cavity(series, around(), threshold)
    assert found.dtype == torch.bool and found.shape == series.shape
    assert torch.equal(found.sum((1, 3, 4)).float(), discs().expand(2, 10))
    noisy = series + 0.05 * noise
    assert torch.equal(cavity(noisy, around(), blood_threshold(noisy, around())), found)
    assert torch.equal(cavity(series * 1j, around(), threshold), found)


def test_blood_outside_the_region_does_not_count() -> None:
    series = ventricle().clone()
    series[..., 24, 45:] = 0.9
    half = around().clone()
    half[..., 24:, :] = False
    assert torch.equal(cavity(series, half, 0.5), cavity(series, around(), 0.5) & half)


def test_blood_that_touches_by_a_corner_alone_is_another_pool() -> None:
    series = torch.zeros(1, 1, 1, 8, 8)
    series[..., 1:4, 1:4] = 1
    series[..., 4:6, 4:6] = 1
    found = cavity(series, torch.ones(1, 1, 1, 8, 8, dtype=torch.bool), 0.5)
    assert found.sum() == 9


def test_an_empty_slice_has_no_cavity() -> None:
    assert not cavity(torch.full((1, 1, 2, 48, 56), 0.1), around(), 0.5).any()


def test_areas_and_volumes_have_the_size_of_voxels() -> None:
    masks = torch.zeros(3, 1, 2, 6, 6, dtype=torch.bool)
    masks[:, :, 0, :2, :3] = True
    masks[0, :, 1, :1, :1] = True
    assert area_curve(masks, AFFINE).tolist() == [[18, 3], [18, 0], [18, 0]]
    assert volume_curve(masks, AFFINE).tolist() == pytest.approx([3 * 6 * 24 / 1000, 24 / 1000])
    turned = np.array([[0, 1.2, 1.6, 9], [1.5, 0, 0, 8], [0, 1.6, -1.2, 7], [0, 0, 0, 1.0]])
    assert area_curve(masks, turned)[0].tolist() == pytest.approx([18, 3])
    assert volume_curve(masks, turned)[1] == pytest.approx(6 / 1000)


def test_the_ejection_fraction_of_a_known_curve() -> None:
    assert ejection_fraction(torch.tensor([80.0, 120.0, 48.0])) == pytest.approx(0.6)
    assert ejection_fraction(torch.ones(4)) == 0


def test_a_region_curve_is_the_mean_there_and_may_follow_a_moving_region() -> None:
    series = torch.arange(4.0).view(1, 1, 4, 1, 1) * torch.ones(2, 1, 4, 6, 6)
    series[..., 3:, :] = 50
    top = torch.zeros(1, 1, 1, 6, 6, dtype=torch.bool)
    top[..., :3, :] = True
    assert region_curve(series, top).tolist() == [0, 1, 2, 3]
    assert region_curve(-1j * series, top).tolist() == [0, 1, 2, 3]
    moving = top.expand(1, 1, 4, 6, 6).clone()
    moving[:, :, 2] = ~top[:, :, 0]
    assert region_curve(series, moving).tolist() == [0, 1, 50, 3]


def test_the_up_slope_is_that_of_the_steepest_line() -> None:
    times = np.array([0, 0.5, 1, 2, 2.5, 3, 4, 5])
    rising = torch.from_numpy(np.interp(times, [1, 3], [10, 22]))
    assert upslope(rising, times, points=4) == pytest.approx(6)
    lines = [np.polyfit(times[k : k + 5], rising[k : k + 5].numpy(), 1)[0] for k in range(4)]
    assert upslope(rising, times) == pytest.approx(max(lines))
    assert upslope(3 * rising + 7, times) == pytest.approx(3 * max(lines))


@pytest.mark.parametrize(
    "refused",
    [
        lambda: region_curve(ventricle(), torch.zeros(1, 1, 1, 48, 56, dtype=torch.bool)),
        lambda: region_curve(ventricle(), torch.ones(1, 1, 1, 9, 9, dtype=torch.bool)),
        lambda: blood_threshold(ventricle(), torch.zeros(1, 1, 1, 48, 56, dtype=torch.bool)),
        lambda: blood_threshold(torch.ones(1, 1, 4, 48, 56), around()),
        lambda: ejection_fraction(torch.zeros(4)),
        lambda: upslope(torch.zeros(4), np.arange(4.0)),
    ],
)
def test_what_cannot_be_read_is_refused(refused: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        refused()
