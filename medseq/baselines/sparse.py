"""Compressed-sensing baselines for dynamic MRI: what is used clinically where no network is.

Both are convex, start from zero knowledge but the measurement, and take their thresholds relative to the data, so that a
rescaled measurement gives the same image rescaled. `y` is (B, C, T, Y, X) and `A` its operator, of norm at most 1.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medseq.operators import LinearOp


def kt_sparse(y: Tensor, A: LinearOp, *, threshold: float = 0.01, iterations: int = 50) -> Tensor:
    """k-t SPARSE-SENSE: argmin |A x - y|^2 / 2 + t |F_t x|_1, with F_t the Fourier transform over time (Lustig 2006, Otazo 2010).

    The temporal mean is not penalised. t is `threshold` times the largest magnitude of F_t A^H y outside the mean.
    Solved by accelerated proximal gradients with restart. Returns the image series (B, 1, T, Y, X).
    """
    b = A.adjoint(y)
    amount = threshold * _per_item(torch.fft.fft(b, dim=2, norm="ortho")[:, :, 1:].abs(), b.ndim)
    return _accelerated(lambda x: A.normal(x) - b, lambda x: _soft_spectrum(x, amount), b, step=1.0, iterations=iterations)


def low_rank_sparse(
    y: Tensor, A: LinearOp, *, low_rank: float = 0.01, sparse: float = 0.01, iterations: int = 50
) -> Tensor:
    """L+S: argmin |A (L + S) - y|^2 / 2 + l |L|_* + s |F_t S|_1, a slowly changing background L and sparse motion S (Otazo 2015).

    |L|_* is the nuclear norm of the space x time matrix, F_t the Fourier transform over time. l is `low_rank` times the
    largest singular value of A^H y, s is `sparse` times the largest magnitude of F_t A^H y outside the mean. Solved by
    accelerated proximal gradients with restart (Lin and Fessler 2019). Returns L + S, the image series (B, 1, T, Y, X).
    """
    b = A.adjoint(y)
    rank_amount = low_rank * torch.linalg.eigvalsh(_gram(b))[:, -1].clamp(min=0).sqrt()
    sparse_amount = sparse * _per_item(torch.fft.fft(b, dim=2, norm="ortho")[:, :, 1:].abs(), b.ndim)

    def gradient(parts: Tensor) -> Tensor:
        return (A.normal(parts.sum(1, keepdim=True)) - b).expand_as(parts)

    def proximal(parts: Tensor) -> Tensor:
        low, motion = parts[:, :1], parts[:, 1:]
        return torch.cat([_soft_rank(low, rank_amount / 2), _soft_spectrum(motion, sparse_amount / 2)], 1)

    # Both parts see the same residual, so the gradient is twice as steep in them together: hence the step of 1/2.
    start = torch.cat([b, torch.zeros_like(b)], 1)
    return _accelerated(gradient, proximal, start, step=0.5, iterations=iterations).sum(1, keepdim=True)


def _accelerated(
    gradient: Callable[[Tensor], Tensor],
    proximal: Callable[[Tensor], Tensor],
    x: Tensor,
    *,
    step: float,
    iterations: int,
) -> Tensor:
    """FISTA (Beck and Teboulle 2009) with gradient restart (O'Donoghue and Candes 2015), each item of axis 0 on its own.

    proximal: that of the penalty times `step`.
    """
    ahead = x
    momentum = torch.ones(x.shape[0], *[1] * (x.ndim - 1), dtype=x.real.dtype, device=x.device)
    for _ in range(iterations):
        previous, x = x, proximal(ahead - step * gradient(ahead))
        moved = x - previous
        # Uphill: the momentum carries the wrong way, forget it.
        uphill = _real_inner(ahead - x, moved) > 0
        momentum = torch.where(uphill, 1, momentum)
        following = (1 + (1 + 4 * momentum.square()).sqrt()) / 2
        ahead = x + (momentum - 1) / following * moved
        momentum = following
    return x


def _soft_spectrum(x: Tensor, amount: Tensor) -> Tensor:
    """Shrink every temporal frequency but the mean by `amount`."""
    spectrum = torch.fft.fft(x, dim=2, norm="ortho")
    magnitude = spectrum[:, :, 1:].abs()
    kept = (1 - amount / magnitude.clamp(min=torch.finfo(magnitude.dtype).tiny)).clamp(min=0)
    return torch.fft.ifft(torch.cat([spectrum[:, :, :1], spectrum[:, :, 1:] * kept], 2), dim=2, norm="ortho")


def _soft_rank(x: Tensor, amount: Tensor) -> Tensor:
    """Shrink the singular values of the (time, space) matrix of each item by `amount` (B,) (Cai 2010).

    By way of the small (T, T) Gram matrix, which is far cheaper than a decomposition of the tall one.
    """
    eigenvalues, vectors = torch.linalg.eigh(_gram(x))
    singular = eigenvalues.clamp(min=torch.finfo(eigenvalues.dtype).tiny).sqrt()
    kept = (1 - amount[:, None] / singular).clamp(min=0)
    shrink = (vectors * kept[:, None]) @ vectors.mH
    return (shrink @ x.flatten(3)[:, 0])[:, None].view(x.shape)


def _gram(x: Tensor) -> Tensor:
    frames = x.flatten(3)[:, 0]
    return frames @ frames.mH


def _per_item(magnitude: Tensor, ndim: int) -> Tensor:
    return magnitude.flatten(1).amax(1)[(...,) + (None,) * (ndim - 1)]


def _real_inner(a: Tensor, b: Tensor) -> Tensor:
    product = torch.view_as_real(a) * torch.view_as_real(b)
    return product.flatten(1).sum(1)[(...,) + (None,) * (a.ndim - 1)]
