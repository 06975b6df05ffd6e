"""The three tasks: units, geometry, seeds and options, with the closed form of a prior, so that nothing is trained."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medseq import reconstruction
from medseq.baselines import local_pca_wiener
from medseq.clip import Clip, KSpace
from medseq.errors import InputError, ResourceError, UsageError
from medseq.metrics import psnr
from medseq.network import VideoUNet
from medseq.noise import unit_noise
from medseq.prior import Prior, SpreadTable, Windowed
from medseq.reconstruction import reconstruct
from medseq.restore import NOISE_LEFT, denoise, interpolate
from medseq.runtime import OVERLAP, WINDOW, choose_device, choose_precision
from medseq.simulate import acquire, coil_maps, simulate_cine


@pytest.fixture(scope="module")
def prior() -> Prior:
    """x / (1 + sigma^2): a fresh network answers zero, and what is left is the best linear denoiser of white data."""
    sigmas = [0.01, 0.1, 1.0, 10.0]
    return Prior(VideoUNet((8, 12), 1), 1.0, SpreadTable(sigmas, [s / (1 + s**2) ** 0.5 for s in sigmas]))


@pytest.fixture(scope="module")
def truth() -> Clip:
    return simulate_cine(8, (40, 32), slices=2, seed=3)


@pytest.fixture(scope="module")
def kspace(truth: Clip) -> KSpace:
    return acquire(truth, coils=4, acceleration=3, noise=0.01, seed=1)


def test_reconstruction_keeps_geometry_timing_and_units(prior: Prior, truth: Clip, kspace: KSpace) -> None:
    calls: list[tuple[int, int]] = []
    restored = reconstruct(kspace, prior=prior, steps=3, progress=lambda done, total: calls.append((done, total)))
    clip = restored.clip
    assert clip.data.shape == truth.data.shape and clip.is_complex and restored.std is None
    assert np.array_equal(clip.affine, truth.affine) and np.array_equal(clip.times, truth.times)
    assert clip.period == truth.period
    assert calls == [(i + 1, 6) for i in range(6)]
    assert psnr(clip.data.abs(), truth.data.abs()) > 25
    thousand = replace(kspace, data=1000 * kspace.data, noise=1000 * float(kspace.noise or 0))
    bright = reconstruct(thousand, prior=prior, steps=3).clip
    torch.testing.assert_close(bright.data / 1000, clip.data, atol=2e-3, rtol=1e-2)


def test_slices_do_not_depend_on_their_neighbours(prior: Prior, kspace: KSpace) -> None:
    """Another second slice of the same time average (so that scale and maps stay) leaves the first one bit for bit."""
    data, keep = kspace.data.clone(), kspace.keep.expand(2, -1, -1, -1, -1).clone()
    first = reconstruct(replace(kspace, keep=keep.clone()), prior=prior, steps=2)
    data[1], keep[1] = data[1].flip(1), keep[1].flip(1)
    second = reconstruct(replace(kspace, data=data, keep=keep), prior=prior, steps=2)
    assert first.info["scale"] == pytest.approx(second.info["scale"], rel=1e-6)
    torch.testing.assert_close(first.clip.data[0], second.clip.data[0], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(first.clip.data[1], second.clip.data[1], atol=1e-2)


def test_the_solver_stops_where_more_would_change_nothing(
    prior: Prior, truth: Clip, kspace: KSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 0.2 % of the image, far less than its error."""
    stopped = reconstruct(kspace, prior=prior).clip.data
    monkeypatch.setattr(reconstruction, "SOLVE_ITERATIONS", 60)
    monkeypatch.setattr(reconstruction, "SOLVE_TOLERANCE", 1e-6)
    solved = reconstruct(kspace, prior=prior).clip.data
    assert (stopped - solved).norm() <= 2e-3 * solved.norm()
    assert (stopped - solved).norm() <= 0.1 * (solved.abs() - truth.data.abs()).norm()


def test_correlated_noise_is_whitened_and_images_stay_in_their_units(prior: Prior, truth: Clip, kspace: KSpace) -> None:
    """The same coils in another mixture with its covariance: the same image but for the phase that maps leave open."""
    g = torch.Generator().manual_seed(2)
    # twice the sensitivity, so that a gain that is not divided out shows
    mixing = 2 * torch.eye(4) + 0.6 * torch.randn(4, 4, generator=g, dtype=torch.complex64)
    level = float(kspace.noise or 0)
    mixed = replace(
        kspace,
        data=torch.einsum("dc,bctyx->bdtyx", mixing, kspace.data),
        noise=level**2 * mixing @ mixing.mH,
    )
    images = reconstruct(mixed, prior=prior, steps=2).clip.data.abs()
    gain = float((images * truth.data.abs()).sum() / truth.data.abs().square().sum())
    assert 1 < gain < 4 and psnr(images / gain, truth.data.abs()) > 22
    known = replace(mixed, maps=torch.einsum("dc,bctyx->bdtyx", mixing, coil_maps(4, (40, 32), 1)))
    images = reconstruct(known, prior=prior, steps=2).clip.data.abs()
    assert psnr(images, truth.data.abs()) > 24  # with given maps also the gain is right


def test_seeds_and_samples(prior: Prior, kspace: KSpace) -> None:
    options = {"prior": prior, "steps": 2, "samples": 3}
    one, same, other = (reconstruct(kspace, seed=s, **options) for s in (5, 5, 6))  # type: ignore[arg-type]
    assert torch.equal(one.clip.data, same.clip.data) and not torch.equal(one.clip.data, other.clip.data)
    assert one.std is not None and one.samples is not None and one.samples.shape == (3, *kspace.data[:, :1].shape)
    torch.testing.assert_close(one.clip.data, one.samples.mean(0))
    torch.testing.assert_close(one.std.data, one.samples.abs().std(0))
    assert (one.std.data > 0).float().mean() > 0.99


def test_denoising_is_one_evaluation_of_the_prior(prior: Prior) -> None:
    """For white data the prior's answer is known: x / (1 + sigma^2) in units of the series' scale.

    It is shown the filtered series with a part of the noise left in; one frame, which has no courses in time, as it is.
    """
    for frames, share in ((4, NOISE_LEFT), (1, 1.0)):
        data = unit_noise(torch.zeros(1, 1, frames, 32, 32, dtype=torch.complex64), torch.Generator().manual_seed(0))
        restored = denoise(Clip(data), sigma=0.5, prior=prior, precision="float32")
        guess = local_pca_wiener(data, 0.5)
        level = share * 0.5 / restored.info["scale"]
        shown = guess + share * (data - guess)
        torch.testing.assert_close(restored.clip.data, shown / (1 + level**2), atol=1e-4, rtol=1e-3)


def test_denoising_keeps_real_series_real_and_finds_the_noise(prior: Prior, truth: Clip) -> None:
    g = torch.Generator().manual_seed(0)
    magnitude = truth.with_data((truth.data + 0.05 * unit_noise(truth.data, g)).abs())
    restored = denoise(magnitude, prior=prior)
    assert restored.clip.data.dtype == torch.float32 and not restored.clip.is_complex
    assert restored.info["noise"] == pytest.approx([0.05, 0.05], rel=0.2)
    draws = denoise(magnitude, prior=prior, samples=2)
    assert draws.info["steps"] > 1 and draws.std is not None and (draws.std.data > 0).float().mean() > 0.5
    with pytest.raises(UsageError, match="several steps"):
        denoise(magnitude, prior=prior, samples=2, steps=1)


def test_denoising_with_a_noise_map_trusts_quiet_voxels_more(prior: Prior, truth: Clip) -> None:
    g = torch.Generator().manual_seed(0)
    noise = torch.full((1, 1, 1, 40, 32), 0.01)
    noise[..., 16:] = 0.2
    noisy = truth.with_data(truth.data + noise * unit_noise(truth.data, g))
    moved = (denoise(noisy, sigma=noise, prior=prior, steps=6).clip.data - noisy.data).abs().mean((0, 1, 2, 3))
    assert float(moved[16:].mean()) > 3 * float(moved[:16].mean())


def test_interpolation_keeps_known_frames_and_adds_those_between(prior: Prior, truth: Clip) -> None:
    restored = interpolate(truth, factor=2, prior=prior, steps=3)
    assert restored.clip.frames == 16 and restored.clip.period == truth.period
    assert np.allclose(restored.clip.times, np.arange(16) * 0.9 / 16)
    assert psnr(restored.clip.data[:, :, ::2].abs(), truth.data.abs()) > 35
    odd = interpolate(truth, times=np.array([0.0, 0.1234, 0.55]), prior=prior, steps=2).clip
    assert odd.frames == 3 and np.array_equal(odd.times, [0.0, 0.1234, 0.55])


def test_long_series_run_in_windows(prior: Prior) -> None:
    data = unit_noise(torch.zeros(1, 1, 150, 16, 16, dtype=torch.complex64), torch.Generator().manual_seed(0))
    restored = denoise(Clip(data), sigma=0.5, prior=prior, precision="float32")
    level = NOISE_LEFT * 0.5 / restored.info["scale"]
    guess = Windowed(local_pca_wiener, WINDOW, OVERLAP)(data, 0.5)
    expected = (guess + NOISE_LEFT * (data - guess)) / (1 + level**2)
    # some coefficients of noise lie on the filter's threshold, to the last digits
    torch.testing.assert_close(restored.clip.data, expected, atol=3e-2, rtol=0.0)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"samples": 0}, {"seed": -1}, {"device": "tpu"}, {"precision": "int8"}, {"sigma": -1.0}],
)
def test_impossible_options(prior: Prior, truth: Clip, wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        denoise(truth, prior=prior, **wrong)  # type: ignore[arg-type]


def test_input_without_content_is_refused(prior: Prior, truth: Clip, kspace: KSpace) -> None:
    with pytest.raises(InputError):
        denoise(truth.with_data(torch.zeros_like(truth.data)), prior=prior)
    with pytest.raises(InputError):
        denoise(truth.with_data(torch.full_like(truth.data, torch.nan)), sigma=0.1, prior=prior)
    with pytest.raises(InputError):
        reconstruct(replace(kspace, data=torch.zeros_like(kspace.data)), prior=prior)
    outer = kspace.keep.clone()
    outer[:, :, :, 12:28] = False
    with pytest.raises(InputError, match="centre"):
        reconstruct(replace(kspace, keep=outer, data=torch.where(outer, kspace.data, 0)), prior=prior)


def test_devices_and_precisions() -> None:
    cpu = torch.device("cpu")
    assert choose_device("cpu") == cpu and choose_precision("float32", cpu) is None
    assert choose_precision("auto", torch.device("cuda")) is torch.bfloat16
    with pytest.raises(ResourceError, match="not there"):
        choose_device("cuda:99")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_a_gpu_gives_the_same_within_rounding(prior: Prior, kspace: KSpace) -> None:
    here = reconstruct(kspace, prior=prior, steps=2, device="cpu", precision="float32").clip.data
    there = reconstruct(kspace, prior=prior, steps=2, device="cuda", precision="float32").clip.data
    torch.testing.assert_close(here, there, atol=1e-3, rtol=1e-3)


def test_denoised_magnitudes_lose_their_rician_bias(prior: Prior, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a denoiser that takes the mean: of |4 + n| it is 4.13, and 4 is what comes back."""
    monkeypatch.setattr(Prior, "forward", lambda self, x, sigma: x.mean().expand(x.shape).clone())
    g = torch.Generator().manual_seed(0)
    noisy = 4 + unit_noise(torch.zeros(1, 1, 6, 48, 48, dtype=torch.complex64), g)
    restored = denoise(Clip(noisy.abs()), sigma=1.0, prior=prior)
    assert float(noisy.abs().mean()) > 4.1
    assert float(restored.clip.data.mean()) == pytest.approx(4.0, abs=0.03)
