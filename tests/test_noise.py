"""Noise has the std it claims, in each real channel, and what is estimated is what was put in."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from scipy.stats import rice
from torch import Tensor

from medseq.clip import KSpace
from medseq.errors import InputError, UsageError
from medseq.noise import (
    estimate_noise,
    estimate_noise_image,
    magnitude_unbias,
    noise_covariance,
    prewhiten,
    unit_noise,
    whitener,
)
from medseq.operators import Fourier
from medseq.phantoms.cine import beating_heart


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def correlated(coils: int) -> Tensor:
    root = torch.randn(coils, coils, dtype=torch.complex128, generator=seeded(5))
    return root @ root.mH + torch.eye(coils)


def moving_disc(frames: int = 12, size: int = 64) -> Tensor:
    """A soft-edged disc that beats over a smooth background, magnitudes up to 1."""
    axis = torch.linspace(-1, 1, size)
    radius = (axis[:, None] ** 2 + axis**2).sqrt()
    beat = 0.5 + 0.15 * torch.sin(2 * torch.pi * torch.arange(frames) / frames)
    disc = torch.sigmoid((beat[:, None, None] - radius) * 20)
    return (0.2 * torch.exp(-2 * radius**2) + 0.8 * disc)[None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_real_noise_has_unit_std(dtype: torch.dtype) -> None:
    noise = unit_noise(torch.empty(1000, 200, dtype=dtype), seeded())
    assert noise.dtype == dtype
    assert noise.std().item() == pytest.approx(1, abs=0.01)


def test_complex_noise_has_unit_std_in_each_channel() -> None:
    noise = unit_noise(torch.empty(1000, 200, dtype=torch.complex64), seeded())
    channels = torch.view_as_real(noise).flatten(0, 1)
    torch.testing.assert_close(channels.T.cov(), torch.eye(2), atol=0.02, rtol=0)


def test_noise_is_fixed_by_its_generator() -> None:
    like = torch.empty(3, 4, dtype=torch.complex64)
    assert torch.equal(unit_noise(like, seeded(1)), unit_noise(like, seeded(1)))
    assert not torch.equal(unit_noise(like, seeded(1)), unit_noise(like, seeded(2)))
    assert unit_noise(like.to("meta")).shape == unit_noise(like.to("meta"), seeded()).shape == like.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_host_generator_gives_the_same_noise_on_cuda() -> None:
    like = torch.empty(3, 4, dtype=torch.complex64)
    assert torch.equal(unit_noise(like.cuda(), seeded(1)).cpu(), unit_noise(like, seeded(1)))
    assert unit_noise(like.cuda()).is_cuda


def test_covariance_of_samples() -> None:
    expected = correlated(4)
    white = unit_noise(torch.empty(4, 200_000, dtype=torch.complex128), seeded())
    samples = torch.linalg.cholesky(expected) @ white
    torch.testing.assert_close(noise_covariance(samples), expected, rtol=0.05, atol=0.05)


def test_diagonal_of_the_covariance_is_the_squared_std_of_a_real_channel() -> None:
    samples = 3 * unit_noise(torch.empty(1, 100_000, dtype=torch.complex64), seeded())
    assert noise_covariance(samples).real.item() == pytest.approx(samples.real.var().item(), rel=0.02)


def test_the_whitener_whitens() -> None:
    covariance = correlated(5)
    W = whitener(covariance)
    torch.testing.assert_close(W @ covariance @ W.mH, torch.eye(5, dtype=torch.complex128))


def test_prewhitened_noise_is_white_and_of_unit_std() -> None:
    covariance = correlated(3)
    white = unit_noise(torch.empty(3, 60_000, dtype=torch.complex128), seeded())
    noise = (torch.linalg.cholesky(covariance) @ white).view(1, 3, 6, 100, 100).to(torch.complex64)
    whitened = prewhiten(noise, covariance)
    assert whitened.shape == noise.shape and whitened.dtype == noise.dtype
    identity = torch.eye(3, dtype=torch.complex64)
    torch.testing.assert_close(noise_covariance(whitened[0].flatten(1)), identity, atol=0.03, rtol=0)


@pytest.mark.parametrize(
    "refused",
    [
        lambda: noise_covariance(torch.ones(4, 3, dtype=torch.complex64)),
        lambda: noise_covariance(torch.full((2, 9), torch.nan, dtype=torch.complex64)),
        lambda: whitener(torch.zeros(3, 3, dtype=torch.complex64)),
        lambda: whitener(torch.ones(2, 2)),
        lambda: whitener(torch.full((2, 2), torch.nan)),
    ],
)
def test_unusable_noise_scans_are_refused(refused: Callable[[], Tensor]) -> None:
    with pytest.raises(InputError):
        refused()


def test_noise_of_kspace_is_found_coil_by_coil() -> None:
    sigma = torch.tensor([0.02, 0.05, 0.1])
    image = 3 * moving_disc() * torch.tensor([1.0, 0.5, 0.2]).view(1, 3, 1, 1, 1)
    data = Fourier()(image.to(torch.complex64))
    data = data + sigma.view(1, 3, 1, 1, 1) * unit_noise(data, seeded())
    keep = torch.rand(1, 1, 12, 64, 1, generator=seeded(2)) < 0.4
    estimate = estimate_noise(KSpace(torch.where(keep, data, 0), keep))
    torch.testing.assert_close(estimate, sigma, rtol=0.1, atol=0)


def test_padding_that_counts_as_measured_is_not_taken_as_noise() -> None:
    data = 0.1 * unit_noise(torch.empty(1, 1, 4, 64, 64, dtype=torch.complex64), seeded())
    data[..., :8] = data[..., -8:] = 0
    keep = torch.ones(1, 1, 1, 1, 1, dtype=torch.bool)
    torch.testing.assert_close(estimate_noise(KSpace(data, keep)), torch.tensor([0.1]), rtol=0.1, atol=0)


def test_too_little_kspace_is_refused() -> None:
    data = torch.ones(1, 1, 1, 8, 8, dtype=torch.complex64)
    with pytest.raises(InputError, match="too few"):
        estimate_noise(KSpace(data, torch.ones(1, 1, 1, 1, 1, dtype=torch.bool)))


@pytest.mark.parametrize("kind", ["complex", "real", "magnitude", "one complex frame"])
def test_noise_of_images_is_found_item_by_item(kind: str) -> None:
    sigma = torch.tensor([0.02, 0.1])
    image = moving_disc().expand(2, -1, -1, -1, -1).to(torch.complex64) * (0.6 + 0.8j)
    noisy = image + sigma.view(2, 1, 1, 1, 1) * unit_noise(image, seeded())
    series = {"complex": noisy, "real": noisy.real, "magnitude": noisy.abs(), "one complex frame": noisy[:, :, :1]}
    torch.testing.assert_close(estimate_noise_image(series[kind]), sigma, rtol=0.1, atol=0)


def test_magnitude_noise_without_signal_is_rayleigh() -> None:
    noise = 0.3 * unit_noise(torch.empty(1, 1, 8, 64, 64, dtype=torch.complex64), seeded())
    torch.testing.assert_close(estimate_noise_image(noise.abs()), torch.tensor([0.3]), rtol=0.06, atol=0)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_noise_of_a_beating_heart_is_found_in_its_magnitude(share: float) -> None:
    heart = beating_heart((64, 64), 12, seeded(3))[None, None]
    noisy = (heart + share * unit_noise(heart, seeded())).abs()
    torch.testing.assert_close(estimate_noise_image(noisy), torch.tensor([share]), rtol=0.03, atol=0)


@pytest.mark.parametrize("signal", [0.0, 0.5, 1.0, 3.0, 50.0])
def test_unbiasing_gives_the_signal_behind_a_mean_of_magnitudes(signal: float) -> None:
    noise = unit_noise(torch.empty(400_000, dtype=torch.complex128), seeded())
    mean = (signal + noise).abs().mean()
    near_zero = 0.1 if signal == 0 else 0.01  # where the mean is flat in the signal
    assert 2 * magnitude_unbias(mean, 1.0) == pytest.approx(2 * signal, abs=near_zero)
    assert magnitude_unbias(7 * mean, torch.tensor(7.0)) == pytest.approx(7 * magnitude_unbias(mean, 1.0))


def test_unbiasing_inverts_the_rician_mean() -> None:
    # scipy.stats.rice writes the mean by another function: a Laguerre polynomial of degree one half.
    signal = torch.linspace(0.1, 12, 50).double()
    mean = torch.from_numpy(rice(b=signal.numpy(), scale=1.0).mean())
    # Far from zero the mean is a + 1 / (2 a) (Gudbjartsson 1995).
    signal = torch.cat([signal, torch.tensor([1e3, 1e5])])
    mean = torch.cat([mean, signal[-2:] + 0.5 / signal[-2:]])
    torch.testing.assert_close(magnitude_unbias(mean, 1.0), signal, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(magnitude_unbias(mean.float(), 1.0), signal.float(), rtol=1e-4, atol=1e-4)
    assert not magnitude_unbias(torch.tensor([0.0, 1.0, 1.25]), 1.0).any()
    with pytest.raises(UsageError, match="positive"):
        magnitude_unbias(mean, 0.0)


def test_a_masked_background_does_not_count() -> None:
    noisy = 1 + 0.1 * unit_noise(torch.empty(1, 1, 8, 64, 64), seeded())
    noisy[..., :40] = 0
    torch.testing.assert_close(estimate_noise_image(noisy), torch.tensor([0.1]), rtol=0.06, atol=0)


def test_a_background_quieter_than_the_tissue_does_not_count() -> None:
    level = torch.full((64, 64), 1e-3)
    level[10:54, 10:54] = 1
    noisy = level * (1 + 0.1 * unit_noise(torch.empty(1, 1, 8, 64, 64), seeded()))
    torch.testing.assert_close(estimate_noise_image(noisy), torch.tensor([0.1]), rtol=0.1, atol=0)


def test_what_holds_no_noise_is_refused() -> None:
    with pytest.raises(InputError, match="constant"):
        estimate_noise_image(torch.ones(1, 1, 3, 8, 8))
    with pytest.raises(UsageError, match="3 x 3"):
        estimate_noise_image(torch.ones(1, 1, 3, 2, 8))


def test_what_is_no_number_is_not_taken_for_air() -> None:
    """A zero would pass for dark background: whole slices once did."""
    assert magnitude_unbias(torch.tensor([torch.nan, 5.0]), 1.0).isnan().tolist() == [True, False]
