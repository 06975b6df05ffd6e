"""Coil maps against the truth and against SigPy; compression keeps what few coils can hold."""

from __future__ import annotations

import math

import pytest
import sigpy.mri.app
import torch
from torch import Tensor

from medseq.clip import KSpace
from medseq.coils import (
    average_frames,
    coil_products,
    compress_coils,
    espirit,
    estimate_maps,
    full_centre,
    virtual_coils,
)
from medseq.errors import InputError, UsageError
from medseq.noise import noise_covariance, unit_noise
from medseq.operators import Coils, Fourier
from medseq.patterns import equispaced, pseudo_radial, variable_density

LINE = torch.ones(1, 1, 1, 1, 1, dtype=torch.bool)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def ring_of_coils(coils: int, y: int, x: int) -> Tensor:
    """Smooth maps (1, C, 1, Y, X) of unit root-sum-of-squares: coils on a circle, each with a phase that runs."""
    rows, columns = torch.linspace(-1, 1, y).view(-1, 1), torch.linspace(-1, 1, x)
    maps = []
    for angle in (2 * math.pi * c / coils for c in range(coils)):
        distance = (rows - 1.2 * math.sin(angle)) ** 2 + (columns - 1.2 * math.cos(angle)) ** 2
        maps.append(torch.polar(torch.exp(-distance / 2), 2 * angle + rows * math.cos(angle) + columns))
    stack = torch.stack(maps)[None, :, None]
    return stack / stack.abs().square().sum(1, keepdim=True).sqrt()


def body(y: int, x: int) -> Tensor:
    """Where the object of `acquired` is: an ellipse away from the edges, (Y, X)."""
    rows, columns = torch.linspace(-1, 1, y).view(-1, 1), torch.linspace(-1, 1, x)
    return (rows / 0.75) ** 2 + (columns / 0.7) ** 2 < 1


def acquired(maps: Tensor, frames: int = 6, sigma: float = 0.002) -> Tensor:
    """K-space of a textured ellipse that pulsates a little, with noise."""
    y, x = maps.shape[-2:]
    texture = torch.nn.functional.interpolate(
        torch.rand(1, 1, 8, 8, generator=seeded(1)), size=(y, x), mode="bilinear", align_corners=True
    )
    beat = 1 + 0.1 * torch.sin(torch.arange(frames)).view(-1, 1, 1)
    image = ((0.5 + texture[0]) * body(y, x) * beat)[None, None].to(torch.complex64)
    data = (Fourier() @ Coils(maps))(image)
    return data + sigma * unit_noise(data, seeded())


def agreement(one: Tensor, other: Tensor) -> Tensor:
    """|<one, other>| at every voxel: 1 where two unit vectors over coils differ by a phase at most."""
    return (one.conj() * other).sum(1).abs()[0, 0]


@pytest.mark.parametrize(("coils", "y", "x"), [(8, 48, 40), (4, 45, 39)])
def test_maps_are_the_true_ones_from_undersampled_frames(coils: int, y: int, x: int) -> None:
    maps = ring_of_coils(coils, y, x)
    keep = variable_density(6, y, 2, centre=12)
    estimated = estimate_maps(KSpace(torch.where(keep, acquired(maps), 0), keep))
    assert estimated.shape == maps.shape and estimated.dtype == torch.complex64
    assert agreement(estimated, maps)[body(y, x)].min() > 0.99


def test_maps_agree_with_sigpy() -> None:
    y, x = 48, 40
    data = acquired(ring_of_coils(6, y, x), frames=1)
    expected = sigpy.mri.app.EspiritCalib(data[0, :, 0].numpy(), crop=0, show_pbar=False).run()
    estimated = estimate_maps(KSpace(data, LINE))
    similar = agreement(estimated, torch.from_numpy(expected)[None, :, None])
    assert similar[body(y, x)].min() > 0.999
    assert similar.mean() > 0.98


def test_eigenvalues_agree_with_sigpy() -> None:
    y, x = 36, 32
    data = acquired(ring_of_coils(4, y, x), frames=1)[0, :, 0]
    app = sigpy.mri.app.EspiritCalib(data.numpy(), crop=0, show_pbar=False, output_eigenvalue=True)
    expected = torch.from_numpy(app.run()[1][0])
    _, eigenvalue = espirit(data[:, 6:30, 4:28], (y, x))
    torch.testing.assert_close(eigenvalue, expected, rtol=0.01, atol=0)


def test_maps_have_unit_norm_everywhere_also_without_signal() -> None:
    estimated = estimate_maps(KSpace(acquired(ring_of_coils(5, 40, 36)), LINE))
    torch.testing.assert_close(estimated.abs().square().sum(1), torch.ones(1, 1, 40, 36))


def test_phase_of_the_maps_is_smooth_in_the_body_and_their_scale_is_free() -> None:
    data = acquired(ring_of_coils(8, 48, 40))
    estimated = estimate_maps(KSpace(data, LINE))
    step = (estimated[..., 1:] - estimated[..., :-1]).abs().square().sum(1).sqrt()[0, 0]
    assert step[body(48, 40)[:, 1:]].max() < 0.3
    torch.testing.assert_close(estimate_maps(KSpace(1e-4 * data, LINE)), estimated, rtol=0, atol=1e-3)


def test_slices_have_maps_of_their_own() -> None:
    one, other = (acquired(maps) for maps in (ring_of_coils(4, 32, 32), ring_of_coils(4, 32, 32).flip(1)))
    both = estimate_maps(KSpace(torch.cat([one, other]), LINE))
    torch.testing.assert_close(both[:1], estimate_maps(KSpace(one, LINE)))
    torch.testing.assert_close(both[1:], estimate_maps(KSpace(other, LINE)))


def test_interleaved_frames_calibrate_together() -> None:
    maps = ring_of_coils(6, 48, 40)
    keep = equispaced(6, 48, 3)
    estimated = estimate_maps(KSpace(torch.where(keep, acquired(maps), 0), keep))
    assert agreement(estimated, maps)[body(48, 40)].min() > 0.98


def test_few_lines_still_calibrate() -> None:
    maps = ring_of_coils(6, 48, 64)
    keep = torch.zeros(1, 1, 1, 48, 1, dtype=torch.bool)
    keep[:, :, :, 20:28] = True
    estimated = estimate_maps(KSpace(torch.where(keep, acquired(maps), 0), keep))
    assert agreement(estimated, maps)[body(48, 64)].mean() > 0.98


def test_one_coil_sees_all() -> None:
    data = acquired(torch.ones(1, 1, 1, 16, 16, dtype=torch.complex64))
    assert torch.equal(estimate_maps(KSpace(data, LINE)), torch.ones(1, 1, 1, 16, 16, dtype=torch.complex64))


def test_no_full_centre_is_refused() -> None:
    keep = torch.zeros(1, 1, 6, 32, 1, dtype=torch.bool)
    keep[:, :, :, ::2] = True
    with pytest.raises(InputError, match="full"):
        estimate_maps(KSpace(acquired(ring_of_coils(4, 32, 32)), keep))


@pytest.mark.parametrize("value", [0.0, math.nan])
def test_an_empty_or_broken_calibration_is_refused(value: float) -> None:
    with pytest.raises(InputError):
        espirit(torch.full((4, 12, 12), value, dtype=torch.complex64), (32, 32))


def test_a_calibration_larger_than_the_image_is_refused() -> None:
    with pytest.raises(UsageError):
        espirit(torch.ones(4, 12, 12, dtype=torch.complex64), (8, 32))


def test_the_average_of_frames_divides_by_how_often_each_place_was_measured() -> None:
    keep = variable_density(5, 16, 2, centre=2)
    still = acquired(ring_of_coils(3, 16, 12), frames=1)
    average, measured = average_frames(KSpace(torch.where(keep, still, 0), keep))
    torch.testing.assert_close(average, torch.where(keep.any(2, keepdim=True), still, 0))
    assert torch.equal(measured, keep.any(2, keepdim=True))


def test_the_full_centre() -> None:
    lines = torch.zeros(1, 1, 1, 16, 1, dtype=torch.bool)
    lines[:, :, :, [1, 5, 6, 7, 8, 9, 10, 14]] = True  # DC is line 8: 5 to 10 are full
    assert full_centre(lines, (16, 12)) == (6, 12)
    assert full_centre(torch.ones_like(lines), (16, 12)) == (16, 12)
    assert full_centre(torch.zeros_like(lines), (16, 12)) == (0, 0)
    cross = torch.zeros(1, 1, 1, 33, 33, dtype=torch.bool)
    cross[..., 16, :] = cross[..., :, 16] = True
    cross[..., 12:21, 10:23] = True
    assert full_centre(cross, (33, 33)) == (9, 13)
    radial = pseudo_radial(40, (32, 32), 8).any(2, keepdim=True)
    assert min(full_centre(radial, (32, 32))) >= 8


def few_sources(coils: int = 8, sources: int = 3) -> tuple[Tensor, Tensor]:
    """Maps (1, C, 1, Y, X) that are mixtures of a few, and k-space of an object seen through them, without noise."""
    mixing = torch.linalg.qr(torch.randn(coils, sources, dtype=torch.complex64, generator=seeded(3))).Q
    maps = torch.einsum("cs,bstyx->bctyx", mixing, ring_of_coils(sources, 24, 20))
    return maps, acquired(maps, sigma=0.0)


def compressed(kspace: KSpace, virtual: int) -> KSpace:
    return compress_coils(kspace, virtual_coils(coil_products(kspace.data), virtual))


def test_compression_loses_nothing_that_fits() -> None:
    maps, data = few_sources()
    covariance = noise_covariance(unit_noise(torch.empty(8, 4000, dtype=torch.complex64), seeded()))
    less = compressed(KSpace(data, LINE, maps, covariance), 3)
    assert less.data.shape == (1, 3, 6, 24, 20) and less.maps is not None
    torch.testing.assert_close(less.data.norm(), data.norm(), rtol=1e-5, atol=0)
    whole = (Fourier() @ Coils(maps)).adjoint(data)
    torch.testing.assert_close((Fourier() @ Coils(less.maps)).adjoint(less.data), whole, rtol=1e-4, atol=1e-4)
    assert isinstance(less.noise, Tensor)
    torch.testing.assert_close(less.noise, torch.eye(3, dtype=torch.complex64), rtol=0, atol=0.1)


def test_compression_keeps_the_strongest_part_and_orders_it() -> None:
    data = acquired(ring_of_coils(6, 24, 20))
    less = compressed(KSpace(data, LINE, noise=0.002), 4)
    energy = less.data.abs().square().sum((0, 2, 3, 4))
    assert (energy.diff() <= 0).all()
    assert energy.sum() > 0.95 * data.abs().square().sum()
    assert less.noise == 0.002 and less.maps is None


def test_compression_keeps_the_mask() -> None:
    keep = variable_density(6, 24, 3, centre=4)
    data = torch.where(keep, acquired(ring_of_coils(6, 24, 20)), 0)
    less = compressed(KSpace(data, keep), 2)
    assert torch.equal(less.keep, keep)
    assert not less.data[~keep.expand(less.data.shape)].any()


@pytest.mark.parametrize("virtual", [0, 9])
def test_impossible_compression_is_refused(virtual: int) -> None:
    with pytest.raises(UsageError):
        virtual_coils(coil_products(few_sources()[1]), virtual)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_maps_on_cuda() -> None:
    data = acquired(ring_of_coils(6, 32, 32))
    host, device = estimate_maps(KSpace(data, LINE)), estimate_maps(KSpace(data.cuda(), LINE.cuda()))
    assert agreement(host, device.cpu())[body(32, 32)].min() > 0.999
