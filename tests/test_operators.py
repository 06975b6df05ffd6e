"""Laws every operator obeys: linearity, adjointness, normal = adjoint of forward, whatever the sizes and devices."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import sigpy
import torch
from torch import Tensor

from medseq.errors import UsageError
from medseq.operators import Coils, Fourier, Identity, LinearOp, Mask, Resample

SIZES = [(5, 8, 6), (4, 7, 9), (1, 6, 5)]


def complex_randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.complex128) -> Tensor:
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def random_mask(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(3)) < 0.5


def some_lines(frames: int, lines: int, measured: int) -> Tensor:
    """A mask (1, 1, frames, lines, 1) of so many lines in every frame."""
    order = torch.rand(1, 1, frames, lines, 1, generator=torch.Generator().manual_seed(4)).argsort(3)
    return order < measured


def maps_of(coils: int, y: int, x: int) -> Tensor:
    maps = complex_randn(1, coils, 1, y, x, seed=9)
    return maps / maps.abs().square().sum(1, keepdim=True).sqrt()


BUILD: dict[str, Callable[[int, int, int], LinearOp]] = {
    "identity": lambda t, y, x: Identity(),
    "nothing": lambda t, y, x: Mask(False),
    "voxel mask": lambda t, y, x: Mask(random_mask(1, 1, t, y, x)),
    "line mask": lambda t, y, x: Mask(random_mask(1, 1, t, y, 1)),
    "frame mask": lambda t, y, x: Mask(random_mask(1, 1, t, 1, 1)),
    "fourier": lambda t, y, x: Fourier(),
    "coils": lambda t, y, x: Coils(maps_of(3, y, x)),
    "resample": lambda t, y, x: Resample(torch.rand(t + 2, t, dtype=torch.float64)),
    "masked fourier": lambda t, y, x: Mask(random_mask(1, 1, t, y, x)) @ Fourier(),
    "masked lines": lambda t, y, x: Mask(random_mask(1, 1, t, y, 1)) @ Fourier(),
    "masked readout": lambda t, y, x: Mask(random_mask(1, 1, 1, 1, x)) @ Fourier(),
    "masked frames of k-space": lambda t, y, x: Mask(random_mask(1, 1, t, 1, 1)) @ Fourier(),
    "no k-space": lambda t, y, x: Mask(False) @ Fourier(),
    "sense": lambda t, y, x: Mask(random_mask(1, 1, t, y, 1)) @ Fourier() @ Coils(maps_of(3, y, x)),
    "sense, lines of each coil": lambda t, y, x: Mask(random_mask(1, 3, t, y, 1)) @ Fourier() @ Coils(maps_of(3, y, x)),
    "sense, whole frames": lambda t, y, x: Mask(random_mask(1, 1, t, 1, 1)) @ Fourier() @ Coils(maps_of(3, y, x)),
    "sense, other brackets": lambda t, y, x: Mask(random_mask(1, 1, t, y, 1)) @ (Fourier() @ Coils(maps_of(3, y, x))),
    "sense at free times": lambda t, y, x: (
        Mask(random_mask(1, 1, t + 2, y, 1)) @ Fourier() @ Coils(maps_of(3, y, x)) @ Resample(torch.rand(t + 2, t))
    ),
    "adjoint of sense": lambda t, y, x: (Mask(random_mask(1, 1, t, y, 1)) @ Fourier() @ Coils(maps_of(3, y, x))).H,
}


def domain(name: str, batch: int, t: int, y: int, x: int, seed: int = 0) -> Tensor:
    return complex_randn(batch, 3 if name.startswith("adjoint") else 1, t, y, x, seed=seed)


def inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.conj() * b).sum()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", BUILD)
def test_laws(name: str, size: tuple[int, int, int]) -> None:
    A = BUILD[name](*size)
    x, other = domain(name, 2, *size), domain(name, 2, *size, seed=1)
    image = A(x)
    y = complex_randn(*image.shape, seed=2)
    torch.testing.assert_close(A(x + (2 - 3j) * other), image + (2 - 3j) * A(other))
    torch.testing.assert_close(inner(image, y), inner(x, A.adjoint(y)))
    torch.testing.assert_close(A.normal(x), A.adjoint(image))
    torch.testing.assert_close(A.H(y), A.adjoint(y))
    torch.testing.assert_close(A.H.adjoint(x), image)
    torch.testing.assert_close(A.H.H(x), image)


@pytest.mark.parametrize("name", BUILD)
def test_single_precision(name: str) -> None:
    size = SIZES[0]
    A = BUILD[name](*size)
    x = domain(name, 1, *size).to(torch.complex64)
    expected = A.adjoint(A(x))
    assert (A.normal(x) - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("name", BUILD)
def test_gradcheck(name: str) -> None:
    size = (2, 3, 4)
    A = BUILD[name](*size)
    x = domain(name, 1, *size).requires_grad_()
    assert torch.autograd.gradcheck(A.forward, (x,))
    assert torch.autograd.gradcheck(A.normal, (x,))


@pytest.mark.parametrize("name", BUILD)
def test_items_of_a_batch_do_not_meet(name: str) -> None:
    size = SIZES[1]
    A = BUILD[name](*size)
    x = domain(name, 3, *size)
    alone = torch.cat([A(item[None]) for item in x])
    torch.testing.assert_close(A(x), alone)
    torch.testing.assert_close(A.normal(x), torch.cat([A.normal(item[None]) for item in x]))


@pytest.mark.parametrize("name", BUILD)
def test_chunks_of_frames(name: str) -> None:
    size = SIZES[0]
    A = BUILD[name](*size)
    x = domain(name, 1, *size)
    if not A.separable:
        with pytest.raises(UsageError, match="mixes frames"):
            A.frames(slice(0, 2))
        return
    chunks = [slice(0, 2), slice(2, 5)]
    for whole, part in ((A(x), lambda op, v: op(v)), (A.normal(x), lambda op, v: op.normal(v))):
        parts = [part(A.frames(chunk), x[:, :, chunk]) for chunk in chunks]
        torch.testing.assert_close(torch.cat(parts, 2), whole)


@pytest.mark.parametrize("lines", [0, 3, 11, 70])
def test_few_lines_and_many_are_the_same_operator(lines: int) -> None:
    """Rows of the DFT matrix for few lines, transforms for many: both against the factors taken apart. The last frame
    has none at all, as one that never came."""
    t, y, x = 3, 74, 112
    keep = some_lines(t, y, lines)
    keep[:, :, -1] = False
    mask, fourier, coils = Mask(keep), Fourier(), Coils(maps_of(3, y, x))
    image, data = complex_randn(2, 1, t, y, x), complex_randn(2, 3, t, y, x, seed=1)
    A = mask @ fourier @ coils
    torch.testing.assert_close(A(image), mask(fourier(coils(image))))
    torch.testing.assert_close(A.adjoint(data), coils.adjoint(fourier.adjoint(mask(data))))
    torch.testing.assert_close(A.normal(image), A.adjoint(A(image)))
    with_hole = torch.where(keep, data, torch.nan)  # what is not measured must not get through
    torch.testing.assert_close(A.adjoint(with_hole), A.adjoint(data))
    torch.testing.assert_close(A.frames(slice(1, 3)).normal(image[:, :, 1:]), A.normal(image)[:, :, 1:])


def test_few_lines_in_single_precision() -> None:
    keep, maps = some_lines(4, 184, 23), maps_of(4, 184, 64)
    x = complex_randn(1, 1, 4, 184, 64)
    exact, rough = (Mask(keep) @ Fourier() @ Coils(maps.to(kind)) for kind in (maps.dtype, torch.complex64))
    for apply in (lambda op, v: op(v), lambda op, v: op.normal(v), lambda op, v: op.adjoint(op(v))):
        error = apply(rough, x.to(torch.complex64)) - apply(exact, x)
        assert error.norm() <= 1e-6 * x.norm()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", ["line mask", "fourier"])
def test_same_on_cuda(name: str) -> None:
    x = complex_randn(2, 1, 5, 8, 6)
    on_device = Mask(random_mask(1, 1, 5, 8, 1).cuda()) if name == "line mask" else Fourier()
    torch.testing.assert_close(on_device(x.cuda()).cpu(), BUILD[name](5, 8, 6)(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_sense_on_cuda() -> None:
    keep, maps, x = random_mask(1, 1, 5, 8, 1), maps_of(3, 8, 6), complex_randn(1, 1, 5, 8, 6)
    host = Mask(keep) @ Fourier() @ Coils(maps)
    device = Mask(keep.cuda()) @ Fourier() @ Coils(maps.cuda())
    torch.testing.assert_close(device(x.cuda()).cpu(), host(x))
    torch.testing.assert_close(device.normal(x.cuda()).cpu(), host.normal(x))


def test_shapes_are_known_without_data() -> None:
    keep = torch.zeros(1, 1, 4, 8, 1, dtype=torch.bool, device="meta")
    maps = torch.zeros(1, 3, 1, 8, 6, dtype=torch.complex64, device="meta")
    x = torch.zeros(2, 1, 4, 8, 6, dtype=torch.complex64, device="meta")
    A = Mask(keep) @ Fourier() @ Coils(maps)
    assert A(x).shape == (2, 3, 4, 8, 6)
    assert A.normal(x).shape == A.adjoint(A(x)).shape == x.shape
    assert Resample(torch.zeros(7, 4, device="meta"))(x).shape == (2, 1, 7, 8, 6)


@pytest.mark.parametrize("shape", [(7, 8), (8, 5), (1, 6)])
def test_fourier_is_the_centred_transform_of_sigpy(shape: tuple[int, int]) -> None:
    x = complex_randn(1, 1, 2, *shape)
    expected = sigpy.fft(x.numpy(), axes=(-2, -1), norm="ortho", center=True)
    torch.testing.assert_close(Fourier()(x), torch.from_numpy(expected))


@pytest.mark.parametrize("shape", [(7, 8), (8, 5)])
def test_a_constant_is_dc_at_the_centre(shape: tuple[int, int]) -> None:
    y, x = shape
    spectrum = Fourier()(torch.ones(1, 1, 1, y, x, dtype=torch.complex128))
    expected = torch.zeros_like(spectrum)
    expected[..., y // 2, x // 2] = (y * x) ** 0.5
    torch.testing.assert_close(spectrum, expected)


def test_a_mask_is_a_projection_and_lets_no_nan_through() -> None:
    keep = random_mask(1, 1, 3, 4, 5)
    x = torch.where(keep, 1.0, torch.nan)
    masked = Mask(keep)(x)
    assert torch.equal(masked, keep.float())
    assert torch.equal(Mask(keep)(masked), masked)


def test_unit_maps_make_sense_an_isometry() -> None:
    x = complex_randn(1, 1, 3, 6, 8)
    A = Fourier() @ Coils(maps_of(4, 6, 8))
    torch.testing.assert_close(A(x).norm(), x.norm())
    torch.testing.assert_close(A.normal(x), x)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Mask(True),
        lambda: Mask(torch.ones(3, 3, dtype=torch.bool)),
        lambda: Mask(torch.ones(1, 1, 3, 3, 1)),
        lambda: Coils(torch.ones(8, 4, 4)),
        lambda: Resample(torch.ones(3, 3, dtype=torch.int64)),
    ],
)
def test_impossible_operators_are_refused(build: Callable[[], LinearOp]) -> None:
    with pytest.raises(UsageError):
        build()
