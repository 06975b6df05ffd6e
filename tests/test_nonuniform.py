"""The non-uniform transform beside the sum that defines it, sigpy's, and the transform on a grid."""

from __future__ import annotations

import math
import sys

import pytest
import sigpy
import torch
from torch import Tensor

from medseq.clip import Trajectory
from medseq.errors import InputError, ResourceError, UsageError
from medseq.nonuniform import NonUniform, balanced, density_weights
from medseq.operators import Coils, Fourier, LinearOp, Mask
from medseq.trajectories import golden_radial, golden_spiral

SIZES = [(8, 6), (7, 9), (16, 11)]
FRAMES = 3
ALL = torch.ones(1, 1, 1, 1, 1, dtype=torch.bool)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def radial(size: tuple[int, int], spokes: int = 4, frames: int = FRAMES) -> Trajectory:
    made = golden_radial(frames, size, spokes)
    return Trajectory(made.points.double(), size)


def grid(size: tuple[int, int]) -> Trajectory:
    y, x = ((torch.arange(n, dtype=torch.float64) - n // 2) / n for n in size)
    return Trajectory(torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)[None], size)


def summed(x: Tensor, trajectory: Trajectory) -> Tensor:
    """The defining sum, term by term."""
    (height, width), results = trajectory.size, []
    y, x_ = (torch.arange(n, dtype=torch.float64) - n // 2 for n in (height, width))
    for t in range(x.shape[2]):
        points = trajectory.points[t if len(trajectory.points) > 1 else 0].double()
        turns = points[..., 0, None, None] * y[:, None] + points[..., 1, None, None] * x_
        wave = torch.polar(torch.ones_like(turns), -2 * math.pi * turns)
        results.append(torch.einsum("snyx,bcyx->bcsn", wave, x[:, :, t].to(torch.complex128)))
    return torch.stack(results, 2) / math.sqrt(height * width)


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def mask(trajectory: Trajectory) -> Tensor:
    points = trajectory.points
    shape = (1, 1, *points.shape[:2], 1)
    return torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6


def maps(size: tuple[int, int]) -> Tensor:
    made = random(1, 3, 1, *size, seed=5)
    return made / made.abs().square().sum(1, keepdim=True).sqrt()


BUILD = {
    "radial": lambda size: NonUniform(radial(size)),
    "one frame for all": lambda size: NonUniform(radial(size, frames=1)),
    "spiral": lambda size: NonUniform(Trajectory(golden_spiral(FRAMES, size, 2, full=3).points.double(), size)),
    "masked": lambda size: NonUniform(radial(size), mask(radial(size))),
    "weighted": lambda size: NonUniform(radial(size), balanced(radial(size), mask(radial(size))).double()),
    "sense": lambda size: NonUniform(radial(size), mask(radial(size))) @ Coils(maps(size)),
    "adjoint of sense": lambda size: (NonUniform(radial(size)) @ Coils(maps(size))).H,
}


def domain(A: LinearOp, name: str, size: tuple[int, int], batch: int = 2, seed: int = 0) -> Tensor:
    x = random(batch, 1, FRAMES, *size, seed=seed)
    return A.adjoint(x) if name.startswith("adjoint") else x


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", BUILD)
def test_laws(name: str, size: tuple[int, int]) -> None:
    A = BUILD[name](size)
    x, other = domain(A, name, size), domain(A, name, size, seed=1)
    image = A(x)
    y = random(*image.shape, seed=2)
    torch.testing.assert_close(A(x + (2 - 3j) * other), image + (2 - 3j) * A(other))
    torch.testing.assert_close((image.conj() * y).sum(), (x.conj() * A.adjoint(y)).sum())
    torch.testing.assert_close(A.normal(x), A.adjoint(image))
    torch.testing.assert_close(A(x[:1]), image[:1])
    chunks = [slice(0, 2), slice(2, FRAMES)]
    torch.testing.assert_close(torch.cat([A.frames(c)(x[:, :, c]) for c in chunks], 2), image)
    torch.testing.assert_close(torch.cat([A.frames(c).normal(x[:, :, c]) for c in chunks], 2), A.normal(x))


@pytest.mark.parametrize("name", ["weighted", "sense"])
def test_gradcheck(name: str) -> None:
    A = BUILD[name]((4, 3)).frames(slice(0, 1))
    x = random(1, 1, 1, 4, 3).requires_grad_()
    assert torch.autograd.gradcheck(A.forward, (x,))
    assert torch.autograd.gradcheck(A.normal, (x,))
    assert torch.autograd.gradcheck(A.adjoint, (A(x).detach().requires_grad_(),))


@pytest.mark.parametrize("make", [golden_radial, golden_spiral])
def test_single_precision_is_adjoint_and_toeplitz_to_1e_5(make) -> None:
    A = NonUniform(make(2, (48, 64), 5))
    x = random(1, 2, 2, 48, 64, dtype=torch.complex64)
    image = A(x)
    y = random(*image.shape, seed=2, dtype=torch.complex64)
    one, other = (image.conj() * y).sum(), (x.conj() * A.adjoint(y)).sum()
    assert abs(one - other) < 1e-5 * float(image.norm() * y.norm())
    assert off(A.normal(x), A.adjoint(image)) < 1e-5


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.complex64, torch.complex128])
def test_it_is_the_sum_that_defines_it(size: tuple[int, int], dtype: torch.dtype) -> None:
    trajectory = radial(size)
    x = random(2, 2, FRAMES, *size, dtype=dtype)
    assert off(NonUniform(trajectory)(x), summed(x, trajectory)) < (1e-6 if dtype == torch.complex64 else 1e-11)


@pytest.mark.parametrize("size", SIZES)
def test_it_is_that_of_sigpy(size: tuple[int, int]) -> None:
    trajectory = radial(size, frames=1)
    x = random(1, 1, 1, *size)
    coordinates = (trajectory.points[0] * torch.tensor(size)).numpy()
    expected = torch.from_numpy(sigpy.nufft(x[0, 0, 0].numpy(), coordinates, oversamp=2, width=8))
    assert off(NonUniform(trajectory)(x)[0, 0, 0], expected) < 1e-4


@pytest.mark.parametrize("size", SIZES)
def test_on_a_grid_it_is_the_transform_on_a_grid(size: tuple[int, int]) -> None:
    for dtype, close in ((torch.complex64, 1e-5), (torch.complex128, 1e-11)):
        x = random(1, 2, FRAMES, *size, dtype=dtype)
        A, F = NonUniform(grid(size)), Fourier()
        assert off(A(x), F(x)) < close
        assert off(A.adjoint(x), F.adjoint(x)) < close
        assert off(A.normal(x), x) < close
        keep = torch.rand(1, 1, FRAMES, *size) < 0.5
        assert off(NonUniform(grid(size), keep).normal(x), (Mask(keep) @ F).normal(x)) < close


def test_what_was_not_measured_does_not_get_through() -> None:
    trajectory = radial((8, 8))
    keep = mask(trajectory)
    y = torch.where(keep, random(1, 2, FRAMES, *trajectory.points.shape[1:3]), torch.nan)
    A = NonUniform(trajectory, keep)
    assert bool(torch.isfinite(torch.view_as_real(A.adjoint(y))).all())
    assert not bool(A(random(1, 2, FRAMES, 8, 8))[~keep.expand(y.shape)].any())


def test_a_sample_counts_by_the_area_it_stands_for() -> None:
    size = (24, 24)
    torch.testing.assert_close(density_weights(grid(size), ALL), torch.ones(1, 1, 1, *size))
    thrice = Trajectory(grid(size).points.expand(3, -1, -1, -1).flatten(0, 1)[None], size)
    torch.testing.assert_close(density_weights(thrice, ALL), torch.full((1, 1, 1, 72, 24), 1 / 3))
    keep = torch.ones(1, 1, 1, 72, 1, dtype=torch.bool)
    keep[:, :, :, 48:] = False
    found = density_weights(thrice, keep)
    torch.testing.assert_close(found[:, :, :, :48], torch.full((1, 1, 1, 48, 24), 0.5))
    assert not bool(found[:, :, :, 48:].any())


@pytest.mark.parametrize("spokes", [1, 12, 80])
def test_spokes_have_the_density_of_a_ramp(spokes: int) -> None:
    """In full sampling of N pi / 2 spokes the areas add up to the disc; of fewer, none counts more than a sample."""
    size = (48, 48)
    trajectory = golden_radial(1, size, spokes)
    weights = density_weights(trajectory, ALL)[0, 0, 0]
    assert float(weights.max()) <= 1 and float(weights.min()) > 0
    if spokes == 80:
        radius = trajectory.points[0].norm(dim=-1)
        ring = (radius > 0.1) & (radius < 0.45)
        ramp = radius * math.pi * 48 / 80 / 2  # each spoke's share of its ring, times half a place along it
        assert float((weights / ramp)[ring].std() / (weights / ramp)[ring].mean()) < 0.25
        assert float(weights.sum()) == pytest.approx(math.pi * 24**2, rel=0.1)
    if spokes == 1:
        assert float(weights.median()) == pytest.approx(0.5, abs=0.02)  # two samples a place


@pytest.mark.parametrize("make", [golden_radial, golden_spiral])
@pytest.mark.parametrize("readouts", [3, 60])
def test_balanced_samples_have_the_norm_1(make, readouts: int) -> None:
    trajectory = make(2, (40, 32), readouts)
    A = NonUniform(trajectory, balanced(trajectory, ALL))
    x = random(1, 1, 2, 40, 32, dtype=torch.complex64)
    for _ in range(200):
        x = A.normal(x)
        norm = float(x.flatten(3).norm(dim=-1).max())
        x = x / norm
    assert 0.9 < norm < 1.02


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda: Trajectory(torch.zeros(4, 3, 2), (8, 8)), InputError),
        (lambda: Trajectory(torch.zeros(1, 4, 3, 3), (8, 8)), InputError),
        (lambda: Trajectory(torch.full((1, 4, 3, 2), torch.nan), (8, 8)), InputError),
        (lambda: Trajectory(torch.zeros(1, 0, 3, 2), (8, 8)), InputError),
        (lambda: Trajectory(torch.zeros(1, 4, 3, 2), (0, 8)), InputError),
        (lambda: Trajectory(torch.zeros(1, 4, 3, 2), (8, 8), interval=0.0), InputError),
        (lambda: NonUniform(radial((8, 8)), torch.ones(1, 1, 2, 1, 1)), UsageError),
        (lambda: NonUniform(radial((8, 8)), torch.ones(1, 1, 3, 5, 1)), UsageError),
        (lambda: NonUniform(radial((8, 8)), torch.ones(4, 16)), UsageError),
        (lambda: NonUniform(radial((8, 8)))(random(1, 1, FRAMES, 8, 9)), UsageError),
        (lambda: NonUniform(radial((8, 8)))(random(1, 1, 2, 8, 8)), UsageError),
    ],
)
def test_what_is_impossible_is_refused(build, error: type[Exception]) -> None:
    with pytest.raises(error):
        build()


def test_without_the_library_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "finufft", None)
    with pytest.raises(ResourceError, match=r"medseq\[nonuniform\]") as caught:
        NonUniform(radial((8, 8)))(random(1, 1, FRAMES, 8, 8))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_same_on_cuda() -> None:
    pytest.importorskip("cufinufft")
    trajectory, x = radial((16, 11)), random(1, 2, FRAMES, 16, 11)
    host, device = NonUniform(trajectory), NonUniform(trajectory.to(torch.device("cuda")))
    y = host(x)
    torch.testing.assert_close(device(x.cuda()).cpu(), y)
    torch.testing.assert_close(device.adjoint(y.cuda()).cpu(), host.adjoint(y))
    torch.testing.assert_close(device.normal(x.cuda()).cpu(), host.normal(x))
