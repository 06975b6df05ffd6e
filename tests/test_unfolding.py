"""SENSE of whole lines, solved exactly: against conjugate gradients, Pruessmann's g-factor, drawn noise and itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medseq.noise import unit_noise
from medseq.operators import Coils, Fourier, Mask
from medseq.patterns import equispaced, variable_density
from medseq.phantoms.epi import g_factor
from medseq.simulate import coil_maps
from medseq.solve import cg
from medseq.unfolding import spanned, unfold

SIZE = HEIGHT, WIDTH = 36, 20
FRAMES = 6
MAPS = coil_maps(8, SIZE)
EVEN, EVERYWHERE = torch.ones(SIZE), torch.ones(SIZE, dtype=torch.bool)
G = torch.Generator().manual_seed(0)
IMAGES = torch.randn(1, 1, FRAMES, *SIZE, dtype=torch.complex64, generator=G)
SMOOTH = torch.nn.functional.interpolate(torch.rand(1, 1, 4, 4, generator=G), size=SIZE, mode="bilinear")[0, 0] + 0.1


def same_lines(step: int, frames: int = FRAMES) -> Tensor:
    return equispaced(1, HEIGHT, step).expand(1, 1, frames, HEIGHT, 1)


def partial_fourier(keep: Tensor) -> Tensor:
    keep = keep.clone()
    keep[:, :, :, : HEIGHT // 4] = False
    return keep


def measured(images: Tensor, keep: Tensor) -> Tensor:
    return (Mask(keep) @ Fourier() @ Coils(MAPS))(images)


def in_band(images: Tensor, keep: Tensor) -> Tensor:
    lines = spanned(keep.any(2)[0, 0, :, 0])
    return Fourier().adjoint(lines[:, None] * Fourier()(images))


def to_the_edges(keep: Tensor) -> Tensor:
    keep = keep.clone()
    keep[:, :, :, [0, -1]] = True
    return keep


@pytest.mark.parametrize(
    "keep",
    [same_lines(2), equispaced(FRAMES, HEIGHT, 2), to_the_edges(variable_density(FRAMES, HEIGHT, 1.5))],
    ids=["same lines", "shifted", "random"],
)
def test_it_is_what_conjugate_gradients_find(keep: Tensor) -> None:
    """Where the loss allows all of the damping, 1e-3, and the band is whole."""
    y = measured(IMAGES, keep)
    A = Mask(keep) @ Fourier() @ Coils(MAPS)
    theirs = cg(lambda x: A.normal(x) + 1e-3 * x, A.adjoint(y), None, 500, 1e-6)
    ours = unfold(y, keep, MAPS, EVEN, EVERYWHERE, loss=1e3).image
    torch.testing.assert_close(ours, theirs, rtol=0, atol=3e-3)


@pytest.mark.parametrize("step", [2, 3])
def test_noise_is_amplified_by_the_g_factor(step: int) -> None:
    """The closed form of Pruessmann (1999, eq. 23), which knows nothing of k-space."""
    keep = same_lines(step)
    noise = unfold(measured(IMAGES, keep), keep, MAPS, EVEN, EVERYWHERE, loss=1e-6, least=1e-5).noise[0, 0, 0]
    wanted = g_factor(MAPS[0, :, 0][:, None], EVERYWHERE[None], float(step), 1)[0]
    told = wanted < 3  # where it ends
    assert told.float().mean() > 0.8
    torch.testing.assert_close((noise / step**0.5)[told], wanted[told], rtol=0.03, atol=0)


@pytest.mark.parametrize(
    ("keep", "weights"),
    [
        (same_lines(2), EVEN),
        (same_lines(3), SMOOTH),
        (partial_fourier(equispaced(FRAMES, HEIGHT, 2)), SMOOTH),
        (variable_density(FRAMES, HEIGHT, 2.0), EVEN),
    ],
    ids=["same lines", "weighted", "partial Fourier, shifted", "random"],
)
def test_noise_and_amplitude_are_what_is_told_of_them(keep: Tensor, weights: Tensor) -> None:
    keep = keep.expand(1, 1, FRAMES, HEIGHT, 1)
    often = keep.repeat(1, 1, 80, 1, 1)
    noise = unit_noise(torch.zeros(1, 8, 80 * FRAMES, *SIZE, dtype=torch.complex64), torch.Generator().manual_seed(1))
    found = unfold(torch.where(often, noise, 0), often, MAPS, weights, EVERYWHERE)
    std = (found.image.abs().square().mean(2, keepdim=True) / 2).sqrt()
    assert float((std / found.noise - 1).abs().max()) < 0.15
    assert float((std / found.noise).mean()) == pytest.approx(1, abs=0.01)
    for y, x in ((18, 10), (5, 3)):
        point = torch.zeros_like(IMAGES)
        point[..., y, x] = 1
        point = in_band(point, keep)
        back = unfold(measured(point, keep), keep, MAPS, weights, EVERYWHERE).image
        share = (point.conj() * back).real.sum() / point.abs().square().sum()
        assert float(share) == pytest.approx(float(found.kept[0, 0, 0, y, x]), abs=2e-4)


@pytest.mark.parametrize("keep", [same_lines(3), partial_fourier(equispaced(FRAMES, HEIGHT, 3))])
def test_no_more_than_the_loss_is_lost_in_tissue(keep: Tensor) -> None:
    tissue = torch.zeros(SIZE, dtype=torch.bool)
    tissue[8:28, 4:16] = True
    for loss in (0.03, 0.01):
        kept = unfold(measured(IMAGES, keep), keep, MAPS, EVEN, tissue, loss=loss, least=1e-5).kept[0, 0, 0]
        assert float(kept[tissue].quantile(0.05)) > 1 - 1.01 * loss
        assert float(kept.max()) <= 1


def test_the_band_reaches_as_far_as_lines_are_missing_between() -> None:
    lines = torch.zeros(16, dtype=torch.bool)
    lines[5::3] = True  # 5, 8, 11, 14
    assert spanned(lines).nonzero().flatten().tolist() == list(range(3, 16))
    lines[:] = False
    lines[4:9] = True
    assert torch.equal(spanned(lines), lines)


def test_what_no_frame_measured_stays_zero_and_a_frame_without_lines_too() -> None:
    keep = partial_fourier(equispaced(FRAMES, HEIGHT, 2))
    keep[:, :, 3] = False
    found = unfold(measured(in_band(IMAGES, keep), keep), keep, MAPS, EVEN, EVERYWHERE)
    lines = spanned(keep.any(2)[0, 0, :, 0])
    assert not bool(found.image[:, :, 3].any())
    assert float(Fourier()(found.image)[..., ~lines, :].abs().max()) < 1e-4
    there = [0, 1, 2, 4, 5]
    error = (found.image - in_band(IMAGES, keep))[:, :, there]
    assert float(error.abs().mean()) < 0.02
