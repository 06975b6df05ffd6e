"""How close a series is to its reference, at fixed scale: nothing is normalised per image or per frame.

Every metric takes series (B, 1, T, Y, X) of one and the same scale, and optionally a `region`, bool and broadcastable
to them (True where it counts, e.g. from `dynamic_region`). Where the reference is complex the result must be too, and
errors are those of the complex values; for magnitudes pass `.abs()` of both. All of them raise UsageError for shapes or
kinds that do not fit, for a reference that is zero, and for an empty region.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from medseq.errors import UsageError

# Wang 2004: Gaussian window of 1.5 voxels, cut at 3.5 std, which makes it 11 wide.
_SSIM_STD = 1.5
_SSIM_WINDOW = 11
# Ravishankar & Bresler 2011: Laplacian of a Gaussian of 1.5 voxels, 15 wide.
_HFEN_STD = 1.5
_HFEN_WINDOW = 15


def nrmse(result: Tensor, reference: Tensor, region: Tensor | None = None) -> float:
    """|result - reference| / |reference|, Euclidean norms over the whole series or region."""
    result, reference = _chosen(result, reference, region)
    return float((result - reference).norm() / reference.norm())


def psnr(result: Tensor, reference: Tensor, region: Tensor | None = None) -> float:
    """Peak signal-to-noise ratio in dB: 20 log10(peak / RMSE).

    The peak is the largest magnitude of the whole reference series, also when only a region is compared, so that
    figures of region and whole image share one scale.
    """
    peak = reference.abs().max()
    result, reference = _chosen(result, reference, region)
    return float(20 * torch.log10(peak / (result - reference).abs().square().mean().sqrt()))


def ssim(result: Tensor, reference: Tensor, region: Tensor | None = None) -> float:
    """Mean structural similarity of the magnitudes, frame by frame in 2-D (Wang 2004, Gaussian window).

    The data range is the largest magnitude of the reference series, the same for every frame. Over a region, the mean
    of the SSIM map there. Raises UsageError also for frames smaller than the window, 11 x 11.
    """
    from skimage.metrics import structural_similarity

    _check(result, reference)
    if min(reference.shape[-2:]) < _SSIM_WINDOW:
        raise UsageError(f"SSIM needs frames of at least 11 x 11 voxels, got {tuple(reference.shape[-2:])}")
    frames = [series.abs().cpu().double().flatten(0, 2).numpy() for series in (result, reference)]
    data_range = frames[1].max()
    maps = [
        structural_similarity(
            one,
            other,
            data_range=data_range,
            gaussian_weights=True,
            sigma=_SSIM_STD,
            use_sample_covariance=False,
            full=True,
        )[1]
        for one, other in zip(*frames, strict=True)
    ]
    # As in Wang 2004, windows that reach beyond the edge do not count, unless a region asks for them.
    edge = _SSIM_WINDOW // 2
    similarity = torch.from_numpy(np.stack(maps)).view(reference.shape)
    if region is None:
        return float(similarity[..., edge:-edge, edge:-edge].mean())
    return float(_inside(similarity, region.cpu()).mean())


def hfen(result: Tensor, reference: Tensor, region: Tensor | None = None) -> float:
    """High-frequency error norm: `nrmse` after the Laplacian of a Gaussian in every frame, magnitudes of both.

    The filter is 15 x 15 of std 1.5 voxels and sums to 0 (Ravishankar & Bresler 2011); frames are mirrored at their
    edges. Over a region, the filtered voxels there. Noise counts as much as lost detail does. Raises UsageError also
    for frames smaller than the filter, and for a reference without any edge.
    """
    _check(result, reference)
    if min(reference.shape[-2:]) < _HFEN_WINDOW:
        raise UsageError(f"HFEN needs frames of at least 15 x 15 voxels, got {tuple(reference.shape[-2:])}")
    edges = _edges(reference)
    # The filter of a flat image leaves rounding errors behind, not edges.
    if not bool(edges.abs().max() > 1e-12 * reference.abs().max()):
        raise UsageError("the reference has no edges to compare with")
    return nrmse(_edges(result), edges, region)


def _edges(series: Tensor) -> Tensor:
    """Laplacian of Gaussian of every frame's magnitude, float64."""
    half = _HFEN_WINDOW // 2
    axis = torch.arange(-half, half + 1, dtype=torch.float64, device=series.device)
    squared = axis.square() + axis.square()[:, None]
    gaussian = torch.exp(-squared / (2 * _HFEN_STD**2))
    kernel = gaussian / gaussian.sum() * (squared - 2 * _HFEN_STD**2) / _HFEN_STD**4
    kernel = kernel - kernel.mean()
    frames = F.pad(series.abs().double().flatten(0, 2)[:, None], (half,) * 4, mode="reflect")
    return F.conv2d(frames, kernel[None, None]).view(series.shape)


def tsnr(series: Tensor) -> Tensor:
    """Temporal SNR of every voxel, mean over std in time: (B, 1, T, Y, X) -> (B, 1, 1, Y, X); 0 where nothing varies.

    The std is that of the sample (divided by T - 1), after removing the best straight line in time, so that scanner
    drift does not count as noise (Murphy 2007). Taken on magnitudes. Raises UsageError for fewer than 3 frames.
    """
    frames = series.shape[2]
    if series.ndim != 5 or frames < 3:
        raise UsageError(f"temporal SNR needs (B, 1, T, Y, X) of at least 3 frames, got {tuple(series.shape)}")
    magnitude = series.abs()
    mean = magnitude.mean(2, keepdim=True)
    time = torch.linspace(-1, 1, frames, dtype=mean.dtype, device=mean.device).view(-1, 1, 1)
    slope = ((magnitude - mean) * time).sum(2, keepdim=True) / time.square().sum()
    std = ((magnitude - mean - slope * time).square().sum(2, keepdim=True) / (frames - 1)).sqrt()
    # A voxel that never changes leaves rounding errors behind, not noise.
    varies = std > 8 * torch.finfo(mean.dtype).eps * mean
    return torch.where(varies, mean / torch.where(varies, std, 1), 0)


def temporal_spectrum_error(result: Tensor, reference: Tensor, region: Tensor | None = None) -> float:
    """How much of the motion's temporal spectrum is lost or invented: 0 is perfect, a frozen series scores 1.

    With a(f) the root of the power at temporal frequency f, summed over the voxels (that the region ever holds), and
    f = 0 left out, it is |a_result - a_reference| / |a_reference|. Blind to where the motion is: it tells smoothing in
    time from sharp motion, which errors per voxel hardly see. Raises UsageError when the reference itself stands still.
    """
    _check(result, reference)
    amplitudes = []
    for series in (result, reference):
        voxels = _inside(series.movedim(2, 0), None if region is None else region.any(2)[None])
        power = torch.fft.fft(voxels.view(series.shape[2], -1), dim=0, norm="ortho")[1:].abs().square()
        amplitudes.append(power.double().sum(1).sqrt())
    if not bool(amplitudes[1].any()):
        raise UsageError("the reference does not change over time: it has no temporal spectrum to compare with")
    return float((amplitudes[0] - amplitudes[1]).norm() / amplitudes[1].norm())


def profile_error(result: Tensor, reference: Tensor, region: Tensor | None = None) -> float:
    """Error of the motion seen in x-t profiles: 0 is perfect, a frozen series scores 1.

    Each item has two profiles, its row and its column through the centre of mass of the region (of the image without
    one), as magnitudes over time; each profile loses its own mean in time. The figure is `nrmse` of all of them: that
    of a few lines, for the very picture that people look at. Raises UsageError when the reference stands still there.
    """
    _check(result, reference)
    whole = torch.ones_like(reference[:, :, :1], dtype=torch.bool)
    places = whole if region is None else fitted(region, reference).any(2, keepdim=True)
    profiles: tuple[list[Tensor], list[Tensor]] = ([], [])
    for item, place in enumerate(places[:, 0, 0]):
        if not bool(place.any()):
            continue  # a slice that the region leaves out
        row, column = place.nonzero().double().mean(0).round().long().tolist()
        for series, found in zip((result, reference), profiles, strict=True):
            frames = series[item, 0].abs().double()  # (T, Y, X)
            lines = torch.cat([frames[:, row], frames[:, :, column]], dim=1)
            found.append((lines - lines.mean(0)).flatten())
    if not profiles[1]:
        raise UsageError("the region is empty")
    return nrmse(torch.cat(profiles[0]), torch.cat(profiles[1]))


def edge_sharpness(result: Tensor, reference: Tensor, region: Tensor | None = None, share: float = 0.1) -> Tensor:
    """How steep the reference's edges are in the result, frame by frame: (T,) float64; 1 is as steep, less is blurred.

    With g the gradients in the slice (central differences of magnitudes), the sum of g_result . g_reference over that
    of |g_reference|^2, over the `share` of the region's voxels where the reference is steepest in that frame. Linear in
    the result, so that noise adds scatter but no sharpness; in the middle of an edge of Gaussian profile of std s, blur
    of std b leaves s over sqrt(s^2 + b^2). The reference's own noise lowers the figure. Raises UsageError for a
    reference without edges.
    """
    _check(result, reference)
    kept = []
    for frame in range(reference.shape[2]):
        chosen = None if region is None else fitted(region, reference)[:, :, frame]
        g, g_result = (_gradient(series[:, :, frame]) for series in (reference, result))
        power = _inside(g.square().sum(0), chosen)
        products = _inside((g_result * g).sum(0), chosen)
        top = power.topk(max(1, round(share * len(power)))).indices
        if not bool(power[top].any()):
            raise UsageError("the reference has no edges where its sharpness is asked for")
        kept.append(products[top].sum() / power[top].sum())
    return torch.stack(kept)


def _gradient(frame: Tensor) -> Tensor:
    """Of the magnitude, along y and x: (B, 1, Y, X) -> (2, B, 1, Y, X) float64."""
    return torch.stack(torch.gradient(frame.abs().double(), dim=(-2, -1)))


def rank_correlation(one: Tensor, other: Tensor, region: Tensor | None = None) -> float:
    """Spearman's rank correlation of two real maps of one shape, tied values sharing their mean rank."""
    a, b = (_ranks(values) for values in _chosen(one, other, region))
    a, b = a - a.mean(), b - b.mean()
    spread = a.norm() * b.norm()
    if not bool(spread > 0):
        raise UsageError("a constant map has no ranks to correlate")
    return float((a * b).sum() / spread)


def dynamic_region(reference: Tensor, threshold: float = 0.3, margin: float = 2.0) -> Tensor:
    """Where a series moves (the heart): (B, 1, T, Y, X) -> bool (B, 1, 1, Y, X), for metrics on a region.

    For each item, on the magnitude: (1) its std over time, blurred by a Gaussian of 1 voxel; (2) voxels above
    `threshold` times the 99.5th percentile of that; (3) gaps up to 6 voxels wide closed; (4) of the 8-connected pieces
    the one with the largest sum of std, with its holes filled; (5) widened by `margin` voxels.

    Raises UsageError when nothing moves.
    """
    if reference.ndim != 5 or reference.shape[1] != 1:
        raise UsageError(f"a dynamic region is found in (B, 1, T, Y, X), got {tuple(reference.shape)}")
    std = reference.abs().double().std(2, correction=0)[:, 0].cpu().numpy()
    region = np.stack([_moving(item, threshold, margin) for item in std])
    return torch.from_numpy(region)[:, None, None].to(reference.device)


def fitted(region: Tensor, series: Tensor) -> Tensor:
    """The region in the shape of the series, without a copy. Raises UsageError when it does not fit."""
    try:
        return region.expand(series.shape)
    except RuntimeError:
        raise UsageError(f"the region {tuple(region.shape)} does not fit {tuple(series.shape)}") from None


def _moving(std: np.ndarray, threshold: float, margin: float) -> np.ndarray:
    from skimage.filters import gaussian
    from skimage.measure import label
    from skimage.morphology import isotropic_closing, isotropic_dilation

    std = gaussian(std, 1.0)
    level = threshold * np.quantile(std, 0.995)
    if not level > 0:
        raise UsageError("the series does not change over time: it has no dynamic region")
    pieces = label(isotropic_closing(std > level, 3))
    weight = np.bincount(pieces.ravel(), std.ravel())
    heart = pieces == 1 + weight[1:].argmax()
    # A hole is background that the frame around the image does not reach.
    outside = label(np.pad(~heart, 1, constant_values=True), connectivity=1)
    return isotropic_dilation((outside != outside[0, 0])[1:-1, 1:-1], margin)


def _check(result: Tensor, reference: Tensor) -> None:
    if result.shape != reference.shape:
        raise UsageError(f"shapes differ: {tuple(result.shape)} and reference {tuple(reference.shape)}")
    if result.is_complex() != reference.is_complex():
        raise UsageError("one of the two is complex and the other is not: compare their magnitudes, `.abs()`")


def _inside(series: Tensor, region: Tensor | None) -> Tensor:
    """The values in the region, flat."""
    if region is None:
        return series.flatten()
    chosen = series[fitted(region, series)]
    if not chosen.numel():
        raise UsageError("the region is empty")
    return chosen


def _chosen(result: Tensor, reference: Tensor, region: Tensor | None) -> tuple[Tensor, Tensor]:
    """Both in the region, in double precision, so that a sum over a long series keeps its digits."""
    _check(result, reference)
    kind = torch.complex128 if reference.is_complex() else torch.float64
    result, reference = _inside(result, region).to(kind), _inside(reference, region).to(kind)
    if not bool(reference.any()):
        raise UsageError("the reference is zero everywhere it is compared")
    return result, reference


def _ranks(values: Tensor) -> Tensor:
    _, group, count = torch.unique(values, return_inverse=True, return_counts=True)
    last = count.cumsum(0).to(values.dtype)
    return (last - (count - 1) / 2)[group]
