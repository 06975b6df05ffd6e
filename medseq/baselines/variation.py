"""Total variation in space (Rudin 1992, Block 2007) and in time (Feng 2014): images and curves of few jumps.

`y` is (B, C, T, Y, X) and `A` its operator, of norm at most 1. Weights are relative to the data, so that a rescaled
measurement gives the same image rescaled. Their defaults were chosen on the simulated beating heart alone, at 4 and 8
times undersampling and 1 % noise.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from medseq.baselines.proximal import accelerated, largest, least_squares, rows_at_once
from medseq.operators import LinearOp

# Steps on the dual in every step on the image. It starts from where it was, so few are enough, and coils cost more.
_INNER = 8


def total_variation(
    y: Tensor, A: LinearOp, *, weight: float = 3e-3, regularization: float = 0.0, iterations: int = 50
) -> Tensor:
    """Every frame on its own, with few edges: TV-SENSE (Block 2007).

    argmin |A x - y|^2 / 2 + regularization |x|^2 / 2 + w sum |grad x|, with grad the forward differences in y and x,
    |.| their Euclidean norm at every voxel (isotropic), and w `weight` times the largest magnitude of A^H y. Returns
    the image series (B, 1, T, Y, X).
    """
    return _least_variation(y, A, (-2, -1), False, weight, regularization, iterations)


def temporal_tv(
    y: Tensor,
    A: LinearOp,
    *,
    weight: float = 8e-3,
    regularization: float = 3e-3,
    iterations: int = 50,
    periodic: bool = False,
) -> Tensor:
    """Every voxel changes rarely in time: TV along frames, as in GRASP (Feng 2014) and k-t methods since Adluru 2007.

    argmin |A x - y|^2 / 2 + regularization |x|^2 / 2 + w sum |x_{t+1} - x_t|, with w `weight` times the largest
    magnitude of A^H y. periodic: the last frame goes over into the first. Returns the image series (B, 1, T, Y, X).
    """
    return _least_variation(y, A, (2,), periodic, weight, regularization, iterations)


def _least_variation(
    y: Tensor,
    A: LinearOp,
    axes: tuple[int, ...],
    periodic: bool,
    weight: float,
    regularization: float,
    iterations: int,
) -> Tensor:
    """FISTA whose proximal map is solved on its dual (Beck and Teboulle 2009b), which is kept between steps."""
    b = A.adjoint(y)
    step = 1 / (1 + regularization)
    proximal = variation_step(b, step * weight, axes, periodic)
    return accelerated(least_squares(A, b, regularization), lambda x: proximal(x, None), b, step, iterations)


def variation_step(
    b: Tensor, weight: float, axes: tuple[int, ...], periodic: bool, inner: int = _INNER
) -> Callable[[Tensor, Tensor | None], Tensor]:
    """The proximal map of `weight` times the largest magnitude of `b` times TV along `axes`, by `inner` steps on its
    dual, which it keeps from one call to the next.

    A function (x, rows) -> x: of a whole series (None), or in time, where every voxel is its own problem, of some rows.
    """
    amount = weight * largest(b)
    dual = torch.zeros(len(axes), *b.shape, dtype=b.dtype, device=b.device)
    apart = axes == (2,)

    def of_rows(x: Tensor, rows: Tensor) -> Tensor:
        kept = _dual_steps(x, dual.index_select(4, rows), amount, axes, periodic, inner)
        dual.index_copy_(4, rows, kept)
        return x - _differences_adjoint(kept, axes, periodic)

    def proximal(x: Tensor, rows: Tensor | None = None) -> Tensor:
        if rows is not None:
            return of_rows(x, rows)
        parts = torch.arange(x.shape[3], device=x.device).split(rows_at_once(x) if apart else x.shape[3])
        return torch.cat([of_rows(x.index_select(3, part), part) for part in parts], dim=3)

    return proximal


def _dual_steps(
    x: Tensor, dual: Tensor, amount: Tensor, axes: tuple[int, ...], periodic: bool, iterations: int
) -> Tensor:
    """Accelerated projected gradients on argmin |x - D^H dual|^2 over |dual| <= amount (Beck and Teboulle 2009b).

    dual: (axes, B, 1, T, Y, X), as the differences D x.
    """
    # |D|^2 is at most 4 for each axis.
    step = 1 / (4 * len(axes))
    ahead, momentum = dual, 1.0
    for number in range(iterations):
        left = x - _differences_adjoint(ahead, axes, periodic)
        moved = torch.add(ahead, _differences(left, axes, periodic), alpha=step)
        previous, dual = dual, _into_ball(moved, amount)
        if number == iterations - 1:
            break
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = torch.sub(dual, previous).mul_((momentum - 1) / following).add_(dual)
        momentum = following
    return dual


def _into_ball(dual: Tensor, amount: Tensor) -> Tensor:
    """The nearest with a norm over axis 0 of at most `amount`, place by place."""
    # The parts rather than abs(), and products rather than powers: several times faster.
    power = torch.addcmul(dual.real * dual.real, dual.imag, dual.imag).sum(0)
    inverse = power.clamp_(min=torch.finfo(power.dtype).tiny).rsqrt_()
    return dual * (amount * inverse).clamp_(max=1)


def _differences(x: Tensor, axes: tuple[int, ...], periodic: bool) -> Tensor:
    """Forward differences, one set an axis: (axes, ...). The last is zero, or goes round to the first."""
    parts = x.new_empty(len(axes), *x.shape)
    for part, axis in zip(parts, axes, strict=True):
        first, last, count = x.narrow(axis, 0, 1), x.narrow(axis, -1, 1), x.shape[axis] - 1
        torch.sub(x.narrow(axis, 1, count), x.narrow(axis, 0, count), out=part.narrow(axis, 0, count))
        part.narrow(axis, -1, 1).copy_(first - last if periodic else torch.zeros_like(last))
    return parts


def _differences_adjoint(parts: Tensor, axes: tuple[int, ...], periodic: bool) -> Tensor:
    """Minus the divergence. The last difference is that of nothing unless it goes round."""
    total = torch.zeros_like(parts[0])
    for part, axis in zip(parts, axes, strict=True):
        count = part.shape[axis] - 1
        inner = part.narrow(axis, 0, count)
        total.narrow(axis, 1, count).add_(inner)
        total.narrow(axis, 0, count).sub_(inner)
        if periodic:
            closing = part.narrow(axis, -1, 1)
            total.narrow(axis, 0, 1).add_(closing)
            total.narrow(axis, -1, 1).sub_(closing)
    return total
