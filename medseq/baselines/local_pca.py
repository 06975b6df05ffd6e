"""Local principal components: every patch of a series changes in time in a few ways, the noise in all of them.

The (pixels x frames) matrix of a patch, its Casorati matrix, has few large singular values; those of white noise end at
an edge that is known in closed form (Marchenko and Pastur 1967). `local_pca` shrinks the singular values. In
`local_pca_wiener` its result only lends the temporal components, in which the noisy series is filtered once more.
Patches overlap and are averaged; nothing is learnt.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from medseq.baselines.filters import noise_levels
from medseq.baselines.proximal import eigh
from medseq.errors import UsageError

# Patches of 4 pixels a frame, within these sides: fewer tell signal and noise apart worse, more hold more motions.
_PIXELS_A_FRAME = 4
_SMALLEST, _LARGEST = 5, 16
# A coefficient of noise is as large once in 300 times: multiples of its std, E|n|^2 for complex noise.
_KEPT_REAL, _KEPT_COMPLEX = 3.0, 2.4
# Where the pilot is silent its components are arbitrary: this part of the noise power decides for smooth courses.
_TIE = 0.05
_CHUNK = 2**18  # elements of the patches that are worked on at once: as many as fit into a cache


def local_pca(
    x: Tensor, sigma: float | Tensor | None = None, *, patch: int | None = None, stride: int | None = None
) -> Tensor:
    """Local PCA denoising with optimal shrinkage of singular values, real or complex (B, 1, T, Y, X) -> the same.

    sigma: noise std of each real channel, one number or one for each item (B,); None estimates it in every patch from
    the Marchenko-Pastur law of its own eigenvalues (MP-PCA, Veraart 2016), so that noise may vary over the image. The
    shrinkage has the least expected squared error of all functions of the singular values (Gavish and Donoho 2017, eq.
    1.7); those within the edge of noise become zero. Overlapping patches are averaged with the weights 1 / (1 + rank)
    (Manjon 2013). patch: side in pixels, None for 2 sqrt(T) within 5 to 16; stride: between patches, None for a third
    of the side.

    Raises UsageError for impossible sigma, patch or stride.
    """
    levels = None if sigma is None else noise_levels(x, sigma)
    side = patch if patch is not None else _default_side(x.shape[2])
    index = _patches(x, side, stride if stride is not None else max(1, side // 3))

    def denoised(b: int, pixels: Tensor) -> Tensor:
        def restored(chosen: Tensor) -> tuple[Tensor, Tensor]:
            return _shrunk(pixels[chosen], None if levels is None else levels[b])

        return _averaged(pixels, index, restored)

    return _by_item(x, denoised)


def local_pca_wiener(
    x: Tensor, sigma: float | Tensor | None = None, *, pilot: Tensor | None = None, patch: int = 8, stride: int = 2
) -> Tensor:
    """Local PCA, then two passes of filtering in its temporal components, real or complex (B, 1, T, Y, X) -> the same.

    In every patch the noisy series is expanded in the principal components of a pilot over time (Manjon 2015) and in
    cosines over space. With the result of `local_pca` as pilot, coefficients as small as noise become zero; with the
    result of that as pilot, every coefficient c is multiplied by p^2 / (p^2 + noise^2), p being the pilot's (the two
    steps of BM3D, Dabov 2007). Patches are averaged with the weights 1 / |factors|^2. sigma: as in `local_pca`, but
    None estimates one number for each item (`estimate_noise_image`). patch, stride: pixels. pilot: another denoised
    series in the place of that of `local_pca`; where a scene is made of even surfaces, `non_local_means` is the better.

    Raises UsageError for impossible sigma, patch or stride, and for a pilot of another shape or kind.
    """
    levels = noise_levels(x, sigma)
    index = _patches(x, patch, stride)
    cosines = _cosines(math.isqrt(index.shape[1]), x)

    def thresholded(noisy: Tensor, _: Tensor, noise: Tensor) -> Tensor:
        kept = _KEPT_COMPLEX if noisy.is_complex() else _KEPT_REAL
        return (noisy.abs() > kept * noise).to(noise.dtype)

    def wiener(_: Tensor, pilot: Tensor, noise: Tensor) -> Tensor:
        power = pilot.abs().square()
        return power / (power + noise.square())

    if pilot is None:
        pilot = local_pca(x, levels)
    elif pilot.shape != x.shape or pilot.dtype != x.dtype:
        raise UsageError(f"the pilot must be a {x.dtype} series of shape {tuple(x.shape)}, as the noisy one")
    for factors in (thresholded, wiener):
        pilot = _filtered(x, pilot, levels, index, cosines, factors)
    return pilot


def _filtered(
    x: Tensor,
    pilot: Tensor,
    levels: Tensor,
    index: Tensor,
    cosines: Tensor,
    factors: Callable[[Tensor, Tensor, Tensor], Tensor],
) -> Tensor:
    """Multiply the coefficients of every patch by `factors` of (noisy, pilot, std of the noise)."""

    def filtered(b: int, pixels: Tensor) -> Tensor:
        guide = _pixels(pilot[b])
        noise = _entry_std(levels[b], pixels)
        smooth = _TIE * _neighbour_means(pixels.shape[1], x)

        def restored(chosen: Tensor) -> tuple[Tensor, Tensor]:
            noisy, known = pixels[chosen], guide[chosen]
            _, components = eigh(known.mH @ known + len(cosines) * noise.square() * smooth)
            noisy, known = (cosines @ (part @ components) for part in (noisy, known))
            kept = factors(noisy, known, noise)
            weight = 1 / kept.square().sum((1, 2)).clamp(min=1)
            return cosines.mT @ (kept * noisy) @ components.mH, weight

        return _averaged(pixels, index, restored)

    return _by_item(x, filtered)


def _shrunk(casorati: Tensor, sigma: Tensor | None) -> tuple[Tensor, Tensor]:
    """Patches (N, pixels, frames) with shrunken singular values, and their weights (N,)."""
    rows, columns = casorati.shape[1:]
    # By way of the Gram matrix of the shorter side, which is far cheaper than a decomposition of the patch.
    wide = columns > rows
    gram = casorati @ casorati.mH if wide else casorati.mH @ casorati
    eigenvalues, vectors = eigh(gram)
    eigenvalues = eigenvalues.clamp(min=0)
    noise = _marchenko_pastur(eigenvalues, max(rows, columns)) if sigma is None else _entry_std(sigma, casorati)
    kept = _shrinkage(eigenvalues, noise.reshape(-1, 1), rows, columns)
    projection = (vectors * kept[:, None]) @ vectors.mH
    return projection @ casorati if wide else casorati @ projection, 1 / (1 + (kept > 0).sum(1))


def _shrinkage(eigenvalues: Tensor, noise: Tensor, rows: int, columns: int) -> Tensor:
    """Factors of singular values, sqrt((y^2 - b - 1)^2 - 4 b) / y^2 (Gavish and Donoho 2017, eq. 1.7).

    y: singular values over sqrt(longer side) and `noise`, the std of one entry; b: the ratio of the sides. Zero below
    the edge of noise, y = 1 + sqrt(b).
    """
    ratio = min(rows, columns) / max(rows, columns)
    squared = eigenvalues / (max(rows, columns) * noise.square()).clamp(min=torch.finfo(eigenvalues.dtype).tiny)
    beyond = squared > (1 + math.sqrt(ratio)) ** 2
    squared = torch.where(beyond, squared, 1)
    # As a product: for y so large that its fourth power overflows the factor must still come out as 1.
    inner, outer = ((1 + sign * math.sqrt(ratio)) ** 2 / squared for sign in (-1, 1))
    return torch.where(beyond, ((1 - inner) * (1 - outer)).clamp(min=0).sqrt(), 0)


def _marchenko_pastur(eigenvalues: Tensor, longer: int) -> Tensor:
    """Std of one entry of every patch (N,) from the eigenvalues (N, shorter side), ascending, of its Gram matrix.

    As many of the smallest eigenvalues are noise as have a range no wider than the Marchenko-Pastur law of their mean
    allows, 4 sqrt(ratio) times the variance (Veraart 2016, eqs. 10 to 12), where each component of signal takes a row
    and a column from the noise (Cordero-Grande 2019).
    """
    count = torch.arange(1, eigenvalues.shape[1] + 1, device=eigenvalues.device)
    left = longer - (eigenvalues.shape[1] - count)
    variance = eigenvalues.cumsum(1) / (count * left)
    width = (eigenvalues - eigenvalues[:, :1]) / (4 * (count * left).sqrt())
    noise = ((width <= variance) * count).amax(1, keepdim=True)
    return variance.gather(1, noise - 1)[:, 0].sqrt()


def _entry_std(sigma: Tensor, like: Tensor) -> Tensor:
    """sqrt(E|n|^2) of one entry: sqrt(2) sigma for complex noise."""
    return sigma * math.sqrt(2) if like.is_complex() else sigma


def _default_side(frames: int) -> int:
    return min(max(round(math.sqrt(_PIXELS_A_FRAME * frames)), _SMALLEST), _LARGEST)


def _patches(x: Tensor, side: int, stride: int) -> Tensor:
    """Indices (patches, pixels) into the flat image; the last patches of rows and columns end at the edge.

    Sides are cut to those of the image. A stride beyond the side would leave pixels out: UsageError.
    """
    if side < 1 or not 1 <= stride <= side:
        raise UsageError(f"patches need a side of at least 1 and a stride from 1 to that, got {side} and {stride}")
    height, width = x.shape[-2:]
    side = min(side, height, width)
    rows, columns = (_places(size, side, min(stride, side), x.device) for size in (height, width))
    return (rows[:, None, :, None] * width + columns[None, :, None, :]).reshape(-1, side * side)


def _places(size: int, side: int, stride: int, device: torch.device) -> Tensor:
    """(patches, side) pixels along one axis."""
    starts = torch.arange(0, size - side + stride, stride, device=device).clamp(max=size - side)
    return starts[:, None] + torch.arange(side, device=device)


def _pixels(item: Tensor) -> Tensor:
    """(1, T, Y, X) -> (Y * X, T)."""
    return item.flatten(2)[0].T.contiguous()


def _by_item(x: Tensor, method: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Apply method(b, pixels (Y * X, T)) to every item of (B, 1, T, Y, X)."""
    if x.ndim != 5 or x.shape[1] != 1:
        raise UsageError(f"a series (B, 1, T, Y, X) is needed, got {tuple(x.shape)}")
    return torch.stack([method(b, _pixels(item)).T.reshape(item.shape) for b, item in enumerate(x)])


def _averaged(pixels: Tensor, index: Tensor, restored: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Weighted mean of overlapping patches; restored: indices (n, pixels) -> values (n, pixels, T), weights (n,)."""
    total = torch.zeros_like(pixels)
    weight = torch.zeros(len(pixels), 1, dtype=pixels.real.dtype, device=pixels.device)
    for chosen in index.split(max(1, _CHUNK // (index.shape[1] * pixels.shape[1]))):
        values, weights = restored(chosen)
        weights = weights.to(weight.dtype)[:, None, None].expand(*chosen.shape, 1)
        total.index_add_(0, chosen.flatten(), (weights * values).flatten(0, 1))
        weight.index_add_(0, chosen.flatten(), weights.flatten(0, 1))
    return total / weight


def _neighbour_means(frames: int, like: Tensor) -> Tensor:
    """(T, T) means of the frames before and after, whose eigenvectors are cosines, the smoothest the largest."""
    one = torch.ones(frames - 1, dtype=like.dtype, device=like.device) / 2
    means = torch.diag(one, 1) + torch.diag(one, -1)
    means[0, 0] += 0.5
    means[-1, -1] += 0.5
    return means


def _cosines(side: int, like: Tensor) -> Tensor:
    """Orthonormal cosines of a patch, (side * side, side * side): one frequency a row (DCT-II, Ahmed 1974)."""
    place = torch.arange(side, device=like.device, dtype=torch.float64)
    rows = torch.cos(math.pi * (place + 0.5) * place[:, None] / side) * math.sqrt(2 / side)
    rows[0] /= math.sqrt(2)
    return torch.kron(rows, rows).to(like.dtype)
