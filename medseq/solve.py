"""The one solver of linear systems: conjugate gradients, every item of the batch on its own."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

# Asking a GPU whether all items have converged makes the host wait for it, so it is asked rarely.
_CHECK_EVERY = 4


def cg(
    normal: Callable[[Tensor], Tensor],
    b: Tensor,
    x0: Tensor | None = None,
    iterations: int = 30,
    tolerance: float = 1e-5,
    apart: tuple[int, ...] = (0,),
) -> Tensor:
    """Solve `normal(x) = b` by conjugate gradients (Hestenes and Stiefel 1952).

    normal: a Hermitian positive (semi)definite linear map that keeps shape and treats the items of the axes `apart`,
    each a system of its own, alone. b: right-hand side (B, ...), real or complex; x0: a first guess of the same shape,
    or None for zeros. iterations: the most steps taken. tolerance: an item stops changing once
    |b - normal(x)| <= tolerance * |b|.

    Returns x (B, ...). Step sizes are those of each item, so a result does not depend on its neighbours.
    """
    within = tuple(axis for axis in range(b.ndim) if axis not in apart)
    x = torch.zeros_like(b) if x0 is None else x0
    residual = b if x0 is None else b - normal(x0)
    direction = residual
    squared = _inner(residual, residual, within)
    goal = tolerance**2 * _inner(b, b, within)
    active = squared > goal
    check_every = 1 if b.device.type == "cpu" else _CHECK_EVERY
    for step in range(iterations):
        if step % check_every == 0 and not b.is_meta and not active.any():
            break
        image = normal(direction)
        curvature = _inner(direction, image, within)
        # An item that has converged, or stands in the null space, stays as it is from here on.
        moves = active & (curvature > 0)
        length = torch.where(moves, squared / torch.where(moves, curvature, 1), 0)
        x = torch.addcmul(x, length, direction)
        residual = torch.addcmul(residual, length, image, value=-1)
        previous, squared = squared, _inner(residual, residual, within)
        direction = torch.addcmul(residual, squared / torch.where(previous > 0, previous, 1), direction)
        active = moves & (squared > goal)
    return x


def _inner(a: Tensor, b: Tensor, within: tuple[int, ...]) -> Tensor:
    """Re <a, b> over the axes `within`, which stay as axes of one, to scale with."""
    if a.is_complex():
        a, b = torch.view_as_real(a), torch.view_as_real(b)
        return (a * b).sum((*within, -1), keepdim=True)[..., 0]
    return (a * b).sum(within, keepdim=True)
