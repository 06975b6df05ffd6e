"""What is done to BOLD series, as tasks beside the others: a series or its k-space in, a `Restored` out.

The prior of hearts is never asked; that of fluctuations only where least error is the goal, not activation.
"""

from __future__ import annotations

import warnings
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from medseq.bold import Report, denoise_bold, tissue_mask
from medseq.bold_split import FluctuationPrior
from medseq.clip import Clip
from medseq.errors import InputError, MedseqWarning, UsageError
from medseq.gathering import Restored
from medseq.io.weights import load_bold_prior
from medseq.runtime import choose_device, choose_precision
from medseq.volumes import fill_volumes, insert_dropped, resample

# A rest with more power than this many times that of noise is not thermal: the head moved, or worse.
_UNLIKE_NOISE = 2.0
# Of the amplitude: less is worth a warning.
_KEPT = 0.9
# Below this SNR a magnitude's noise is Rician: small changes come out 2 % too small and more (Gudbjartsson 1995).
_GAUSSIAN_SNR = 5.0

Goal = Literal["activation", "fluctuations"]


def restore_bold(
    clip: Clip,
    *,
    goal: Goal = "activation",
    sigma: float | Tensor | None = None,
    censored: np.ndarray | None = None,
    samples: int = 1,
    prior: str | Path | None = None,
    device: str = "auto",
    precision: str = "auto",
    strict: bool = False,
) -> Restored:
    """`denoise_bold` with its report: `info` says how much was removed and why no more, `maps` hold what it cost.

    goal: "activation" keeps the amplitude of responses, smoothness and false positives as they are, within the limits
    of `denoise_bold`; "fluctuations" has the least error of everything that fluctuates and asks the learned prior of
    fluctuations for it (prior, device and precision concern that one alone), without any limit.
    censored: (T,) bool, volumes that are bad; they are filled in first (`medseq.volumes.fill_volumes`) and listed in
    `info`, counted from 1. Missing frames (`clip.present`) are filled in slice by slice; volumes that the times show to
    be cut out are put back for the time being only.
    sigma: noise std of each real channel, a number or (B, 1, 1, Y, X), None to map it. maps: `dof_lost`, degrees of
    freedom to take off in a model (see `medseq.activation.glm`); `removed`, std of what was taken away, in input units.
    Warns with MedseqWarning where what is removed is far from being noise (InputError when `strict`), a response would
    lose much, or a magnitude has too little SNR. Raises UsageError for several samples, as the method is deterministic,
    and else as `denoise_bold` and `load_bold_prior`.
    """
    if samples > 1:
        raise UsageError("BOLD denoising is deterministic: there are no samples to draw; leave --samples out")
    whole = insert_dropped(clip)
    there = np.abs(whole.times[None] - clip.times[:, None]).argmin(axis=1)  # of the volumes of `clip`
    bad = np.zeros(whole.frames, bool)
    bad[there] = _checked(censored, clip)
    lacking = bad if whole.present is None else bad | ~whole.present.all(dim=0).numpy()
    noise = None if sigma is None else _even(sigma, clip.data)
    complete = fill_volumes(whole, bad)
    if goal == "activation":
        done = denoise_bold(complete, sigma=noise, filled=lacking)
    else:
        ready = _ready(prior, device, precision)
        done = denoise_bold(complete, sigma=noise, filled=lacking, prior=ready, bias=None, growth=None)
    _warn(done.report, complete, strict)
    removed = done.removed.abs().square().mean(2, keepdim=True).sqrt()
    maps = {"dof_lost": _map(done.dof_lost.float(), clip), "removed": _map(removed, clip)}
    result = replace(done.clip, data=done.clip.data[:, :, there], times=clip.times)
    return Restored(result, info=_info(goal, done.report, bad[there]), maps=maps)


def _ready(prior: str | Path | None, device: str, precision: str) -> FluctuationPrior:
    """The learned prior on a device, for series that stay on the CPU."""
    where = choose_device(device)
    loaded = load_bold_prior(prior).to(where)
    loaded.autocast = choose_precision(precision, where)
    return lambda x, sigma: loaded(x.to(where), sigma).cpu()


def _warn(report: Report, series: Clip, strict: bool) -> None:
    snr = float(series.data.abs().mean(2, keepdim=True)[tissue_mask(series.data)].median()) / report.noise
    if snr < _GAUSSIAN_SNR and not series.is_complex:
        warnings.warn(
            f"the tissue has an SNR of {snr:.1f}: magnitudes show small changes too small there; give the phase, too",
            MedseqWarning,
            stacklevel=3,
        )
    if report.noise_share < 1 / _UNLIKE_NOISE:
        told = (
            f"only {100 * report.noise_share:.0f} % of what is not taken for signal is noise: the head moved, or the "
            "series is unlike those that this method is for; little was removed"
        )
        if strict:
            raise InputError(told)
        warnings.warn(told, MedseqWarning, stacklevel=3)
    if report.kept < _KEPT:
        warnings.warn(
            f"a response of 1 % and 6 mm would keep {100 * report.kept:.0f} % of its amplitude: this series is not one "
            "to test for activation in; choose the goal activation for that",
            MedseqWarning,
            stacklevel=3,
        )


def _checked(censored: np.ndarray | None, clip: Clip) -> np.ndarray:
    if censored is None:
        return np.zeros(clip.frames, bool)
    if len(censored) != clip.frames:
        raise UsageError(f"{len(censored)} volumes are said to be good or bad, but the series has {clip.frames}")
    return censored


def _info(goal: Goal, report: Report, censored: np.ndarray) -> dict[str, Any]:
    about = {"method": "bold", "goal": goal, "steps": 1, "samples": 1, **asdict(report)}
    return {**about, "filled_volumes": (np.flatnonzero(censored) + 1).tolist()} if censored.any() else about


def resample_bold(clip: Clip, factor: int = 2, times: np.ndarray | None = None, *, samples: int = 1) -> Restored:
    """A BOLD series at other times, the slices' own times taken into account: `factor` times as many, or `times`.

    See `medseq.volumes.resample`. Volumes that were cut out are put back and filled in first. Raises UsageError for
    several samples, as the method is deterministic, and else as `resample` does.
    """
    if samples > 1:
        raise UsageError("BOLD series are resampled, not drawn: there are no samples; leave --samples out")
    clip = fill_volumes(insert_dropped(clip))
    if times is None:
        places = np.arange((clip.frames - 1) * factor + 1) / factor
        times = np.interp(places, np.arange(clip.frames), clip.times)
    return Restored(resample(clip, times), info={"method": "bold", "steps": 1, "samples": 1, "noise": []})


def _map(values: Tensor, clip: Clip) -> Clip:
    return Clip(values, clip.affine, clip.times[:1])


def _even(sigma: float | Tensor, series: Tensor) -> Tensor:
    return torch.as_tensor(sigma, dtype=torch.float32).expand(series.shape[0], 1, 1, *series.shape[-2:])
