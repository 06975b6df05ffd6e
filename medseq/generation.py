"""Clips from nothing measured: what the prior alone believes a series looks like.

The one sampler, with a measurement that says nothing (`Mask(False)`), from noise down to a clean clip. No belief has to
be balanced against data, so the spread is 0 and most of the noise that the prior saw is kept (eta small). Of a Gaussian
prior 100 levels then give 0.98 of the right std with eta 0, 0.96 with 0.35, and 0.69 with 1. Spread sigma with eta 1,
right where much is measured, gives 1.03 there, but hands the prior up to sqrt 2 times the noise that it is told of:
from the shipped prior that draws texture in place of shapes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medseq.clip import Clip
from medseq.errors import InputError, UsageError
from medseq.gathering import SMALLEST_SIGMA, Restored
from medseq.measurement import Measurement
from medseq.noise import unit_noise
from medseq.operators import Mask
from medseq.posterior import Denoiser, Samples, noise_levels, posterior_samples
from medseq.prior import Prior
from medseq.runtime import WHOLE, Engine, Progress
from medseq.simulate import scanner_affine

HIGHEST_SIGMA = 20.0  # of the scale: above it the prior was not trained
# Std, in each real channel, of the mean of a training clip (120 clips): at the highest sigma noise hides all else of a
# clip, but not its mean over tens of thousands of voxels, so the sampler has to start with one.
MEAN_STD = 0.27
# Share of fresh noise: clips of `heart-1` flicker 4 times as much as training clips with 0, 2 to 3 times with this.
ETA = 0.35
# What a series of no scanner may claim: voxels (x, y, z) in mm; seconds of a cycle, or of a frame without one.
_SPACING, _PERIOD, _INTERVAL = (1.4, 1.4, 8.0), 0.9, 0.04


def generate(
    frames: int = 16,
    size: tuple[int, int] = (96, 96),
    *,
    count: int = 1,
    periodic: bool = True,
    prior: Prior | str | Path | None = None,
    steps: int = 100,
    seed: int = 0,
    device: str = "auto",
    precision: str = "auto",
    progress: Progress | None = None,
) -> Restored:
    """Draw `count` clips from the prior: a complex Clip (count, 1, frames, Y, X) of independent items.

    size: voxels along Y and X. periodic: one cycle, whose last frame leads to the first; at most 96 frames. steps:
    noise levels. Values are in units of the scale (about 1 where the image is bright). Geometry and timing are made up:
    1.4 mm voxels of 8 mm, a cycle of 0.9 s or a frame every 0.04 s.

    Raises UsageError for impossible options, ResourceError when the device is not there.
    """
    _check(frames, size, count, periodic)
    engine = Engine(
        prior,
        frames=frames,
        periodic=periodic,
        device=device,
        precision=precision,
        seed=seed,
        samples=1,
        steps=steps,
        progress=progress,
    )
    engine.expect(count * steps)
    like = torch.zeros(1, 1, frames, *size, dtype=torch.complex64, device=engine.device)
    clips = []
    for item in range(count):
        g = engine.generator(item, 0)
        mean = MEAN_STD * unit_noise(like[:, :, :1, :1, :1], g)
        start = mean + HIGHEST_SIGMA * unit_noise(like, g)
        clips.append(engine.last(unconditional(engine.denoiser, start, steps, g)).cpu())
    data = torch.cat(clips)
    if not bool(torch.isfinite(torch.view_as_real(data)).all()):
        raise InputError("the result is not finite, as of a prior that is damaged, or was not trained; take another")
    cycle = periodic and frames > 1
    times = np.arange(frames) * (_PERIOD / frames if cycle else _INTERVAL)
    clip = Clip(data, scanner_affine(size, 1, _SPACING), times, _PERIOD if cycle else None)
    return Restored(clip, info={"steps": steps, "device": str(engine.device)})


def unconditional(prior: Denoiser, start: Tensor, steps: int, generator: torch.Generator) -> Samples:
    """Descend from `start` (B, 1, T, Y, X), noise of the highest sigma included, yielding the estimate at every level.

    The last one is a sample of the prior. Raises UsageError for fewer than one step.
    """
    nothing = Measurement(torch.zeros_like(start), Mask(False), 1.0)
    levels = noise_levels(steps, HIGHEST_SIGMA, SMALLEST_SIGMA)
    return posterior_samples(
        prior, nothing, levels, start, spread=lambda sigma: 0.0 * sigma, eta=ETA, generator=generator
    )


def _check(frames: int, size: tuple[int, int], count: int, periodic: bool) -> None:
    if frames < 1 or count < 1 or min(size) < 16 or max(size) > 2048:
        raise UsageError(f"can't generate {count} clips of {frames} frames of {size[0]} x {size[1]} (16 to 2048)")
    if periodic and frames > WHOLE:
        raise UsageError(f"one cycle has at most {WHOLE} frames, got {frames}; ask for fewer, or for no cycle")
