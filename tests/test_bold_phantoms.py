"""Simulated BOLD runs: the parts add up, each obeys its law, and real series lie within the spread of the simulated."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.signal
import scipy.stats
import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.io.nifti import load_nifti
from medseq.metrics import tsnr
from medseq.phantoms import fluctuations
from medseq.phantoms.bold import BoldRun, Effects, bold_run, bold_series
from medseq.phantoms.epi import Encoding, g_factor, head_coil
from medseq.phantoms.head import random_head
from medseq.phantoms.volumes import Lattice, smooth_volume

NOTHING = Effects(0, 0, 0, 0, 0, 0, 0, 0, varied=False, point_spread=False, acceleration=False)


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(seed: int = 0, effects: Effects = NOTHING, frames: int = 60, **options: float) -> BoldRun:
    return bold_run((32, 32), 4, frames, 2.0, seeded(seed), voxel=(4.0, 6.5, 6.5), effects=effects, **options)


def test_smooth_fields_correlate_as_their_kernel_says() -> None:
    lattice = Lattice((24, 40, 40), (2.0, 1.0, 1.5))
    fields = smooth_volume(lattice, 8.0, seeded(1), count=200)
    assert float(fields.square().mean()) == pytest.approx(1, abs=0.05)
    for axis, step in enumerate(lattice.spacing, start=1):
        for lag in (1, 4):
            n = fields.shape[axis] - lag
            found = float((fields.narrow(axis, 0, n) * fields.narrow(axis, lag, n)).mean())
            assert found == pytest.approx(math.exp(-2 * math.log(2) * (lag * step / 8) ** 2), abs=0.06)


def test_an_ideal_readout_keeps_what_it_can_resolve() -> None:
    """And zero-filling is the exact interpolation of what is band limited (the sampling theorem)."""
    fine = torch.arange(64) / 64
    thing = 2 + torch.cos(2 * torch.pi * 3 * fine)[:, None] * torch.sin(2 * torch.pi * 5 * fine)
    torch.testing.assert_close(Encoding.ideal((32, 32)).image(thing).real, thing[::2, ::2], atol=1e-5, rtol=0)
    small = Encoding((32, 32), torch.ones(20), torch.ones(20), torch.ones(24))
    torch.testing.assert_close(small.image(thing).real, thing[::2, ::2], atol=1e-5, rtol=0)


def test_the_readout_decays_and_leaves_lines_out() -> None:
    encodings = [Encoding.random((32, 48), seeded(seed)) for seed in range(20)]
    for encoding in encodings:
        point = torch.zeros(64, 96)
        point[32, 48] = 1
        spectrum = torch.fft.fftshift(torch.fft.fft2(encoding.image(point))).abs()
        lines = len(encoding.sampled)
        measured = spectrum[16 - lines // 2 : 16 - lines // 2 + lines, 24]
        torch.testing.assert_close(measured / measured[lines // 2], encoding.sampled * encoding.decay)
        assert float(spectrum[: 16 - lines // 2].sum()) < 1e-4
        assert bool((encoding.decay[1:] < encoding.decay[:-1]).all())
    assert any(bool((encoding.sampled == 0).any()) for encoding in encodings)
    assert any(len(encoding.sampled) < 32 for encoding in encodings)


def test_noise_has_unit_std_and_lives_where_something_is_measured() -> None:
    for seed in range(6):
        encoding = Encoding.random((32, 48), seeded(seed))
        noise = encoding.noise((300,), seeded(seed))
        assert noise.shape == (300, 32, 48)
        assert float(torch.view_as_real(noise).std()) == pytest.approx(1, rel=0.02)
        power = torch.fft.fftshift(torch.fft.fft2(noise), dim=(-2, -1)).abs().square().mean(0)
        empty = int((power < 1e-6 * power.max()).sum())
        assert empty == 32 * 48 - int((encoding.sampled > 0).sum()) * len(encoding.filtered)


def test_g_factor_is_that_of_the_unfolding_matrix() -> None:
    """Oracle: the covariance of least squares with the explicit undersampled Fourier and coil matrix of a column."""
    height, reduction = 16, 2
    place = Lattice((1, height, 3), (3.0, 12.0, 30.0)).positions()
    maps = head_coil(place, 3, seeded(2))
    support = torch.ones(1, height, 3, dtype=torch.bool)
    support[0, :3] = False
    g = g_factor(maps, support, reduction, 1)
    lines = torch.arange(0, height, reduction)[:, None] * torch.arange(height) / height
    fourier = torch.exp(-2j * torch.pi * lines) / math.sqrt(height)
    for x in range(3):
        inside = support[0, :, x]
        columns = maps[:, 0, inside, x].to(torch.complex128)
        matrix = (fourier[:, inside].to(torch.complex128) * columns[:, None]).flatten(0, 1)
        covariance = torch.linalg.inv(matrix.mH @ matrix).diagonal().real
        expected = (covariance * columns.abs().square().sum(0) / reduction).sqrt()
        torch.testing.assert_close(g[0, inside, x].double(), expected, rtol=0.01, atol=0)
    assert expected.max() > 1.1


def test_g_factor_without_acceleration_is_one_and_grows_with_it() -> None:
    maps = head_coil(Lattice((4, 16, 16), (6.0, 12.0, 12.0)).positions(), 12, seeded(3))
    support = torch.ones(4, 16, 16, dtype=torch.bool)
    torch.testing.assert_close(g_factor(maps, support, 1.0, 1), torch.ones(4, 16, 16))
    means = [float(g_factor(maps, support, r, bands).mean()) for r, bands in ((1.5, 1), (2.0, 1), (2.0, 2))]
    assert 1 < means[0] < means[1] < means[2]
    assert float(g_factor(maps, support, 4.0, 2).max()) <= 3


def test_the_response_is_the_convolution_of_the_stimuli() -> None:
    """Oracle: SciPy's gamma densities and convolution."""
    t = np.arange(0, 200, 0.1)
    kernel = scipy.stats.gamma.pdf(t, 6) - scipy.stats.gamma.pdf(t, 16) / 6
    task = ((t >= 10) & (t < 30)) | ((t >= 90) & (t < 110))
    expected = scipy.signal.fftconvolve(task.astype(float), kernel)[: len(t)]
    found = fluctuations.response_course(torch.tensor([10.0, 90.0]), 20.0, torch.from_numpy(t))
    assert np.abs(found.numpy() - expected / expected.max()).max() < 0.01
    late = fluctuations.response_course(torch.tensor([10.0, 90.0]), 20.0, torch.from_numpy(t), delay=3.0)
    assert np.abs(late.numpy()[30:] - found.numpy()[:-30]).max() < 0.01


def test_courses_have_the_spectrum_they_are_given() -> None:
    seconds = torch.arange(8192) * 0.5
    frequency, power = scipy.signal.periodogram(
        np.stack([fluctuations.band_course(seconds, 0.01, 0.1, 1.5, seeded(s)) for s in range(300)]), 2.0
    )
    band = (frequency > 0.012) & (frequency < 0.095)
    assert power[:, (frequency < 0.009) | (frequency > 0.101)].sum() < 0.01 * power.sum()
    slope = np.polyfit(np.log(frequency[band]), np.log(power.mean(0)[band]), 1)[0]
    assert slope == pytest.approx(-1.5, abs=0.2)
    assert (power.sum(1) * frequency[1]).mean() == pytest.approx(1, rel=0.05)


def test_breath_keeps_its_rate_and_the_pulse_aliases() -> None:
    for seed in range(10):
        seconds = torch.arange(3000) * 0.2
        rate = float(fluctuations.breath(seconds, seeded(seed))[-1]) / (2 * math.pi * 600)
        assert 0.19 < rate < 0.37
    lattice = Lattice((6, 24, 24), (6.0, 8.0, 8.0))
    head = random_head(lattice, seeded(0))
    fast, slow = (
        fluctuations.cardiac(head, lattice, torch.arange(600)[None] * step, seeded(5)).courses[0, 0]
        for step in (0.1, 2.0)
    )
    # every twentieth frame of the fast sampling: what aliases is the same function of time
    torch.testing.assert_close(fast[::20], slow[:30], atol=1e-3, rtol=0)


def blob(place: Tensor, centre: tuple[float, float, float]) -> Tensor:
    away = place - torch.tensor(centre).view(3, 1, 1, 1)
    return torch.exp(-away.square().sum(0) / (2 * 6.0**2))


@pytest.mark.parametrize("parameter", range(6))
def test_motion_carries_a_signal_along(parameter: int) -> None:
    """Oracle: the same blob drawn where the rigid motion takes its centre."""
    lattice = Lattice((24, 30, 32), (2.0, 1.5, 1.5))
    centre = [2.0, 5.0, -4.0]
    amount = 0.5 if parameter < 3 else 0.06
    target = list(centre)
    if parameter < 3:
        target[parameter] += amount
    else:
        one, other = ((1, 2), (2, 0), (0, 1))[parameter - 3]
        turn = math.cos(amount), math.sin(amount)
        target[one] = turn[0] * centre[one] - turn[1] * centre[other]
        target[other] = turn[0] * centre[other] + turn[1] * centre[one]
    still, expected = (blob(lattice.positions(), (c[0], c[1], c[2])) for c in (centre, target))
    motion = torch.zeros(6, 2)
    motion[parameter, 1] = amount
    added = fluctuations.moved(still, lattice, motion, 3)
    frames = still + torch.einsum("kzyx,kt->tzyx", added.maps, added.courses[:, 1])
    torch.testing.assert_close(frames[0], still)
    error, moved = (frames[1] - expected).abs().max(), (expected - still).abs().max()
    assert error < 0.06 * moved


def test_the_parts_of_a_run_add_up() -> None:
    found = run(1, Effects(), snr=20.0)
    assert found.series.shape == (4, 60, 32, 32) and not found.series.is_complex()
    assert found.fluctuation.mean(1).abs().max() < 1e-5
    turned = found.measured * torch.polar(torch.ones(()), -found.phase)[:, None]
    thermal = torch.view_as_real(turned - found.clean)
    ratio = thermal.square().mean((1, -1)).sqrt() / found.noise
    assert float(ratio.square().mean().sqrt()) == pytest.approx(1, abs=0.02)
    torch.testing.assert_close(found.series, found.measured.abs())


def test_every_effect_can_be_left_out_and_adds_its_own() -> None:
    still = run(2)
    assert still.fluctuation.abs().max() < 1e-6 and float(still.noise.max()) == 0
    torch.testing.assert_close(still.series, still.clean.abs(), atol=1e-5, rtol=0)
    for name in ("task", "networks", "local", "drift", "respiration", "cardiac", "motion"):
        once, twice = (run(2, replace(NOTHING, **{name: factor})).fluctuation for factor in (1.0, 2.0))  # type: ignore[arg-type]
        assert float(once.std()) > 1e-5, name
        if name != "motion":  # which is not linear
            torch.testing.assert_close(twice, 2 * once, atol=2e-4, rtol=0.05)


def test_a_task_is_its_activation_times_its_response() -> None:
    for effects in (replace(NOTHING, task=1), replace(NOTHING, task=1, varied=True, point_spread=True)):
        found = run(3, effects, change=0.03)
        response = found.response - found.response.mean(2, keepdim=True)
        expected = torch.einsum("byx,rbyx,rbt->btyx", found.mean, found.activation, response)
        tissue = (found.mean > 0.3)[:, None].expand_as(expected)
        torch.testing.assert_close(found.fluctuation[tissue], expected[tissue], atol=1e-6, rtol=1e-3)
        assert float(found.response.amax()) == pytest.approx(1, abs=1e-5)


def test_activation_is_as_strong_as_asked_and_in_grey_matter() -> None:
    peaks = []
    for seed in range(6):
        found = bold_run(
            (64, 64), 6, 20, 2.0, seeded(seed), voxel=(2.5, 3.3, 3.3), change=0.04, effects=replace(NOTHING, task=1)
        )
        peaks.append(float(found.activation.max()))
        weight = (found.activation.sum(0) * found.mean).clamp(min=0)
        assert float((weight * found.grey).sum() / weight.sum()) > 0.5
    assert max(peaks) < 0.045 and sum(peaks) / 6 > 0.015


def test_the_signal_to_noise_ratio_is_what_was_asked() -> None:
    found = run(4, replace(NOTHING, noise=1, acceleration=True), snr=40.0)
    tissue = found.mean > 0.4
    assert float((found.mean / found.noise)[tissue].median()) == pytest.approx(40, rel=0.2)
    assert float(tsnr(found.series[:, None])[:, 0, 0][tissue].median()) == pytest.approx(40, rel=0.2)


def test_neighbouring_slices_look_alike() -> None:
    found = bold_run((48, 48), 12, 1, 2.0, seeded(5), voxel=(2.5, 4.4, 4.4), effects=NOTHING)
    correlation = torch.corrcoef(found.mean.flatten(1))
    assert float(correlation.diagonal(1).min()) > 0.85
    assert float(correlation.diagonal(1).mean()) > float(correlation.diagonal(6).mean()) + 0.05


def test_a_run_depends_on_its_generator_alone() -> None:
    one, again, other = (run(seed, Effects(), frames=5) for seed in (6, 6, 7))
    assert torch.equal(one.measured, again.measured) and not torch.equal(one.mean, other.mean)


@pytest.mark.parametrize("frames", [1, 2, 3])
@pytest.mark.parametrize("slices", [1, 5])
def test_short_runs_are_finite(frames: int, slices: int) -> None:
    found = bold_run((17, 24), slices, frames, 0.7, seeded(8))
    assert bool(torch.isfinite(torch.view_as_real(found.measured)).all())
    assert bool(torch.isfinite(found.activation).all()) and found.slice_times.shape == (slices,)


@pytest.mark.parametrize(
    "wrong",
    [{"slices": 0}, {"frames": 0}, {"interval": 0.0}, {"interval": math.nan}, {"size": (8, 64)}]
    + [{"snr": 0.0}, {"snr": -1.0}, {"voxel": (3.0, 0.0, 3.0)}, {"voxel": (3.0, math.inf, 3.0)}],
)
def test_impossible_runs(wrong: dict[str, object]) -> None:
    options: dict[str, object] = {"size": (32, 32), "slices": 2, "frames": 4, "interval": 2.0} | wrong
    with pytest.raises(UsageError):
        bold_run(generator=seeded(0), **options)  # type: ignore[arg-type]


def test_the_head_of_a_series_fills_its_frame() -> None:
    series = bold_series((32, 32), 3, 8, 2.0, 0.02, seeded(1))
    assert series.voxel == (3.5, 6.5, 6.5)
    share = (series.series.mean(1) > 0.3).float().mean()
    assert 0.25 < float(share) < 0.7


def statistics(series: Tensor) -> dict[str, float]:
    """Of a series (B, T, Y, X), in tissue: median tSNR, mean correlation of neighbours, and of successive frames."""
    mean = series.mean(1)
    tissue = mean > 0.35 * mean.flatten().kthvalue(int(0.98 * mean.numel())).values
    ratio = tsnr(series[:, None])[:, 0, 0][tissue]
    residual = series - mean[:, None]
    residual = residual / residual.square().mean(1, keepdim=True).sqrt().clamp(min=1e-6)
    beside, below = tissue[..., 1:] & tissue[..., :-1], tissue[1:] & tissue[:-1]
    return {
        "tSNR": float(ratio.median()),
        "tSNR spread": float(ratio.quantile(0.75) / ratio.quantile(0.25)),
        "within slices": float((residual[..., 1:] * residual[..., :-1]).mean(1)[beside].mean()),
        "between slices": float((residual[1:] * residual[:-1]).mean(1)[below].mean()),
        "in time": float((residual[:, 1:] * residual[:, :-1]).mean(1)[tissue].mean()),
    }


def test_a_real_run_lies_within_the_spread_of_simulated_ones(real_data: Path) -> None:
    clip = load_nifti(real_data / "fmri_rest" / "sub-01_task-rest_bold.nii.gz")
    real = statistics(clip.data[12:16, 0])
    runs = [bold_run((96, 96), 4, 75, 1.2592, seeded(100 + s), voxel=(2.5, 2.26, 2.26)) for s in range(16)]
    simulated = [statistics(one.series) for one in runs]
    for name, value in real.items():
        spread = [one[name] for one in simulated]
        assert min(spread) < value < max(spread), (name, value, sorted(spread))
