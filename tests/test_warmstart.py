"""The error of the warm start is estimated without the truth; here the truth is known."""

from __future__ import annotations

import pytest
import torch

from medseq.baselines import zero_filled
from medseq.clip import series_scale
from medseq.operators import Mask
from medseq.simulate import acquire, coil_maps, simulate_cine
from medseq.warmstart import left_out_error, sense_operator, warm_start


@pytest.mark.parametrize(("acceleration", "noise", "seed"), [(3, 0.01, 1), (5, 0.01, 2), (5, 0.05, 3)])
def test_left_out_lines_tell_the_error(acceleration: float, noise: float, seed: int) -> None:
    """Within 40 % of the true one: it sets a noise level, which only has to be of the right size."""
    clip = simulate_cine(12, (64, 48), seed=seed)
    maps = coil_maps(6, (64, 48), seed)
    kspace = acquire(clip, coils=maps, acceleration=acceleration, noise=noise, centre=6, seed=seed)
    assert isinstance(kspace.noise, float)
    image, error = warm_start(kspace.data, kspace.keep, maps, kspace.noise, 0)
    true = float(torch.view_as_real(image - clip.data).square().mean().sqrt())
    assert error == pytest.approx(true, rel=0.4)
    zeros = zero_filled(kspace.data, sense_operator(kspace.keep, maps))
    assert true < float(torch.view_as_real(zeros - clip.data).square().mean().sqrt())


def test_with_nothing_to_leave_out_the_noise_is_the_error() -> None:
    clip = simulate_cine(4, (32, 32))
    maps = coil_maps(3, (32, 32))
    keep = torch.ones(1, 1, 1, 32, 1, dtype=torch.bool)
    kspace = acquire(clip, coils=maps, keep=keep, noise=0.02)
    sigma = 0.02 * float(series_scale(clip.data.mean(2)))
    assert left_out_error(Mask(keep)(kspace.data), keep, maps, sigma, 0) == pytest.approx(sigma)
