"""SENSE of whole lines of k-space, solved exactly, with the noise and the amplitude of every voxel.

Along a readout nothing is missing, so that every column of an image is a problem of its own, and small enough to be
inverted (Pruessmann 1999). With the image x = H u, H the band of lines measured times weights, it is

    u = argmin |A H u - y|^2 + damping |u|^2,    P = (H^H A^H A H + damping)^-1,    x = H P H^H A^H y,

whose noise has the covariance H (P - damping P^2) H^H and which lacks damping H P H^-1 of the truth. The band keeps it
from making up lines that no frame measured (partial Fourier), which coil maps tell hardly anything about.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from medseq.operators import Coils, Fourier

# Relative to the norm of A, 1. The most is too little to be seen in what can be unfolded, the least ends the growth of
# noise at 22 times: chosen on a simulated run of other coils than those of docs/measurements.md.
_MOST_DAMPING, _LEAST_DAMPING = 1e-3, 5e-4
_QUANTILE = 0.95


@dataclass(frozen=True)
class Unfolded:
    """image: (1, 1, T, Y, X) complex64. noise: (1, 1, 1, Y, X), its std in units of that of y, root mean square over
    the frames with lines. kept: (1, 1, 1, Y, X), the share that a point keeps of its amplitude, mean over the same."""

    image: Tensor
    noise: Tensor
    kept: Tensor


def unfold(
    y: Tensor,
    keep: Tensor,
    maps: Tensor,
    weights: Tensor,
    tissue: Tensor,
    *,
    loss: float = 0.01,
    least: float = _LEAST_DAMPING,
) -> Unfolded:
    """The images of one slice that explain whole lines of k-space, each frame on its own.

    y: (1, C, T, Y, X); keep: bool (1, 1, T, Y, 1); maps: (1, C, 1, Y, X) of unit root-sum-of-squares. weights: (Y, X),
    in (0, 1], how large the image may be where, relative to elsewhere. tissue: bool (Y, X), where 95 % of the voxels
    lose no more than the share `loss` of their amplitude to the damping, if `least` of it allows that (`kept` tells).
    A frame without lines is zero.
    """
    lines = keep[0, 0, :, :, 0].expand(y.shape[2], y.shape[3])
    patterns, which = torch.unique(lines, dim=0, return_inverse=True)
    columns = _Columns.of(lines.any(0), maps, weights)
    back = Coils(maps).adjoint(Fourier().adjoint(torch.where(keep, y, 0)))[0, 0].permute(2, 1, 0)  # (X, Y, T)
    image = torch.zeros_like(back)
    variance, kept = torch.zeros(2, *back.shape[:2], dtype=torch.float64, device=back.device)
    there = lines.any(1)
    for number, pattern in enumerate(patterns):
        chosen = which == number
        solution = columns.solved(pattern, tissue.T, loss, least)
        image[:, :, chosen] = (solution.matrix @ back[:, :, chosen].to(solution.matrix)).to(back)
        share = float(chosen.sum() / there.sum())
        variance, kept = variance + share * solution.variance, kept + share * solution.kept
    return Unfolded(image.permute(2, 1, 0)[None, None].contiguous(), _as_map(variance.sqrt()), _as_map(kept))


def _as_map(columns: Tensor) -> Tensor:
    return columns.T[None, None, None].float()


def spanned(lines: Tensor) -> Tensor:
    """The lines that unfolding can tell of, when `lines` (bool (Y,)) are measured: from the first to the last of them,
    and as many on either side as may be missing between them."""
    numbers = lines.nonzero()[:, 0]
    reach = int(numbers.diff().max()) - 1 if len(numbers) > 1 else 0
    every = torch.arange(len(lines), device=lines.device)
    return (every >= numbers[0] - reach) & (every <= numbers[-1] + reach)


@dataclass(frozen=True)
class _Solution:
    """matrix: (X, Y, Y), from A^H y to x. variance, kept: (X, Y)."""

    matrix: Tensor
    variance: Tensor
    kept: Tensor


@dataclass(frozen=True)
class _Columns:
    """The problems of all columns of an image. fourier: (Y, Y). overlap: (X, Y, Y), the maps at two voxels times each
    other, over all coils. weights: (X, Y). band: (Y, Y), the projection onto the lines spanned; None: onto all."""

    fourier: Tensor
    overlap: Tensor
    weights: Tensor
    band: Tensor | None

    @staticmethod
    def of(measured: Tensor, maps: Tensor, weights: Tensor) -> _Columns:
        """measured: bool (Y,), lines of any frame."""
        # Double precision: inverses of matrices that are nearly singular lose as many digits.
        unit = torch.eye(len(measured), dtype=torch.complex128, device=maps.device)
        fourier = Fourier().forward(unit[None, None, :, :, None])[0, 0, :, :, 0].T
        columns = maps[0, :, 0].permute(2, 1, 0).to(unit.dtype)  # (X, Y, C)
        span = spanned(measured)
        band = None if bool(span.all()) else _selected(fourier, span)
        return _Columns(fourier, columns.conj() @ columns.mT, weights.T.to(torch.float64), band)

    def solved(self, pattern: Tensor, tissue: Tensor, loss: float, least: float) -> _Solution:
        """With the lines `pattern` (Y,); tissue: (X, Y)."""
        gram = self._weighted(self._banded(_selected(self.fourier, pattern) * self.overlap))
        most = self._lost(_inverse(gram, least))[tissue].quantile(_QUANTILE)
        damping = float((loss / most).clamp(least, _MOST_DAMPING))
        inverse = _inverse(gram, damping)
        half = self._left(inverse)  # H P
        variance = self._diagonal(half) - damping * half.abs().square().sum(-1)
        matrix = half * self.weights[:, None]
        matrix = matrix if self.band is None else matrix @ self.band
        return _Solution(matrix, variance, 1 - damping * self._lost(inverse))

    def _banded(self, matrix: Tensor) -> Tensor:
        return matrix if self.band is None else self.band @ matrix @ self.band

    def _weighted(self, matrix: Tensor) -> Tensor:
        return self.weights[:, :, None] * matrix * self.weights[:, None]

    def _left(self, matrix: Tensor) -> Tensor:
        """H times a matrix."""
        weighted = self.weights[:, :, None] * matrix
        return weighted if self.band is None else self.band @ weighted

    def _diagonal(self, half: Tensor) -> Tensor:
        """The diagonal of H P H^H from H P."""
        whole = half * self.weights[:, None]
        if self.band is None:
            return whole.diagonal(dim1=-2, dim2=-1).real
        return (whole * self.band.mT).sum(-1).real

    def _lost(self, inverse: Tensor) -> Tensor:
        """What a point in the band loses of its amplitude, for a damping of 1: the diagonal of H P H^-1."""
        if self.band is None:
            return inverse.diagonal(dim1=-2, dim2=-1).real
        between = self._left(inverse) / self.weights[:, None]
        return (between * self.band.mT).sum(-1).real / self.band.diagonal().real


def _selected(fourier: Tensor, lines: Tensor) -> Tensor:
    """F^H M F: what is left of an image when only some lines of k-space are."""
    return fourier.mH @ (lines[:, None] * fourier)


def _inverse(gram: Tensor, damping: float) -> Tensor:
    unit = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.cholesky_inverse(torch.linalg.cholesky(gram + damping * unit))
