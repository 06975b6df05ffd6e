"""Locally low rank: small patches change in time in a few ways only (Trzasko 2011, Zhang 2015).

The default threshold was chosen on the simulated beating heart alone, at 4 and 8 times undersampling and 1 % noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial, reduce

import torch
from torch import Tensor

from medseq.baselines.proximal import (
    accelerated,
    largest_singular,
    least_squares,
    shifted_blocks,
    shifts,
    soft_rank,
    unshifted_blocks,
)
from medseq.errors import UsageError
from medseq.operators import LinearOp

RowStep = Callable[[Tensor], Tensor]


def locally_low_rank(
    y: Tensor,
    A: LinearOp,
    *,
    threshold: float = 1e-3,
    patch: int = 8,
    regularization: float = 0.0,
    iterations: int = 50,
) -> Tensor:
    """Few singular values in the space x time matrix of every patch of `patch` x `patch` voxels (Zhang 2015).

    argmin |A x - y|^2 / 2 + regularization |x|^2 / 2 + l sum_p |x_p|_*, with the nuclear norm of the patches p and l
    `threshold` times the largest singular value of any patch of A^H y; y is (B, C, T, Y, X), A of norm at most 1. The
    patches tile the image, and the tiling moves in every iteration. Returns the image series (B, 1, T, Y, X).

    Raises UsageError for a patch of no voxels.
    """
    b = A.adjoint(y)
    step = 1 / (1 + regularization)
    tilings = local_rank_step(b, step * threshold, patch)
    gradient = least_squares(A, b, regularization)
    return accelerated(gradient, lambda x: shrunk_patches(tilings(), x), b, step, iterations)


def local_rank_step(b: Tensor, threshold: float, patch: int = 8) -> Callable[[], Iterator[tuple[Tensor, RowStep]]]:
    """The proximal map of `threshold` times the largest singular value of any patch of `b` times the nuclear norms of
    all patches, which tile the image otherwise in every call.

    Each call gives rows that hold whole patches, in turn, and the map of those rows (B, 1, T, rows, X): few rows at a
    time on a CPU (see `by_rows`), all at once on a GPU. UsageError for a patch of no voxels.
    """
    if patch < 1:
        raise UsageError(f"a patch needs at least one voxel, got {patch}")
    bands = [b[..., first : first + patch, :] for first in range(0, b.shape[-2], patch)]
    largest = (
        largest_singular(_cut(shifted_blocks(band, (0, 0), patch), patch)).amax(1, keepdim=True) for band in bands
    )
    amount = threshold * reduce(torch.maximum, largest)
    moves = shifts(patch)
    height, device, padded = b.shape[-2], b.device, len(bands) * patch
    del b, bands, largest  # as large as the series

    def tiling() -> Iterator[tuple[Tensor, RowStep]]:
        down, right = next(moves)
        order = (torch.arange(padded) - down) % padded
        for places in order.split(patch if device.type != "cuda" else padded):
            there = (places < height).nonzero()[:, 0]
            size = (len(places), there.to(device))
            yield places[there].to(device), partial(_shrunk, size=size, right=right, patch=patch, amount=amount)

    return tiling


def shrunk_patches(tiling: Iterator[tuple[Tensor, RowStep]], x: Tensor) -> Tensor:
    """The map of one call of a `local_rank_step`, in the place of x (B, 1, T, Y, X)."""
    for rows, shrink in tiling:
        x.index_copy_(3, rows, shrink(x.index_select(3, rows)))
    return x


def _shrunk(part: Tensor, size: tuple[int, Tensor], right: int, patch: int, amount: Tensor) -> Tensor:
    """Rows of patches with shrunken singular values; size: rows of those patches, and which of them the image has."""
    rows, there = size
    whole = part.new_zeros(*part.shape[:3], rows, part.shape[4]).index_copy_(3, there, part)
    whole = shifted_blocks(whole, (0, right), patch)
    shrunk = _join(soft_rank(_cut(whole, patch), amount), whole)
    return unshifted_blocks(shrunk, (0, right), (rows, part.shape[4])).index_select(3, there)


def _cut(x: Tensor, patch: int) -> Tensor:
    """(B, 1, T, Y, X) of sides that are multiples of `patch` -> matrices (B, patches, T, patch * patch)."""
    tiles = x[:, 0].unfold(2, patch, patch).unfold(3, patch, patch)
    return tiles.permute(0, 2, 3, 1, 4, 5).flatten(4).flatten(1, 2)


def _join(matrices: Tensor, like: Tensor) -> Tensor:
    """Undo `_cut`."""
    batch, _, frames, height, width = like.shape
    patch = round(matrices.shape[-1] ** 0.5)
    tiles = matrices.view(batch, height // patch, width // patch, frames, patch, patch)
    return tiles.permute(0, 3, 1, 4, 2, 5).reshape(like.shape)
