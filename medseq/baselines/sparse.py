"""Compressed-sensing baselines for dynamic MRI: what is used clinically where no network is.

Both are convex, start from zero knowledge but the measurement, and take their thresholds relative to the data, so that
a rescaled measurement gives the same image rescaled. `y` is (B, C, T, Y, X) and `A` its operator, of norm at most 1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseq.baselines.linear import time_average
from medseq.baselines.proximal import (
    accelerated,
    largest_frequency,
    largest_singular,
    least_squares,
    soft_rank,
    soft_spectrum,
)
from medseq.operators import LinearOp

STILL = 6  # iterations of the time average to start from


def kt_sparse(
    y: Tensor,
    A: LinearOp,
    *,
    threshold: float = 1e-3,
    regularization: float = 3e-3,
    iterations: int = 50,
    start: Tensor | None = None,
) -> Tensor:
    """k-t SPARSE-SENSE: few temporal frequencies in every voxel (Lustig 2006, Otazo 2010).

    argmin |A x - y|^2 / 2 + regularization |x|^2 / 2 + t |F_t x|_1, with F_t the Fourier transform over time and t
    `threshold` times the largest magnitude of F_t A^H y. The quadratic term, relative to the norm of A, keeps the noise
    of what neither lines nor coils tell from growing with the iterations. start: a series to start from, None for the
    time average: from there 10 iterations come as far as 50 from A^H y. Returns the image series (B, 1, T, Y, X).
    """
    b = A.adjoint(y)
    start = time_average(y, A, iterations=STILL) if start is None else start
    amount = threshold * largest_frequency(b)
    step = 1 / (1 + regularization)
    gradient = least_squares(A, b, regularization)
    return accelerated(gradient, lambda x: soft_spectrum(x, step * amount), start, step, iterations)


def low_rank_sparse(
    y: Tensor,
    A: LinearOp,
    *,
    low_rank: float = 0.05,
    sparse: float = 1.5e-3,
    regularization: float = 3e-3,
    iterations: int = 50,
) -> Tensor:
    """L+S: a slowly changing background of low rank, and motion of few temporal frequencies (Otazo 2015).

    argmin |A (L + S) - y|^2 / 2 + regularization |L + S|^2 / 2 + l |L|_* + s |F_t S|_1, with the nuclear norm of the
    space x time matrix and F_t the Fourier transform over time; l is `low_rank` times the largest singular value of A^H
    y, s is `sparse` times the largest magnitude of F_t A^H y. Solved by accelerated proximal gradients (Lin and Fessler
    2019). Returns L + S, the image series (B, 1, T, Y, X).
    """
    b = A.adjoint(y)
    rank_amount = low_rank * largest_singular(_casorati(b))
    sparse_amount = sparse * largest_frequency(b)
    # Both parts see the same residual, so the gradient is twice as steep in the two together.
    step = 0.5 / (1 + regularization)
    descent = least_squares(A, b, regularization)

    def gradient(parts: Tensor) -> Tensor:
        return descent(parts.sum(1, keepdim=True)).repeat(1, parts.shape[1], 1, 1, 1)

    def proximal(parts: Tensor) -> Tensor:
        background, motion = parts[:, :1], parts[:, 1:]
        background = soft_rank(_casorati(background), step * rank_amount)[:, None].view(motion.shape)
        return torch.cat([background, soft_spectrum(motion, step * sparse_amount)], 1)

    start = torch.cat([b, torch.zeros_like(b)], 1)
    return accelerated(gradient, proximal, start, step, iterations).sum(1, keepdim=True)


def _casorati(x: Tensor) -> Tensor:
    """The (time, space) matrix of each item, (B, T, Y * X)."""
    return x.flatten(3)[:, 0]
