"""From a start and a measurement to what a task gives back: the sampler, slice by slice, and its results gathered."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseq.clip import Clip, series_scale
from medseq.errors import InputError
from medseq.measurement import Measurement
from medseq.noise import unit_noise
from medseq.posterior import Level, best_images, noise_levels, posterior_samples, turning
from medseq.runtime import Engine

# Chosen on simulated and animated cases (docs/measurements.md), then fixed.
SPREAD_FACTOR = 1.5  # times the prior's measured RMSE
SMALLEST_SIGMA = 0.004  # of the scale: below it the prior was hardly trained


@dataclass(frozen=True)
class Restored:
    """What a task gives back.

    clip: the solved image for one sample, the mean of the draws for several. std: std of the magnitude over the
    draws, in input units, or None for one sample. samples: (K, B, 1, T, Y, X) on the CPU, or None. info: scale, noise,
    steps, device, error of the warm start: what `run.json` reports as `result`. maps: of one frame each, by name: what
    else is known of every voxel.
    """

    clip: Clip
    std: Clip | None = None
    samples: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)
    maps: dict[str, Clip] = field(default_factory=dict)


@dataclass(frozen=True)
class Draws:
    """Mean, std of the magnitude (None for one) and all of the draws, in input units, on the CPU."""

    mean: Tensor
    std: Tensor | None
    samples: Tensor | None

    def divided(self, gain: Tensor) -> Draws:
        std, samples = self.std, self.samples
        return Draws(
            self.mean / gain, std if std is None else std / gain, samples if samples is None else samples / gain
        )


def image_or_draws(
    engine: Engine,
    measurement: Measurement,
    levels: list[Level],
    image: Tensor,
    noise: Level,
    b: int,
    refine: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[Tensor]:
    """The samples of slice b, from a classical `image`: one best image, or several draws.

    The best image starts without noise, its own error in the place of the first level, and none is put back: measured
    on animated stills this is 0.1 to 0.7 dB better than starting from image + noise. `refine` takes it on between
    levels. Draws start with `noise` added.
    """
    if engine.samples == 1:
        denoiser = turning(engine.denoiser)
        yield engine.last(best_images(denoiser, measurement, levels, image, spread=spread_of(engine), refine=refine))
        return
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
    slice_draws: Callable[[int], Iterator[Tensor]],
    slices: int,
    scale: float,
    finish: Callable[[Tensor], Tensor] = _unchanged,
) -> Draws:
    """Run all slices and gather mean, std of the magnitude and samples, in input units, on the CPU."""
    means, stds, kept = [], [], []
    for b in range(slices):
        draws = torch.stack([finish(draw).cpu() * scale for draw in slice_draws(b)])
        means.append(draws.mean(0))
        if engine.samples > 1:
            stds.append(draws.abs().std(0))
            kept.append(draws)
    if engine.samples == 1:
        return Draws(torch.cat(means), None, None)
    return Draws(torch.cat(means), torch.cat(stds), torch.cat(kept, dim=1))


def kind_of(data: Tensor) -> Callable[[Tensor], Tensor]:
    """What makes a complex result a series like `data`: real where that is real, and a magnitude where that is one."""
    if data.is_complex():
        return _unchanged
    lowest = 0.0 if bool((data >= 0).all()) else -torch.inf
    return lambda draw: draw.real.clamp(min=lowest)


def finished(result: Draws, clip: Clip, engine: Engine, scale: float, info: dict[str, Any]) -> Restored:
    if not bool(torch.isfinite(torch.view_as_real(clip.data) if clip.is_complex else clip.data).all()):
        raise InputError("the result is not finite: the input holds extreme values, or the prior does not fit it")
    std = clip.with_data(result.std) if result.std is not None else None
    about = {"scale": scale, "steps": engine.steps, "samples": engine.samples, "device": str(engine.device)}
    return Restored(clip, std, result.samples, {**about, **info})


def checked_scale(average: Tensor) -> float:
    scale = float(series_scale(average))
    if not (np.isfinite(scale) and scale > 0):
        raise InputError("the series has no scale: it is zero or not finite")
    return scale
