"""Smoothness of noise of known blur, and what shows in the part that a denoiser took away."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from medseq.errors import UsageError
from medseq.smoothness import edge_correlation, fwhm, neighbour_correlation, overall

VOXEL = (2.0, 2.5, 3.0)  # mm along x, y, z
STD = (1.2, 1.6, 1.0)  # voxels, likewise
FRAMES = 40


def blurred_noise(seed: int = 0, slices: int = 16) -> Tensor:
    """White noise in a larger volume, blurred by SciPy, its edges cut away."""
    white = np.random.default_rng(seed).standard_normal((slices + 12, FRAMES, 52, 56))
    smooth = gaussian_filter(white, (STD[2], 0, STD[1], STD[0]))
    return torch.from_numpy(smooth[6:-6, None, :, 6:-6, 6:-6].copy())


def ball(series: Tensor) -> Tensor:
    """An uneven mask (B, 1, 1, Y, X)."""
    axes = [torch.linspace(-1, 1, series.shape[axis]) for axis in (0, 3, 4)]
    z, y, x = torch.meshgrid(*axes, indexing="ij")
    return (x**2 + y**2 + z**2 < 1)[:, None, None]


def test_the_width_of_a_known_blur_is_found() -> None:
    series = blurred_noise()
    widths = fwhm(series, ball(series), VOXEL)
    expected = torch.tensor([math.sqrt(8 * math.log(2)) * s * v for s, v in zip(STD, VOXEL, strict=True)])
    torch.testing.assert_close(widths.float(), expected, rtol=0.03, atol=0)
    assert overall(widths) == pytest.approx(float(expected.prod()) ** (1 / 3), rel=0.03)


def test_loud_voxels_and_the_outside_do_not_count() -> None:
    series = blurred_noise()
    mask = ball(series)
    loud = torch.where(mask, 5 * (1 + torch.rand(mask.shape)) * series, 1e6)
    torch.testing.assert_close(fwhm(loud, mask, VOXEL), fwhm(series, mask, VOXEL))


def test_one_slice_has_no_width_across() -> None:
    series = blurred_noise(slices=1)
    widths = fwhm(series, torch.ones_like(series[:, :, :1], dtype=torch.bool), VOXEL)
    assert widths[2].isnan() and not widths[:2].isnan().any()
    assert overall(widths) == pytest.approx(float(widths[0] * widths[1]) ** 0.5)


def test_neighbours_of_blurred_noise_correlate_as_its_kernel_says() -> None:
    series = blurred_noise()
    expected = torch.tensor([math.exp(-1 / (4 * s**2)) for s in STD])
    torch.testing.assert_close(neighbour_correlation(series, ball(series)).float(), expected, atol=0.02, rtol=0)
    white = torch.randn(10, 1, 12, 32, 32, generator=torch.Generator().manual_seed(0))
    assert float(neighbour_correlation(white, ball(white)).abs().max()) < 0.01


def test_removed_edges_are_seen_and_even_noise_is_not() -> None:
    g = torch.Generator().manual_seed(0)
    mean = torch.nn.functional.avg_pool2d(torch.rand(4, 1, 40, 40, generator=g), 5, 1, 2)[:, :, None]
    noise = torch.randn(4, 1, 200, 40, 40, generator=g)
    edges = torch.stack(torch.gradient(mean, dim=(-2, -1))).norm(dim=0)
    mask = torch.ones_like(mean, dtype=torch.bool)
    assert edge_correlation(edges * noise, mean, mask) > 0.95
    assert abs(edge_correlation(noise, mean, mask)) < 0.05


@pytest.mark.parametrize("mask", [torch.ones(3, 1, 1, 5, 5), torch.zeros(3, 1, 1, 5, 5).bool(), torch.ones(1).bool()])
def test_a_mask_that_does_not_fit_is_refused(mask: Tensor) -> None:
    with pytest.raises(UsageError):
        fwhm(torch.rand(3, 1, 6, 5, 5), mask, VOXEL)
