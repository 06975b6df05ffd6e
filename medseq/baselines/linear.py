"""Linear baselines: what comes out without any prior beyond zeros, stillness or straight lines in time.

`y` is a measurement (B, C, T, Y, X) and `A` its operator, of norm at most 1 (coil maps of unit root-sum-of-squares).
"""

from __future__ import annotations

from torch import Tensor

from medseq.operators import LinearOp, Resample, interpolation_matrix
from medseq.solve import cg


def zero_filled(y: Tensor, A: LinearOp) -> Tensor:
    """A^H y, the image series (B, 1, T, Y, X): zeros where unmeasured, coils combined by their maps (Roemer 1990)."""
    return A.adjoint(y)


def sense(y: Tensor, A: LinearOp, *, regularization: float = 1e-3, iterations: int = 20) -> Tensor:
    """Every frame on its own, by conjugate gradients (CG-SENSE, Pruessmann 2001).

    argmin |A x - y|^2 + regularization |x|^2, where regularization is relative to the norm of A, 1. Returns the image
    series (B, 1, T, Y, X).
    """
    return cg(lambda x: A.normal(x) + regularization * x, A.adjoint(y), None, iterations, 1e-4)


def time_average(y: Tensor, A: LinearOp, *, regularization: float = 1e-3, iterations: int = 10) -> Tensor:
    """The one still image that explains all frames best, put in every frame: a heart that stands still.

    argmin |A (x repeated) - y|^2 / T + regularization |x|^2, the SENSE image of the time-averaged k-space in which each
    place counts as often as it was measured. Returns (B, 1, T, Y, X).
    """
    b = A.adjoint(y)
    frames = b.shape[2]

    def normal(still: Tensor) -> Tensor:
        repeated = still.expand(-1, -1, frames, -1, -1)
        return A.normal(repeated).mean(2, keepdim=True) + regularization * still

    still = cg(normal, b.mean(2, keepdim=True), None, iterations, 1e-4)
    return still.expand(b.shape).contiguous()


def linear_interpolation(known: Tensor, times: Tensor, wanted: Tensor, period: float | None = None) -> Tensor:
    """Frames at `wanted` times as straight lines between known ones: (B, 1, T, Y, X) -> (B, 1, W, Y, X).

    known: real or complex frames at `times` (T,) seconds, increasing; wanted: (W,) seconds; period: seconds of a cycle,
    by which the last frame goes over into the first. Raises UsageError for times beyond the known ones without a
    period.
    """
    return Resample(interpolation_matrix(times, wanted, period).to(known.device))(known)
