"""How good BOLD series are, in figures: temporal SNR, smoothness, autocorrelation, and activation of a known task.

Figures are told of every series, that before denoising (the reference) among them: what a denoiser is worth is the
difference, and `pipelines/fmri_benchmark.py` shows how far each of them can be trusted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from medseq.activation import Glm, Stimuli, active, brain_mask, design_matrix, detrend, glm, lag_one, split_half
from medseq.clip import Clip
from medseq.errors import UsageError
from medseq.evaluate import REFERENCE, Evaluation, add_image_figures, left_out, opened
from medseq.metrics import fitted, tsnr
from medseq.phantoms.fluctuations import response_course
from medseq.smoothness import edge_correlation, fwhm, neighbour_correlation, overall

BRAIN, ACTIVE = "brain", "active"
_SHORTEST = 0.1  # seconds: BIDS allows events that last 0 s


def evaluate_bold(
    results: Mapping[str, Clip],
    reference: Clip | None = None,
    *,
    case: str = "",
    regions: Mapping[str, Tensor] | None = None,
    task: Stimuli | None = None,
    others: Sequence[Stimuli] = (),
    dof_lost: Mapping[str, float | Tensor] | None = None,
) -> Evaluation:
    """Judge BOLD series of one run; arguments are those of `evaluate_series` but for these.

    reference: the series before denoising, or a known truth. task: the stimuli of the condition that is tested against
    rest; others: those of further conditions, fitted beside it. dof_lost: degrees of freedom that a method took, a
    number or a map (B, 1, 1, Y, X), by its name.

    Figures are medians over the brain (`brain_mask` of the reference, or of the first result), over each of `regions`,
    and over the voxels that are active in the reference (p < 0.001, uncorrected). These were chosen for their t there,
    so that the reference's own figures are too large: compare methods with each other, or give a region chosen on
    other data. Raises UsageError also for a task without a stimulus during the run, or too few frames.
    """
    found = opened(results, reference, case, regions)
    first = next(iter(found.series.values()))
    brain = brain_mask(first.data)
    found.regions = {BRAIN: brain, **found.regions}
    if reference is not None:
        add_image_figures(found)
        _add_structure(found, brain)
    lost = dof_lost or {}
    for method, clip in found.series.items():
        _add_quality(found, method, clip, brain, lost.get(method))
    if task is not None:
        design = _design(task, others, first.times)
        fits = {method: glm(clip.data, design, dof_lost=lost.get(method, 0.0)) for method, clip in found.series.items()}
        _add_activation(found, fits, brain)
        _add_split_half(found, task, brain)
        residuals = {method: fit.residual for method, fit in fits.items()}
    else:
        residuals = {method: detrend(clip.data, _interval(clip.times)) for method, clip in found.series.items()}
    for method, residual in residuals.items():
        found.add(method, "lag-1 autocorrelation", BRAIN, lag_one(residual, brain))
    return found


def _add_quality(found: Evaluation, method: str, clip: Clip, brain: Tensor, lost: float | Tensor | None) -> None:
    signal = tsnr(clip.data)
    for place, region in found.regions.items():
        found.add(method, "tSNR", place, signal[fitted(region, signal)].median())
    with left_out("FWHM"):
        x, y, z = np.linalg.norm(clip.affine[:3, :3], axis=0).tolist()
        widths = fwhm(detrend(clip.data, _interval(clip.times)), brain, (x, y, z))
        found.add(method, "FWHM", BRAIN, overall(widths), "mm")
    if lost is not None:
        everywhere = torch.as_tensor(lost, dtype=torch.float64).expand(brain.shape)
        found.add(method, "degrees of freedom lost", BRAIN, everywhere[brain].mean())


def _add_structure(found: Evaluation, brain: Tensor) -> None:
    """Whether what sets a result apart from the reference looks like anatomy, or like noise, which gives 0 twice."""
    assert found.reference is not None
    truth = found.reference.data.abs()
    for method, clip in found.rivals():
        difference = truth - clip.data.abs()
        if bool(difference.any()):
            near = neighbour_correlation(difference, brain)
            found.add(method, "difference: neighbours", BRAIN, near[near.isfinite()].mean())
            edges = edge_correlation(difference, truth.mean(2, keepdim=True), brain)
            found.add(method, "difference: edges", BRAIN, edges)


def _add_activation(found: Evaluation, fits: Mapping[str, Glm], brain: Tensor) -> None:
    if REFERENCE in fits and bool((active(fits[REFERENCE]) & brain).any()):
        found.regions[ACTIVE] = active(fits[REFERENCE]) & brain
    for method, fit in fits.items():
        found.add(method, "active voxels", BRAIN, 100 * active(fit)[brain].double().mean(), "%")
        for place, region in found.regions.items():
            if place != BRAIN:
                found.add(method, "t", place, fit.t[fitted(region, fit.t)].median())
                found.add(method, "amplitude", place, fit.percent[fitted(region, fit.t)].median(), "%")


def _add_split_half(found: Evaluation, task: Stimuli, brain: Tensor) -> None:
    """How alike the maps of every other stimulus are, of those that the run had time for."""
    for method, clip in found.series.items():
        halves = [Stimuli(task.onsets[half::2], task.durations[half::2]) for half in (0, 1)]
        with left_out("split-half reliability"):
            odd, even = (_response(half, clip.times) for half in halves)
            reliability = split_half(clip.data, odd, even, _interval(clip.times), brain)
            found.add(method, "split-half reliability", BRAIN, reliability)


def _design(task: Stimuli, others: Sequence[Stimuli], times: np.ndarray) -> Tensor:
    responses = torch.stack([_response(stimuli, times) for stimuli in (task, *others)], dim=1)
    return design_matrix(responses, _interval(times))


def _response(stimuli: Stimuli, times: np.ndarray) -> Tensor:
    """The expected response (T,). Raises UsageError when no stimulus falls into the run."""
    seconds = torch.from_numpy(times - times[0]).float()
    response = response_course(stimuli.onsets, stimuli.durations.clamp(min=_SHORTEST), seconds)
    if not bool(response.any()):
        raise UsageError("no stimulus of the task falls into the run; give the events of this run")
    return response


def _interval(times: np.ndarray) -> float:
    if len(times) < 3:
        raise UsageError(f"BOLD is judged over at least 3 frames, got {len(times)}")
    return float(np.diff(times).mean())
