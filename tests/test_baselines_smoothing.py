"""The filters that fMRI uses by habit, against SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.fft import dct, idct
from scipy.ndimage import gaussian_filter

from medseq.baselines import gaussian_smoothing, temporal_low_pass
from medseq.errors import UsageError

VOXEL = (2.0, 2.5, 3.0)


def random_series(slices: int = 20) -> torch.Tensor:
    return torch.randn(slices, 1, 5, 32, 36, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_the_blur_is_that_of_scipy_away_from_the_edge() -> None:
    series, width = random_series(), 6.0
    std = [width / math.sqrt(8 * math.log(2)) / size for size in VOXEL]
    theirs = gaussian_filter(series.numpy(), (std[2], 0, 0, std[1], std[0]))
    ours = gaussian_smoothing(series, width, VOXEL).numpy()
    inner = np.s_[5:-5, :, :, 6:-6, 7:-7]
    np.testing.assert_allclose(ours[inner], theirs[inner], atol=1e-4)


def test_an_even_image_stays_and_no_width_changes_nothing() -> None:
    even = torch.full((3, 1, 2, 8, 8), 7.0)
    torch.testing.assert_close(gaussian_smoothing(even, 8.0, VOXEL), even)
    assert torch.equal(gaussian_smoothing(random_series(), 0.0, VOXEL), random_series())
    single = random_series(1)
    torch.testing.assert_close(
        gaussian_smoothing(torch.complex(single, 2 * single), 5.0, VOXEL).imag,
        2 * gaussian_smoothing(single, 5.0, VOXEL),
    )


def test_the_low_pass_is_a_cut_cosine_series() -> None:
    frames, interval, cutoff = 40, 1.5, 0.1
    series = torch.randn(2, 1, frames, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    ours, lost = temporal_low_pass(series, cutoff, interval)
    coefficients = dct(series.numpy(), axis=2, norm="ortho")
    fast = np.arange(frames) / (2 * frames * interval) > cutoff
    coefficients[:, :, fast] = 0
    np.testing.assert_allclose(ours.numpy(), idct(coefficients, axis=2, norm="ortho"), atol=1e-12)
    assert lost == fast.sum() and 0 < lost < frames
    assert torch.allclose(temporal_low_pass(ours, cutoff, interval)[0], ours), "a projection"


def test_a_cut_off_beyond_all_frequencies_changes_nothing() -> None:
    series = random_series(1)
    same, lost = temporal_low_pass(series, 10.0, 1.5)
    assert torch.equal(same, series) and lost == 0


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: gaussian_smoothing(random_series()[0], 5.0, VOXEL),
        lambda: gaussian_smoothing(random_series(), -1.0, VOXEL),
        lambda: gaussian_smoothing(random_series(), 5.0, (1.0, 0.0, 1.0)),
        lambda: temporal_low_pass(random_series()[0], 0.1, 1.0),
        lambda: temporal_low_pass(random_series(), 0.0, 1.0),
        lambda: temporal_low_pass(random_series(), 0.1, float("nan")),
    ],
)
def test_the_impossible_is_refused(wrong) -> None:
    with pytest.raises(UsageError):
        wrong()
