"""BOLD denoising: amplitudes kept as promised, errors as calibrated, and no more removed than is noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from medseq.activation import amplitude_kept, design_matrix, detrend, false_positive_rate, glm, inject, t_gain
from medseq.baselines.smoothing import gaussian_smoothing
from medseq.bold import denoise_bold, tissue_mask
from medseq.clip import Clip
from medseq.errors import InputError, UsageError
from medseq.phantoms.bold import block_design, haemodynamic_response

INTERVAL, FRAMES, VOXEL = 1.5, 80, 2.5
AFFINE = np.diag([VOXEL, VOXEL, VOXEL, 1.0])


def head(noise: float, seed: int = 0, *, slices: int = 8, size: int = 40) -> Clip:
    """An even cylinder of 1000 units with noise as rough as a scanner's (FWHM of a voxel) and nothing else."""
    g = torch.Generator().manual_seed(seed)
    y, x = np.mgrid[:size, :size] - (size - 1) / 2
    inside = torch.from_numpy(np.hypot(y, x) < 0.42 * size).float()
    mean = 1000 * inside.expand(slices, 1, 1, size, size) + 5
    rough = gaussian_smoothing(torch.randn(slices, 1, FRAMES, size, size, generator=g), VOXEL, (VOXEL, VOXEL, VOXEL))
    data = mean + noise * rough / rough.std()
    return Clip(data, AFFINE, INTERVAL * np.arange(FRAMES))


def blob(clip: Clip, extent: float) -> torch.Tensor:
    """An activation (B, 1, 1, Y, X) of this FWHM in mm, in the middle of the head."""
    centre = [(clip.data.shape[axis] - 1) / 2 for axis in (0, 3, 4)]
    grids = torch.meshgrid(*(torch.arange(clip.data.shape[axis]) for axis in (0, 3, 4)), indexing="ij")
    square = sum(((grid - middle) * VOXEL) ** 2 for grid, middle in zip(grids, centre, strict=True))
    return torch.exp(-4 * np.log(2) * square / extent**2)[:, None, None]


def events(seed: int) -> torch.Tensor:
    """The design of a random fast event-related experiment."""
    g = torch.Generator().manual_seed(seed)
    onsets = INTERVAL * FRAMES * torch.rand(12, generator=g)
    times = INTERVAL * torch.arange(FRAMES)
    return design_matrix(haemodynamic_response(times[:, None] - onsets).sum(1), INTERVAL)


@pytest.mark.parametrize(("extent", "allowed"), [(6.0, 0.035), (10.0, 0.02)])
def test_injected_responses_keep_their_amplitude(extent: float, allowed: float):
    rest = head(25.0)
    response = block_design(FRAMES, INTERVAL)
    weight = blob(rest, extent)
    task = replace(rest, data=inject(rest.data, weight, response, 0.01))
    without, with_task = denoise_bold(rest), denoise_bold(task)
    design = design_matrix(response, INTERVAL)
    fits = [glm(clip.data, design) for clip in (with_task.clip, without.clip, task, rest)]
    kept = amplitude_kept(fits[0], fits[1], fits[2].beta - fits[3].beta, weight > 0.5)
    assert abs(1 - kept) < allowed
    assert kept == pytest.approx(without.report.kept, abs=0.03)


def test_t_values_grow_and_false_positives_do_not():
    rest = head(25.0)
    response = block_design(FRAMES, INTERVAL)
    weight = blob(rest, 10.0)
    task = replace(rest, data=inject(rest.data, weight, response, 0.02))
    done, null = denoise_bold(task), denoise_bold(rest)
    design = design_matrix(response, INTERVAL)
    after, before = glm(done.clip.data, design, dof_lost=done.dof_lost), glm(task.data, design)
    assert t_gain(after, before, weight > 0.5) > 1.03
    mask = tissue_mask(rest.data)
    designs = [events(seed) for seed in range(40)]
    plain = false_positive_rate(rest.data, designs, mask)
    corrected = false_positive_rate(null.clip.data, designs, mask, dof_lost=null.dof_lost)
    uncorrected = false_positive_rate(null.clip.data, designs, mask)
    assert abs(corrected - plain) < 0.01
    assert uncorrected > plain + 0.01  # the correction is needed


def test_it_grows_no_smoother_than_allowed():
    for growth in (0.02, 0.05):
        done = denoise_bold(head(25.0), growth=growth, bias=0.5)
        assert 0.7 * growth < done.report.growth <= growth and done.report.limit == "smoothness"


def test_a_series_without_noise_comes_back_as_it_is():
    rest = head(0.0)
    g = torch.Generator().manual_seed(4)
    course = torch.nn.functional.avg_pool1d(torch.randn(1, 1, FRAMES + 8, generator=g), 9, 1)[0, 0]
    # Sharp in space and all signal: nothing of it is plausible, and nothing of it may go.
    checks = ((torch.arange(40)[:, None] + torch.arange(40)) % 2 * 2 - 1).float()
    quiet = replace(rest, data=rest.data * (1 + 0.02 * course.view(1, 1, -1, 1, 1) * checks))
    sigma = torch.full((8, 1, 1, 40, 40), 0.05)
    done = denoise_bold(quiet, sigma=sigma)
    assert done.report.share < 0.01
    change = (done.clip.data - quiet.data).abs().max() / quiet.data.sub(rest.data).abs().max()
    assert float(change) < 0.01


def test_the_slow_mean_and_air_are_untouched():
    clip = head(25.0)
    drift = 20 * torch.cos(torch.pi * (torch.arange(FRAMES) + 0.5) / FRAMES).view(1, 1, -1, 1, 1)
    clip = replace(clip, data=clip.data + drift)
    done = denoise_bold(clip)
    mask = tissue_mask(clip.data).expand_as(clip.data)
    assert torch.equal(done.clip.data[~mask], clip.data[~mask])
    slow = clip.data.double() - detrend(clip.data, INTERVAL)
    assert torch.allclose(done.clip.data.double() - detrend(done.clip.data, INTERVAL), slow, atol=0.02)
    assert torch.allclose(done.removed, clip.data - done.clip.data, atol=1e-3)


def test_it_does_the_same_every_time_and_scales_with_the_units():
    clip = head(25.0)
    one, two = denoise_bold(clip), denoise_bold(clip)
    assert torch.equal(one.clip.data, two.clip.data)
    scaled = denoise_bold(clip.with_data(4 * clip.data))
    assert torch.allclose(scaled.clip.data, 4 * one.clip.data, rtol=1e-4)


def test_what_is_fast_and_sharp_loses_just_the_share():
    clip = head(25.0)
    checks = ((torch.arange(40)[:, None] + torch.arange(40)) % 2 * 2 - 1).float()
    fast = (torch.arange(FRAMES) % 2 * 2 - 1).float().view(1, 1, -1, 1, 1)
    middle = torch.zeros(8, 1, 1, 40, 40)
    middle[2:6, :, :, 12:28, 12:28] = 1
    pattern = 100 * checks * fast * middle
    done = denoise_bold(clip.with_data(clip.data + pattern))
    left = float((done.clip.data * pattern).sum() / pattern.square().sum())
    assert left == pytest.approx(1 - done.report.share, abs=0.01)


def test_complex_series_stay_complex():
    clip = head(25.0)
    g = torch.Generator().manual_seed(9)
    turned = torch.complex(clip.data, 25 * torch.randn(clip.data.shape, generator=g)) * torch.exp(torch.tensor(0.7j))
    done = denoise_bold(clip.with_data(turned))
    assert done.clip.is_complex and 0 < done.report.share < 1
    before, after = (detrend(each, INTERVAL).var() for each in (turned.abs(), done.clip.data.abs()))
    assert after < 0.95 * before


@pytest.mark.parametrize(
    ("change", "fault", "words"),
    [
        (lambda c: replace(c, data=c.data[:, :, :7], times=c.times[:7]), InputError, "too few"),
        (lambda c: replace(c, times=np.cumsum(1 + 0.3 * (np.arange(FRAMES) % 2))), InputError, "evenly"),
        (lambda c: c.with_data(torch.zeros_like(c.data)), InputError, "no tissue"),
    ],
)
def test_what_cannot_be_denoised_is_refused(change, fault, words):
    with pytest.raises(fault, match=words):
        denoise_bold(change(head(25.0)))


def test_impossible_limits_are_usage_errors():
    with pytest.raises(UsageError, match="bias"):
        denoise_bold(head(25.0), bias=0.0)
