"""Conjugate gradients against direct solvers, and the independence of the items of a batch."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from medseq.operators import Coils, Fourier, Mask
from medseq.solve import cg


def system(batch: int, size: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(batch, size, size, dtype=dtype, generator=generator)
    matrix = root @ root.mH / size + 0.5 * torch.eye(size, dtype=dtype)
    return matrix, torch.randn(batch, size, dtype=dtype, generator=generator)


def times(matrix: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: torch.einsum("bij,bj->bi", matrix, x)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_agrees_with_a_direct_solver(dtype: torch.dtype) -> None:
    matrix, b = system(4, 12, dtype)
    torch.testing.assert_close(cg(times(matrix), b, None, 60, 1e-12), torch.linalg.solve(matrix, b))


def test_ends_after_as_many_steps_as_unknowns() -> None:
    matrix, b = system(1, 6, torch.complex128)
    torch.testing.assert_close(cg(times(matrix), b, None, 6, 0.0), torch.linalg.solve(matrix, b))


def test_meets_its_tolerance_and_a_better_start_takes_fewer_steps() -> None:
    matrix, b = system(3, 30, torch.complex128)
    x = cg(times(matrix), b, None, 100, 1e-3)
    residual = (b - times(matrix)(x)).norm(dim=1) / b.norm(dim=1)
    assert (residual <= 1e-3).all()
    assert (residual >= 1e-6).all()  # it stopped there, it did not go on
    assert torch.equal(cg(times(matrix), b, x, 100, 1e-3), x)


def test_an_item_does_not_depend_on_its_neighbours() -> None:
    matrix, b = system(3, 20, torch.complex128)
    matrix[1] *= 1e4
    b[2] *= 1e-6
    together = cg(times(matrix), b, None, 15, 1e-6)
    alone = torch.cat([cg(times(matrix[i : i + 1]), b[i : i + 1], None, 15, 1e-6) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_frames_are_systems_of_their_own_where_asked() -> None:
    matrix, b = system(6, 20, torch.complex128)
    matrix[1] *= 1e4
    b[2] *= 1e-6
    alone = cg(times(matrix), b, None, 15, 1e-6)

    def normal(x: Tensor) -> Tensor:  # (2, 20, 3): items, unknowns, frames
        return torch.einsum("ftij,fjt->fit", matrix.view(2, 3, 20, 20), x)

    together = cg(normal, b.view(2, 3, 20).mT, None, 15, 1e-6, apart=(0, 2))
    torch.testing.assert_close(together.mT.reshape(6, 20), alone)


def test_zero_right_hand_sides_and_null_spaces_are_safe() -> None:
    matrix, b = system(2, 5, torch.complex128)
    b[0] = 0
    x = cg(times(matrix), b, None, 20, 0.0)
    assert torch.equal(x[0], torch.zeros_like(x[0]))
    assert torch.isfinite(x.abs()).all()
    nothing = cg(lambda v: torch.zeros_like(v), b, None, 20, 0.0)
    assert torch.equal(nothing, torch.zeros_like(b))


def test_goes_on_for_long_after_convergence() -> None:
    matrix, b = system(2, 5, torch.complex64)
    x = cg(times(matrix), b, None, 500, 0.0)
    torch.testing.assert_close(x, torch.linalg.solve(matrix, b), rtol=1e-4, atol=1e-4)


def test_solves_parallel_imaging() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(1, 4, 1, 8, 6, dtype=torch.complex128, generator=generator)
    maps = maps / maps.abs().square().sum(1, keepdim=True).sqrt()
    keep = torch.zeros(1, 1, 3, 8, 1, dtype=torch.bool)
    keep[:, :, :, ::2] = True
    A = Mask(keep) @ Fourier() @ Coils(maps)
    x = torch.randn(2, 1, 3, 8, 6, dtype=torch.complex128, generator=generator)
    torch.testing.assert_close(cg(A.normal, A.adjoint(A(x)), None, 300, 1e-12), x, rtol=1e-5, atol=1e-7)


def test_shapes_are_known_without_data() -> None:
    b = torch.zeros(2, 1, 3, 4, 4, dtype=torch.complex64, device="meta")
    assert cg(lambda x: 2 * x, b, None, 5, 1e-3).shape == b.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_on_cuda() -> None:
    matrix, b = system(3, 10, torch.complex128)
    host = cg(times(matrix), b, None, 10, 1e-8)
    torch.testing.assert_close(cg(times(matrix.cuda()), b.cuda(), None, 10, 1e-8).cpu(), host)
