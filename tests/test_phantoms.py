"""Phantoms and simulated acquisitions: determinism, periodicity, motion, and the physics they claim."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from medseq.clip import series_scale
from medseq.errors import UsageError
from medseq.operators import Coils, Fourier
from medseq.phantoms import clips
from medseq.phantoms.bold import block_design, haemodynamic_response
from medseq.phantoms.clips import ClipSource
from medseq.phantoms.motion import TimeAxis, displacement, pulse, warp
from medseq.phantoms.phases import Stills
from medseq.phantoms.scenes import crop_resolution, dead_leaves
from medseq.simulate import acquire, coil_maps, simulate_bold, simulate_cine


def test_batches_depend_on_seed_and_number_alone() -> None:
    """In any order, and from a fresh source: what makes training resumable."""
    one, other = ClipSource(seed=3, window=16), ClipSource(seed=3, window=16)
    first = [one.batch(n)[0] for n in (5, 2)]
    again = [other.batch(n)[0] for n in (2, 5)]
    assert torch.equal(first[0], again[1]) and torch.equal(first[1], again[0])
    assert not torch.equal(first[0].flatten()[:64], ClipSource(seed=4, window=16).batch(5)[0].flatten()[:64])


def test_batches_hold_what_the_source_promises() -> None:
    source = ClipSource(
        window=16, frames=(1, 4), frames_per_batch=8, stills=Stills.single(torch.rand(3, 40, 40)), real_share=1.0
    )
    lengths = set()
    for n in range(12):
        clips, _ = source.batch(n)
        lengths.add(clips.shape[2])
        assert clips.shape[0] * clips.shape[2] == 8 and clips.shape[3:] == (16, 16)
        assert (clips.imag == 0).all() and (clips.real >= 0).all() and torch.isfinite(clips.real).all()
    assert lengths == {1, 4}


def test_scale_of_a_scene_is_that_of_the_tasks() -> None:
    scales = [float(series_scale(dead_leaves((48, 64), torch.Generator().manual_seed(s)).image)) for s in range(8)]
    assert all(0.8 < s < 1.2 for s in scales)


def test_beats_are_periodic_and_move() -> None:
    g = torch.Generator().manual_seed(1)
    time = TimeAxis(torch.tensor([0.0, 0.25, 0.5, 1.0]), True)
    rings = torch.tensor([[16.0, 16.0, 6.0], [10.0, 20.0, 4.0], [20.0, 10.0, 4.0]])
    field = displacement((32, 32), rings, time, g, torch.device("cpu"))
    torch.testing.assert_close(field[0], field[3], atol=1e-4, rtol=0)
    assert (field[0] - field[2]).abs().max() > 0.5
    course = pulse(torch.linspace(0, 1, 101), g)
    assert course.min() >= -1e-6 and course.max() <= 1 + 1e-6 and abs(course[0] - course[-1]) < 1e-5


def test_blood_streams_through_what_is_bright() -> None:
    """Dark tissue stays as it is, bright tissue changes within bounds, and a beat later all is as it was."""
    still = torch.zeros(32, 32)
    still[8:24] = 1
    time = TimeAxis(torch.tensor([0.0, 0.2, 0.6, 1.0]), True)
    moved = clips._streaming(still.expand(4, 32, 32), time, torch.Generator().manual_seed(2))
    assert (moved[:, :8] == 0).all() and (moved >= 0.4 - 1e-6)[:, 8:24].all() and (moved <= 1.6 + 1e-6).all()
    assert (moved[0] - moved[2]).abs().max() > 0.02
    torch.testing.assert_close(moved[0], moved[3], atol=1e-3, rtol=0)


def test_clips_of_older_recipes_stay_as_they_were() -> None:
    """What is drawn for streaming blood is drawn only where a recipe has it."""
    without, never, always = (ClipSource(seed=3, window=16, flow_share=share) for share in (0.0, 1e-9, 1.0))
    assert torch.equal(without.batch(3)[0], ClipSource(seed=3, window=16).batch(3)[0])
    assert not torch.equal(without.batch(3)[0], always.batch(3)[0])
    assert not torch.equal(without.batch(3)[0], never.batch(3)[0])


def test_warp_moves_by_pixels() -> None:
    image = torch.rand(20, 20)
    field = torch.zeros(1, 8, 8, 2)
    field[..., 0], field[..., 1] = 2.0, -1.0
    torch.testing.assert_close(warp(image, field, (5, 6))[0], image[7:15, 5:13], atol=1e-5, rtol=1e-4)


def test_crop_resolution_keeps_values_of_smooth_images() -> None:
    t = torch.arange(32) / 32
    fine = 1 + torch.cos(2 * torch.pi * t)[:, None] * torch.sin(2 * torch.pi * 2 * t)
    torch.testing.assert_close(crop_resolution(fine, (16, 16)).real, fine[::2, ::2], atol=1e-5, rtol=0)


def test_cine_is_one_gated_cycle_with_its_geometry() -> None:
    clip = simulate_cine(8, (32, 48), slices=2, period=0.8, seed=2)
    assert clip.data.shape == (2, 1, 8, 32, 48) and clip.is_complex and clip.period == 0.8
    assert np.allclose(clip.times, np.arange(8) * 0.1)
    centre = clip.affine @ [24, 16, 0.5, 1]
    assert np.allclose(centre[:3], 0)
    assert torch.equal(simulate_cine(8, (32, 48), slices=2, seed=2).data, clip.data)
    assert clip.data.abs().std(2).max() > 0.1


def test_bold_signal_change_is_what_was_asked() -> None:
    series, activation = simulate_bold(40, (32, 32), 2, change=0.05, noise=1e-6, seed=1)
    assert not series.is_complex and series.data.shape == (2, 1, 40, 32, 32) and series.period is None
    strongest = activation.data.flatten().argmax()
    course = series.data.movedim(2, -1).reshape(-1, 40)[strongest].double()
    response = block_design(40, 2.0).double()
    t = torch.linspace(-1, 1, 40, dtype=torch.float64)
    # a general linear model with an offset and smooth nuisance finds the activation that was put in
    nuisance = [t**k for k in range(4)]
    design = torch.stack([response, *nuisance], 1)
    fit = torch.linalg.lstsq(design, course[:, None]).solution[:, 0]
    baseline = float((course - fit[0] * response).mean())
    assert float(fit[0]) / baseline == pytest.approx(float(activation.data.max()), abs=0.006)


def test_response_peaks_and_undershoots_when_it_should() -> None:
    t = torch.arange(0, 30, 0.1)
    h = haemodynamic_response(t)
    assert float(t[h.argmax()]) == pytest.approx(5.0, abs=0.2) and float(h.max()) == pytest.approx(1, abs=0.02)
    assert 12 < float(t[h.argmin()]) < 18 and h.min() < 0


def test_coil_maps_are_smooth_and_of_unit_norm() -> None:
    maps = coil_maps(8, (32, 40))
    torch.testing.assert_close(maps.abs().square().sum(1), torch.ones(1, 1, 32, 40))
    assert (maps[..., 1:] - maps[..., :-1]).abs().max() < 0.35


def test_acquisition_is_the_encoded_image_plus_the_noise_it_says() -> None:
    clip = simulate_cine(6, (48, 32), seed=1)
    kspace = acquire(clip, coils=4, acceleration=3, noise=0.02, seed=5)
    assert isinstance(kspace.noise, float)
    full = (Fourier() @ Coils(coil_maps(4, (48, 32), 5)))(clip.data)
    keep = kspace.keep.expand(kspace.data.shape)
    residual = torch.view_as_real((kspace.data - full)[keep])
    assert float(residual.std()) == pytest.approx(kspace.noise, rel=0.03)
    assert (kspace.data[~keep] == 0).all() and kspace.period == clip.period
    assert float(kspace.keep.float().mean()) == pytest.approx(1 / 3, abs=0.02)


@pytest.mark.parametrize("wrong", [{"noise": 0.0}, {"coils": 0}, {"acceleration": 400.0}, {"acceleration": 0.5}])
def test_impossible_acquisitions(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError):
        acquire(simulate_cine(2, (32, 32)), **wrong)  # type: ignore[arg-type]


def test_impossible_phantoms() -> None:
    for frames, size in ((0, (32, 32)), (4, (4, 4)), (4, (32, 100_000))):
        with pytest.raises(UsageError):
            simulate_cine(frames, size)
