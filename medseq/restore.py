"""The three tasks: denoise, interpolate, reconstruct. Each states what was measured and runs the one sampler.

A series is divided by one scale (`series_scale`) on the way in and multiplied by it on the way out. Slices are restored
one after the other, each with noise of its own seed, so neither memory nor result depends on how many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medseq.acquisition import average_image, slice_of, whitened
from medseq.baselines import local_pca_wiener
from medseq.between import between
from medseq.clip import Clip, KSpace, series_scale
from medseq.errors import InputError, UsageError
from medseq.measurement import Measurement
from medseq.noise import estimate_noise_image, magnitude_unbias, unit_noise
from medseq.operators import Identity, Mask, Resample
from medseq.posterior import Level, ancestral, best_images, noise_levels, posterior_samples, turning
from medseq.prior import Prior, Windowed
from medseq.runtime import OVERLAP, WINDOW, Engine, Progress
from medseq.timegrid import TimeGrid, linear_weights
from medseq.warmstart import sense_operator, warm_start

# Chosen on simulated and animated cases (docs/measurements.md), then fixed.
SPREAD_FACTOR = 1.5  # times the prior's measured RMSE
BEST_FACTORS = (1.0, 0.5)  # first and last noise level of the best image, times the error of its start
DRAW_FACTORS = (2.0, 0.25)  # likewise of draws, which start with noise added
BEST_STEPS = 4  # of the best image of k-space: three do nearly as well, six hardly better
DRAW_STEPS = 12  # of draws, and of denoising where more than one evaluation is wanted
BETWEEN_LEVELS = 8  # iterations of the classical start, taken up again between the levels of the best image
NOISE_LEFT = 0.3  # share of the noise that the classical filter leaves to the network
SOLVE_ITERATIONS = 4  # of conjugate gradients for the best image, which needs no more
DRAW_ITERATIONS = 12  # and for draws, whose perturbations start further away
SMALLEST_SIGMA = 0.004  # of the scale: below it the prior was hardly trained


@dataclass(frozen=True)
class Restored:
    """What a task gives back.

    clip: the solved image for one sample, the mean of the draws for several. std: std of the magnitude over the
    draws, in input units, or None for one sample. samples: (K, B, 1, T, Y, X) on the CPU, or None. info: scale, noise,
    steps, device, error of the warm start: what `run.json` reports as `result`.
    """

    clip: Clip
    std: Clip | None = None
    samples: Tensor | None = None
    info: dict[str, Any] = field(default_factory=dict)


def reconstruct(
    kspace: KSpace,
    *,
    prior: Prior | str | Path | None = None,
    steps: int | None = None,
    samples: int = 1,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Restored:
    """Images from undersampled multi-coil k-space. Returns a complex Clip in the units of the k-space.

    The noise is made white, the maps are estimated where there are none, and the sampler starts from a classical
    reconstruction (`warm_start`), at a noise level taken from its estimated error. steps: evaluations of the network a
    sample; None is 4 for the single image, else 12.

    Raises InputError when noise, maps or scale can't be found in the data, UsageError for impossible options,
    ResourceError when the device is not there.
    """
    if steps is None:
        steps = BEST_STEPS if samples == 1 else DRAW_STEPS
    engine = Engine(
        prior,
        frames=kspace.frames,
        periodic=kspace.period is not None,
        device=device,
        precision=precision,
        seed=seed,
        samples=samples,
        steps=steps,
        progress=progress,
    )
    engine.expect(kspace.data.shape[0] * samples * steps)
    white, unit, gain = whitened(kspace)
    scale = _checked_scale(average_image(white))
    errors: list[float] = []

    def slice_draws(b: int) -> Iterator[Tensor]:
        part = slice_of(white, b, engine.device)
        assert part.maps is not None
        y, sigma = part.data / scale, unit / scale
        periodic = kspace.period is not None
        begun = warm_start(y, part.keep, part.maps, sigma, engine.seed, periodic=periodic)
        errors.append(begun.error)
        A = sense_operator(part.keep, part.maps)
        measurement = Measurement(y, A, sigma, iterations=SOLVE_ITERATIONS if engine.samples == 1 else DRAW_ITERATIONS)
        first, last = BEST_FACTORS if engine.samples == 1 else DRAW_FACTORS
        levels = _levels(engine, first * begun.error, last * begun.error)
        go_on = begun.go_on
        refine = None if go_on is None else lambda image: go_on(image, BETWEEN_LEVELS)
        yield from _draws(engine, measurement, levels, begun.image, levels[0], b, refine)

    result = _collect(engine, slice_draws, kspace.data.shape[0], scale)
    info = {
        "coils": white.coils,
        "noise_before_whitening": _described(kspace.noise),
        "noise": unit,
        "warm_start_error": [e * scale for e in errors],
    }
    if bool((gain != 1).any()):
        result = result.divided(gain)
    clip = Clip(result.mean, kspace.affine, kspace.times, kspace.period)
    return _restored(result, clip, engine, scale, info)


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
) -> Restored:
    """The series without its noise; real stays real, complex stays complex.

    sigma: noise std of each real channel in the clip's units: a number, a map that broadcasts to the data, or None
    (estimated, slice by slice). Uniform noise takes one evaluation of the network for one sample, which starts from
    `local_pca_wiener` with a part of the noise left in; samples are drawn from the posterior by descending from the
    noisy series itself. A map goes through the sampler. steps: levels; None is 1 for the single image of uniform noise,
    else 12. A real clip gets an imaginary channel of noise of its own sigma, which is what the prior expects. A
    magnitude (real, nowhere negative) carries Rician noise: the bias that it leaves is taken out, so that air is dark.

    Raises InputError when no noise or scale can be found, UsageError for impossible options: several samples in one
    step among them, as they would all be the same.
    """
    if steps is None:
        steps = 1 if samples == 1 and not isinstance(sigma, Tensor) else DRAW_STEPS
    if samples > 1 and steps == 1:
        raise UsageError("several samples need several steps: one step gives the same image every time")
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
    scale = _checked_scale(clip.data.mean(dim=2, keepdim=True))
    noise = _noise_of(clip, sigma)
    rician = not clip.is_complex and bool((clip.data >= 0).all())

    def slice_draws(b: int) -> Iterator[Tensor]:
        level = (noise[b if noise.shape[0] > 1 else 0][None] / scale).to(engine.device)
        for draw in clean_draws(b, level.clamp(min=SMALLEST_SIGMA)):
            yield magnitude_unbias(draw.real, level) if rician else draw

    def clean_draws(b: int, level: Tensor) -> Iterator[Tensor]:
        y = clip.data[b : b + 1].to(engine.device) / scale
        y = y if clip.is_complex else torch.complex(y, level * unit_noise(y, engine.generator(b, 0)))
        if level.numel() == 1:
            yield from _uniform_noise_draws(engine, y, float(level), b, real=not clip.is_complex)
            return
        top = float(level.max())
        levels = _levels(engine, top, DRAW_FACTORS[1] * top)
        missing = (top**2 - level**2).sqrt()
        measurement = Measurement(y, Identity(), level)
        yield from _draws(engine, measurement, levels, y, missing, b)

    result = _collect(engine, slice_draws, clip.data.shape[0], scale, finish=_like(clip.data))
    info = {"noise": noise.flatten(1).amax(1).tolist(), "rician_bias_removed": rician}
    return _restored(result, clip.with_data(result.mean), engine, scale, info)


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
) -> Restored:
    """The series at other times: `factor` times as many frames, or exactly at `times` (seconds).

    Known and wanted times share a uniform grid (to 1 % of a frame interval), else wanted frames are sums of the two
    nearest frames of a fine grid. Frames after the last are only possible with a period. Known frames enter at their
    own noise level; the missing ones start from the mixture of straight lines, splines and optical flow that predicts
    left-out known frames best, at its estimated error. Raises UsageError for impossible times or factors.
    """
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
    scale = _checked_scale(clip.data.mean(dim=2, keepdim=True))
    noise = _noise_of(clip, None)

    def slice_draws(b: int) -> Iterator[Tensor]:
        known = (clip.data[b : b + 1] / scale).to(engine.device)
        sigma = max(float(noise[b].max()) / scale, SMALLEST_SIGMA)
        image, error = between(known, clip.times, grid.times, clip.period)
        error = max(error, sigma)
        if not clip.is_complex:
            synthetic = sigma * unit_noise(known, engine.generator(b, 0))
            weights = linear_weights(clip.times, grid.times, clip.period).to(engine.device)
            image, known = torch.complex(image, Resample(weights)(synthetic)), torch.complex(known, synthetic)
        first, last = BEST_FACTORS if samples == 1 else DRAW_FACTORS
        levels = _levels(engine, first * error, last * error)
        keep = grid.known.to(engine.device)
        operator = grid.operator(engine.device)
        measurement = Measurement(grid.measured(known), operator, sigma)
        by_frame: list[Level] = [torch.where(keep, min(sigma, level), level) for level in levels[:-1]]

        for draw in _draws(engine, measurement, [*by_frame, 0.0], image, torch.where(keep, 0.0, levels[0]), b):
            yield grid.wanted(draw)

    result = _collect(engine, slice_draws, clip.data.shape[0], scale, finish=_like(clip.data))
    restored = Clip(result.mean, clip.affine, grid.wanted_times, clip.period)
    return _restored(result, restored, engine, scale, {"noise": noise.flatten().tolist(), "grid_frames": grid.frames})


@dataclass(frozen=True)
class _Result:
    mean: Tensor
    std: Tensor | None
    samples: Tensor | None

    def divided(self, gain: Tensor) -> _Result:
        std, samples = self.std, self.samples
        return _Result(
            self.mean / gain, std if std is None else std / gain, samples if samples is None else samples / gain
        )


def _draws(
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
        yield engine.last(best_images(denoiser, measurement, levels, image, spread=_spread(engine), refine=refine))
        return
    for k in range(engine.samples):
        g = engine.generator(b, k)
        start = image + noise * unit_noise(image, g)
        yield engine.last(
            posterior_samples(engine.denoiser, measurement, levels, start, spread=_spread(engine), generator=g)
        )


def _uniform_noise_draws(engine: Engine, y: Tensor, sigma: float, b: int, *, real: bool) -> Iterator[Tensor]:
    """One evaluation; or draws: y is the state of the diffusion at sigma already, from where it only has to descend."""
    if engine.samples == 1 and engine.steps == 1:
        with torch.no_grad():
            clean = engine.denoiser(*_filtered(y, sigma, real))
        engine.tick()
        yield clean
        return
    nothing = Measurement(torch.zeros_like(y), Mask(False), 1.0)
    levels = _levels(engine, sigma, min(sigma, SMALLEST_SIGMA))
    for k in range(engine.samples):
        g = engine.generator(b, k)
        yield engine.last(
            posterior_samples(
                engine.denoiser, nothing, levels, y, spread=lambda level: 0.0 * level, eta=ancestral, generator=g
            )
        )


def _filtered(y: Tensor, sigma: float, real: bool) -> tuple[Tensor, float]:
    """The series after a classical filter that leaves a part of the noise in, and the level of that part.

    real: the imaginary channel is known to be noise.
    """
    if y.shape[2] == 1:
        return y, sigma
    share = min(1.0, max(NOISE_LEFT, SMALLEST_SIGMA / sigma))
    guess = Windowed(local_pca_wiener, WINDOW, OVERLAP)(y.real if real else y, sigma)
    return guess + share * (y - guess), share * sigma


def _levels(engine: Engine, high: float, low: float) -> list[Level]:
    low = max(low, SMALLEST_SIGMA)
    return [*noise_levels(engine.steps, max(high, low), low)]


def _spread(engine: Engine) -> Callable[[Level], Level]:
    """The measured RMSE of the prior times one fixed factor, also where the level differs between frames."""

    def spread(sigma: Level) -> Level:
        if not isinstance(sigma, Tensor):
            return SPREAD_FACTOR * engine.spread(sigma)
        values = [SPREAD_FACTOR * engine.spread(s) for s in sigma.flatten().tolist()]
        return torch.tensor(values, device=sigma.device).reshape(sigma.shape)

    return spread


def _unchanged(draw: Tensor) -> Tensor:
    return draw


def _collect(
    engine: Engine,
    slice_draws: Callable[[int], Iterator[Tensor]],
    slices: int,
    scale: float,
    finish: Callable[[Tensor], Tensor] = _unchanged,
) -> _Result:
    """Run all slices and gather mean, std of the magnitude and samples, in input units, on the CPU."""
    means, stds, kept = [], [], []
    for b in range(slices):
        draws = torch.stack([finish(draw).cpu() * scale for draw in slice_draws(b)])
        means.append(draws.mean(0))
        if engine.samples > 1:
            stds.append(draws.abs().std(0))
            kept.append(draws)
    if engine.samples == 1:
        return _Result(torch.cat(means), None, None)
    return _Result(torch.cat(means), torch.cat(stds), torch.cat(kept, dim=1))


def _like(data: Tensor) -> Callable[[Tensor], Tensor]:
    """What makes a complex result a series like `data`: real where that is real, and a magnitude where that is one."""
    if data.is_complex():
        return _unchanged
    lowest = 0.0 if bool((data >= 0).all()) else -torch.inf
    return lambda draw: draw.real.clamp(min=lowest)


def _restored(result: _Result, clip: Clip, engine: Engine, scale: float, info: dict[str, Any]) -> Restored:
    if not bool(torch.isfinite(torch.view_as_real(clip.data) if clip.is_complex else clip.data).all()):
        raise InputError("the result is not finite: the input holds extreme values, or the prior does not fit it")
    std = clip.with_data(result.std) if result.std is not None else None
    about = {"scale": scale, "steps": engine.steps, "samples": engine.samples, "device": str(engine.device)}
    return Restored(clip, std, result.samples, {**about, **info})


def _checked_scale(average: Tensor) -> float:
    scale = float(series_scale(average))
    if not (np.isfinite(scale) and scale > 0):
        raise InputError("the series has no scale: it is zero or not finite")
    return scale


def _noise_of(clip: Clip, sigma: float | Tensor | None) -> Tensor:
    """Noise as (B or 1, 1, T or 1, Y or 1, X or 1)."""
    if sigma is None:
        return estimate_noise_image(clip.data).reshape(-1, 1, 1, 1, 1)
    noise = torch.as_tensor(sigma, dtype=torch.float32)
    noise = noise.reshape((1,) * (5 - noise.ndim) + tuple(noise.shape))
    if not bool((noise > 0).all()) or not bool(torch.isfinite(noise).all()):
        raise UsageError("sigma must be positive and finite")
    return noise


def _described(noise: float | Tensor | None) -> str:
    return "estimated" if noise is None else "covariance" if isinstance(noise, Tensor) else f"{noise:g}"
