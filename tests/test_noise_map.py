"""The noise that is put into a series is what comes out of it, whatever else fluctuates there."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy.stats import rice
from torch import Tensor

from medseq.errors import InputError, UsageError
from medseq.noise import unit_noise
from medseq.noise_map import noise_correlation, noise_map, noise_map_from_scan, stabilised

FRAMES, INTERVAL = 72, 1.3


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def plane(size: int) -> tuple[Tensor, Tensor]:
    """y and x from -1 to 1, (Y, 1) and (X,)."""
    line = torch.linspace(-1, 1, size)
    return line[:, None], line


def g_factor(size: int) -> Tensor:
    """(Y, X) from 1 at the rim to 3 near the middle, as parallel imaging makes it."""
    y, x = plane(size)
    return 1 + 2 * torch.exp(-((y + 0.1).square() + (x - 0.1).square()) / 0.2)


def interpolated(noise: Tensor, kept: tuple[int, int]) -> Tensor:
    """White complex noise with all but the middle `kept` lines of k-space zero, of the same std."""
    height, width = noise.shape[-2:]
    lines = torch.zeros(height, width)
    top, left = (height - kept[0]) // 2, (width - kept[1]) // 2
    lines[top : top + kept[0], left : left + kept[1]] = 1
    filled = torch.fft.ifft2(torch.fft.fft2(noise) * torch.fft.ifftshift(lines))
    return filled / math.sqrt(kept[0] * kept[1] / (height * width))


def smooth_images(count: int, size: int, bumps: int, g: torch.Generator) -> Tensor:
    coarse = torch.randn(count, 1, bumps, bumps, generator=g)
    return torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")[:, 0]


def fluctuations(size: int, g: torch.Generator) -> Tensor:
    """(T, Y, X) as shares of the signal: activation of 3 %, drift, breath, pulse and what is as fast as the sampling.

    A share of a voxel's own, so that each voxel is a mixture of its own of eight courses.
    """
    t = torch.arange(FRAMES) * INTERVAL
    task = (torch.sin(2 * math.pi * t / 32) > 0).float()
    drift = torch.linspace(-1, 1, FRAMES) ** 2
    breath = torch.sin(2 * math.pi * (0.27 * t + 0.3 * torch.sin(0.05 * t)))
    pulse = torch.sin(2 * math.pi * (1.07 * t + 0.2 * torch.sin(0.09 * t)))
    jumps = (torch.arange(FRAMES) > 40).float()
    fast = torch.randn(3, FRAMES, generator=g)
    courses = torch.stack([0.03 * task, 0.01 * drift, 0.01 * breath, 0.01 * pulse, 0.02 * jumps, *(0.01 * fast)])
    return torch.einsum("kt,kyx->tyx", courses, smooth_images(len(courses), size, 9, g))


@dataclass(frozen=True)
class Brain:
    """signal: (B, 1, T, Y, X), free of noise. inside: (Y, X) bool. sigma: (Y, X)."""

    signal: Tensor
    inside: Tensor
    sigma: Tensor


def brain(snr: float, size: int = 64, slices: int = 2) -> Brain:
    """snr: of the median voxel; the g-factor makes it a third of the best in the middle."""
    g = seeded(7)
    y, x = plane(size)
    inside = (y / 0.85).square() + (x / 0.75).square() < 1
    tissue = 800 + 150 * smooth_images(slices, size, 16, g).clamp(-2, 2)
    changes = torch.stack([fluctuations(size, g) for _ in range(slices)])
    amplification = g_factor(size)
    sigma = 800 / snr * amplification / amplification[inside].median()
    return Brain((inside * tissue[:, None] * (1 + changes))[:, None], inside, sigma)


def noise_like(signal: Tensor, kept: tuple[int, int] | None = None, seed: int = 1) -> Tensor:
    noise = unit_noise(signal.to(torch.complex64), seeded(seed))
    return noise if kept is None else interpolated(noise, kept)


def assert_close_map(found: Tensor, sigma: Tensor, where: Tensor) -> None:
    """Within 5 % in the median, within 10 % in 95 voxels of 100."""
    ratio = (found[:, 0, 0] / sigma)[:, where]
    assert ratio.median().item() == pytest.approx(1, abs=0.05)
    assert (ratio - 1).abs().quantile(0.95) < 0.1


@pytest.mark.parametrize("kept", [None, (58, 56)])
@pytest.mark.parametrize("snr", [6, 20, 100])
def test_a_g_factor_map_comes_back_from_a_living_brain(snr: float, kept: tuple[int, int] | None) -> None:
    """White and zero-filled noise; at an SNR of 100 what fluctuates is far above the noise, in every frequency."""
    case = brain(snr)
    series = (case.signal + case.sigma * noise_like(case.signal, kept)).abs()
    assert_close_map(noise_map(series), case.sigma, case.inside)


def test_differences_in_time_would_have_failed_there() -> None:
    case = brain(100)
    series = (case.signal + case.sigma * noise_like(case.signal)).abs()
    differences = series.diff(dim=2).abs().median(2, keepdim=True).values / (0.6745 * math.sqrt(2))
    with pytest.raises(AssertionError):
        assert_close_map(differences, case.sigma, case.inside)


def test_correlated_noise_is_told_as_white_noise_is() -> None:
    case = brain(30)
    white, correlated = (
        noise_map((case.signal + case.sigma * noise_like(case.signal, kept)).abs()) for kept in (None, (48, 48))
    )
    ratio = (correlated / white)[:, 0, 0][:, case.inside]
    assert ratio.median().item() == pytest.approx(1, abs=0.03)


def test_a_head_that_moves_is_not_noise() -> None:
    """Half a voxel along y in frame 30 and back in frame 50, and one spoilt frame."""
    case = brain(40)
    signal = case.signal.clone()
    signal[:, :, 30:50] = (signal[:, :, 30:50] + signal[:, :, 30:50].roll(1, -2)) / 2
    signal[:, :, 60] *= 1.2
    series = (signal + case.sigma * noise_like(signal)).abs()
    assert_close_map(noise_map(series), case.sigma, case.inside)


def test_vessels_of_one_voxel_are_not_noise() -> None:
    """Each pulses by a tenth in a rhythm of its own, which no other voxel could tell."""
    case = brain(40)
    signal = case.signal.clone()
    vessels = signal[..., ::8, ::8]
    vessels *= 1 + 0.1 * torch.randn(vessels.shape, generator=seeded(3))
    series = (signal + case.sigma * noise_like(signal)).abs()
    assert_close_map(noise_map(series), case.sigma, case.inside)


def test_a_background_quieter_than_the_tissue_does_not_count() -> None:
    case = brain(20)
    filtered = torch.where(case.inside, 1, 1e-3)
    found = noise_map(case.signal + filtered * case.sigma * noise_like(case.signal))
    assert_close_map(found, case.sigma, case.inside)


def test_complex_series_need_no_rician_law() -> None:
    """SNR 1 in the middle, where a magnitude would tell little; the phase drifts with breathing."""
    case = brain(2)
    y, x = plane(64)
    t = torch.arange(FRAMES)[:, None, None]
    phase = 2 * y + 3 * x.square() + 0.3 * torch.sin(0.9 * t) * (1 + y)
    series = torch.polar(case.signal, phase.expand_as(case.signal)) + case.sigma * noise_like(case.signal)
    assert_close_map(noise_map(series), case.sigma, case.inside)


@pytest.mark.parametrize("snr", [2, 3, 5])
def test_signal_and_noise_of_faint_magnitudes_are_unbiased(snr: float) -> None:
    signal = torch.full((2, 1, 60, 64, 64), 50.0)
    magnitude = (signal + 50 / snr * noise_like(signal)).abs()
    sigma = noise_map(magnitude)
    assert sigma.mean().item() == pytest.approx(50 / snr, rel=0.02)
    stable, undo = stabilised(magnitude, sigma)
    assert undo(stable.mean(2, keepdim=True)).mean().item() == pytest.approx(50, rel=0.02)
    assert magnitude.mean().item() > 50 * (1 + 0.45 / snr**2)  # the bias that was there


def test_the_map_scales_with_the_series_and_is_positive_in_air() -> None:
    case = brain(20)
    series = (case.signal + case.sigma * noise_like(case.signal)).abs() * case.inside
    found = noise_map(series)
    assert bool((found > 0).all())
    torch.testing.assert_close(noise_map(1000 * series), 1000 * found, rtol=1e-3, atol=0)


def test_a_slice_of_air_takes_the_typical_level() -> None:
    case = brain(20)
    series = (case.signal + case.sigma * noise_like(case.signal)).abs()
    series[1] = 0
    found = noise_map(series)
    torch.testing.assert_close(found[1], found[0, 0, 0][case.inside].median().expand(1, 1, 64, 64), rtol=0.05, atol=0)


@pytest.mark.parametrize("kind", ["complex", "magnitude", "signed"])
def test_a_noise_scan_gives_its_map(kind: str) -> None:
    sigma = 5 * g_factor(64)
    noise = sigma * noise_like(torch.empty(2, 1, 8, 64, 64))
    scan = {"complex": noise, "magnitude": noise.abs(), "signed": noise.real}[kind].clone()
    scan[..., :8] = 0  # masked
    found = noise_map_from_scan(scan)
    where = torch.ones(64, 64, dtype=torch.bool)
    where[:, :8] = False
    assert (found[:, 0, 0] / sigma)[:, where].median().item() == pytest.approx(1, abs=0.02)
    assert_close_map(found, sigma, where)


def dirichlet(kept: int, size: int, lags: Tensor) -> Tensor:
    """Autocorrelation of noise of which `kept` of `size` lines of k-space are left: their mean cosine."""
    lines = torch.arange(kept) - (kept - 1) / 2
    return torch.cos(2 * math.pi * lines * lags[:, None] / size).mean(1)


def test_zero_filling_is_seen_and_counted() -> None:
    """88 x 85 lines interpolated to 96 x 96, as scanners do; in a head, not in a full field of view."""
    case = brain(30, size=96)
    series = (case.signal + case.sigma * noise_like(case.signal, (88, 85))).abs()
    found = noise_correlation(series)
    assert found.filled == pytest.approx((88 / 96, 85 / 96), abs=2.5 / 96)
    assert found.effective_share == pytest.approx(88 * 85 / 96**2, rel=0.04)
    reach = len(found.autocorrelation) // 2
    lags = torch.arange(-reach, reach + 1)
    expected = dirichlet(88, 96, lags)[:, None] * dirichlet(85, 96, lags)
    near = slice(reach - 4, reach + 5)
    torch.testing.assert_close(found.autocorrelation[near, near], expected[near, near], rtol=0, atol=0.02)
    assert found.spectrum.mean().item() == pytest.approx(1, abs=1e-4)


def test_white_noise_is_white() -> None:
    case = brain(30)
    found = noise_correlation((case.signal + case.sigma * noise_like(case.signal)).abs())
    assert found.filled == (1, 1)
    assert found.effective_share == pytest.approx(1, abs=0.03)
    assert found.through_slices[1].abs() < 0.03


def test_complex_noise_has_the_same_correlation() -> None:
    signal = torch.ones(1, 1, 40, 64, 64)
    found = noise_correlation(signal + 0.1 * noise_like(signal, (58, 50)), torch.tensor(0.1))
    assert found.effective_share == pytest.approx(58 * 50 / 64**2, rel=0.03)


def test_slices_excited_together_share_noise() -> None:
    """Slice 2 holds 0.6 of the noise of slice 0."""
    case = brain(30, slices=4)
    noise = noise_like(case.signal)
    noise[2] = 0.6 * noise[0] + 0.8 * noise[2]
    found = noise_correlation((case.signal + case.sigma * noise).abs())
    torch.testing.assert_close(found.through_slices, torch.tensor([1, 0, 0.3, 0]), rtol=0, atol=0.03)


@pytest.mark.parametrize("side", [6, 64])
def test_the_share_is_that_of_the_law_of_patches(side: int) -> None:
    """The covariance of two frames of unit noise over N voxels has the variance 1 / (share N); 64 is the whole image,
    whose ends meet in zero-filled noise."""
    noise = noise_like(torch.empty(40, 1, 40, 64, 64), (50, 46)).real
    found = noise_correlation(10 + noise[:8], torch.tensor(1.0))
    patches = noise[:, 0].unfold(2, side, side).unfold(3, side, side).permute(0, 2, 3, 1, 4, 5).flatten(4)
    covariance = patches @ patches.mT / side**2
    upper = torch.ones(40, 40).triu(1).bool()
    share = 1 / (side**2 * covariance[..., upper].square().mean().item())
    assert share == pytest.approx(found.patch_share(side) if side < 64 else found.effective_share, rel=0.04)


SIGNALS = (0.0, 0.7, 1.5, 3.0, 6.0, 25.0)


@pytest.mark.parametrize("signal", SIGNALS)
def test_stabilised_noise_has_unit_std_and_an_unbiased_inverse(signal: float) -> None:
    """The moments of the transformed variable are integrated over the density of SciPy's Rice law."""
    magnitude = torch.linspace(0, signal + 10, 20001, dtype=torch.float64)
    density = torch.from_numpy(rice.pdf(magnitude.numpy(), signal))
    stable, undo = stabilised(4 * magnitude, 4.0)
    mean = torch.trapezoid(stable * density, magnitude)
    variance = torch.trapezoid((stable - mean).square() * density, magnitude)
    assert variance.sqrt().item() == pytest.approx(1, abs=0.05 if signal < 2 else 0.03)
    assert undo(mean[None]).item() / 4 == pytest.approx(signal, abs=2e-3)


def test_what_lies_below_noise_alone_is_no_signal() -> None:
    stable, undo = stabilised(torch.tensor([0.0, 0.5, 200.0]), torch.tensor([1.0, 2.0, 1.0]))
    assert undo(stable)[:2].tolist() == [0, 0]
    assert undo(stable)[2].item() == pytest.approx(200, abs=0.01)


def test_what_cannot_be_measured_is_refused() -> None:
    series = 10 + noise_like(torch.empty(1, 1, 16, 16, 16)).real
    with pytest.raises(UsageError, match="at least 8 frames"):
        noise_map(series[:, :, :7])
    with pytest.raises(UsageError, match="8 x 8"):
        noise_map(series[..., :7])
    with pytest.raises(InputError, match="not finite"):
        noise_map(torch.where(series > 12, torch.nan, series))
    with pytest.raises(InputError, match="no voxel"):
        noise_map(torch.ones(1, 1, 16, 16, 16))
    with pytest.raises(InputError, match="no voxel"):
        noise_map(noise_like(torch.empty(1, 1, 60, 32, 32)).abs())  # air alone
    with pytest.raises(InputError, match="zero"):
        noise_map_from_scan(torch.zeros(1, 1, 2, 16, 16))
    with pytest.raises(UsageError, match="reach"):
        noise_correlation(series, reach=8)
    with pytest.raises(UsageError, match="patch"):
        noise_correlation(series).patch_share(0)
    with pytest.raises(UsageError, match="positive"):
        noise_correlation(series, torch.zeros(1))
    with pytest.raises(UsageError, match="positive"):
        stabilised(series, 0.0)
    with pytest.raises(UsageError, match="Gaussian"):
        stabilised(series - 10, 1.0)


def bold(folder: Path, slices: slice) -> Tensor:
    image = nib.load(folder / "fmri_rest" / "sub-01_task-rest_bold.nii.gz")
    voxels = np.asarray(image.dataobj[:, :, slices], dtype=np.float32)
    return torch.from_numpy(voxels).permute(2, 3, 1, 0)[:, None].contiguous()


def test_noise_added_to_a_real_brain_is_found(real_data: Path) -> None:
    """Variances add: the maps before and after differ by what was put in, as large as the noise that was there."""
    series = bold(real_data, slice(14, 18))
    before = noise_map(series)
    added = 500 * g_factor(96)
    after = noise_map((series + added * noise_like(series, (88, 85)).real).clamp(min=0))
    mean = series.mean(2)[:, 0]
    inside = mean > 0.4 * mean.quantile(0.99)
    found = (after.square() - before.square()).sqrt()[:, 0, 0]
    ratio = (found / added)[inside]
    assert ratio.median().item() == pytest.approx(1, abs=0.05)
    assert (ratio - 1).abs().quantile(0.95) < 0.1


def test_a_real_brain_agrees_with_differences_where_little_else_moves(real_data: Path) -> None:
    """Differences in time can only be larger; in the quietest tenth they are thermal noise. Its k-space was filled."""
    series = bold(real_data, slice(14, 18))
    sigma = noise_map(series)
    mean = series.mean(2)[:, 0]
    inside = mean > 0.4 * mean.quantile(0.99)
    differences = series.diff(dim=2).square().mean(2, keepdim=True).sqrt() / math.sqrt(2)
    averaged = torch.nn.functional.avg_pool2d(differences[:, 0, 0], 5, stride=1, padding=2)
    ratio = (averaged / sigma[:, 0, 0])[inside]
    assert ratio.quantile(0.1).item() == pytest.approx(1, abs=0.06)
    assert ratio.quantile(0.9) > 1.1
    found = noise_correlation(series, sigma)
    assert max(found.filled) < 0.95
    assert 0.6 < found.effective_share < 0.85
