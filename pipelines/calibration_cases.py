"""Simulated series with known truth for `calibrate.py`: held-out stills in motion, and phantoms. No real series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medseq import Clip, KSpace, unit_noise
from medseq.patterns import equispaced, pseudo_radial, variable_density
from medseq.phantoms.cine import beating_heart
from medseq.phantoms.clips import animate
from medseq.phantoms.motion import TimeAxis
from medseq.phantoms.phases import Stills
from medseq.phantoms.scenes import chance, dead_leaves, pair_scene, still_scene, uniform
from medseq.simulate import acquire
from medseq.stills import load_stills

SIZE = (144, 176)
SMALL = (96, 112)
ACCELERATIONS = (3.0, 4.0, 6.0, 8.0, 10.0, 12.0)


@dataclass(frozen=True)
class Scenario:
    """One simulated series. kind: "still" (animated) or "phantom"; g: goes on to draw how it is measured."""

    name: str
    kind: str
    truth: Clip
    g: torch.Generator


def held_out(folder: Path) -> Stills:
    """The last tenth of the stills, which no prior of medseq was trained on (as `Recipe.source` has it)."""
    return load_stills(folder, last=0.1)


def scenario(number: int, stills: Stills, size: tuple[int, int] = SIZE) -> Scenario:
    """Scenario `number`, the same every time: three of four are animated stills, the others phantoms.

    In half of them the truth itself carries a little noise of its own in every frame, as every real series does.
    """
    g = torch.Generator().manual_seed(40_000_003 + number)
    kind = "phantom" if number % 4 == 3 else "still"
    frames = int(uniform(g, 12, 20.99))
    time = TimeAxis(torch.arange(frames) / frames + uniform(g, 0, 1), True)
    if kind == "still":
        data = _animated(stills, size, time, g)
    elif chance(g, 0.6):
        data = beating_heart(size, frames, g)
    else:
        data = animate(dead_leaves(size, g), size, time, g)
    if chance(g, 0.5):
        data = data + uniform(g, 0, 0.015) * unit_noise(data, g)
    period = uniform(g, 0.6, 1.1)
    clip = Clip(data[None, None], np.diag([1.4, 1.4, 8.0, 1.0]), np.arange(frames) * period / frames, period)
    return Scenario(f"{kind} {number}", kind, clip, g)


def acquisition(case: Scenario) -> tuple[KSpace, str]:
    """Multi-coil k-space of a scenario at a random acceleration, noise and pattern, and what they are in words."""
    g, frames = case.g, case.truth.frames
    size = (case.truth.data.shape[-2], case.truth.data.shape[-1])
    acceleration = ACCELERATIONS[int(uniform(g, 0, len(ACCELERATIONS) - 0.001))]
    noise = math.exp(uniform(g, math.log(0.004), math.log(0.03)))
    seed = int(torch.randint(2**31 - 1, (), generator=g))
    family, keep = _pattern(frames, size, acceleration, seed, g)
    kspace = acquire(case.truth, coils=8, noise=noise, keep=keep, seed=seed % 10_000)
    return kspace, f"{family}, R = {acceleration:g}, noise {noise:.3f}"


def _pattern(
    frames: int, size: tuple[int, int], acceleration: float, seed: int, g: torch.Generator
) -> tuple[str, Tensor]:
    lines = size[0]
    draw = uniform(g, 0, 1)
    if draw < 0.7:
        centre = max(3, min(8, int(lines / acceleration) - 3))
        return "variable density", variable_density(frames, lines, acceleration, centre, seed)
    if draw < 0.85:
        return "equispaced", equispaced(frames, lines, int(acceleration), 6)
    spokes = max(1, round(lines / acceleration))
    return "pseudo-radial", pseudo_radial(frames, size, spokes)


def _animated(stills: Stills, size: tuple[int, int], time: TimeAxis, g: torch.Generator) -> Tensor:
    choice = int(torch.randint(len(stills), (), generator=g))
    image, partner = stills.images[choice], int(stills.partner[choice])
    if partner == choice:
        return animate(still_scene(image, g), size, time, g)
    return animate(pair_scene(image, stills.images[partner], stills.flow[choice], g), size, time, g)
