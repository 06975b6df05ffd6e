"""Baselines against closed forms and dense solvers, and the order they must come in on a moving object."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from medseq.baselines import (
    kt_composite,
    kt_sparse,
    linear_interpolation,
    low_rank_sparse,
    sense,
    temporal_tv,
    time_average,
    zero_filled,
)
from medseq.errors import UsageError
from medseq.metrics import nrmse
from medseq.noise import unit_noise
from medseq.operators import Coils, Fourier, Identity, LinearOp, Mask
from medseq.patterns import uniform, variable_density
from medseq.simulate import acquire, coil_maps, simulate_cine

METHODS: dict[str, Callable[[Tensor, LinearOp], Tensor]] = {
    "zero-filled": zero_filled,
    "time average": time_average,
    "sense": sense,
    "k-t sparse": kt_sparse,
    "L+S": low_rank_sparse,
}
FRAMES, Y, X = 12, 32, 16


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def complex_randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=seeded(seed))


def beating_disc(frames: int = FRAMES) -> Tensor:
    """A disc that beats on a still, textured background, with a phase: (1, 1, T, Y, X) complex64."""
    rows, columns = torch.linspace(-1, 1, Y).view(-1, 1), torch.linspace(-1, 1, X)
    beat = 0.4 + 0.15 * torch.cos(2 * torch.pi * torch.arange(frames) / frames).view(-1, 1, 1)
    disc = torch.sigmoid(15 * (beat - (rows**2 + columns**2).sqrt()))
    still = 0.3 * torch.rand(Y, X, generator=seeded(4)) * (rows**2 + columns**2 < 0.8)
    return (torch.polar(disc + still, (rows + columns).expand(Y, X)))[None, None]


def maps() -> Tensor:
    rows, columns = torch.linspace(-1, 1, Y).view(-1, 1), torch.linspace(-1, 1, X)
    sides = torch.stack([1.2 + rows + 0 * columns, 1.2 - rows + 0 * columns, 1.2 + columns + 0 * rows])
    stack = torch.polar(sides, rows * columns + torch.arange(3).view(3, 1, 1))[None, :, None]
    return stack / stack.abs().square().sum(1, keepdim=True).sqrt()


def operator(kind: str, keep: Tensor | None = None) -> LinearOp:
    mask = Mask(variable_density(FRAMES, Y, 3, centre=6) if keep is None else keep)
    return {"one coil": mask @ Fourier(), "several coils": mask @ Fourier() @ Coils(maps())}[kind]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind", ["one coil", "several coils"])
def test_every_method(name: str, kind: str) -> None:
    A, method = operator(kind), METHODS[name]
    y = A(beating_disc())
    x = method(y, A)
    assert x.shape == (1, 1, FRAMES, Y, X) and x.dtype == torch.complex64
    torch.testing.assert_close(method(1000 * y, A), 1000 * x, rtol=1e-3, atol=1e-1)  # no threshold is absolute
    assert not method(torch.zeros_like(y), A).any()
    pair = method(torch.cat([y, 0.1j * y.flip(2)]), A)
    torch.testing.assert_close(pair[:1], x, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", METHODS)
def test_one_frame_works(name: str) -> None:
    A = operator("several coils", torch.ones(1, 1, 1, Y, 1, dtype=torch.bool))
    still = beating_disc(1)
    assert nrmse(METHODS[name](A(still), A), still) < 0.02


@pytest.mark.parametrize("name", METHODS)
def test_what_is_fully_measured_comes_back(name: str) -> None:
    A = operator("several coils", torch.ones(1, 1, 1, Y, 1, dtype=torch.bool))
    x = beating_disc()
    x = x.mean(2, keepdim=True).expand(x.shape) if name == "time average" else x
    assert nrmse(METHODS[name](A(x), A), x) < 0.03


def test_the_order_on_a_moving_object() -> None:
    A, x = operator("several coils"), beating_disc()
    measured = A(x)
    y = measured + 0.01 * Mask(measured != 0)(unit_noise(measured, seeded()))
    error = {name: nrmse(method(y, A), x) for name, method in METHODS.items()}
    for name in ("k-t sparse", "L+S"):
        assert error[name] < 0.7 * min(error["zero-filled"], error["sense"])
        assert error[name] < 0.5 * error["time average"]


def test_zero_filling_is_the_adjoint() -> None:
    A = operator("several coils")
    y = complex_randn(1, 3, FRAMES, Y, X)
    assert torch.equal(zero_filled(y, A), A.adjoint(y))


def dense(A: LinearOp, *shape: int) -> Tensor:
    """The matrix of a small operator, column by column."""
    basis = torch.eye(int(np.prod(shape)), dtype=torch.complex128).view(-1, *shape)
    return torch.stack([A(item[None]).flatten() for item in basis], 1)


def small() -> tuple[LinearOp, Tensor]:
    keep = torch.rand(1, 1, 3, 6, 1, generator=seeded(1)) < 0.6
    A = Mask(keep) @ Fourier() @ Coils(complex_randn(1, 2, 1, 6, 4, seed=2) / 4)
    return A, A(complex_randn(1, 1, 3, 6, 4, seed=3)) + Mask(keep)(complex_randn(1, 2, 3, 6, 4, seed=4))


def regularized(matrix: Tensor, y: Tensor, amount: float) -> Tensor:
    return torch.linalg.solve(matrix.mH @ matrix + amount * torch.eye(matrix.shape[1]), matrix.mH @ y)


def test_sense_is_least_squares_frame_by_frame() -> None:
    A, y = small()
    expected = regularized(dense(A, 1, 3, 6, 4), y.flatten(), 0.1).view(1, 1, 3, 6, 4)
    x = sense(y, A, regularization=0.1, iterations=100)
    torch.testing.assert_close(x, expected, rtol=1e-3, atol=1e-3)
    alone = sense(y[:, :, :1], A.frames(slice(0, 1)), regularization=0.1, iterations=100)
    torch.testing.assert_close(alone, x[:, :, :1], rtol=1e-3, atol=1e-3)


def test_the_time_average_is_the_still_image_of_least_squares() -> None:
    A, y = small()
    repeat = torch.eye(24, dtype=torch.complex128).view(24, 1, 1, 6, 4).expand(-1, -1, 3, -1, -1)
    matrix = torch.stack([A(item[None]).flatten() for item in repeat], 1) / 3**0.5
    expected = regularized(matrix, y.flatten() / 3**0.5, 0.01).view(1, 1, 1, 6, 4).expand(-1, -1, 3, -1, -1)
    actual = time_average(y, A, regularization=0.01, iterations=100)
    torch.testing.assert_close(actual, expected, rtol=1e-3, atol=1e-3)


def test_a_still_object_is_its_time_average_though_no_frame_is_complete() -> None:
    A = operator("several coils", uniform(FRAMES, Y, 3, centre=6))
    still = beating_disc(1).expand(-1, -1, FRAMES, -1, -1)
    y = A(still)
    assert nrmse(time_average(y, A, regularization=1e-6, iterations=60), still) < 0.02 < nrmse(zero_filled(y, A), still)


def shrunk(spectrum: Tensor, amount: float) -> Tensor:
    return torch.polar((spectrum.abs() - amount).clamp(min=0), spectrum.angle())


def test_kt_sparse_of_a_complete_series_is_soft_thresholding() -> None:
    y = complex_randn(1, 1, 8, 5, 4)
    spectrum = torch.fft.fft(y, dim=2, norm="ortho")
    amount = 0.3 * float(spectrum.abs().max())
    expected = torch.fft.ifft(shrunk(spectrum, amount), dim=2, norm="ortho") / 1.1
    actual = kt_sparse(y, Identity(), threshold=0.3, regularization=0.1)
    torch.testing.assert_close(actual, expected)


def test_without_motion_low_rank_is_singular_value_thresholding() -> None:
    y = complex_randn(1, 1, 8, 5, 4)
    left, singular, right = torch.linalg.svd(y.flatten(3)[0, 0], full_matrices=False)
    kept = (singular - 0.3 * singular[0]).clamp(min=0)
    expected = (left * kept) @ right / 1.1
    actual = low_rank_sparse(y, Identity(), low_rank=0.3, sparse=10.0, regularization=0.1, iterations=200)
    torch.testing.assert_close(actual.flatten(3)[0, 0], expected)


def test_without_background_low_rank_sparse_is_kt_sparse() -> None:
    A, y = small()
    one = low_rank_sparse(y, A, low_rank=10.0, sparse=0.1, iterations=500)
    torch.testing.assert_close(one, kt_sparse(y, A, threshold=0.1, iterations=500), rtol=1e-4, atol=1e-5)


def nuclear(x: Tensor) -> Tensor:
    return torch.linalg.svdvals(x.flatten(3)[0, 0])


def frequencies(x: Tensor) -> Tensor:
    return torch.fft.fft(x, dim=2, norm="ortho").abs()


def test_low_rank_sparse_is_optimal() -> None:
    # The residual must be a subgradient of both penalties (Rockafellar 1970, theorem 16.4): it reaches the bound in
    # both dual norms, and <residual, x> is the penalty paid, less than for x being all background or all motion.
    A, y = small()
    b = A.adjoint(y)
    x = low_rank_sparse(y, A, low_rank=0.2, sparse=0.12, regularization=0.05, iterations=3000)
    residual = b - A.normal(x) - 0.05 * x
    low_rank, sparse = 0.2 * nuclear(b).max(), 0.12 * frequencies(b).max()
    torch.testing.assert_close(nuclear(residual).max(), low_rank, rtol=1e-4, atol=0)
    torch.testing.assert_close(frequencies(residual).max(), sparse, rtol=1e-4, atol=0)
    penalty = (residual.conj() * x).sum().real
    assert penalty < low_rank * nuclear(x).sum()
    assert penalty < sparse * frequencies(x).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_interpolation_is_that_of_numpy(dtype: torch.dtype) -> None:
    known = complex_randn(1, 1, 4, 1, 1, dtype=torch.complex64)
    known = known if dtype.is_complex else known.real
    times, wanted = torch.tensor([0.0, 1.0, 2.5, 3.0]), torch.tensor([0.0, 0.25, 1.0, 2.0, 3.0])
    expected = np.interp(wanted.numpy(), times.numpy(), known.flatten().numpy())
    actual = linear_interpolation(known, times, wanted)
    assert actual.dtype == dtype and actual.shape == (1, 1, 5, 1, 1)
    torch.testing.assert_close(actual.flatten(), torch.from_numpy(expected).to(dtype))


def test_interpolation_goes_round_the_cycle() -> None:
    known = torch.tensor([1.0, 2.0, 4.0]).view(1, 1, 3, 1, 1)
    times = torch.tensor([0.0, 1.0, 2.0])
    wanted = torch.tensor([2.25, 2.5, 3.0, 3.5, -0.5])
    actual = linear_interpolation(known, times, wanted, period=3.0)
    torch.testing.assert_close(actual.flatten(), torch.tensor([3.25, 2.5, 1.0, 1.5, 2.5]))


def test_one_known_frame_fills_a_whole_cycle() -> None:
    known, zero = complex_randn(1, 1, 1, 2, 2), torch.tensor([0.0])
    assert torch.equal(linear_interpolation(known, zero, zero), known)
    cycle = linear_interpolation(known, zero, torch.tensor([0.0, 0.4, 0.9]), period=1.0)
    torch.testing.assert_close(cycle, known.expand(-1, -1, 3, -1, -1))


@pytest.mark.parametrize("period", [None, 2.0])
def test_frames_outside_the_known_times_need_a_longer_period(period: float | None) -> None:
    known, times = torch.ones(1, 1, 3, 2, 2), torch.tensor([0.0, 1.0, 2.0])
    with pytest.raises(UsageError):
        linear_interpolation(known, times, torch.tensor([2.5]), period)


def test_times_must_increase() -> None:
    with pytest.raises(UsageError, match="increase"):
        linear_interpolation(torch.ones(1, 1, 2, 2, 2), torch.tensor([1.0, 1.0]), torch.tensor([1.0]))


@pytest.mark.parametrize("name", METHODS)
def test_shapes_are_known_without_data(name: str) -> None:
    keep = torch.zeros(1, 1, 4, 8, 1, dtype=torch.bool, device="meta")
    coils = torch.zeros(1, 3, 1, 8, 6, dtype=torch.complex64, device="meta")
    A = Mask(keep) @ Fourier() @ Coils(coils)
    y = torch.zeros(2, 3, 4, 8, 6, dtype=torch.complex64, device="meta")
    assert METHODS[name](y, A).shape == (2, 1, 4, 8, 6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", METHODS)
def test_same_on_cuda(name: str) -> None:
    keep = variable_density(FRAMES, Y, 3, centre=6)
    host = Mask(keep) @ Fourier() @ Coils(maps())
    device = Mask(keep.cuda()) @ Fourier() @ Coils(maps().cuda())
    y = host(beating_disc())
    assert nrmse(METHODS[name](y.cuda(), device).cpu(), METHODS[name](y, host)) < 1e-3


def test_kt_composite_is_scale_free_and_better_than_its_parts() -> None:
    """At default weights on a simulated heart; of the fully sampled noiseless series hardly anything is lost."""
    clip = simulate_cine(12, (64, 48), seed=3)
    maps = coil_maps(6, (64, 48), 3)
    kspace = acquire(clip, coils=maps, acceleration=5, noise=0.01, centre=6, seed=3)
    A = Mask(kspace.keep) @ Fourier() @ Coils(maps)

    def rmse(image: torch.Tensor) -> float:
        return float((image - clip.data).abs().square().mean().sqrt())

    combined = kt_composite(kspace.data, A, periodic=True)
    parts = [
        kt_sparse(kspace.data, A, iterations=20),
        temporal_tv(kspace.data, A, iterations=20, periodic=True),
    ]
    assert rmse(combined) < 1.02 * min(map(rmse, parts))
    torch.testing.assert_close(kt_composite(3 * kspace.data, A, periodic=True), 3 * combined, rtol=1e-3, atol=1e-3)
    full = Mask(torch.ones_like(kspace.keep)) @ Fourier() @ Coils(maps)
    assert rmse(kt_composite(full(clip.data), full, periodic=True)) < 0.02 * float(clip.data.abs().max())
