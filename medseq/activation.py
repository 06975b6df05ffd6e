"""What a denoiser does to activation: the general linear model of fMRI and what is read from it.

Series are (B slices, 1, T, Y, X), real (of complex ones the magnitude is taken), maps and masks (B, 1, 1, Y, X). Errors
of the model are taken as white: the autocorrelation they have is told by `lag_one` and counts in the false positives of
the series with and without denoising alike.

A denoiser that fits a series with fewer components than frames leaves its residual fewer degrees of freedom than the
model believes, which makes every t value too large. `dof_lost` is how many it took, a number or a map.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseq.errors import UsageError

DRIFT = 128.0  # seconds: slower fluctuations are the scanner's, as in SPM


@dataclass(frozen=True)
class Glm:
    """A fitted model. All maps are (B, 1, 1, Y, X) float64, 0 where there is nothing to tell.

    beta: the contrast of the coefficients, in units of the series for one unit of a regressor; percent: the same in
    percent of the voxel's mean in time; t: beta over its standard error; dof: degrees of freedom of the residual.
    residual: (B, 1, T, Y, X), what the design does not explain.
    """

    beta: Tensor
    percent: Tensor
    t: Tensor
    dof: Tensor
    residual: Tensor


@dataclass(frozen=True)
class Stimuli:
    """Of one condition: onsets (N,) in seconds from the first frame on, and how long each lasts, (N,) seconds."""

    onsets: Tensor
    durations: Tensor


def drift_cosines(frames: int, interval: float, cutoff: float = DRIFT) -> Tensor:
    """A constant, then the cosines slower than one cycle in `cutoff` s: (T, 1 + K) float64, orthonormal columns.

    interval: seconds a frame. K = floor(2 T interval / cutoff), as in SPM and nilearn (Friston 2000; the DCT-II).
    Raises UsageError when nothing would be left of the series, and for impossible times.
    """
    if not (interval > 0 and cutoff > 0):
        raise UsageError(f"interval and cut-off are seconds above 0, got {interval} and {cutoff}")
    count = 1 + math.floor(2 * frames * interval / cutoff)
    if count >= frames:
        raise UsageError(f"a cut-off of {cutoff} s leaves nothing of {frames} frames every {interval} s")
    place = (torch.arange(frames, dtype=torch.float64) + 0.5) * math.pi / frames
    cosines = torch.cos(place[:, None] * torch.arange(count, dtype=torch.float64))
    return cosines / cosines.norm(dim=0)


def detrend(series: Tensor, interval: float, cutoff: float = DRIFT) -> Tensor:
    """The series (B, 1, T, Y, X) without its mean and its drift slower than `cutoff` s, float64."""
    curves = _curves(series)
    drift = drift_cosines(series.shape[2], interval, cutoff).to(series.device)
    return _as_series(curves - drift @ (drift.T @ curves), series)


def design_matrix(responses: Tensor, interval: float, cutoff: float = DRIFT) -> Tensor:
    """Responses (T,) or (T, K) beside constant and drift, (T, K + 1 + drifts) float64: the responses come first."""
    responses = responses.double().reshape(len(responses), -1)
    return torch.cat([responses, drift_cosines(len(responses), interval, cutoff).to(responses.device)], dim=1)


def glm(series: Tensor, design: Tensor, contrast: Tensor | None = None, *, dof_lost: float | Tensor = 0.0) -> Glm:
    """Ordinary least squares of every voxel's course on a design (Friston 1994).

    series: (B, 1, T, Y, X). design: (T, P), of full rank. contrast: (P,), None for the first column alone. dof_lost:
    degrees of freedom that a denoiser took from the series, a number or (B, 1, 1, Y, X); the residual has T - P of them
    less that, and a voxel left with fewer than one has a t of 0.

    Raises UsageError for shapes that do not fit, a design of deficient rank, and where no voxel has a degree left.
    """
    curves = _curves(series)
    beta, t, dof, residual = _fit(curves, design, contrast, _lost(dof_lost, series).flatten())
    mean = curves.mean(0)
    percent = torch.where(mean > 0, 100 * beta / torch.where(mean > 0, mean, 1), 0)
    return Glm(
        beta=_as_series(beta, series),
        percent=_as_series(percent, series),
        t=_as_series(t, series),
        dof=_as_series(dof, series),
        residual=_as_series(residual, series),
    )


def active(fitted: Glm, p: float = 0.001) -> Tensor:
    """Where |t| is larger than by chance with probability `p`, two-sided, not corrected for the number of voxels: bool
    (B, 1, 1, Y, X). Voxels without a degree of freedom left are not."""
    return (fitted.t.abs() > _critical(fitted.dof, p)) & (fitted.dof >= 1)


def brain_mask(series: Tensor) -> Tensor:
    """(B, 1, 1, Y, X): the largest connected part of the mean image above Otsu's threshold."""
    from skimage.filters import threshold_otsu
    from skimage.measure import label

    mean = series.abs().mean(2)[:, 0].cpu().numpy()
    parts = label(mean > threshold_otsu(mean))
    largest = 1 + np.bincount(parts.ravel())[1:].argmax()
    return torch.from_numpy(parts == largest)[:, None, None].to(series.device)


def false_positive_rate(
    series: Tensor,
    designs: Iterable[Tensor],
    mask: Tensor,
    *,
    p: float = 0.05,
    dof_lost: float | Tensor = 0.0,
) -> float:
    """Share of voxels in the mask called active, two-sided at `p`, in a series without the task: mean over `designs`.

    designs: (T, P) each, whose first column is the task (`design_matrix`). Nominally `p`; more where the errors are
    not white (Eklund 2012). dof_lost: as in `glm`. Raises UsageError as `glm` does, and for no designs.
    """
    fits = _null_fits(series, designs, mask, dof_lost)
    rates = [(t.abs() > _critical(dof, p)).double().mean() for t, dof in fits]
    return float(torch.stack(rates).mean())


def critical_t(
    series: Tensor,
    designs: Iterable[Tensor],
    mask: Tensor,
    *,
    p: float = 0.05,
    dof_lost: float | Tensor = 0.0,
) -> float:
    """The |t| that a share `p` of the voxels in the mask exceeds over `designs`, in a series without the task.

    What a t value must be compared with for `p` false positives, whatever the errors and degrees of freedom are: t over
    this is comparable between denoisers. Arguments and errors as in `false_positive_rate`.
    """
    found = torch.cat([t.abs() for t, _ in _null_fits(series, designs, mask, dof_lost)])
    return float(found.kthvalue(max(1, math.ceil((1 - p) * found.numel()))).values)


def inject(series: Tensor, weight: Tensor, response: Tensor, change: float) -> Tensor:
    """The series with a known activation: times 1 + change * weight * response, of its own kind.

    weight: (B, 1, 1, Y, X) in [0, 1]. response: (T,), height 1. change: the largest signal change (0.01 is 1 %).
    """
    response = response.to(series.real.dtype).to(series.device).view(-1, 1, 1)
    return series * (1 + change * weight.to(series.real.dtype) * response)


def amplitude_kept(with_task: Glm, without: Glm, injected: Tensor, active: Tensor) -> float:
    """What is left of an injected activation: sum of GLM(f(x + a)) - GLM(f(x)) over the sum of a, in active voxels.

    f(x) on its own is subtracted, so that what chance or rest put into the regressor does not count. injected: the same
    difference without a denoiser f, (B, 1, 1, Y, X) in units of beta. 1 is perfect; the amplitude bias is this less 1.
    Raises UsageError when nothing was injected there.
    """
    chosen = _chosen(active, injected)
    there = injected.flatten()[chosen].double().sum()
    if not bool(there > 0):
        raise UsageError("no activation was injected in the active voxels")
    return float((with_task.beta - without.beta).flatten()[chosen].sum() / there)


def t_gain(denoised: Glm, noisy: Glm, active: Tensor) -> float:
    """Median over the active voxels of the t value with denoising over that without."""
    chosen = _chosen(active, noisy.t)
    before, after = noisy.t.flatten()[chosen], denoised.t.flatten()[chosen]
    return float((after / before)[before != 0].median())


def lag_one(residual: Tensor, mask: Tensor) -> float:
    """Mean over the mask of the autocorrelation of residuals (B, 1, T, Y, X) from one frame to the next.

    White noise of T frames has about -P / T once P smooth regressors were fitted to it.
    """
    curves = _curves(residual)[:, _chosen(mask, residual)]
    power = curves.square().sum(0)
    products = (curves[1:] * curves[:-1]).sum(0)
    return float((products[power > 0] / power[power > 0]).mean())


def split_half(series: Tensor, odd: Tensor, even: Tensor, interval: float, mask: Tensor) -> float:
    """Pearson's correlation over the mask of the activation maps of odd and even blocks: how reliable a map is.

    odd, even: (T,) responses to one half of the blocks each, fitted in one model. Raises UsageError as `glm` does.
    """
    design = design_matrix(torch.stack([odd, even], dim=1), interval)
    chosen = _chosen(mask, series)
    unit = torch.eye(design.shape[1], dtype=torch.float64)
    maps = [glm(series, design, contrast).percent.flatten()[chosen] for contrast in unit[:2]]
    return float(torch.corrcoef(torch.stack(maps))[0, 1])


def _fit(
    curves: Tensor, design: Tensor, contrast: Tensor | None, lost: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Contrast, t and degrees of freedom, (V,) each, and residual (T, V) of curves (T, V) that lost (V,) degrees."""
    if design.ndim != 2 or len(design) != len(curves):
        raise UsageError(f"the design must have a row for each of {len(curves)} frames, got {tuple(design.shape)}")
    design = design.to(curves)
    frames, regressors = design.shape
    if contrast is None:
        contrast = torch.eye(regressors)[0]
    if contrast.shape != (regressors,):
        raise UsageError(f"the contrast must have {regressors} values, got {tuple(contrast.shape)}")
    if int(torch.linalg.matrix_rank(design)) < regressors or regressors >= frames:
        raise UsageError(f"{regressors} regressors of {frames} frames are not independent, or leave no residual")
    dof = frames - regressors - lost
    if not bool((dof >= 1).any()):
        raise UsageError("no voxel has a degree of freedom left")
    basis, triangle = torch.linalg.qr(design)
    weights = torch.linalg.solve_triangular(triangle.mT, contrast.to(design)[:, None], upper=False)
    estimator = (basis @ weights)[:, 0]  # times a course it is the contrast, its squared norm the contrast's variance
    beta = estimator @ curves
    residual = curves - basis @ (basis.mT @ curves)
    error = estimator.norm() * (residual.square().sum(0) / dof.clamp(min=1)).sqrt()
    told = (dof >= 1) & (error > 0)
    return beta, torch.where(told, beta / torch.where(told, error, 1), 0), dof, residual


def _critical(dof: Tensor, p: float) -> Tensor:
    """The |t| that chance exceeds with probability `p`, two-sided."""
    from scipy.special import stdtrit

    return torch.from_numpy(stdtrit(dof.clamp(min=1).cpu().numpy(), 1 - p / 2)).to(dof.device)


def _null_fits(
    series: Tensor, designs: Iterable[Tensor], mask: Tensor, dof_lost: float | Tensor
) -> Iterator[tuple[Tensor, Tensor]]:
    """t and degrees of freedom of the first regressor of every design, in the voxels of the mask."""
    chosen = _chosen(mask, series)
    curves, lost = _curves(series)[:, chosen], _lost(dof_lost, series).flatten()[chosen]
    none = True
    for design in designs:
        _, t, dof, _ = _fit(curves, design, None, lost)
        none = False
        yield t, dof
    if none:
        raise UsageError("false positives are counted over at least one design")


def _curves(series: Tensor) -> Tensor:
    """(B, 1, T, Y, X) -> every voxel's magnitude in time, (T, B * Y * X) float64."""
    if series.ndim != 5 or series.shape[1] != 1:
        raise UsageError(f"a series is (B, 1, T, Y, X), got {tuple(series.shape)}")
    real = series.abs() if series.is_complex() else series
    return real.double().movedim(2, 0).flatten(1)


def _as_series(curves: Tensor, like: Tensor) -> Tensor:
    """Undo `_curves`: (N, B * Y * X), or (B * Y * X,) for N = 1, -> (B, 1, N, Y, X)."""
    return curves.reshape(-1, like.shape[0], 1, *like.shape[-2:]).movedim(0, 2)


def _map_shape(series: Tensor) -> tuple[int, ...]:
    return (series.shape[0], 1, 1, *series.shape[-2:])


def _chosen(mask: Tensor, series: Tensor) -> Tensor:
    """A mask (B, 1, 1, Y, X), flat; UsageError if it is empty or of another shape."""
    if mask.dtype != torch.bool or tuple(mask.shape) != _map_shape(series):
        raise UsageError(f"a mask must be bool of shape {_map_shape(series)}, got {mask.dtype} {tuple(mask.shape)}")
    if not bool(mask.any()):
        raise UsageError("the mask is empty")
    return mask.flatten()


def _lost(dof_lost: float | Tensor, series: Tensor) -> Tensor:
    """Lost degrees of freedom as a map (B, 1, 1, Y, X)."""
    lost = torch.as_tensor(dof_lost, dtype=torch.float64, device=series.device)
    if lost.ndim and tuple(lost.shape) != _map_shape(series):
        raise UsageError(f"lost degrees of freedom are a number or {_map_shape(series)}, got {tuple(lost.shape)}")
    return lost.expand(_map_shape(series))
