"""Series of images restored: denoise and interpolate. Each states what was measured and runs the one sampler.

A series is divided by one scale (`series_scale`) on the way in and multiplied by it on the way out. Slices are restored
one after the other, each with noise of its own seed, so neither memory nor result depends on how many there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medseq.baselines import local_pca_wiener
from medseq.between import between
from medseq.clip import Clip
from medseq.errors import InputError, UsageError
from medseq.gathering import (
    BEST_FACTORS,
    DRAW_FACTORS,
    DRAW_STEPS,
    SMALLEST_SIGMA,
    Restored,
    SliceRun,
    best_image,
    checked_scale,
    collect,
    drawn,
    finished,
    kind_of,
    levels_between,
)
from medseq.guides import components
from medseq.measurement import Measurement
from medseq.mismatch import residual_measures
from medseq.noise import estimate_noise_image, magnitude_unbias, unit_noise
from medseq.operators import Identity, Mask, Resample
from medseq.posterior import Level, ancestral, posterior_samples
from medseq.prior import Prior
from medseq.runtime import Engine, Progress, in_windows
from medseq.timegrid import TimeGrid, linear_weights

# Chosen on simulated and animated cases (docs/measurements.md), then fixed.
NOISE_LEFT = 0.3  # share of the noise that the classical filter leaves to the network
LEAST_NOISE = 0.01  # of the scale: with less, texture counts as noise, and what is taken away tells nothing of mismatch


def denoise(
    clip: Clip,
    *,
    sigma: float | Tensor | None = None,
    prior: Prior | str | Path | None = None,
    steps: int | None = None,
    samples: int = 1,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
    support: bool = False,
    strict: bool = False,
) -> Restored:
    """The series without its noise; real stays real, complex stays complex.

    sigma: noise std of each real channel in the clip's units: a number, a map that broadcasts to the data, or None
    (estimated, slice by slice). Uniform noise takes one evaluation of the network for one sample, which starts from
    `local_pca_wiener` with a part of the noise left in; samples are drawn from the posterior by descending from the
    noisy series itself. A map goes through the sampler. steps: levels; None is 1 for the single image of uniform noise,
    else 12. A real clip gets an imaginary channel of noise of its own sigma, which is what the prior expects. A
    magnitude (real, nowhere negative) carries Rician noise: the bias that it leaves is taken out, so that air is dark.
    support, strict: as of `reconstruct`.

    Raises InputError when no noise or scale can be found, UsageError for impossible options: several samples in one
    step among them, as they would all be the same.
    """
    if steps is None:
        steps = 1 if samples == 1 and not isinstance(sigma, Tensor) else DRAW_STEPS
    if samples > 1 and steps == 1:
        raise UsageError("several samples need several steps: one step gives the same image every time")
    _check_complete(clip)
    engine = Engine(
        prior,
        frames=clip.frames,
        periodic=clip.period is not None,
        device=device,
        precision=precision,
        seed=seed,
        samples=samples,
        steps=steps,
        progress=progress,
    )
    engine.expect(clip.data.shape[0] * samples * steps)
    engine.fit("denoise", tuple(clip.data.shape))
    scale = checked_scale(clip.data.mean(dim=2, keepdim=True))
    noise = _noise_of(clip, sigma)
    rician = not clip.is_complex and bool((clip.data >= 0).all())

    def run_slice(b: int) -> SliceRun:
        level = (noise[b if noise.shape[0] > 1 else 0][None] / scale).to(engine.device)
        told = level.clamp(min=SMALLEST_SIGMA)
        y = clip.data[b : b + 1].to(engine.device) / scale
        y = y if clip.is_complex else torch.complex(y, told * unit_noise(y, engine.generator(b, 0)))

        def unbiased(image: Tensor) -> Tensor:
            return magnitude_unbias(image.real, level) if rician else image

        def best(y: Tensor) -> Tensor:
            if told.numel() > 1:
                return best_image(engine, Measurement(y, Identity(), told), falling, y)
            if engine.steps > 1:
                return next(_descents(engine, y, float(told), b, 1))
            return _in_one_step(engine, y, float(told), real=not clip.is_complex)

        def draws() -> Iterator[Tensor]:
            if engine.samples == 1:
                yield best(y)
            elif told.numel() == 1:
                yield from _descents(engine, y, float(told), b, engine.samples)
            else:
                missing = (top**2 - told**2).sqrt()
                yield from drawn(engine, Measurement(y, Identity(), told), falling, y, missing, b)

        def measures(image: Tensor) -> dict[str, float]:
            return residual_measures(clip.data[b : b + 1] / scale - image.cpu(), told.cpu())

        top = float(told.max())
        falling = levels_between(engine, top, DRAW_FACTORS[1] * top)
        return SliceRun(
            map(unbiased, draws()),
            lambda: unbiased(in_windows(components)(y, told)),
            told,
            (lambda change: best(y if change is None else y + change)) if support else None,
            measures if float(level.min()) >= LEAST_NOISE else None,
            {"log_noise": math.log(float(told.mean())), "magnitude": float(rician)},
        )

    result = collect(engine, "denoise", run_slice, clip.data.shape[0], scale, finish=kind_of(clip.data))
    info = {"noise": noise.flatten(1).amax(1).tolist(), "rician_bias_removed": rician}
    return finished(result, clip.with_data(result.mean), engine, scale, info, "denoise", strict=strict)


def interpolate(
    clip: Clip,
    factor: int = 2,
    times: np.ndarray | None = None,
    *,
    prior: Prior | str | Path | None = None,
    steps: int = 2,
    samples: int = 1,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
    strict: bool = False,
) -> Restored:
    """The series at other times: `factor` times as many frames, or exactly at `times` (seconds).

    Known and wanted times share a uniform grid (to 1 % of a frame interval), else wanted frames are sums of the two
    nearest frames of a fine grid. Frames after the last are only possible with a period. Known frames enter at their
    own noise level; the missing ones start from the mixture of straight lines, splines and optical flow that predicts
    left-out known frames best, at its estimated error. strict: as of `reconstruct`. Raises UsageError for impossible
    times or factors.
    """
    _check_complete(clip)
    grid = TimeGrid.for_clip(clip, factor=factor, times=times)
    engine = Engine(
        prior,
        frames=grid.frames,
        periodic=grid.periodic,
        device=device,
        precision=precision,
        seed=seed,
        samples=samples,
        steps=steps,
        progress=progress,
    )
    engine.expect(clip.data.shape[0] * samples * steps)
    engine.fit("interpolate", (*clip.data.shape[:2], grid.frames, *clip.data.shape[3:]))
    scale = checked_scale(clip.data.mean(dim=2, keepdim=True))
    noise = _noise_of(clip, None)

    def run_slice(b: int) -> SliceRun:
        known = (clip.data[b : b + 1] / scale).to(engine.device)
        sigma = max(float(noise[b].max()) / scale, SMALLEST_SIGMA)
        image, error = between(known, clip.times, grid.times, clip.period)
        error = max(error, sigma)
        if not clip.is_complex:
            synthetic = sigma * unit_noise(known, engine.generator(b, 0))
            weights = linear_weights(clip.times, grid.times, clip.period).to(engine.device)
            image, known = torch.complex(image, Resample(weights)(synthetic)), torch.complex(known, synthetic)
        first, last = BEST_FACTORS if samples == 1 else DRAW_FACTORS
        levels = levels_between(engine, first * error, last * error)
        keep = grid.known.to(engine.device)
        measurement = Measurement(grid.measured(known), grid.operator(engine.device), sigma)
        by_frame: list[Level] = [*(torch.where(keep, min(sigma, level), level) for level in levels[:-1]), 0.0]

        def draws() -> Iterator[Tensor]:
            if engine.samples == 1:
                yield best_image(engine, measurement, by_frame, image)
            else:
                yield from drawn(engine, measurement, by_frame, image, torch.where(keep, 0.0, levels[0]), b)

        def measures(_: Tensor) -> dict[str, float]:
            residual = known - _in_one_step(engine, known, sigma, real=not clip.is_complex)
            return residual_measures(residual if clip.is_complex else residual.real, sigma)

        expected = torch.where(keep, sigma, error).expand(1, 1, grid.frames, 1, 1)
        return SliceRun(
            map(grid.wanted, draws()),
            lambda: grid.wanted(image),
            grid.wanted(expected),
            measures=measures if float(noise[b].max()) >= LEAST_NOISE * scale else None,
            facts={"log_noise": math.log(sigma), "magnitude": 0.0},
        )

    result = collect(engine, "interpolate", run_slice, clip.data.shape[0], scale, finish=kind_of(clip.data))
    restored = replace(clip, data=result.mean, times=grid.wanted_times)
    info = {"noise": noise.flatten().tolist(), "grid_frames": grid.frames}
    return finished(result, restored, engine, scale, info, "interpolate", strict=strict)


def _descents(engine: Engine, y: Tensor, sigma: float, b: int, samples: int) -> Iterator[Tensor]:
    """Draws of uniform noise: y is the state of the diffusion at sigma already, from where it only has to descend."""
    nothing = Measurement(torch.zeros_like(y), Mask(False), 1.0)
    levels = levels_between(engine, sigma, min(sigma, SMALLEST_SIGMA))
    for k in range(samples):
        g = engine.generator(b, k)
        yield engine.last(
            posterior_samples(
                engine.denoiser, nothing, levels, y, spread=lambda level: 0.0 * level, eta=ancestral, generator=g
            )
        )


def _in_one_step(engine: Engine, y: Tensor, sigma: float, *, real: bool) -> Tensor:
    """The single image of uniform noise: one evaluation of the network, after a classical filter."""
    with torch.no_grad():
        clean = engine.denoiser(*_filtered(y, sigma, real))
    engine.tick()
    return clean


def _filtered(y: Tensor, sigma: float, real: bool) -> tuple[Tensor, float]:
    """The series after a classical filter that leaves a part of the noise in, and the level of that part.

    real: the imaginary channel is known to be noise.
    """
    if y.shape[2] == 1:
        return y, sigma
    share = min(1.0, max(NOISE_LEFT, SMALLEST_SIGMA / sigma))
    guess = in_windows(local_pca_wiener)(y.real if real else y, sigma)
    return guess + share * (y - guess), share * sigma


def _noise_of(clip: Clip, sigma: float | Tensor | None) -> Tensor:
    """Noise as (B or 1, 1, T or 1, Y or 1, X or 1)."""
    if sigma is None:
        return estimate_noise_image(clip.data).reshape(-1, 1, 1, 1, 1)
    noise = torch.as_tensor(sigma, dtype=torch.float32)
    noise = noise.reshape((1,) * (5 - noise.ndim) + tuple(noise.shape))
    if not bool((noise > 0).all()) or not bool(torch.isfinite(noise).all()):
        raise UsageError("sigma must be positive and finite")
    return noise


def _check_complete(clip: Clip) -> None:
    if clip.present is not None and not bool(clip.present.all()):
        raise InputError("frames of the series are missing; fill them in first (medseq.fill_missing)")
