"""Convex reconstruction baselines: closed forms, conditions of optimality, and the laws that all of them keep."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

import numpy as np
import pytest
import pywt
import torch
from skimage.restoration import denoise_tv_chambolle
from test_baselines import complex_randn, seeded
from torch import Tensor

from medseq.baselines import locally_low_rank, temporal_tv, total_variation, wavelet
from medseq.baselines.proximal import largest, shifted_blocks, shifts, soft_rank
from medseq.baselines.variation import _differences, _differences_adjoint
from medseq.baselines.wavelets import _analysis, _depth, _inverse, _transform
from medseq.errors import UsageError
from medseq.metrics import nrmse
from medseq.noise import unit_noise
from medseq.operators import Coils, Fourier, Identity, LinearOp, Mask
from medseq.patterns import variable_density
from medseq.simulate import coil_maps

METHODS: dict[str, Callable[..., Tensor]] = {
    "wavelet": wavelet,
    "total variation": total_variation,
    "temporal TV": temporal_tv,
    "locally low rank": locally_low_rank,
}
FRAMES, Y, X = 6, 28, 22
WHOLE = torch.ones(1, 1, 1, Y, 1, dtype=torch.bool)


def beating_disc(frames: int = FRAMES) -> Tensor:
    """A disc that beats inside a larger, still one, with a phase: (1, 1, T, Y, X) complex64."""
    rows, columns = torch.linspace(-1, 1, Y).view(-1, 1), torch.linspace(-1, 1, X)
    beat = 0.4 + 0.15 * torch.cos(2 * torch.pi * torch.arange(frames) / frames).view(-1, 1, 1)
    radius = (rows**2 + columns**2).sqrt()
    magnitude = torch.sigmoid(40 * (beat - radius)) + 0.5 * torch.sigmoid(40 * (0.8 - radius))
    return torch.polar(magnitude, (rows + columns).expand_as(magnitude))[None, None]


def operator(keep: Tensor | None = None) -> LinearOp:
    mask = Mask(variable_density(FRAMES, Y, 3, centre=4) if keep is None else keep)
    return mask @ Fourier() @ Coils(coil_maps(4, (Y, X)))


def small() -> tuple[LinearOp, Tensor]:
    """An undersampled operator and data that no image explains, in double precision."""
    keep = torch.rand(1, 1, 4, 6, 1, generator=seeded(1)) < 0.6
    A = Mask(keep) @ Fourier() @ Coils(complex_randn(1, 2, 1, 6, 4, seed=2) / 4)
    return A, A(complex_randn(1, 1, 4, 6, 4, seed=3)) + Mask(keep)(complex_randn(1, 2, 4, 6, 4, seed=4))


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).sum().real


@pytest.mark.parametrize("name", METHODS)
def test_every_method(name: str) -> None:
    A, method = operator(), METHODS[name]
    y = A(beating_disc())
    x = method(y, A, iterations=20)
    assert x.shape == (1, 1, FRAMES, Y, X) and x.dtype == torch.complex64
    torch.testing.assert_close(method(1000 * y, A, iterations=20), 1000 * x, rtol=1e-3, atol=1e-1)
    assert not method(torch.zeros_like(y), A, iterations=2).any()
    pair = method(torch.cat([y, 0.1j * y.flip(2)]), A, iterations=20)
    torch.testing.assert_close(pair[:1], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("frames", [1, FRAMES])
@pytest.mark.parametrize("name", METHODS)
def test_what_is_fully_measured_comes_back(name: str, frames: int) -> None:
    A, x = operator(WHOLE), beating_disc(frames)
    assert nrmse(METHODS[name](A(x), A), x) < 0.03


@pytest.mark.parametrize("name", METHODS)
def test_nothing_is_shrunk_without_a_penalty(name: str) -> None:
    A, x = operator(WHOLE), beating_disc()
    amount = {"wavelet": "threshold", "locally low rank": "threshold"}.get(name, "weight")
    torch.testing.assert_close(METHODS[name](A(x), A, regularization=0, **{amount: 0.0}), x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_noise_and_aliasing_are_removed(name: str) -> None:
    A, x = operator(), beating_disc()
    measured = A(x)
    y = measured + 0.01 * Mask(measured != 0)(unit_noise(measured, seeded()))
    error = nrmse(METHODS[name](y, A), x)
    assert error < 0.5 * nrmse(A.adjoint(y), x)


@pytest.mark.parametrize("name", METHODS)
def test_shapes_are_known_without_data(name: str) -> None:
    keep = torch.zeros(1, 1, 4, 9, 1, dtype=torch.bool, device="meta")
    A = Mask(keep) @ Fourier() @ Coils(torch.zeros(1, 3, 1, 9, 6, dtype=torch.complex64, device="meta"))
    y = torch.zeros(2, 3, 4, 9, 6, dtype=torch.complex64, device="meta")
    assert METHODS[name](y, A, iterations=2).shape == (2, 1, 4, 9, 6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_same_on_cuda(name: str) -> None:
    keep, maps = variable_density(FRAMES, Y, 3, centre=4), coil_maps(4, (Y, X))
    host, device = Mask(keep) @ Fourier() @ Coils(maps), Mask(keep.cuda()) @ Fourier() @ Coils(maps.cuda())
    y = host(beating_disc())
    assert nrmse(METHODS[name](y.cuda(), device).cpu(), METHODS[name](y, host)) < 1e-3


# Wavelets


@pytest.mark.parametrize("size", [(16, 24), (7, 33), (2, 1)])
def test_the_wavelet_is_orthogonal(size: tuple[int, int]) -> None:
    levels = _depth(size)
    block = 2**levels
    x = complex_randn(2, size[0] + -size[0] % block, size[1] + -size[1] % block)
    matrices = _analysis(size, levels, x)
    coefficients = _transform(x, matrices)
    torch.testing.assert_close(coefficients.norm(), x.norm())
    torch.testing.assert_close(_inverse(coefficients, matrices), x)


def test_the_wavelet_is_that_of_pywavelets() -> None:
    x = complex_randn(32, 40)
    ours = _transform(x, _analysis((32, 40), 2, x))
    # Both filter the same way, and start one voxel apart: in each level anew.
    coarse, (height, width) = x, x.shape
    for _ in range(2):
        shifted = coarse.roll((-1, -1), (0, 1)).numpy()
        low, (low_high, high_low, high) = pywt.dwt2(shifted, "db2", "periodization")
        details = [ours[height // 2 : height, width // 2 : width], ours[height // 2 : height, : width // 2]]
        np.testing.assert_allclose(details[0].abs(), np.abs(high), atol=1e-6)
        np.testing.assert_allclose(details[1].abs(), np.abs(low_high), atol=1e-6)
        np.testing.assert_allclose(ours[: height // 2, width // 2 : width].abs(), np.abs(high_low), atol=1e-6)
        coarse, height, width = torch.from_numpy(low), height // 2, width // 2
    np.testing.assert_allclose(ours[:height, :width], coarse, atol=1e-6)


def test_one_wavelet_step_shrinks_the_coefficients() -> None:
    y = complex_randn(1, 1, 2, 16, 16)
    matrices = _analysis((16, 16), 1, y)
    before, amount = _transform(y, matrices), 0.2 * largest(y)
    after = _transform(wavelet(y, Identity(), threshold=0.2, iterations=1), matrices)
    expected = torch.polar((before.abs() - amount).clamp(min=0), before.angle())
    torch.testing.assert_close(after, expected)


def test_the_wavelet_penalty_is_that_of_all_grids() -> None:
    A, x = operator(), beating_disc()
    y = A(x) + 0.02 * unit_noise(A(x), seeded())
    b, levels = A.adjoint(y), _depth((Y, X))
    matrices = _analysis((Y, X), levels, b)
    grids = [(i, j) for i in range(2**levels) for j in range(2**levels)]

    def objective(image: Tensor) -> Tensor:
        penalty = torch.zeros(())
        for shift in grids:
            penalty += _transform(shifted_blocks(image, shift, 2**levels), matrices).abs().sum()
        return (A(image) - y).abs().square().sum() / 2 + 0.01 * b.abs().max() * penalty / len(grids)

    few, many = (objective(wavelet(y, A, threshold=0.01, iterations=count)) for count in (3, 50))
    assert objective(b) > few > 1.02 * many
    elsewhere = (wavelet(y, A, threshold=amount, iterations=50) for amount in (0.005, 0.02))
    assert all(objective(image) > 1.003 * many for image in elsewhere)


# Total variation


@pytest.mark.parametrize("periodic", [False, True])
@pytest.mark.parametrize("axes", [(2,), (-2, -1)])
def test_differences_have_their_adjoint(axes: tuple[int, ...], periodic: bool) -> None:
    x, dual = complex_randn(2, 1, 4, 5, 3), complex_randn(len(axes), 2, 1, 4, 5, 3, seed=1)
    one, other = inner(dual, _differences(x, axes, periodic)), inner(_differences_adjoint(dual, axes, periodic), x)
    torch.testing.assert_close(one, other)
    expected = x.roll(-1, axes[0]) - x
    first = _differences(x, axes, periodic)[0]
    inside = slice(None) if periodic else slice(0, -1)
    torch.testing.assert_close(first.movedim(axes[0], 0)[inside], expected.movedim(axes[0], 0)[inside])


def test_total_variation_of_a_complete_frame_is_that_of_scikit_image() -> None:
    noisy = beating_disc(2).abs().double() + 0.2 * complex_randn(1, 1, 2, Y, X).real
    weight = 0.1 * float(noisy.max())
    # Slower to converge than ours: this many iterations come within a thousandth.
    expected = [denoise_tv_chambolle(frame.numpy(), weight, eps=1e-12, max_num_iter=5000) for frame in noisy[0, 0]]
    actual = total_variation(noisy.to(torch.complex128), Identity(), weight=0.1, iterations=300)
    torch.testing.assert_close(actual[0, 0].real, torch.from_numpy(np.stack(expected)), rtol=0, atol=2e-3)


@pytest.mark.parametrize("periodic", [False, True])
def test_a_jump_in_time_shrinks(periodic: bool) -> None:
    # Two levels of two frames: each moves by (edges at its ends) * weight / frames towards the other.
    y = torch.tensor([0, 0, 1, 1], dtype=torch.complex64).view(1, 1, 4, 1, 1)
    x = temporal_tv(y, Identity(), weight=0.2, regularization=0, periodic=periodic)
    moved = 0.2 if periodic else 0.1
    torch.testing.assert_close(x.flatten().real, torch.tensor([moved, moved, 1 - moved, 1 - moved]))
    flat = temporal_tv(y, Identity(), weight=2.0, regularization=0, periodic=periodic)
    torch.testing.assert_close(flat, torch.full_like(y, 0.5), rtol=0, atol=1e-4)


def test_temporal_tv_is_optimal() -> None:
    # The residual is D^T p of one p only, which must not exceed the weight and must align with the differences.
    A, y = small()
    b = A.adjoint(y)
    x = temporal_tv(y, A, weight=0.1, regularization=0.05, iterations=600)
    dual = -(b - A.normal(x) - 0.05 * x).cumsum(2)
    weight = 0.1 * b.abs().max()
    torch.testing.assert_close(dual[:, :, -1].abs().max(), torch.zeros((), dtype=torch.float64), rtol=0, atol=1e-5)
    torch.testing.assert_close(dual.abs().max(), weight, rtol=1e-4, atol=0)
    difference = x.diff(dim=2)
    torch.testing.assert_close(inner(dual[:, :, :-1], difference), weight * difference.abs().sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("method", [total_variation, temporal_tv])
def test_fifty_iterations_are_enough_for_variation(method: Callable[..., Tensor]) -> None:
    A, x = operator(), beating_disc()
    y = A(x) + 0.01 * unit_noise(A(x), seeded())
    b, axes = A.adjoint(y), (2,) if method is temporal_tv else (-2, -1)

    def objective(image: Tensor) -> float:
        variation = _differences(image, axes, False).abs().square().sum(0).sqrt().sum()
        return float((A(image) - y).abs().square().sum() / 2 + 0.01 * b.abs().max() * variation)

    few, more, best = (objective(method(y, A, weight=0.01, regularization=0.0, iterations=n)) for n in (5, 50, 300))
    assert objective(b) > few > more
    assert more < 1.002 * best


def test_a_cycle_has_no_first_frame() -> None:
    A = operator(variable_density(1, Y, 3, centre=6))
    y = A(beating_disc())
    x = temporal_tv(y, A, periodic=True)
    torch.testing.assert_close(temporal_tv(y.roll(2, 2), A, periodic=True), x.roll(2, 2), rtol=1e-3, atol=1e-3)


# Locally low rank


@pytest.mark.parametrize("shape", [(5, 9), (9, 5)])
def test_singular_values_are_shrunk(shape: tuple[int, int]) -> None:
    x = complex_randn(3, *shape)
    left, singular, right = torch.linalg.svd(x, full_matrices=False)
    amount = torch.tensor([0.0, 1.0, 100.0], dtype=torch.float64)
    expected = (left * (singular - amount[:, None]).clamp(min=0)[:, None]) @ right
    torch.testing.assert_close(soft_rank(x, amount), expected)


def test_one_step_treats_every_patch_alone() -> None:
    y = complex_randn(1, 1, 3, 10, 8)
    x = locally_low_rank(y, Identity(), threshold=0.3, patch=4, iterations=1)
    patches = [(slice(i, i + 4), slice(j, j + 4)) for i in (0, 4, 8) for j in (0, 4)]
    matrices = [y[0, 0][:, rows, columns].flatten(1) for rows, columns in patches]
    amount = 0.3 * max(torch.linalg.svdvals(matrix)[0] for matrix in matrices)
    for (rows, columns), matrix in zip(patches, matrices, strict=True):
        left, singular, right = torch.linalg.svd(matrix, full_matrices=False)
        expected = (left * (singular - amount).clamp(min=0)) @ right
        torch.testing.assert_close(x[0, 0][:, rows, columns].flatten(1), expected)


def test_one_patch_of_all_is_low_rank_and_optimal() -> None:
    A, y = small()
    b = A.adjoint(y)
    x = locally_low_rank(y, A, threshold=0.2, patch=6, regularization=0.05, iterations=1000)
    residual = (b - A.normal(x) - 0.05 * x).flatten(3)[0, 0]
    amount = 0.2 * torch.linalg.svdvals(b.flatten(3)[0, 0]).max()
    torch.testing.assert_close(torch.linalg.svdvals(residual).max(), amount, rtol=1e-4, atol=0)
    singular = torch.linalg.svdvals(x.flatten(3)[0, 0])
    torch.testing.assert_close(inner(residual, x.flatten(3)[0, 0]), amount * singular.sum(), rtol=1e-4, atol=0)


def test_a_patch_has_voxels() -> None:
    A, y = small()
    with pytest.raises(UsageError, match="patch"):
        locally_low_rank(y, A, patch=0)


def test_shifts_fill_the_block() -> None:
    first = list(islice(shifts(8), 64))
    assert first[0] == (0, 0)
    assert len(set(first)) > 36  # drawn at random, 41 of the 64 were to be expected
    assert {row for row, _ in first[:24]} == {column for _, column in first[:24]} == set(range(8))
