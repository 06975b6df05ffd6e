"""Series of images from k-space: what was measured is stated, a classical start made, and the one sampler run.

Scale, slices and seeds as in `medseq.restore`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

from torch import Tensor

from medseq.acquisition import average_image, prepared
from medseq.clip import Clip, KSpace
from medseq.few_steps import Remembering, checked_steps, few_step_image
from medseq.gathering import (
    BEST_FACTORS,
    DRAW_FACTORS,
    DRAW_STEPS,
    Restored,
    SliceRun,
    best_image,
    checked_scale,
    collect,
    drawn,
    finished,
    levels_between,
)
from medseq.io.weights import load_prior
from medseq.measurement import ByFrames, Measured, Measurement, frames_of, held
from medseq.mismatch import left_out_measures
from medseq.posterior import Level
from medseq.prior import Prior
from medseq.runtime import Engine, Progress
from medseq.warmstart import Start, sense_operator, warm_start

# Chosen on simulated and animated cases (docs/measurements.md), then fixed.
BEST_STEPS = 4  # of the best image of k-space: three do nearly as well, six hardly better
BETWEEN_LEVELS = 8  # iterations of the classical start, taken up again between the levels of the best image
SOLVE_ITERATIONS = 4  # of conjugate gradients for the best image, which needs no more
SOLVE_TOLERANCE = 0.03  # at which two of them are mostly enough: within 0.001 dB of the converged solution
DRAW_ITERATIONS = 12  # and for draws, whose perturbations start further away


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
    support: bool = False,
    strict: bool = False,
    compile: bool = False,
) -> Restored:
    """Images from undersampled multi-coil k-space, on a grid or along its trajectory. Returns a complex Clip in the
    units of the k-space.

    The noise is made white, the maps are estimated where there are none, and the sampler starts from a classical
    reconstruction (`warm_start`), at a noise level taken from its estimated error. steps: evaluations of the network a
    sample; None is 4 for the single image, else 12. A prior made for few evaluations, as "heart-fast-2", takes its own
    number of them, for the single image of 8 frames or more (`medseq.few_steps`). support: also map how much of each
    voxel came from the measurement (`maps["support"]`), for the price of one more single image, with several samples of
    two. compile: the network, which takes tens of seconds and pays for many series of one shape in one process.

    Raises InputError when noise, maps or scale can't be found in the data, or if strict for a series unlike those that
    the prior has learnt (else that is a warning), UsageError for impossible options,
    ResourceError when the device, or a compiler that is asked for, is not there.
    """
    if prior is None or isinstance(prior, str | Path):
        prior = load_prior(prior)
    if prior.few:
        steps = checked_steps(steps, samples, kspace.frames)
    elif steps is None:
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
        compile=compile,
        few_steps=True,
    )
    engine.expect(kspace.data.shape[0] * samples * steps)
    engine.fit("reconstruct", (*kspace.data.shape[:3], *kspace.size))
    ready = prepared(kspace)
    unit, gain = ready.level, ready.gain
    average = average_image(ready.average)
    scale = checked_scale(average)
    errors: list[float] = []
    periodic = kspace.period is not None

    def run_slice(b: int) -> SliceRun:
        measured, keep, maps = ready.slice(b, engine.device, scale)
        y = held(measured) if prior.few else measured
        trajectory = kspace.trajectory and kspace.trajectory.to(engine.device)
        sigma, A = unit / scale, sense_operator(keep, maps, trajectory)
        begin = partial(warm_start, periodic=periodic, trajectory=trajectory, quick=prior.few)
        denoiser = Remembering(engine.denoiser) if prior.few else engine.denoiser
        begun = begin(y, keep, maps, sigma, engine.seed, average=average[b : b + 1].to(engine.device) / scale)
        errors.append(begun.error)
        blind, measures = begun.blind, None
        if blind is not None and engine.trust.expected:
            told = left_out_measures(denoiser, blind.image, begun.error, blind.power, sigma)
            measures = lambda _: told  # noqa: E731
        begun, blind = replace(begun, blind=None), None  # it has said what it can, and is as large as the series

        def levels(error: float, factors: tuple[float, float]) -> list[Level]:
            return levels_between(engine, factors[0] * error, factors[1] * error)

        def best(y: Measured, start: Start) -> Tensor:
            if prior.few:
                return engine.last(few_step_image(denoiser, start))
            measurement = Measurement(y, A, sigma, iterations=SOLVE_ITERATIONS, tolerance=SOLVE_TOLERANCE)
            go_on = start.go_on
            refine = None if go_on is None else lambda image: go_on(image, BETWEEN_LEVELS)
            return best_image(engine, measurement, levels(start.error, BEST_FACTORS), start.image, refine)

        def if_changed(change: Tensor | None) -> Tensor:
            if change is None:
                return best(y, begun)
            other = ByFrames(y.shape, y.device, lambda at: frames_of(y, at) + A.frames(at)(change[:, :, at]))
            return best(other, begin(other, keep, maps, sigma, engine.seed))

        def draws() -> Iterator[Tensor]:
            if engine.samples == 1:
                yield best(y, begun)
                return
            measurement = Measurement(y, A, sigma, iterations=DRAW_ITERATIONS)
            noisy = levels(begun.error, DRAW_FACTORS)
            yield from drawn(engine, measurement, noisy, begun.image, noisy[0], b)

        acceleration = kspace.acceleration if trajectory else 1 / float(keep.any(dim=1).float().mean())
        return SliceRun(
            draws(),
            lambda: begun.image,
            begun.error,
            if_changed if support else None,
            measures,
            {
                "log_acceleration": math.log(acceleration),
                "log_noise": math.log(sigma),
                "log_start_over_noise": math.log(begun.error / sigma),
                "one_frame": float(y.shape[2] == 1),
            },
            acceleration,
        )

    result = collect(engine, "reconstruct", run_slice, kspace.data.shape[0], scale)
    info = {
        "coils": ready.average.coils,
        "noise_before_whitening": _described(kspace.noise),
        "noise": unit,
        "warm_start_error": [e * scale for e in errors],
    }
    if bool((gain != 1).any()):
        result = result.divided(gain)
    clip = Clip(result.mean, kspace.affine, kspace.times, kspace.period)
    return finished(result, clip, engine, scale, info, "reconstruct", strict=strict)


def _described(noise: float | Tensor | None) -> str:
    return "estimated" if noise is None else "covariance" if isinstance(noise, Tensor) else f"{noise:g}"
