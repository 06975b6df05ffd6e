"""Temporal statistics against what is known of still, smooth and random series."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from medseq import UsageError, temporal_statistics

FRAMES = 16


def random_image(seed: int, items: int = 1) -> Tensor:
    return 1 + torch.rand(items, 1, 1, 24, 24, generator=torch.Generator().manual_seed(seed))


def wave(cycles: int, periodic: bool) -> Tensor:
    """Still tissue plus a picture that comes and goes `cycles` times (a half as often where nothing is periodic)."""
    frame = torch.arange(FRAMES)
    turn = 2 * math.pi * cycles * frame / FRAMES if periodic else math.pi * cycles * (frame + 0.5) / FRAMES
    return 3 * random_image(0) + random_image(1) * turn.cos().view(1, 1, -1, 1, 1)


@pytest.mark.parametrize("periodic", [True, False])
def test_a_still_clip_neither_moves_nor_flickers(periodic: bool) -> None:
    found = temporal_statistics(random_image(0, items=2).expand(-1, -1, 7, -1, -1), periodic)
    for figure, value in ((found.flicker, 0.0), (found.correlation, 1.0), (found.motion, 0.0), (found.fast, 0.0)):
        torch.testing.assert_close(figure, torch.full((2,), value, dtype=torch.float64))
    assert not found.spectrum.any()


@pytest.mark.parametrize("periodic", [True, False])
def test_white_noise_has_the_figures_that_the_text_says(periodic: bool) -> None:
    # Far from zero, so that the magnitude stays Gaussian.
    noise = 50 + torch.randn(2, 1, FRAMES, 64, 64, generator=torch.Generator().manual_seed(0))
    found = temporal_statistics(noise, periodic)
    within = {"atol": 0.02, "rtol": 0.0, "check_dtype": False}
    torch.testing.assert_close(found.flicker, torch.ones(2), **within)
    torch.testing.assert_close(found.correlation, torch.zeros(2), **within)
    # The mean over T frames takes 1 / T of the variance along.
    torch.testing.assert_close(found.motion, torch.full((2,), (1 - 1 / FRAMES) ** 0.5), **within)
    fast = 7 / 15  # periodic: +-5, +-6, +-7 and 8 of 15 frequencies; mirrored: 9 to 15 of 1 to 15
    torch.testing.assert_close(found.fast, torch.full((2,), fast), **within)
    torch.testing.assert_close(found.spectrum.sum(1), torch.ones(2), check_dtype=False)
    expected = torch.ones(8 if periodic else 15)
    if periodic:
        expected[-1] = 0.5
    torch.testing.assert_close(found.spectrum, (expected / expected.sum()).expand(2, -1), **within)


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("cycles", [1, 5])
def test_one_frequency_stands_where_it_belongs(periodic: bool, cycles: int) -> None:
    found = temporal_statistics(wave(cycles, periodic), periodic)
    peak = int(found.spectrum[0].argmax())
    assert float(found.spectrum[0, peak]) == pytest.approx(1, abs=1e-9)
    assert float(found.frequency[peak]) == pytest.approx(cycles / (8 if periodic else 16))
    assert float(found.fast) == pytest.approx(float(periodic and cycles == 5))


def test_a_periodic_wave_by_hand() -> None:
    """m = 3 a + b cos(2 pi k t / T): motion rms(b) / sqrt(2) s; flicker 2 (1 - cos(2 pi k / T)) / sqrt(6) of it."""
    clip = wave(5, periodic=True)
    found = temporal_statistics(clip, periodic=True)
    motion = random_image(1).double().square().mean().sqrt() / 2**0.5 / clip.double().std(correction=0)
    assert float(found.motion) == pytest.approx(float(motion), rel=1e-6)
    gain = 2 * (1 - math.cos(2 * math.pi * 5 / FRAMES)) / 6**0.5
    assert float(found.flicker) == pytest.approx(gain * float(motion), rel=1e-6)


def test_shuffled_frames_flicker_and_the_scale_does_not_count() -> None:
    clip = wave(1, periodic=True)
    order = torch.randperm(FRAMES, generator=torch.Generator().manual_seed(0))
    smooth, shuffled = (temporal_statistics(c, periodic=True) for c in (clip, clip[:, :, order]))
    assert float(shuffled.flicker) > 4 * float(smooth.flicker)
    assert float(shuffled.correlation) < float(smooth.correlation)
    assert float(shuffled.motion) == pytest.approx(float(smooth.motion))
    scaled = temporal_statistics(torch.polar(1e-6 * clip, torch.rand(clip.shape)), periodic=True)
    assert float(scaled.flicker) == pytest.approx(float(smooth.flicker), rel=1e-4)
    assert float(scaled.fast) == pytest.approx(float(smooth.fast), abs=1e-6)


@pytest.mark.parametrize("bad", [torch.rand(1, 1, 2, 4, 4), torch.rand(1, 2, 4, 4, 4), torch.ones(1, 1, 4, 4, 4)])
def test_what_shows_no_motion_is_refused(bad: Tensor) -> None:
    with pytest.raises(UsageError):
        temporal_statistics(bad)
