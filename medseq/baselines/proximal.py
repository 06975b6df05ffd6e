"""What the convex baselines share: one accelerated solver, and the shrinkages they are made of.

All of it treats items of axis 0 apart, so that a result does not depend on its neighbours in the batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from itertools import count

import torch
from torch import Tensor

from medseq.operators import LinearOp

ROWS, _FRAMES, _VALUES = 8, 32, 2**16  # worked on at once
# Golden and silver ratio: multiples of each fill an interval evenly from the start, and the two never fall into step.
_SPREAD = (0.6180339887498949, 0.41421356237309503)


def accelerated(
    gradient: Callable[[Tensor], Tensor],
    proximal: Callable[[Tensor], Tensor],
    x: Tensor,
    step: float,
    iterations: int,
    *,
    carried: float | None = None,
) -> Tensor:
    """FISTA (Beck and Teboulle 2009) with gradient restart (O'Donoghue and Candes 2015).

    proximal: that of the penalty times `step`, which may work in place. Each item of axis 0 has its own momentum.
    carried: the share of the last change that the momentum carries on from the start, in place of one that grows from
    nothing: for few iterations (Liang, Luo and Schoenlieb, SIAM J. Sci. Comput. 2022). It stays stable for steps up to
    (2 + 2 carried) / (1 + 2 carried) over the Lipschitz constant of the gradient.
    """
    ahead = x
    momentum = torch.ones(x.shape[0], *[1] * (x.ndim - 1), dtype=x.real.dtype, device=x.device)
    for _ in range(iterations):
        downhill = gradient(ahead)
        previous, x = x, proximal(torch.add(ahead, downhill, alpha=-step, out=downhill))
        del downhill
        # Uphill: the momentum carries the wrong way, forget it.
        uphill = _uphill(ahead, x, previous)
        momentum = torch.where(uphill, 1, momentum)
        following = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        share = (momentum - 1) / following if carried is None else torch.where(uphill, 0, carried)
        # In the place of the old one: no more than the start and three series are held at any time.
        ahead = torch.sub(x, previous, out=None if ahead is previous else ahead)
        torch.addcmul(x, share, ahead, out=ahead)
        momentum = following
        del previous
    return x


def least_squares(A: LinearOp, b: Tensor, regularization: float) -> Callable[[Tensor], Tensor]:
    """The gradient of |A x - y|^2 / 2 + regularization |x|^2 / 2, with b = A^H y: a series of its own."""

    def gradient(x: Tensor) -> Tensor:
        image = A.normal(x)
        return torch.add(image, x, alpha=regularization, out=None if image is x else image).sub_(b)

    return gradient


def by_rows(x: Tensor) -> tuple[Tensor, ...]:
    """`x` (B, 1, T, Y, X) in blocks of rows, for what treats every voxel alone: they fit into a processor's cache, all
    rows do not, which makes such a step 3 times as fast. A GPU takes all at once."""
    return x.split(rows_at_once(x), dim=3)


def rows_at_once(x: Tensor) -> int:
    """How many rows of (B, 1, T, Y, X) are worked on at a time."""
    return min(ROWS, max(1, _VALUES * x.shape[3] // x[:1].numel())) if x.device.type == "cpu" else x.shape[3]


def soft(x: Tensor, amount: Tensor) -> Tensor:
    """Shrink magnitudes of complex x by `amount`, those below it to zero: the proximal map of amount * |x|_1."""
    # The parts rather than abs(), and products rather than powers: twice as fast.
    power = torch.addcmul(x.real * x.real, x.imag, x.imag)
    inverse = power.clamp_(min=torch.finfo(power.dtype).tiny).rsqrt_()
    return x * inverse.mul_(-amount).add_(1).clamp_(min=0)


def soft_spectrum(x: Tensor, amount: Tensor) -> Tensor:
    """Shrink the magnitude of every temporal frequency of every voxel by `amount` (B, 1, 1, 1, 1)."""
    out = torch.empty_like(x)
    for before, after in zip(by_rows(x), by_rows(out), strict=True):
        spectrum = torch.fft.fft(before, dim=2, norm="ortho")
        after.copy_(torch.fft.ifft(soft(spectrum, amount), dim=2, norm="ortho"))
    return out


def largest_frequency(x: Tensor) -> Tensor:
    """Largest magnitude of F_t x of each item, (B, 1, 1, 1, 1)."""
    return reduce(torch.maximum, (largest(torch.fft.fft(rows, dim=2, norm="ortho")) for rows in by_rows(x)))


def soft_rank(x: Tensor, amount: Tensor) -> Tensor:
    """Shrink the singular values of matrices (..., M, N) by `amount` (...): that of the nuclear norm (Cai 2010).

    By way of the smaller Gram matrix, which is far cheaper than a decomposition of a long one.
    """
    if x.shape[-2] > x.shape[-1]:
        return soft_rank(x.mT, amount).mT
    eigenvalues, vectors = eigh(x @ x.mH)
    singular = eigenvalues.clamp(min=torch.finfo(eigenvalues.dtype).tiny).sqrt()
    kept = (1 - amount[..., None] / singular).clamp(min=0)
    return ((vectors * kept[..., None, :]) @ vectors.mH) @ x


def eigh(matrices: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues and vectors of Hermitian matrices (..., N, N).

    LAPACK in single precision fails on some matrices of tiny or nearly equal eigenvalues, such as those of dark corners
    of an image: it raises, or silently answers NaN. Double precision then serves.
    """
    try:
        values, vectors = torch.linalg.eigh(matrices)
    except torch.linalg.LinAlgError:
        values = torch.full((), torch.nan)
    if values.is_meta or bool(torch.isfinite(values).all() and torch.isfinite(vectors.abs()).all()):
        return values, vectors
    double = torch.complex128 if matrices.is_complex() else torch.float64
    values, vectors = torch.linalg.eigh(matrices.to(double))
    return values.to(matrices.real.dtype), vectors.to(matrices.dtype)


def largest_singular(x: Tensor) -> Tensor:
    """The largest singular value of each matrix (..., M, N) -> (...)."""
    gram = x @ x.mH if x.shape[-2] <= x.shape[-1] else x.mH @ x
    return torch.linalg.eigvalsh(gram)[..., -1].clamp(min=0).sqrt()


def largest(x: Tensor) -> Tensor:
    """Largest magnitude of each item of axis 0, shaped (B, 1, ...) to scale it."""
    parts = (part.abs().amax(tuple(range(1, x.ndim)), keepdim=True) for part in x.split(ROWS, dim=-2))
    return reduce(torch.maximum, parts)


def shifts(period: int) -> Iterator[tuple[int, int]]:
    """Shifts (rows, columns) below `period`, without end, spread evenly over all there are and always the same.

    A penalty on blocks prefers edges that lie on its grid; moving the grid in every iteration takes that away (cycle
    spinning, Coifman and Donoho 1995; within an iteration, Figueiredo and Nowak 2003).
    """
    rows, columns = _SPREAD
    return ((int(i * rows % 1 * period), int(i * columns % 1 * period)) for i in count())


def shifted_blocks(x: Tensor, shift: tuple[int, int], block: int) -> Tensor:
    """x (..., Y, X) with zeros added until its sides are multiples of `block`, then rolled by `shift`."""
    bottom, right = -x.shape[-2] % block, -x.shape[-1] % block
    return torch.nn.functional.pad(x, (0, right, 0, bottom)).roll(shift, (-2, -1))


def unshifted_blocks(x: Tensor, shift: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """Undo `shifted_blocks`: roll back, then cut to `size` (Y, X)."""
    return x.roll((-shift[0], -shift[1]), (-2, -1))[..., : size[0], : size[1]]


def _uphill(ahead: Tensor, x: Tensor, previous: Tensor) -> Tensor:
    """Whether the step from `ahead` to x turned back on the way from `previous` to x, (B, 1, ...) bool."""
    at_once = 1 if x.device.type == "cpu" else _FRAMES  # one frame fits into a processor's cache
    frames = zip(*(part.split(at_once, dim=2) for part in (ahead, x, previous)), strict=True)
    return reduce(torch.add, (_real_inner(a - b, b - c) for a, b, c in frames)) > 0


def _real_inner(a: Tensor, b: Tensor) -> Tensor:
    product = torch.view_as_real(a) * torch.view_as_real(b)
    return product.flatten(1).sum(1)[(...,) + (None,) * (a.ndim - 1)]
