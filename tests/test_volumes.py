"""Volumes filled in and moved in time: near the truth, never wild, and what was acquired untouched."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from medseq.baselines import cubic_interpolation, linear_interpolation
from medseq.clip import Clip
from medseq.errors import InputError, UsageError
from medseq.io import load_clip
from medseq.simulate import simulate_bold
from medseq.volumes import (
    _autocovariance,
    _window_weights,
    band_limited_weights,
    fill_volumes,
    insert_dropped,
    prediction_weights,
    resample,
)

TR = 1.25


def drop(frames: int, seed: int, share: float = 0.1) -> np.ndarray:
    """Which volumes are dropped: neither the first nor the last, as straight lines end there."""
    censored = np.zeros(frames, dtype=bool)
    censored[1 + np.random.default_rng(seed).choice(frames - 2, round(share * frames), replace=False)] = True
    return censored


def slow_series(frames: int = 80, size: int = 16, noise: float = 5.0, seed: int = 0) -> tuple[Clip, Tensor]:
    """A still scene of a few hundred units with two slow courses of about 1 %, with white noise and without."""
    g = torch.Generator().manual_seed(seed)
    t = torch.arange(frames) * TR
    y, x = (torch.arange(size) / size).view(-1, 1), torch.arange(size) / size
    still = 400 + 200 * y * x
    courses = torch.stack([torch.sin(2 * math.pi * f * t + p) for f, p in ((0.03, 0.4), (0.05, 1.9))])
    maps = torch.stack([0.01 * still * torch.cos(3 * y), 0.01 * still * torch.sin(4 * x)])
    truth = (still + torch.einsum("ct,cyx->tyx", courses, maps))[None, None]
    noisy = truth + noise * torch.randn(truth.shape, generator=g)
    return Clip(noisy, times=t.double().numpy()), truth


def rmse(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().square().mean().sqrt())


def errors(clip: Clip, truth: Tensor, censored: np.ndarray, region: Tensor) -> dict[str, float]:
    """RMSE in the region over the censored volumes of ours and of what there was before."""
    there, bad = torch.from_numpy(~censored), torch.from_numpy(censored)
    known, times = clip.data[:, :, there], torch.from_numpy(np.array(clip.times))
    results = {
        "ours": fill_volumes(clip, censored).data[:, :, bad],
        "linear": linear_interpolation(known, times[there], times[bad]),
        "spline": cubic_interpolation(known, times[there], times[bad]),
        "mean": known.mean(2, keepdim=True).expand_as(truth[:, :, bad]),
    }
    return {
        name: rmse(filled.movedim(2, -1)[region], truth[:, :, bad].movedim(2, -1)[region])
        for name, filled in results.items()
    }


def tissue(clip: Clip) -> Tensor:
    mean = clip.data.mean(2)
    return mean > 0.3 * mean.flatten().quantile(0.98)


@pytest.mark.parametrize("seed", [1, 2])
def test_filled_volumes_of_a_simulated_run_beat_lines_splines_and_the_mean(seed):
    options = {"frames": 75, "size": (48, 48), "slices": 1, "repetition_time": TR, "seed": seed}
    series, _ = simulate_bold(**options, noise=0.01)
    truth, _ = simulate_bold(**options, noise=0.0)
    found = errors(series, truth.data, drop(75, seed), tissue(series))
    assert found["ours"] < 0.6 * found["linear"] < found["spline"]
    assert found["ours"] < 0.95 * found["mean"]


def test_filled_volumes_of_a_real_run_come_nearer_to_those_dropped_noise_included(real_data):
    clip = load_clip(real_data / "fmri_rest" / "sub-01_task-rest_bold.nii.gz")
    clip = Clip(clip.data[11:12, :, :, 24:72, 24:72].clone(), clip.affine, clip.times)
    for seed in (21, 22):
        found = errors(clip, clip.data, drop(clip.frames, seed), tissue(clip))
        assert found["ours"] < 0.9 * min(found["linear"], found["spline"])
        assert found["ours"] < 0.97 * found["mean"]


def test_slow_courses_survive_where_volumes_were_bad():
    clip, truth = slow_series(noise=2.0)
    censored = drop(80, 3)
    filled = fill_volumes(clip, censored).data[:, :, censored]
    still = truth.mean(2, keepdim=True)
    wanted, got = truth[:, :, censored] - still, filled - still
    assert rmse(got, wanted) < 0.35 * rmse(wanted, torch.zeros_like(wanted))
    assert float((got * wanted).sum() / wanted.square().sum()) == pytest.approx(1, abs=0.1)


def test_what_is_good_keeps_every_bit_and_what_is_bad_is_not_looked_at():
    clip, _ = slow_series()
    censored = drop(80, 4)
    spoilt = clip.data.clone()
    spoilt[:, :, censored] = torch.nan
    one, other = fill_volumes(clip, censored), fill_volumes(clip.with_data(spoilt), censored)
    assert torch.equal(one.data, other.data)
    assert torch.equal(one.data[:, :, ~censored], clip.data[:, :, ~censored])
    assert not torch.equal(one.data[:, :, censored], clip.data[:, :, censored])


def test_white_noise_is_filled_with_the_mean():
    g = torch.Generator().manual_seed(5)
    clip = Clip(500 + 10 * torch.randn(1, 1, 120, 32, 32, generator=g), times=TR * np.arange(120))
    censored = drop(120, 5)
    mean = clip.data[:, :, ~censored].mean(2, keepdim=True)
    assert rmse(fill_volumes(clip, censored).data[:, :, censored], mean) < 0.3 * 10


def test_the_middle_of_a_long_run_of_bad_volumes_is_the_mean():
    clip, _ = slow_series(frames=120)
    censored = np.zeros(120, dtype=bool)
    censored[30:75] = True
    filled = fill_volumes(clip, censored).data
    mean = clip.data[:, :, ~censored].mean(2)
    assert torch.allclose(filled[:, :, 52], mean, atol=1e-3)
    assert rmse(filled[:, :, 30], mean) > 1


@pytest.mark.parametrize("ends", [slice(0, 6), slice(74, 80)])
def test_ends_are_never_extrapolated_beyond_what_the_series_has_shown(ends):
    clip, _ = slow_series()
    trend = torch.linspace(-1, 1, 80)[:, None, None]
    clip = clip.with_data(clip.data + 20 * trend)
    censored = np.zeros(80, dtype=bool)
    censored[ends] = True
    there, filled = clip.data[:, :, ~censored], fill_volumes(clip, censored).data[:, :, censored]
    spread = there.amax(2, keepdim=True) - there.amin(2, keepdim=True)
    assert bool((filled > there.amin(2, keepdim=True) - 0.1 * spread).all())
    assert bool((filled < there.amax(2, keepdim=True) + 0.1 * spread).all())


def test_frames_that_single_slices_lack_are_filled_slice_by_slice():
    clip, truth = slow_series()
    data = torch.cat([clip.data, clip.data])
    present = torch.ones(2, 80, dtype=torch.bool)
    present[1, 40] = False
    filled = fill_volumes(Clip(data, times=clip.times, present=present))
    assert filled.present is None
    assert torch.equal(filled.data[0], data[0])
    assert rmse(filled.data[1, :, 40], truth[0, :, 40]) < 3
    assert torch.equal(filled.data[1:], fill_volumes(clip, np.arange(80) == 40).data)


def test_volumes_that_the_times_leave_out_count_as_time_passed():
    clip, truth = slow_series(noise=0.5)
    kept = ~np.isin(np.arange(80), [20, 21, 41])
    short = Clip(clip.data[:, :, kept], times=clip.times[kept])
    censored = np.arange(80)[kept] == 40
    filled = fill_volumes(short, censored).data[:, :, censored]
    assert rmse(filled, truth[:, :, 40:41]) < 0.7
    shut = Clip(short.data, times=TR * np.arange(len(short.times)))
    assert rmse(fill_volumes(shut, censored).data[:, :, censored], truth[:, :, 40:41]) > rmse(
        filled, truth[:, :, 40:41]
    )


def test_scale_and_global_phase_go_through():
    clip, _ = slow_series(size=12)
    censored = drop(80, 6)
    filled = fill_volumes(clip, censored).data
    assert torch.allclose(fill_volumes(clip.with_data(1e-6 * clip.data), censored).data, 1e-6 * filled, rtol=1e-5)
    turn = torch.polar(torch.tensor(1.0), torch.tensor(1.5))
    turned = fill_volumes(clip.with_data(clip.data * turn), censored).data
    assert torch.allclose(turned, filled * turn, rtol=1e-4)


def test_air_stays_empty_and_magnitudes_positive():
    clip, _ = slow_series()
    data = clip.data.clone()
    data[..., :8] = 0
    filled = fill_volumes(clip.with_data(data), drop(80, 7)).data
    assert not bool(filled[..., :8].any())
    assert not bool(fill_volumes(clip.with_data(torch.zeros_like(data)), drop(80, 7)).data.any())
    g = torch.Generator().manual_seed(1)
    air = Clip(100 * torch.randn(1, 1, 60, 9, 9, generator=g, dtype=torch.complex64).abs())
    assert bool((resample(air, air.times[:-1] + 0.5).data >= 0).all())
    censored = drop(60, 7)
    # Rayleigh noise has a mean, 1.25 sigma, which a filled volume keeps.
    level = air.data.mean()
    assert float(fill_volumes(air, censored).data[:, :, censored].mean()) == pytest.approx(float(level), rel=0.1)


def test_nothing_bad_is_nothing_to_do():
    clip, _ = slow_series()
    assert fill_volumes(clip) is clip
    assert fill_volumes(clip, np.zeros(80, dtype=bool)) is clip


@pytest.mark.parametrize("size", [(3, 4), (5, 6)])
def test_images_smaller_than_a_window_are_filled(size):
    clip, _ = slow_series(size=30, noise=1.0)
    part = clip.with_data(clip.data[..., : size[0], : size[1]].clone())
    filled = fill_volumes(part, np.arange(80) == 33).data[:, :, 33]
    assert rmse(filled, part.data[:, :, 33]) < 3


def test_where_no_component_rises_above_the_noise_the_mean_is_filled_in():
    clip, _ = slow_series(size=1)  # a single voxel has no components
    censored = drop(80, 8)
    mean = clip.data[:, :, ~censored].mean(2, keepdim=True)
    assert torch.allclose(fill_volumes(clip, censored).data[:, :, censored], mean, rtol=1e-4)


def test_a_single_volume_too_far_to_be_related_only_shares_the_level():
    """Level and fluctuations have the same variance, so half of what that volume holds is level."""
    covariance = torch.zeros(40, 1, 1, dtype=torch.float64)
    covariance[0] = 1
    assert _window_weights(covariance, np.array([3]), 20).flatten().tolist() == pytest.approx([0.5])


def test_one_volume_of_a_first_order_process_is_predicted_as_in_closed_form():
    rho = 0.7
    lag = torch.arange(9)
    covariance = rho ** (lag[:, None] - lag).abs().double()
    there = lag != 4
    weights = prediction_weights(covariance[there][:, there], covariance[there][:, 4:5], level=0.0)[:, 0]
    wanted = torch.zeros(9, dtype=torch.float64)
    wanted[[3, 5]] = rho / (1 + rho**2)
    assert torch.allclose(weights, wanted[there])
    free = prediction_weights(covariance[there][:, there], covariance[there][:, 4:5], level=1e6)
    assert float(free.sum()) == pytest.approx(1, abs=1e-5)


def test_the_autocovariance_is_that_of_the_process_and_always_possible():
    """A first-order autoregressive process with gaps: rho^lag under Bartlett's taper, and positive definite."""
    g = torch.Generator().manual_seed(8)
    rho, frames, lags = 0.6, 400, 12
    steps = torch.randn(frames, 12, 12, generator=g)
    series = [steps[0]]
    for step in steps[1:]:
        series.append(rho * series[-1] + math.sqrt(1 - rho**2) * step)
    index = np.flatnonzero(np.random.default_rng(8).random(frames) < 0.7)
    found = _autocovariance(torch.stack(series)[torch.from_numpy(index)], index, lags)
    lag = np.arange(lags)
    assert np.allclose(found.mean((1, 2))[:lags] / found.mean((1, 2))[0], rho**lag * (1 - lag / lags), atol=0.03)
    for y in range(found.shape[1]):
        assert scipy.linalg.eigvalsh(scipy.linalg.toeplitz(found[:, y, 0])).min() > 0


@pytest.mark.parametrize(
    ("change", "censored", "kind", "message"),
    [
        ({}, np.zeros(79, dtype=bool), UsageError, r"bool of shape \(80,\)"),
        ({}, np.zeros(80), UsageError, "got float64"),
        ({}, np.arange(80) < 41, InputError, "slice 1 lacks 41 of 80 volumes"),
        ({"period": 1000.0}, np.arange(80) == 3, InputError, "gated cycle"),
        ({"times": np.arange(80) ** 1.5}, np.arange(80) == 3, InputError, "not at even intervals"),
        ({"data": torch.full((1, 1, 80, 8, 8), torch.nan)}, np.arange(80) == 3, InputError, "not finite"),
        ({"data": torch.ones(1, 1, 3, 8, 8), "times": np.arange(3)}, np.arange(3) == 1, InputError, "too short"),
    ],
)
def test_what_cannot_be_filled_is_refused_in_one_line(change, censored, kind, message):
    clip = replace(slow_series()[0], **change)
    with pytest.raises(kind, match=message) as caught:
        fill_volumes(clip, censored)
    assert "\n" not in str(caught.value)


SLICES = np.array([0.0, 0.8, 0.4, 1.1])


def sinusoid(times: np.ndarray, share: float, phase: float = 0.3) -> np.ndarray:
    """At `share` of the Nyquist frequency of TR, on a level of 100."""
    return 100 + np.sin(2 * np.pi * share * 0.5 / TR * times + phase)


def sampled(share: float, frames: int = 100) -> Clip:
    """The sinusoid as each slice would have seen it."""
    times = 7.0 + TR * np.arange(frames)
    data = np.stack([sinusoid(times + offset, share) for offset in SLICES])[:, None, :, None, None]
    return Clip(torch.from_numpy(data), times=times, slice_times=SLICES)


@pytest.mark.parametrize("share", [0.05, 0.2, 0.35, 0.5])
@pytest.mark.parametrize("times", [None, 7.0 + TR * np.arange(0, 99, 0.5), 7.3 + 0.9 * np.arange(100)])
def test_a_sinusoid_seen_slice_by_slice_comes_back_at_any_time(share, times):
    clip = sampled(share)
    found = resample(clip, times)
    inner = (found.times > 7 + 10 * TR) & (found.times < 7 + 89 * TR)
    for b in range(len(SLICES)):
        assert np.abs(found.data[b, 0, :, 0, 0].numpy() - sinusoid(found.times, share))[inner].max() < 0.01
    assert found.slice_times is not None and not found.slice_times.any()


def test_every_frame_of_slow_changes_is_right_but_those_beyond_a_slices_own_acquisitions():
    found = resample(sampled(0.1)).data[..., 0, 0].numpy()
    wanted = sinusoid(sampled(0.1).times, 0.1)
    assert np.abs(found[:, 0, 1:] - wanted[1:]).max() < 0.05
    # The first frames of late slices lie before anything was acquired: they repeat the first that was.
    assert np.allclose(found[:, 0, 0], sinusoid(7.0 + SLICES, 0.1), atol=1e-6)


def test_a_delay_agrees_with_the_phase_ramp_of_fourier():
    """As SPM's slice-timing correction, on noise of half the bandwidth that repeats itself over the run."""
    frames, delay = 120, 0.4 * TR
    frequency = np.fft.rfftfreq(frames, TR)
    g = np.random.default_rng(9)
    spectrum = (g.normal(size=len(frequency)) + 1j * g.normal(size=len(frequency))) * (frequency < 0.25 / TR)
    acquired = np.fft.irfft(spectrum * np.exp(2j * np.pi * frequency * delay), frames)
    wanted = np.fft.irfft(spectrum, frames)
    clip = Clip(torch.from_numpy(acquired)[None, None, :, None, None], times=TR * np.arange(frames))
    found = resample(clip, slice_times=[delay]).data[0, 0, :, 0, 0].numpy()
    assert np.abs(found - wanted)[10:-10].max() < 0.01 * np.abs(wanted).max()


def test_acquired_times_give_acquired_values_and_a_level_stays():
    clip, _ = slow_series(size=4)
    assert torch.allclose(resample(clip, clip.times).data, clip.data, rtol=1e-6)
    level = Clip(torch.full((4, 1, 50, 2, 2), 321.5), times=TR * np.arange(50), slice_times=SLICES)
    assert torch.allclose(resample(level, TR * np.arange(0, 50, 0.3)).data, torch.tensor(321.5), rtol=1e-6)


def test_white_noise_is_not_amplified():
    """The sum of squared weights is the variance of the result over that of the noise."""
    acquired = TR * np.arange(60) + 0.5 * TR
    weights = band_limited_weights(acquired, TR * np.arange(0, 61, 0.25))
    assert float(weights.square().sum(1).max()) < 1.6
    assert float(weights[20:-20].square().sum(1).max()) < 1.1


def test_volumes_that_were_cut_out_are_put_back_and_filled():
    clip, truth = slow_series(noise=0.5)
    kept = ~np.isin(np.arange(80), [17, 30, 31, 60])
    short = Clip(clip.data[:, :, kept], times=clip.times[kept])
    whole = insert_dropped(short)
    assert whole.present is not None and np.array_equal(whole.present[0].numpy(), kept)
    assert np.allclose(whole.times, clip.times)
    assert torch.equal(whole.data[:, :, kept], short.data)
    assert rmse(fill_volumes(whole).data[:, :, ~kept], truth[:, :, ~kept]) < 0.7
    assert insert_dropped(clip) is clip
    with pytest.raises(InputError, match="dropped from the series; put them back"):
        resample(short, clip.times)
    with pytest.raises(InputError, match="too many to fill"):
        insert_dropped(Clip(clip.data[:, :, :5], times=np.array([0, 1, 2, 3, 99.0])))


def test_complex_series_are_resampled_channel_by_channel():
    one, other = sampled(0.2), sampled(0.4)
    both = resample(one.with_data(torch.complex(one.data, other.data)))
    assert torch.allclose(both.data.real, resample(one).data)
    assert torch.allclose(both.data.imag, resample(other).data)


@pytest.mark.parametrize(
    ("change", "options", "kind", "message"),
    [
        ({"slice_times": None}, {}, UsageError, "slice times are not known"),
        ({}, {"times": [9.0, 8.0]}, UsageError, "increase strictly"),
        ({}, {"times": [6.0, 8.0]}, UsageError, "reach from 6 to 8 s"),
        ({}, {"times": [7.0, 133.0]}, UsageError, "only from 7 to 132 s"),
        ({}, {"slice_times": [0.0, 1.0]}, InputError, "slice times must be 4"),
        ({"period": 1000.0}, {}, InputError, "gated cycle"),
        ({"present": torch.arange(400).view(4, 100) > 0}, {}, InputError, "fill them in first"),
        ({"data": torch.full((4, 1, 100, 2, 2), torch.inf)}, {}, InputError, "not finite"),
        ({"data": torch.ones(4, 1, 1, 2, 2), "times": np.zeros(1)}, {}, InputError, "one volume"),
    ],
)
def test_what_cannot_be_resampled_is_refused_in_one_line(change, options, kind, message):
    with pytest.raises(kind, match=message) as caught:
        resample(replace(sampled(0.2), **change), **options)
    assert "\n" not in str(caught.value)
