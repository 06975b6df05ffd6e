"""The error of the warm start is estimated without the truth; here the truth is known."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch

from medseq.acquisition import average_image, whitened
from medseq.baselines import zero_filled
from medseq.clip import series_scale
from medseq.operators import Coils, Fourier, Mask
from medseq.patterns import equispaced, variable_density
from medseq.simulate import acquire, coil_maps, simulate_cine
from medseq.warmstart import LEFT_OUT, left_out, sense_operator, warm_start


@pytest.mark.parametrize(("acceleration", "noise", "seed"), [(3, 0.01, 1), (5, 0.01, 2), (5, 0.05, 3)])
def test_left_out_lines_tell_the_error(acceleration: float, noise: float, seed: int) -> None:
    """Within 45 % of the true one: it sets a noise level, which only has to be of the right size."""
    clip = simulate_cine(12, (64, 48), seed=seed)
    maps = coil_maps(6, (64, 48), seed)
    kspace = acquire(clip, coils=maps, acceleration=acceleration, noise=noise, centre=6, seed=seed)
    assert isinstance(kspace.noise, float)
    start = warm_start(kspace.data, kspace.keep, maps, kspace.noise, 0)
    image, error = start.image, start.error
    true = float(torch.view_as_real(image - clip.data).square().mean().sqrt())
    assert error == pytest.approx(true, rel=0.45)
    zeros = zero_filled(kspace.data, sense_operator(kspace.keep, maps))
    assert true < float(torch.view_as_real(zeros - clip.data).square().mean().sqrt())


@pytest.mark.parametrize(("size", "coils"), [((64, 48), 6), ((128, 72), 3)])
@pytest.mark.parametrize("quick", [False, True])
def test_the_power_missed_is_that_of_the_samples_left_out(size: tuple[int, int], coils: int, quick: bool) -> None:
    """By whole transforms, of small images and of those whose few lines are computed alone."""
    clip, maps = simulate_cine(8, size, seed=1), coil_maps(coils, size, 1)
    kspace = acquire(clip, coils=maps, acceleration=6, noise=0.01, centre=6, seed=1)
    assert isinstance(kspace.noise, float)
    out = (left_out(kspace.data, kspace.keep, 7) & kspace.keep).expand(kspace.data.shape)
    start = warm_start(kspace.data, kspace.keep, maps, kspace.noise, 7, quick=quick)
    assert start.blind is not None
    for image in (start.blind.image, 0.9 * start.blind.image):
        wrong = ((Fourier() @ Coils(maps))(image) - kspace.data)[out]
        assert start.blind.power(image) == pytest.approx(float(wrong.abs().square().mean()) / 2, rel=1e-3)


def test_an_average_that_is_known_is_taken() -> None:
    clip, maps = simulate_cine(8, (64, 48), seed=1), coil_maps(4, (64, 48), 1)
    kspace = replace(acquire(clip, coils=maps, acceleration=4, noise=0.01, seed=1), maps=maps)
    assert isinstance(kspace.noise, float)
    known = average_image(kspace)
    for quick in (False, True):
        begin = partial(warm_start, kspace.data, kspace.keep, maps, kspace.noise, 0, quick=quick)
        own, given, other = begin().image, begin(average=known).image, begin(average=0 * known).image
        torch.testing.assert_close(given, own, atol=1e-3, rtol=0)
        assert (other - own).abs().max() > 1e-2


def test_with_nothing_to_leave_out_the_noise_is_the_error() -> None:
    clip = simulate_cine(4, (32, 32))
    maps = coil_maps(3, (32, 32))
    keep = torch.ones(1, 1, 1, 32, 1, dtype=torch.bool)
    kspace = acquire(clip, coils=maps, keep=keep, noise=0.02)
    sigma = 0.02 * float(series_scale(clip.data.mean(2)))
    assert warm_start(Mask(keep)(kspace.data), keep, maps, sigma, 0).error == pytest.approx(sigma)
    assert not left_out(kspace.data, keep, 0).any()


def test_a_share_of_the_outer_lines_is_left_out() -> None:
    for frames in (1, 40):
        keep = variable_density(frames, 96, 3, 10, 1)
        out = left_out(torch.zeros(1, 2, frames, 96, 8, dtype=torch.complex64), keep, 5)
        assert not (out & ~keep).any() and not out[..., 43:53, :].any()
        spare = int(keep.sum()) - 10 * frames
        assert 0.5 * LEFT_OUT < int(out.sum()) / spare < 2 * LEFT_OUT if frames > 1 else int(out.sum()) >= 1


def test_the_error_of_one_frame_is_of_the_right_size() -> None:
    clip = simulate_cine(1, (96, 96), seed=4)
    maps = coil_maps(6, (96, 96), 4)
    kspace = acquire(clip, coils=maps, acceleration=3, noise=0.01, centre=8, seed=4)
    assert isinstance(kspace.noise, float)
    start = warm_start(kspace.data, kspace.keep, maps, kspace.noise, 1)
    image, error = start.image, start.error
    true = float(torch.view_as_real(image - clip.data).square().mean().sqrt())
    assert true / 3 < error < 3 * true


def test_the_same_lines_in_every_frame_are_unfolded_for_the_average() -> None:
    """With a calibration scan; the scale of the series must not depend on the acceleration either."""
    clip, maps = simulate_cine(8, (48, 40), seed=3), coil_maps(8, (48, 40))
    whole = acquire(clip, coils=maps, keep=torch.ones(1, 1, 1, 1, 1, dtype=torch.bool), noise=1e-3)
    centre = ((torch.arange(48) - 24).abs() <= 10)[None, None, None, :, None]
    calibration = (whole.data * centre).mean(2, keepdim=True)
    keep = equispaced(1, 48, 2)
    part = replace(whole, data=whole.data * keep, keep=keep, calibration=calibration)
    full, unfolded = average_image(whitened(whole)[0]), average_image(whitened(part)[0])
    bright = full.abs() > 0.2 * series_scale(full)
    error = (unfolded.abs() - full.abs()).abs() / full.abs()
    assert float(error[bright].mean()) < 0.05  # that of the maps; folded it would be about 0.5
    assert float(series_scale(unfolded)) == pytest.approx(float(series_scale(full)), rel=0.03)
