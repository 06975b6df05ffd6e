"""How close a series is to its reference, at fixed scale: nothing is normalised per image or per frame.

Every metric takes series (B, 1, T, Y, X) of one and the same scale, and optionally a `region`, bool and broadcastable
to them (True where it counts, e.g. from `dynamic_region`). Where the reference is complex the result must be too, and
errors are those of the complex values; for magnitudes pass `.abs()` of both. All of them raise UsageError for shapes or
kinds that do not fit, for a reference that is zero, and for an empty region.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from medseq.errors import UsageError

# Wang 2004: Gaussian window of 1.5 voxels, cut at 3.5 std, which makes it 11 wide.
_SSIM_STD = 1.5
_SSIM_WINDOW = 11


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
    try:
        chosen = series[region.expand(series.shape)]
    except RuntimeError:
        raise UsageError(f"the region {tuple(region.shape)} does not fit {tuple(series.shape)}") from None
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
