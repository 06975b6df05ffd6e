"""Compressed sensing of single frames: few wavelet coefficients (Lustig 2007), by an orthogonal Daubechies wavelet.

The default threshold was chosen on the simulated beating heart alone, at 4 and 8 times undersampling and 1 % noise.
"""

from __future__ import annotations

import torch
from torch import Tensor

from medseq.baselines.proximal import (
    accelerated,
    largest,
    least_squares,
    shifted_blocks,
    shifts,
    soft,
    unshifted_blocks,
)
from medseq.operators import LinearOp

# Scaling filter of two vanishing moments (Daubechies 1988, table 1): "db2" in PyWavelets and SigPy, "dau2" in BART. The
# ringing of longer ones (db4) costs more at the edges of the simulated heart than their smoothness gains.
_SCALING = (0.48296291314453416, 0.8365163037378079, 0.2241438680420134, -0.12940952255126037)
# The coarsest image is not halved below this: it is measured in every frame, and hardly sparse.
_COARSEST = 8


def wavelet(
    y: Tensor, A: LinearOp, *, threshold: float = 2e-3, regularization: float = 0.0, iterations: int = 50
) -> Tensor:
    """Every frame on its own, with few wavelet coefficients: L1-wavelet SENSE (Lustig 2007, Murphy 2012).

    argmin |A x - y|^2 / 2 + regularization |x|^2 / 2 + t |W x|_1, with W the orthogonal wavelet transform (db2)
    and t `threshold` times the largest magnitude of A^H y; y is (B, C, T, Y, X), A of norm at most 1. The grid of W
    moves in every iteration, so that the penalty is about its mean over all places of the grid: the image comes close
    to the least of that, and goes on moving by less than a hundredth. Returns the image series (B, 1, T, Y, X).
    """
    b = A.adjoint(y)
    size = (b.shape[-2], b.shape[-1])
    levels = _depth(size)
    matrices = _analysis(size, levels, b)
    step = 1 / (1 + regularization)
    amount = step * threshold * largest(b)
    grid = shifts(2**levels)

    def proximal(x: Tensor) -> Tensor:
        shift = next(grid)
        coefficients = _transform(shifted_blocks(x, shift, 2**levels), matrices)
        return unshifted_blocks(_inverse(soft(coefficients, amount), matrices), shift, size)

    return accelerated(least_squares(A, b, regularization), proximal, b, step, iterations)


def _depth(size: tuple[int, int]) -> int:
    """How often an image can be halved, at least once."""
    return max(1, (min(size) // _COARSEST).bit_length() - 1)


def _analysis(size: tuple[int, int], levels: int, like: Tensor) -> list[tuple[Tensor, Tensor]]:
    """For every level the orthogonal matrices of rows and columns, of sides that are multiples of 2^levels."""
    sides = [length + -length % 2**levels for length in size]
    pairs = [[_halving(side >> level, like) for side in sides] for level in range(levels)]
    return [(rows, columns) for rows, columns in pairs]


def _halving(side: int, like: Tensor) -> Tensor:
    """One level of the periodic transform (side, side): the first half averages, the second differences."""
    low = torch.tensor(_SCALING, dtype=like.real.dtype)
    high = low.flip(0) * (-1.0) ** torch.arange(len(low))
    row = torch.arange(side // 2)[:, None].expand(-1, len(low))
    column = (2 * row + torch.arange(len(low))) % side
    matrix = torch.zeros(side, side, dtype=low.dtype)
    # Added up, not set: on a short side the filter meets itself, and is still orthogonal.
    matrix.index_put_((row, column), low.expand(row.shape), accumulate=True)
    matrix.index_put_((row + side // 2, column), high.expand(row.shape), accumulate=True)
    return matrix.to(like.device)


def _transform(x: Tensor, matrices: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Coefficients of images (..., Y, X) complex, in place: details around, the coarsest image in the first corner."""
    parts = _real_parts(x)
    for rows, columns in matrices:
        corner = parts[..., : len(rows), : len(columns)]
        corner.copy_(rows @ corner @ columns.mT)
    return torch.complex(parts[0], parts[1])


def _inverse(coefficients: Tensor, matrices: list[tuple[Tensor, Tensor]]) -> Tensor:
    """The images of `_transform`, by the transposed matrices."""
    parts = _real_parts(coefficients)
    for rows, columns in reversed(matrices):
        corner = parts[..., : len(rows), : len(columns)]
        corner.copy_(rows.mT @ corner @ columns)
    return torch.complex(parts[0], parts[1])


def _real_parts(x: Tensor) -> Tensor:
    """A copy (2, ...): real matrices on two real parts take half the work of complex ones."""
    return torch.stack([x.real, x.imag])
