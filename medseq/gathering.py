"""From a start and a measurement to what a task gives back: the sampler, slice by slice, and its results gathered."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseq.calibration import SHARES, Calibration, evidence
from medseq.clip import Clip, series_scale
from medseq.errors import InputError, MedseqWarning
from medseq.measurement import CHUNK, LONG, Measurement
from medseq.mismatch import LIMIT, score
from medseq.noise import unit_noise
from medseq.posterior import Level, best_images, noise_levels, posterior_samples, turning
from medseq.prior import Trust
from medseq.runtime import Engine, in_windows
from medseq.support import data_support

# Chosen on simulated and animated cases (docs/measurements.md), then fixed.
SPREAD_FACTOR = 1.5  # times the prior's measured RMSE
BEST_FACTORS = (1.0, 0.5)  # first and last noise level of the best image, times the error of its start
DRAW_FACTORS = (2.0, 0.25)  # likewise of draws, which start with noise added
DRAW_STEPS = 12  # of draws, and of denoising where more than one evaluation is wanted
SMALLEST_SIGMA = 0.004  # of the scale: below it the prior was hardly trained


@dataclass(frozen=True)
class Restored:
    """What a task gives back.

    clip: the solved image for one sample, the mean of the draws for several. std: std of the magnitude, in input units:
    what its error is to be expected like, where the prior is calibrated for the task (`info["coverage_basis"]` says
    how, `info["interval_factors"]` by how many stds an interval covers 50, 80, 90 %), else the std over the draws, or
    None for one sample. samples: (K, B, 1, T, Y, X) on the CPU, or None. info: scale, noise, steps, device, mismatch of
    each slice, error of the warm start: what `run.json` reports as `result`. maps: of one frame each, by name: what
    else is known of every voxel.
    """

    clip: Clip
    std: Clip | None = None
    samples: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)
    maps: dict[str, Clip] = field(default_factory=dict)


@dataclass(frozen=True)
class SliceRun:
    """How one slice is restored, in units of the scale.

    draws: the samples as they come. start: makes what they are compared with, and the RMSE expected of it. best: the
    single best image when the object changes by so much (None: not at all), or None when nobody asked for the support.
    measures: of mismatch, from the first sample, and what is known besides (`medseq.mismatch`). acceleration: voxels
    over measured samples a coil.
    """

    draws: Iterator[Tensor]
    start: Callable[[], Tensor]
    expected: Level
    best: Callable[[Tensor | None], Tensor] | None = None
    measures: Callable[[Tensor], dict[str, float]] | None = None
    facts: dict[str, float] = field(default_factory=dict)
    acceleration: float = 1.0


@dataclass(frozen=True)
class Draws:
    """Mean, std of the magnitude (None when it is not known) and all of the draws, in input units, on the CPU.

    mismatch: of each slice, empty when nothing is expected of the prior. support: (B, 1, 1, Y, X) or None.
    """

    mean: Tensor
    std: Tensor | None
    samples: Tensor | None
    mismatch: list[float] = field(default_factory=list)
    support: Tensor | None = None

    def divided(self, gain: Tensor) -> Draws:
        std, samples = self.std, self.samples
        return replace(
            self,
            mean=self.mean / gain,
            std=std if std is None else std / gain,
            samples=samples if samples is None else samples / gain,
        )


def best_image(
    engine: Engine,
    measurement: Measurement,
    levels: list[Level],
    image: Tensor,
    refine: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """The single image of least error, from a classical one.

    It starts without noise, its own error in the place of the first level, and none is put back: measured on animated
    stills this is 0.1 to 0.7 dB better than starting from image + noise. `refine` takes it on between levels.
    """
    denoiser = turning(engine.prior, in_windows)
    return engine.last(best_images(denoiser, measurement, levels, image, spread=spread_of(engine), refine=refine))


def drawn(
    engine: Engine, measurement: Measurement, levels: list[Level], image: Tensor, noise: Level, b: int
) -> Iterator[Tensor]:
    """The samples of slice b, from a classical image with `noise` added."""
    for k in range(engine.samples):
        g = engine.generator(b, k)
        start = image + noise * unit_noise(image, g)
        yield engine.last(
            posterior_samples(engine.denoiser, measurement, levels, start, spread=spread_of(engine), generator=g)
        )


def levels_between(engine: Engine, high: float, low: float) -> list[Level]:
    low = max(low, SMALLEST_SIGMA)
    return [*noise_levels(engine.steps, max(high, low), low)]


def spread_of(engine: Engine) -> Callable[[Level], Level]:
    """The measured RMSE of the prior times one fixed factor, also where the level differs between frames."""

    def spread(sigma: Level) -> Level:
        if not isinstance(sigma, Tensor):
            return SPREAD_FACTOR * engine.spread(sigma)
        values = [SPREAD_FACTOR * engine.spread(s) for s in sigma.flatten().tolist()]
        return torch.tensor(values, device=sigma.device).reshape(sigma.shape)

    return spread


def _unchanged(draw: Tensor) -> Tensor:
    return draw


def collect(
    engine: Engine,
    task: str,
    run_slice: Callable[[int], SliceRun],
    slices: int,
    scale: float,
    finish: Callable[[Tensor], Tensor] = _unchanged,
) -> Draws:
    """Run all slices and gather mean, std of the magnitude, samples and the rest, in input units, on the CPU."""
    means, stds, kept, mismatch, supports = [], [], [], [], []
    calibration = engine.trust.std.get(f"{task} {engine.kind}")
    for b in range(slices):
        run = run_slice(b)
        first, *others = list(run.draws)
        mean, std, draws = finish(first).cpu(), None, None
        if others:
            draws = torch.stack([finish(draw).cpu() for draw in (first, *others)])
            mean, std = draws.mean(0), draws.abs().std(0)
        if calibration is not None and mean.shape[2] > 1:
            std = _std(calibration, run, mean, finish(run.start()).cpu(), std, engine.periodic)
        means.append(mean * scale)
        del mean
        stds += [] if std is None else [std * scale]
        kept += [] if draws is None else [draws * scale]
        mismatch += _mismatch(engine.trust, run, first)
        if run.best is not None:
            known = first if first.is_complex() and not others else run.best(None)
            amplitude = float(torch.as_tensor(run.expected).square().mean().sqrt())
            supports.append(data_support(run.best, known, amplitude, engine.generator(b, 0)).cpu())
        del run, first, others, draws
    return Draws(
        torch.cat(means) if slices > 1 else means[0],
        torch.cat(stds) if stds else None,
        torch.cat(kept, dim=1) if kept else None,
        mismatch,
        torch.cat(supports) if supports else None,
    )


def _std(
    calibration: Calibration, run: SliceRun, mean: Tensor, start: Tensor, draws: Tensor | None, periodic: bool
) -> Tensor:
    """The calibrated std of a result; of a long one some frames at a time, as the evidence is many series."""
    frames = mean.shape[2]
    expected = torch.as_tensor(run.expected).cpu()
    if frames <= LONG:
        return calibration.std(evidence(mean, start, expected, draws, periodic=periodic), run.acceleration)
    expected, std = expected.expand(mean.shape), torch.empty_like(mean.real)
    for first in range(0, frames, CHUNK):
        # A frame's evidence is averaged with that of its neighbours, which look at theirs.
        near = torch.arange(first - 2, min(first + CHUNK, frames) + 2)
        near = near % frames if periodic else near[(near >= 0) & (near < frames)]
        told = None if draws is None else draws[:, :, near]
        found = evidence(mean[:, :, near], start[:, :, near], expected[:, :, near], told)
        inside = (near >= first) & (near < first + CHUNK)
        std[:, :, near[inside]] = calibration.std(found, run.acceleration)[:, :, inside]
    return std


def _mismatch(trust: Trust, run: SliceRun, result: Tensor) -> list[float]:
    """The score of one slice, in a list; none when nothing is expected of it."""
    if run.measures is None or not trust.expected:
        return []
    found = run.measures(result)
    return [score([trust.expected[name].surprise(value, run.facts) for name, value in found.items()])]


def kind_of(data: Tensor) -> Callable[[Tensor], Tensor]:
    """What makes a complex result a series like `data`: real where that is real, and a magnitude where that is one."""
    if data.is_complex():
        return _unchanged
    lowest = 0.0 if bool((data >= 0).all()) else -torch.inf
    return lambda draw: draw.real.clamp(min=lowest)


def finished(
    result: Draws, clip: Clip, engine: Engine, scale: float, info: dict[str, Any], task: str, *, strict: bool = False
) -> Restored:
    """The results with their description. Raises InputError when they are not finite, or, if strict, for a series
    unlike those that the prior has learnt; otherwise that is a MedseqWarning."""
    if not bool(torch.isfinite(torch.view_as_real(clip.data) if clip.is_complex else clip.data).all()):
        raise InputError("the result is not finite; look for extreme values in the input, or take another prior")
    std = clip.with_data(result.std) if result.std is not None else None
    about = {"scale": scale, "steps": engine.steps, "samples": engine.samples, "device": str(engine.device)}
    told = {} if std is None else _coverage_basis(engine, task, clip.frames)
    if result.mismatch:
        told["mismatch"] = result.mismatch
        _tell_mismatch(max(result.mismatch), strict)
    maps = {} if result.support is None else {"support": Clip(result.support, clip.affine)}
    return Restored(clip, std, result.samples, {**about, **told, **info}, maps)


def _coverage_basis(engine: Engine, task: str, frames: int) -> dict[str, Any]:
    calibration = engine.trust.std.get(f"{task} {engine.kind}")
    if calibration is None or frames == 1:
        return {"coverage_basis": "none: the spread of the draws, not calibrated"}
    steps = "" if calibration.steps == engine.steps else f", at {calibration.steps} steps, not the {engine.steps} here"
    factors = {f"{share:.0%}": factor for share, factor in zip(SHARES, calibration.factors, strict=True)}
    basis = f"calibrated on {calibration.about}{steps}"
    return {"coverage_basis": basis, "interval_factors": factors, "trust_sha256": engine.trust.sha256}


def _tell_mismatch(worst: float, strict: bool) -> None:
    if worst <= LIMIT:
        return
    fault = f"the series is unlike those that the prior has learnt (mismatch {worst:.1f}, typical 1)"
    if strict:
        raise InputError(f"{fault}; leave --strict out to restore it all the same")
    warnings.warn(f"{fault}: details may be made up", MedseqWarning, stacklevel=2)


def checked_scale(average: Tensor) -> float:
    scale = float(series_scale(average))
    if not (np.isfinite(scale) and scale > 0):
        raise InputError("the series has no scale, being zero or not finite; give another one")
    return scale
