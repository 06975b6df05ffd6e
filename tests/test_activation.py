"""The linear model of fMRI against nilearn's, closed forms and the laws of its statistics."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from medseq.activation import (
    amplitude_kept,
    critical_t,
    design_matrix,
    detrend,
    drift_cosines,
    false_positive_rate,
    glm,
    inject,
    lag_one,
    split_half,
    t_gain,
)
from medseq.baselines import temporal_low_pass
from medseq.errors import UsageError
from medseq.phantoms.bold import block_design

FRAMES, INTERVAL = 75, 1.26
SHAPE = (3, 1, FRAMES, 8, 10)
MAP = (3, 1, 1, 8, 10)
EVERYWHERE = torch.ones(MAP, dtype=torch.bool)


def noise(seed: int = 0, shape: tuple[int, ...] = SHAPE) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def weights(seed: int = 0) -> Tensor:
    return torch.rand(MAP, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def task() -> Tensor:
    return block_design(FRAMES, INTERVAL).double()


def as_voxels(series: Tensor) -> np.ndarray:
    """(T, voxels), as nilearn wants it."""
    return series.movedim(2, 0).flatten(1).numpy()


@pytest.mark.parametrize("contrast", [[1, 0, 0, 0], [1, -1, 0, 0], [0.5, 2, 0, 1]])
def test_the_model_is_that_of_nilearn(contrast: list[float]) -> None:
    first_level = pytest.importorskip("nilearn.glm.first_level", reason="nilearn is the oracle")
    from nilearn.glm import compute_contrast

    series = 1000 + 20 * noise() + 3 * weights() * task().view(-1, 1, 1)
    design = design_matrix(torch.stack([task(), task().roll(9)], dim=1), INTERVAL)
    ours = glm(series, design, torch.tensor(contrast))
    labels, fits = first_level.run_glm(as_voxels(series), design.numpy(), noise_model="ols")
    theirs = compute_contrast(labels, fits, np.array(contrast), stat_type="t")
    np.testing.assert_allclose(ours.beta.flatten(), theirs.effect_size().ravel(), rtol=1e-8, atol=1e-8)
    np.testing.assert_allclose(ours.t.flatten(), theirs.stat().ravel(), rtol=1e-8)
    residual = np.concatenate([fits[label].residuals for label in np.unique(labels)], axis=1)
    np.testing.assert_allclose(as_voxels(ours.residual), residual[:, np.argsort(np.argsort(labels))], atol=1e-8)


@pytest.mark.parametrize(("frames", "interval"), [(75, 1.26), (200, 2.0), (30, 1.0)])
def test_the_drift_is_that_of_nilearn(frames: int, interval: float) -> None:
    first_level = pytest.importorskip("nilearn.glm.first_level", reason="nilearn is the oracle")
    times = interval * np.arange(frames)
    table = first_level.make_first_level_design_matrix(times, drift_model="cosine", high_pass=1 / 128)
    ours = drift_cosines(frames, interval).numpy()
    assert table.shape == ours.shape
    together = np.linalg.matrix_rank(np.hstack([table.to_numpy(), ours]))
    assert together == ours.shape[1], "both span the same drift"


def test_what_was_injected_is_found_exactly() -> None:
    still = 100 + 900 * weights(1).expand(SHAPE)
    series = inject(still, weights(), task(), 0.02)
    found = glm(series, design_matrix(task(), INTERVAL))
    torch.testing.assert_close(found.beta, 0.02 * weights() * still[:, :, :1])
    # Percent of the mean in time, which the task itself raises.
    torch.testing.assert_close(found.percent, 2 * weights() / (1 + 0.02 * weights() * task().mean()))
    assert float(found.residual.abs().max()) < 1e-9


def test_complex_series_count_by_their_magnitude_and_keep_their_phase() -> None:
    series = torch.polar(1000 + noise(), noise(1))
    active = inject(series, weights(), task(), 0.01)
    assert active.is_complex()
    torch.testing.assert_close(active.angle(), series.angle())
    design = design_matrix(task(), INTERVAL)
    torch.testing.assert_close(glm(active, design).t, glm(active.abs(), design).t)


def test_lost_degrees_of_freedom_widen_the_error() -> None:
    series, design = 1000 + noise(), design_matrix(task(), INTERVAL)
    whole = glm(series, design)
    degrees = FRAMES - design.shape[1]
    assert torch.equal(whole.dof, torch.full(MAP, float(degrees), dtype=torch.float64))
    lost = torch.arange(240.0).view(MAP).fmod(degrees + 1)
    found = glm(series, design, dof_lost=lost)
    left = degrees - lost.double()
    torch.testing.assert_close(found.t, torch.where(left >= 1, whole.t * (left / degrees).sqrt(), 0))
    assert bool((left < 1).any()), "voxels without a degree left are in the test"
    torch.testing.assert_close(found.beta, whole.beta)


def random_designs(count: int) -> list[Tensor]:
    g = torch.Generator().manual_seed(3)
    return [design_matrix(torch.randn(FRAMES, generator=g), INTERVAL) for _ in range(count)]


def test_white_noise_has_its_nominal_false_positives() -> None:
    designs = random_designs(200)
    rate = false_positive_rate(1000 + noise(), designs, EVERYWHERE)
    assert rate == pytest.approx(0.05, abs=0.005)
    # The t values follow Student's distribution, not only its tails.
    t = glm(1000 + noise(4, (12, *SHAPE[1:])), designs[0])
    assert stats.kstest(t.t.flatten().numpy(), "t", args=(float(t.dof[0, 0, 0, 0, 0]),)).pvalue > 0.01


def test_the_degrees_that_a_low_pass_took_must_be_counted() -> None:
    """Noise of 40 cosines, designs of the same 40: only with 35 degrees lost are there 5 % false positives."""
    cutoff = 39.5 / (2 * FRAMES * INTERVAL)
    slow, lost = temporal_low_pass(1000 + noise(5), cutoff, INTERVAL)
    assert lost == 35
    g = torch.Generator().manual_seed(6)
    tasks = [temporal_low_pass(torch.randn(1, 1, FRAMES, 1, 1, generator=g), cutoff, INTERVAL)[0] for _ in range(150)]
    designs = [design_matrix(one.flatten(), INTERVAL) for one in tasks]
    assert false_positive_rate(slow, designs, EVERYWHERE, dof_lost=lost) == pytest.approx(0.05, abs=0.007)
    assert false_positive_rate(slow, designs, EVERYWHERE) > 0.12


def test_the_critical_t_makes_exactly_so_many_false_positives() -> None:
    designs, white = random_designs(200), 1000 + noise()
    degrees = FRAMES - designs[0].shape[1]
    assert critical_t(white, designs, EVERYWHERE) == pytest.approx(stats.t.ppf(0.975, degrees), rel=0.02)
    slow = temporal_low_pass(white, 0.1, INTERVAL)[0]
    critical = critical_t(slow, designs, EVERYWHERE, p=0.1)
    above = [(glm(slow, design).t.abs() > critical).double().mean() for design in designs]
    assert float(torch.stack(above).mean()) == pytest.approx(0.1, abs=1e-4)


def test_false_positives_are_counted_in_the_mask_alone() -> None:
    mask = torch.zeros(MAP, dtype=torch.bool)
    mask[0, 0, 0, :4] = True
    series = torch.where(mask, 1000 + noise(), 1000 + 1e4 * task().view(-1, 1, 1) + noise())
    designs = [design_matrix(task(), INTERVAL)]
    assert false_positive_rate(series, designs, ~mask) == 1
    assert false_positive_rate(series, designs, mask) < 0.3


def halved(series: Tensor) -> Tensor:
    """A denoiser that takes half of everything that varies."""
    return 0.5 * (series + series.mean(2, keepdim=True))


def test_the_amplitude_kept_is_that_of_the_denoiser() -> None:
    rest = 1000 + 10 * noise()
    active, design = inject(rest, weights(), task(), 0.01), design_matrix(task(), INTERVAL)
    injected = glm(active, design).beta - glm(rest, design).beta
    for method, kept in ((lambda x: x, 1.0), (halved, 0.5), (lambda x: x.mean(2, keepdim=True).expand(SHAPE), 0.0)):
        fits = [glm(method(series), design) for series in (active, rest)]
        assert amplitude_kept(*fits, injected, weights() > 0.5) == pytest.approx(kept, abs=1e-9)


def test_half_the_noise_gives_twice_the_t() -> None:
    design = design_matrix(task(), INTERVAL)
    random = glm(noise(), design).residual  # what is left of noise has no share in the design
    series = [1000 + 5 * weights() * task().view(-1, 1, 1) + scale * random for scale in (1.0, 0.5)]
    noisy, clean = (glm(one, design) for one in series)
    assert t_gain(clean, noisy, weights() > 0.5) == pytest.approx(2, rel=1e-9)
    assert t_gain(noisy, noisy, weights() > 0.5) == 1


def test_autocorrelation_from_frame_to_frame() -> None:
    """Expected after a fit with the residual matrix R: tr(S R) / tr(R), S the shift by one frame."""
    design = design_matrix(task(), INTERVAL)
    residual_maker = torch.eye(FRAMES, dtype=torch.float64) - design @ torch.linalg.pinv(design)
    expected = float(residual_maker.diagonal(1).sum() / residual_maker.trace())
    white = glm(noise(7), design).residual
    assert lag_one(white, EVERYWHERE) == pytest.approx(expected, abs=0.02)
    loud = white * (1 + 100 * weights())
    assert lag_one(loud, EVERYWHERE) == pytest.approx(lag_one(white, EVERYWHERE)), "every voxel counts the same"
    coloured = noise(8, (3, 1, 1000, 8, 10))
    for t in range(1, 1000):
        coloured[:, :, t] = 0.6 * coloured[:, :, t - 1] + 0.8 * coloured[:, :, t]
    assert lag_one(coloured, EVERYWHERE) == pytest.approx(0.6, abs=0.01)


def test_halves_are_as_reliable_as_their_maps_are_alike() -> None:
    blocks = task()
    odd, even = (torch.where(torch.arange(FRAMES) < 38, blocks, 0), torch.where(torch.arange(FRAMES) < 38, 0, blocks))
    one, other = weights(1), weights(2)
    series = 1000 * (1 + 0.01 * (one * odd.view(-1, 1, 1) + other * even.view(-1, 1, 1)))
    # Percent of means that differ by 1 %: nearly, not exactly, the weights' own correlation.
    expected = np.corrcoef(one.flatten(), other.flatten())[0, 1]
    assert split_half(series, odd, even, INTERVAL, EVERYWHERE) == pytest.approx(expected, abs=0.01)
    alike = 1000 * (1 + 0.01 * one * blocks.view(-1, 1, 1))
    assert split_half(alike, odd, even, INTERVAL, EVERYWHERE) == pytest.approx(1, abs=1e-6)


def test_drift_goes_and_the_task_stays() -> None:
    place = (torch.arange(FRAMES, dtype=torch.float64) + 0.5) / FRAMES
    slow = 500 + 30 * torch.cos(math.pi * place)
    fast = torch.cos(9 * math.pi * place)
    series = (slow + fast).view(1, 1, -1, 1, 1).expand(1, 1, FRAMES, 4, 4)
    torch.testing.assert_close(detrend(series, INTERVAL)[0, 0, :, 0, 0], fast)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: glm(noise()[0], torch.ones(FRAMES, 1)),
        lambda: glm(noise(), torch.ones(FRAMES - 1, 1)),
        lambda: glm(noise(), torch.ones(FRAMES, 2)),
        lambda: glm(noise(), torch.ones(FRAMES, 1), torch.ones(2)),
        lambda: glm(noise(), torch.ones(FRAMES, 1), dof_lost=74),
        lambda: glm(noise(), torch.ones(FRAMES, 1), dof_lost=torch.zeros(3)),
        lambda: glm(noise(), torch.eye(FRAMES)),
        lambda: drift_cosines(10, 1.0, cutoff=1.0),
        lambda: drift_cosines(10, -1.0),
        lambda: false_positive_rate(noise(), [], EVERYWHERE),
        lambda: critical_t(noise(), [], EVERYWHERE),
        lambda: false_positive_rate(noise(), random_designs(1), ~EVERYWHERE),
        lambda: false_positive_rate(noise(), random_designs(1), EVERYWHERE[:1]),
        lambda: lag_one(noise(), EVERYWHERE.double()),
    ],
)
def test_what_does_not_fit_is_refused(wrong) -> None:
    with pytest.raises(UsageError):
        wrong()


def test_nothing_injected_has_no_amplitude() -> None:
    fit = glm(1000 + noise(), design_matrix(task(), INTERVAL))
    with pytest.raises(UsageError, match="no activation"):
        amplitude_kept(fit, fit, torch.zeros(MAP), EVERYWHERE)
