"""The draw and the solve obey the Gaussian laws they claim."""

from __future__ import annotations

import pytest
import torch

from medseq.errors import UsageError
from medseq.measurement import Measurement
from medseq.noise import unit_noise
from medseq.operators import Coils, Fourier, Identity, Mask


def _real_std(x: torch.Tensor) -> float:
    return float(torch.view_as_real(x - x.mean()).std())


def test_draw_of_a_mask_has_the_law_of_two_beliefs() -> None:
    """A = Mask, sigma = spread: std sigma / sqrt 2 where measured (two equal beliefs meet), elsewhere the spread."""
    g = torch.Generator().manual_seed(1)
    keep = torch.rand(1, 1, 6, 64, 64, generator=g) < 0.5
    clean, y = torch.full((4, 1, 6, 64, 64), 2.0 + 1j), torch.full((4, 1, 6, 64, 64), 4.0 - 1j)
    sigma = 0.3
    draw = Measurement(torch.where(keep, y, 0), Mask(keep), sigma).draw(clean, sigma, g)
    where = keep.expand_as(draw)
    assert _real_std(draw[where]) == pytest.approx(sigma / 2**0.5, rel=0.03)
    assert _real_std(draw[~where]) == pytest.approx(sigma, rel=0.03)
    assert abs(draw[where].mean() - (3 + 0j)) < 0.01
    assert abs(draw[~where].mean() - (2 + 1j)) < 0.01


def test_solve_is_the_weighted_mean() -> None:
    keep = torch.tensor([True, False]).reshape(1, 1, 2, 1, 1)
    y = torch.full((1, 1, 2, 4, 4), 1.0 + 0j)
    solved = Measurement(torch.where(keep, y, 0), Mask(keep), 0.1).solve(torch.zeros_like(y), 0.3)
    torch.testing.assert_close(solved[:, :, 0], torch.full((1, 1, 4, 4), 0.9 + 0j), atol=1e-4, rtol=0)
    torch.testing.assert_close(solved[:, :, 1], torch.zeros(1, 1, 4, 4, dtype=torch.complex64))


def test_solve_satisfies_the_normal_equations_with_noise_map_and_framewise_spread() -> None:
    g = torch.Generator().manual_seed(2)
    maps = torch.randn(1, 3, 1, 8, 10, generator=g, dtype=torch.complex64)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    A = Mask(torch.rand(1, 1, 5, 8, 1, generator=g) < 0.6) @ Fourier() @ Coils(maps)
    x0 = torch.randn(2, 1, 5, 8, 10, generator=g, dtype=torch.complex64)
    y = A(torch.randn(x0.shape, generator=g, dtype=torch.complex64))
    sigma = 0.2 + torch.rand(1, 1, 1, 8, 10, generator=g)
    spread = torch.tensor([0.1, 0.5, 1.0, 0.02, 0.3]).reshape(1, 1, 5, 1, 1)
    x = Measurement(y, A, sigma, iterations=60, tolerance=1e-6).solve(x0, spread)
    gradient = A.adjoint((A(x) - y) / sigma**2) + (x - x0) / spread**2
    scale = A.adjoint(y / sigma**2).norm()
    assert gradient.norm() < 1e-4 * scale


def test_chunks_of_frames_change_nothing() -> None:
    g = torch.Generator().manual_seed(3)
    keep = torch.rand(1, 1, 7, 6, 1, generator=g) < 0.7
    x = torch.randn(1, 1, 7, 6, 6, generator=g, dtype=torch.complex64)
    A = Mask(keep) @ Fourier()
    results = [
        Measurement(A(x), A, 0.1, iterations=3, chunk=chunk).draw(
            torch.zeros_like(x), 0.4, torch.Generator().manual_seed(9)
        )
        for chunk in (2, 7, 100)
    ]
    for other in results[1:]:  # long before convergence, too: every frame goes its own way
        torch.testing.assert_close(other, results[0], atol=1e-5, rtol=1e-5)


def test_noise_of_a_batch_item_is_fresh_and_identity_draw_averages_belief_and_data() -> None:
    g = torch.Generator().manual_seed(4)
    y = torch.zeros(2, 1, 4, 32, 32, dtype=torch.complex64)
    draw = Measurement(y, Identity(), 1.0).draw(y, 1.0, g)
    assert _real_std(draw) == pytest.approx(0.5**0.5, rel=0.03)
    assert abs((draw[0] * draw[1].conj()).mean()) < 0.05


@pytest.mark.parametrize("sigma", [0.0, -1.0, torch.zeros(1, 1, 1, 1, 1)])
def test_hard_consistency_is_refused(sigma: float | torch.Tensor) -> None:
    y = torch.zeros(1, 1, 1, 2, 2, dtype=torch.complex64)
    with pytest.raises(UsageError, match="positive"):
        Measurement(y, Identity(), sigma)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device on this machine")
def test_draw_on_a_gpu_equals_that_on_the_cpu() -> None:
    g = torch.Generator().manual_seed(5)
    keep = torch.rand(1, 1, 4, 16, 1, generator=g) < 0.5
    x = unit_noise(torch.zeros(1, 1, 4, 16, 16, dtype=torch.complex64), g)
    results = []
    for device in ("cpu", "cuda"):
        A = Mask(keep.to(device)) @ Fourier()
        seed = torch.Generator().manual_seed(6)
        results.append(Measurement(A(x.to(device)), A, 0.1).draw(torch.zeros_like(x, device=device), 0.4, seed).cpu())
    torch.testing.assert_close(results[0], results[1], atol=1e-4, rtol=1e-4)
