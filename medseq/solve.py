"""The one solver of linear systems: conjugate gradients, every item of the batch on its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Asking a GPU whether all items have converged makes the host wait for it, so this is asked rarely.
_CHECK_EVERY = 4


def cg(
    normal: Callable[[Tensor], Tensor],
    b: Tensor,
    x0: Tensor | None = None,
    iterations: int = 30,
    tolerance: float = 1e-5,
) -> Tensor:
    """Solve `normal(x) = b` by conjugate gradients (Hestenes and Stiefel 1952).

    normal: a Hermitian positive (semi)definite linear map that keeps shape and treats items of axis 0 apart.
    b: right-hand side (B, ...), real or complex; x0: a first guess of the same shape, or None for zeros.
    iterations: the most steps taken. tolerance: an item stops changing once |b - normal(x)| <= tolerance * |b|.

    Returns x (B, ...). Step sizes are those of each item of axis 0, so a result does not depend on its neighbours.
    """
    x = torch.zeros_like(b) if x0 is None else x0
    residual = b if x0 is None else b - normal(x0)
    direction = residual
    squared = _inner(residual, residual)
    goal = tolerance**2 * _inner(b, b)
    active = squared > goal
    for step in range(iterations):
        if step % _CHECK_EVERY == 0 and not b.is_meta and not active.any():
            break
        image = normal(direction)
        curvature = _inner(direction, image)
        # An item that has converged, or stands in the null space, stays as it is from here on.
        active = active & (squared > goal) & (curvature > 0)
        length = torch.where(active, squared / torch.where(active, curvature, 1), 0)
        x = x + length * direction
        residual = residual - length * image
        previous, squared = squared, _inner(residual, residual)
        direction = residual + squared / torch.where(previous > 0, previous, 1) * direction
    return x


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Re <a, b> of each item, shaped (B, 1, ...) to scale it."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
        return (a * b).sum(tuple(range(1, a.ndim)))[(...,) + (None,) * (a.ndim - 2)]
    return (a * b).sum(tuple(range(1, a.ndim)), keepdim=True)
