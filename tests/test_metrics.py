"""Metrics against closed forms and the invariances they promise, above all a fixed scale."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.ndimage import convolve, gaussian_filter, gaussian_laplace
from scipy.stats import spearmanr
from torch import Tensor

from medseq.errors import UsageError
from medseq.metrics import (
    dynamic_region,
    edge_sharpness,
    hfen,
    nrmse,
    profile_error,
    psnr,
    rank_correlation,
    ssim,
    temporal_spectrum_error,
    tsnr,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def series(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape or (2, 1, 4, 16, 20), dtype=dtype, generator=seeded(seed))


def half() -> Tensor:
    region = torch.zeros(1, 1, 1, 16, 20, dtype=torch.bool)
    region[..., :8, :] = True
    return region


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_nrmse_of_a_scaled_reference(dtype: torch.dtype) -> None:
    reference = series(dtype=dtype)
    assert nrmse(reference, reference) == 0
    assert nrmse(1.25 * reference, reference) == pytest.approx(0.25)
    assert nrmse(torch.zeros_like(reference), reference) == pytest.approx(1)


def test_a_wrong_phase_is_an_error_of_complex_series_only() -> None:
    reference = series(dtype=torch.complex64)
    assert nrmse(-reference, reference) == pytest.approx(2)
    assert nrmse((-reference).abs(), reference.abs()) == 0


def test_psnr_of_a_known_error() -> None:
    reference = torch.zeros(1, 1, 2, 16, 20)
    reference[0, 0, 0, 0, 0] = 5
    assert psnr(reference + 0.5, reference) == pytest.approx(20)
    assert psnr(10 * (reference + 0.5), 10 * reference) == pytest.approx(20)
    assert psnr(reference, reference) == float("inf")


def test_the_peak_is_that_of_the_whole_reference() -> None:
    reference = torch.full((1, 1, 2, 16, 20), 0.5)
    reference[..., 12:, :] = 5
    assert psnr(reference + 0.5, reference, half()) == pytest.approx(20)


def test_only_the_region_counts() -> None:
    reference = 1 + series().abs()
    spoiled = torch.where(half(), reference, 100.0)
    for metric in (nrmse, temporal_spectrum_error):
        assert metric(spoiled, reference, half()) == 0
        assert metric(spoiled, reference) > 0.1
    assert psnr(spoiled, reference, half()) == float("inf")
    assert ssim(spoiled, reference, half()) > ssim(spoiled, reference)


def test_ssim_is_one_for_the_same_and_blind_to_phase() -> None:
    reference = series(dtype=torch.complex64)
    assert ssim(1j * reference, reference) == pytest.approx(1)
    assert ssim(torch.zeros_like(reference), reference) < 0.2


def test_ssim_of_constant_frames() -> None:
    # Wang 2004, eq. 13 without variance: only the luminance term is left.
    reference = torch.full((1, 1, 2, 16, 16), 2.0)
    c1 = (0.01 * 2) ** 2
    expected = (2 * 1 * 2 + c1) / (1**2 + 2**2 + c1)
    assert ssim(reference / 2, reference) == pytest.approx(expected)


def test_ssim_normalises_no_frame() -> None:
    reference = series(1, 1, 3, 16, 16).abs()
    dimmed = reference.clone()
    dimmed[:, :, 1] *= 0.5
    assert ssim(dimmed, reference) < 0.95
    assert ssim(7 * dimmed, 7 * reference) == pytest.approx(ssim(dimmed, reference))


def laplacian_of_gaussian() -> np.ndarray:
    """MATLAB's fspecial('log', 15, 1.5), which Ravishankar & Bresler name."""
    y, x = np.mgrid[-7:8, -7:8]
    gaussian = np.exp(-(x**2 + y**2) / (2 * 1.5**2))
    kernel = gaussian / gaussian.sum() * (x**2 + y**2 - 2 * 1.5**2) / 1.5**4
    return kernel - kernel.sum() / kernel.size


def test_hfen_is_the_norm_of_filtered_errors_as_scipy_filters() -> None:
    reference = series(2, 1, 2, 20, 24, dtype=torch.float64).abs()
    result = series(2, 1, 2, 20, 24, dtype=torch.float64, seed=1).abs()
    kernel = laplacian_of_gaussian()
    a, b = (
        np.stack([convolve(frame, kernel, mode="mirror") for frame in x.numpy().reshape(-1, 20, 24)])
        for x in (result, reference)
    )
    assert hfen(result, reference) == pytest.approx(np.linalg.norm(a - b) / np.linalg.norm(b), rel=1e-6)
    # The kernel is what it is called, too: scipy's continuous filter differs by where it is cut alone.
    c = np.stack([gaussian_laplace(frame, 1.5, mode="mirror", truncate=6) for frame in reference.numpy()[0, 0]])
    assert np.linalg.norm(b[:2] - c) < 0.02 * np.linalg.norm(c)


def test_hfen_hears_of_edges_alone_and_only_of_those_in_the_region() -> None:
    reference = 1 + series(1, 1, 2, 16, 20).abs()
    assert hfen(reference + 0.5, reference) == pytest.approx(0, abs=1e-6)
    assert hfen(0.75 * reference, reference) == pytest.approx(0.25, abs=1e-6)
    spoiled = reference.clone()
    spoiled[..., 15, :] = 9  # the filter reaches 7 rows
    assert hfen(spoiled, reference, half()) == 0 < hfen(spoiled, reference)


def test_the_profile_error_of_weakened_motion() -> None:
    mean, motion = series(2, 1, 1, 16, 20).abs() + 9, series(2, 1, 6, 16, 20, seed=1)
    motion = motion - motion.mean(2, keepdim=True)
    reference = mean + motion
    assert profile_error(mean.expand(reference.shape), reference) == pytest.approx(1, abs=1e-5)
    assert profile_error(mean + 0.7 * motion, reference, half()) == pytest.approx(0.3, abs=1e-5)
    assert profile_error(2 * mean + motion, reference) == pytest.approx(0, abs=1e-5)


def test_profiles_go_through_the_centre_of_the_region() -> None:
    reference = 9 + series(1, 1, 4, 16, 20)
    region = torch.zeros(1, 1, 1, 16, 20, dtype=torch.bool)
    region[..., 4:7, 10:15] = True  # centre: row 5, column 12
    spoiled = reference.clone()
    spoiled[..., 6, 13] += series(4, seed=2)
    assert profile_error(spoiled, reference, region) == 0
    spoiled[..., 5, 3] += series(4, seed=2)
    a, b = (x[0, 0].double() - x[0, 0].double().mean(0) for x in (spoiled, reference))
    power = b[:, 5].square().sum() + b[:, :, 12].square().sum()
    expected = float(((a - b)[:, 5].square().sum() / power).sqrt())
    assert profile_error(spoiled, reference, region) == pytest.approx(expected)


@pytest.mark.parametrize(("width", "blur"), [(4.0, 3.0), (3.0, 3.0)])
def test_a_blurred_edge_loses_the_steepness_that_its_width_says(width: float, blur: float) -> None:
    step = np.zeros((1, 1, 3, 32, 96))
    step[..., 48:] = 1
    reference, blurred = (
        torch.from_numpy(gaussian_filter(step, (0, 0, 0, 0, s))) for s in (width, float(np.hypot(width, blur)))
    )
    found = edge_sharpness(blurred, reference, share=0.01)  # the steepest column alone
    assert found.shape == (3,)
    np.testing.assert_allclose(found, width / np.hypot(width, blur), rtol=0.02)


def test_noise_does_not_pass_for_sharpness() -> None:
    reference = torch.from_numpy(gaussian_filter(np.repeat([0.0, 1.0], 48), 2.0)).expand(1, 1, 4, 64, 96)
    noisy = reference + 0.1 * series(1, 1, 4, 64, 96, dtype=torch.float64)
    np.testing.assert_allclose(edge_sharpness(10 + noisy, 10 + reference), 1, atol=0.06)
    np.testing.assert_allclose(edge_sharpness(10 + 0.4 * reference, 10 + reference), 0.4)


def test_sharpness_is_told_of_every_frame_in_its_own_region() -> None:
    reference = 9 + series(1, 1, 3, 16, 20, dtype=torch.float64)
    softened = reference.clone()
    softened[:, :, 1] = 9 + 0.5 * (reference[:, :, 1] - 9)
    region = half().expand(1, 1, 3, 16, 20).clone()
    region[:, :, 2] = ~half()[:, :, 0]
    np.testing.assert_allclose(edge_sharpness(softened, reference, region), [1, 0.5, 1])
    spoiled = softened.clone()
    spoiled[:, :, :2, 9:] = 0  # beyond what the gradients of the region reach
    spoiled[:, :, 2, :7] = 0
    np.testing.assert_allclose(edge_sharpness(spoiled, reference, region), [1, 0.5, 1])


def test_tsnr_of_noise_around_a_mean() -> None:
    noisy = 100 + 2 * series(1, 1, 4000, 3, 3)
    assert tsnr(noisy).shape == (1, 1, 1, 3, 3)
    torch.testing.assert_close(tsnr(noisy), torch.full((1, 1, 1, 3, 3), 50.0), rtol=0.05, atol=0)


def test_tsnr_ignores_drift_scale_and_still_voxels() -> None:
    noisy = 100 + 2 * series(1, 1, 50, 3, 3, dtype=torch.float64)
    drift = torch.linspace(-9, 9, 50, dtype=torch.float64).view(-1, 1, 1)
    torch.testing.assert_close(tsnr(noisy + drift), tsnr(noisy))
    torch.testing.assert_close(tsnr(3 * noisy), tsnr(noisy))
    assert torch.equal(tsnr(torch.full((1, 1, 5, 2, 2), 0.1)), torch.zeros(1, 1, 1, 2, 2))


def test_spectrum_error_of_weakened_motion() -> None:
    time = torch.arange(16) / 16
    mean = series(1, 1, 1, 16, 20)
    motion = series(1, 1, 1, 16, 20, seed=1) * torch.sin(2 * torch.pi * 3 * time).view(-1, 1, 1)
    reference = mean + motion
    assert temporal_spectrum_error(reference, reference) == 0
    assert temporal_spectrum_error(mean.expand(reference.shape), reference) == pytest.approx(1)
    assert temporal_spectrum_error(mean + 0.7 * motion, reference) == pytest.approx(0.3, abs=1e-5)
    assert temporal_spectrum_error(5 * mean + motion, reference) == pytest.approx(0, abs=1e-5)
    assert temporal_spectrum_error(reference.roll(5, 2), reference) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("ties", [False, True])
def test_rank_correlation_is_that_of_scipy(ties: bool) -> None:
    one, noise = series(1, 1, 1, 16, 20), series(1, 1, 1, 16, 20, seed=1)
    other = one + noise
    if ties:
        one, other = one.round(), other.round()
    expected = spearmanr(one.flatten().numpy(), other.flatten().numpy()).statistic
    assert rank_correlation(one, other) == pytest.approx(expected)


def test_ranks_ignore_monotone_maps() -> None:
    one = series(1, 1, 1, 16, 20)
    assert rank_correlation(one.exp(), one) == pytest.approx(1)
    assert rank_correlation(-one, one) == pytest.approx(-1)


def beating(y: int, x: int, depth: float = 0.3) -> Tensor:
    """A disc of radius 8 to 14 at (y, x) in 64 x 80, on a still background."""
    rows, columns = torch.arange(64).view(-1, 1), torch.arange(80)
    distance = ((rows - y) ** 2 + (columns - x) ** 2).sqrt()
    radius = 11 + 3 * torch.sin(2 * torch.pi * torch.arange(10) / 10).view(-1, 1, 1)
    return (0.5 + depth * torch.sigmoid(2 * (radius - distance)))[None, None]


def test_the_dynamic_region_is_the_beating_disc_and_not_what_flickers_elsewhere() -> None:
    clip = beating(30, 40)
    clip[:, :, ::2, 60:62, 3:5] += 0.5
    region = dynamic_region(clip + 0.01 * series(1, 1, 10, 64, 80))
    assert region.shape == (1, 1, 1, 64, 80) and region.dtype == torch.bool
    rows, columns = torch.arange(64).view(-1, 1), torch.arange(80)
    distance = ((rows - 30) ** 2 + (columns - 40) ** 2).sqrt()
    assert region[0, 0, 0][distance <= 14].all()  # the still middle of the disc is a hole that was filled
    assert not region[0, 0, 0][distance > 20].any()


def test_dynamic_regions_of_a_batch_are_their_own_and_scale_free() -> None:
    clips = torch.cat([beating(30, 30), beating(32, 50, 0.01)])
    regions = dynamic_region(clips)
    assert torch.equal(regions, torch.cat([dynamic_region(clip[None]) for clip in clips]))
    assert torch.equal(regions, dynamic_region(40 * clips))
    assert torch.equal(regions, dynamic_region(clips * torch.polar(torch.tensor(1.0), torch.tensor(0.7))))


STILL = torch.ones(1, 1, 4, 16, 20)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: nrmse(series(), series()[:1]),
        lambda: psnr(series(dtype=torch.complex64), series()),
        lambda: nrmse(series(), series(), torch.zeros(1, 1, 1, 16, 20, dtype=torch.bool)),
        lambda: nrmse(series(), series(), torch.ones(1, 1, 1, 9, 9, dtype=torch.bool)),
        lambda: nrmse(series(), torch.zeros(2, 1, 4, 16, 20)),
        lambda: ssim(series(1, 1, 2, 8, 8), series(1, 1, 2, 8, 8)),
        lambda: hfen(series(1, 1, 2, 14, 20), series(1, 1, 2, 14, 20)),
        lambda: hfen(series(1, 1, 2, 16, 20), torch.ones(1, 1, 2, 16, 20)),
        lambda: profile_error(series(1, 1, 4, 16, 20), STILL),
        lambda: profile_error(series(1, 1, 4, 16, 20), series(1, 1, 4, 16, 20), half()[..., :9, :]),
        lambda: profile_error(series(), series(), torch.zeros(1, 1, 1, 16, 20, dtype=torch.bool)),
        lambda: edge_sharpness(series(1, 1, 4, 16, 20), STILL),
        lambda: tsnr(series(1, 1, 2, 8, 8)),
        lambda: temporal_spectrum_error(series(1, 1, 4, 16, 20), STILL),
        lambda: rank_correlation(STILL, series(1, 1, 4, 16, 20)),
        lambda: dynamic_region(STILL),
        lambda: dynamic_region(STILL[0]),
    ],
)
def test_what_cannot_be_compared_is_refused(refused: Callable[[], object]) -> None:
    with pytest.raises(UsageError):
        refused()
