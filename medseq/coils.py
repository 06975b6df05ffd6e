"""Coil sensitivities from the k-space itself (ESPIRiT), and coil compression."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce

import torch
from torch import Tensor

from medseq.clip import KSpace, Trajectory
from medseq.errors import InputError, UsageError
from medseq.measurement import Measured, chunks, frames_of
from medseq.nonuniform import NonUniform, balanced
from medseq.operators import Fourier
from medseq.solve import cg

# Fewer fully sampled lines than this hold no sensitivity map.
FEWEST_LINES = 4
# Width of the calibration region: Uecker 2014, and the default of BART and SigPy.
_CALIBRATION = 24
# Of the gridding, relative to a norm of 1: what lies between the readouts of all frames is not made up.
_DAMPING, _GRIDDING_ITERATIONS = 1e-2, 12


def average_frames(kspace: KSpace) -> tuple[Tensor, Tensor]:
    """Time-averaged k-space (B, C, 1, Y, X) and where it was ever measured (bool, broadcastable to it).

    Each place of k-space is averaged over the frames that measured it, and zero where none did. Along a trajectory it
    is that of the image which explains the readouts of all frames best, each coil on its own.
    """
    if kspace.trajectory is not None:
        return _gridded(kspace, kspace.trajectory)
    return average_of(kspace.data, kspace.keep)


def average_of(y: Measured, keep: Tensor) -> tuple[Tensor, Tensor]:
    """As `average_frames`, of k-space y (B, C, T, Y, X) on a grid, measured where `keep` (bool, broadcastable) is
    True."""
    keep = keep.expand(*keep.shape[:2], y.shape[2], *keep.shape[3:])
    count = keep.sum(2, keepdim=True)
    parts = (torch.where(keep[:, :, chunk], frames_of(y, chunk), 0).sum(2, keepdim=True) for chunk in chunks(y))
    return reduce(torch.add, parts) / count.clamp(min=1), count > 0


def full_centre(measured: Tensor, shape: tuple[int, int]) -> tuple[int, int]:
    """Size (lines, samples) of the fully measured rectangle around DC that calibrates best.

    measured: bool (B or 1, C or 1, 1, Y or 1, X or 1), as from `average_frames`; shape: (Y, X). Of several slices or
    coils, what all of them measured. A side of n reaches from N // 2 - n // 2 on. The rectangle is the one of largest
    area, sides counting up to 24, then the largest. (0, 0) when DC itself is missing.
    """
    grid = measured.flatten(0, 2).all(0).expand(shape)
    # Sorted by distance from DC, a centred rectangle is full when everything before its corner is.
    full = grid[_outwards(shape[0])][:, _outwards(shape[1])].long().cumprod(0).cumprod(1)
    lines = torch.arange(1, shape[0] + 1, device=full.device)[:, None]
    samples = torch.arange(1, shape[1] + 1, device=full.device)
    useful = lines.clamp(max=_CALIBRATION) * samples.clamp(max=_CALIBRATION)
    best = int((full * (useful * grid.numel() + lines * samples)).argmax())
    if not bool(full[0, 0]):
        return 0, 0
    return best // shape[1] + 1, best % shape[1] + 1


def espirit(
    calibration: Tensor, shape: tuple[int, int], *, kernel: int = 6, threshold: float = 0.02
) -> tuple[Tensor, Tensor]:
    """Sensitivity maps (C, Y, X) of unit root-sum-of-squares and their eigenvalue (Y, X), by ESPIRiT (Uecker 2014).

    calibration: (C, Ly, Lx) complex, the fully sampled centre of k-space; shape: (Y, X) of the image; kernel: width of
    the k-space patches, less where the region is narrow; threshold: singular values of the calibration matrix below
    this part of the largest are taken as noise (sec. "Subspace bases").

    The eigenvalue is about 1 where the data support the map. Elsewhere (no signal) the best eigenvector there is is
    returned rather than zero, so that no part of the image is cut away. The phase, which ESPIRiT leaves open, is that
    relative to the strongest virtual coil, the principal component of the calibration data.

    Raises InputError when the calibration is zero or not finite, UsageError when it is larger than the image.
    """
    coils, *region = calibration.shape
    if region[0] > shape[0] or region[1] > shape[1]:
        raise UsageError(f"the calibration region {tuple(region)} is larger than the image {shape}")
    if not bool(torch.isfinite(calibration.abs()).all()) or not bool(calibration.any()):
        raise InputError("the calibration region of k-space is zero or not finite; measure or convert it again")
    width = [min(kernel, (size + 1) // 2) for size in region]
    kernels = _signal_kernels(calibration, width, threshold)
    eigenvalues, vectors = torch.linalg.eigh(_image_covariance(kernels, shape))
    strongest = _principal_coils(coil_products(calibration[None, :, None]))[:, :1]
    maps = vectors[..., -1]
    projection = maps.conj() @ strongest
    maps = maps * torch.polar(torch.ones_like(projection.real), projection.angle())
    return maps.movedim(-1, 0).contiguous(), eigenvalues[..., -1]


def estimate_maps(kspace: KSpace) -> Tensor:
    """Coil sensitivities (B, C, 1, Y, X) of unit root-sum-of-squares, from the time-averaged k-space.

    ESPIRiT (see `espirit`) on the fully sampled centre of the average over frames, which undersampled dynamic series
    have without extra calibration lines (TSENSE, Kellman 2001; TGRAPPA, Breuer 2005), and which the image's own
    distortions are in. Where the average has none, on that of the calibration scan. A single coil gets ones.

    Raises InputError when neither has a full centre of 4 x 4, or it is zero.
    """
    average, measured = average_frames(kspace)
    shape = (average.shape[-2], average.shape[-1])
    if kspace.coils == 1:
        return torch.ones_like(average)
    lines, samples = full_centre(measured, shape)
    if min(lines, samples) < FEWEST_LINES and kspace.calibration is not None:
        average = kspace.calibration.expand_as(average)
        lines, samples = full_centre((average != 0).any(1, keepdim=True), shape)
    if min(lines, samples) < FEWEST_LINES:
        found = "the calibration scan" if kspace.calibration is not None else "the average over frames"
        raise InputError(
            f"coil maps need a fully sampled centre of k-space, but even {found} has only {lines} x {samples}; give "
            "the maps, or measure calibration lines"
        )
    lines = min(lines, _CALIBRATION)
    # Few lines make up for it by their length: the number of patches decides.
    samples = min(samples, max(_CALIBRATION, _CALIBRATION**2 // lines))
    centre = _centre(_centre(average[:, :, 0], -2, lines), -1, samples)
    return torch.stack([espirit(item, shape)[0] for item in centre])[:, :, None]


def compress_coils(kspace: KSpace, rows: Tensor) -> KSpace:
    """The same k-space in fewer, virtual coils (Buehrer 2007, Huang 2008); rows: (V, C), as from `virtual_coils`.

    data, maps, calibration and the noise covariance are mixed by the same unitary rows; white noise stays white, so
    prewhiten first. Maps are scaled back to unit root-sum-of-squares, which moves the little signal lost from the maps
    into the image. One set of rows serves all slices.
    """
    keep = measured_together(kspace.keep)
    data = torch.where(keep, mixed_coils(rows, kspace.data), 0)
    maps = kspace.maps
    if maps is not None:
        maps = mixed_coils(rows, maps)
        norm = maps.abs().square().sum(1, keepdim=True).sqrt()
        maps = maps / norm.clamp(min=torch.finfo(norm.dtype).tiny)
    noise = kspace.noise
    if isinstance(noise, Tensor):
        mixing = rows.to(noise.dtype) if noise.is_complex() else rows
        noise = mixing @ noise.to(mixing.dtype) @ mixing.mH
    calibration = None if kspace.calibration is None else mixed_coils(rows, kspace.calibration)
    return replace(kspace, data=data, keep=keep, maps=maps, noise=noise, calibration=calibration)


def _gridded(kspace: KSpace, trajectory: Trajectory) -> tuple[Tensor, Tensor]:
    """`average_frames` along a trajectory. Samples are balanced, so that few iterations reach the edge of k-space."""
    frames, count = kspace.frames, kspace.data.shape[3]
    keep = kspace.keep.expand(1, 1, frames, count, kspace.keep.shape[4]).flatten(2, 3)[:, :, None]
    points = trajectory.points.expand(frames, -1, -1, -1).flatten(0, 1)[None]
    together = Trajectory(points, trajectory.size)
    weights = balanced(together, keep)
    A = NonUniform(together, weights)
    b = A.adjoint(weights * kspace.data.flatten(2, 3)[:, :, None])
    image = cg(lambda x: A.normal(x) + _DAMPING * x, b, None, _GRIDDING_ITERATIONS)
    measured = together.nearest
    return torch.where(measured, Fourier()(image), 0), measured


def measured_together(keep: Tensor) -> Tensor:
    """A place is measured in a mixture of coils only where every coil measured it."""
    return keep.all(1, keepdim=True) if keep.shape[1] > 1 else keep


def _signal_kernels(calibration: Tensor, width: list[int], threshold: float) -> Tensor:
    """Orthonormal patches (n, C, ky, kx) that span the calibration data; those of noise are set to zero."""
    coils = calibration.shape[0]
    patches = calibration.unfold(1, width[0], 1).unfold(2, width[1], 1)
    rows = patches.permute(1, 2, 0, 3, 4).flatten(2).flatten(0, 1)
    # Right singular vectors by way of the small Gram matrix: there may be many more patches than unknowns.
    eigenvalues, vectors = torch.linalg.eigh(rows.mH @ rows)
    signal = eigenvalues > threshold**2 * eigenvalues[-1]
    return (vectors.conj() * signal).mT.reshape(-1, coils, *width)


def _image_covariance(kernels: Tensor, shape: tuple[int, int]) -> Tensor:
    """sum_n k_n(r) k_n(r)^H at every voxel r, (Y, X, C, C) with eigenvalues up to 1.

    k_n: the kernels (n, C, ky, kx) in image space. Its Fourier coefficients are the correlations of the kernels, which
    are small: transforming these C^2 rather than every kernel takes a fraction of the memory and time (Uecker 2014, eq.
    17 in another order).
    """
    height, width = kernels.shape[-2:]
    small = (2 * height - 1, 2 * width - 1)
    spectra = torch.fft.ifft2(kernels, s=small)
    lags = torch.fft.fft2(torch.einsum("ncyx,ndyx->cdyx", spectra, spectra.conj())) * (small[0] * small[1])
    lags = torch.fft.fftshift(lags, dim=(-2, -1))
    image = Fourier().adjoint(_padded(lags, shape))
    return image.permute(2, 3, 0, 1) * ((shape[0] * shape[1]) ** 0.5 / (height * width))


def coil_products(y: Tensor) -> Tensor:
    """Inner products of the coils of (B, C, T, Y, X) with each other, (C, C)."""
    parts = (y[:, :, chunk].movedim(1, 0).flatten(1) for chunk in chunks(y))
    return reduce(torch.add, (samples @ samples.mH for samples in parts))


def virtual_coils(products: Tensor, virtual: int) -> Tensor:
    """The mixing (virtual, C) of coils into their strongest principal components; products: as `coil_products`.

    Raises UsageError unless 1 <= virtual <= C.
    """
    if not 1 <= virtual <= len(products):
        raise UsageError(f"{len(products)} coils can be compressed to between 1 and {len(products)}, not {virtual}")
    return _principal_coils(products)[:, :virtual].mH


def _principal_coils(products: Tensor) -> Tensor:
    """Principal components over coils: columns (C, C), the strongest first."""
    return torch.linalg.eigh(products).eigenvectors.flip(1)


def mixed_coils(rows: Tensor, data: Tensor) -> Tensor:
    """(V, C) times the coils of (B, C, ...)."""
    return torch.einsum("vc,bc...->bv...", rows.to(data.dtype), data)


def _outwards(size: int) -> Tensor:
    """Indices by distance from DC: N // 2, the one below, the one above, and so on."""
    n = torch.arange(size)
    return size // 2 + torch.where(n % 2 == 1, -(n + 1) // 2, n // 2)


def _centre(data: Tensor, axis: int, size: int) -> Tensor:
    return data.narrow(axis, data.shape[axis] // 2 - size // 2, size)


def _padded(data: Tensor, shape: tuple[int, int]) -> Tensor:
    """Zeros around the last two axes so that the middle, index N // 2, stays the middle."""
    top, left = (whole // 2 - part // 2 for whole, part in zip(shape, data.shape[-2:], strict=True))
    bottom, right = shape[0] - data.shape[-2] - top, shape[1] - data.shape[-1] - left
    return torch.nn.functional.pad(data, (left, right, top, bottom))
