"""A brain-like BOLD series with a known activation, drift, breathing and pulse."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medseq.phantoms.scenes import crop_resolution, finish, fractal_texture, paint_leaf, smooth_field, uniform


@dataclass(frozen=True)
class Bold:
    """series: (B, T, Y, X) float32 without noise. activation: (B, Y, X), the task's signal change as a share of the
    voxel's mean. response: (T,), the task's haemodynamic response, 0 at rest and 1 at its height."""

    series: Tensor
    activation: Tensor
    response: Tensor


def haemodynamic_response(seconds: Tensor) -> Tensor:
    """SPM's canonical double gamma (peak near 5 s, undershoot near 15 s), height 1."""
    t = seconds.clamp(min=0)
    shape = t**5 * torch.exp(-t) / math.gamma(6) - t**15 * torch.exp(-t) / math.gamma(16) / 6
    return shape / 0.1755


def block_design(frames: int, interval: float, block: float = 16.0) -> Tensor:
    """(T,) response to blocks of `block` seconds rest and task in turn, one frame every `interval` seconds."""
    fine = 0.1
    t = torch.arange(math.ceil(frames * interval / fine) + 1) * fine
    task = ((t // block) % 2 == 1).float()
    kernel = haemodynamic_response(torch.arange(0, 32, fine))
    response = torch.nn.functional.conv1d(
        torch.nn.functional.pad(task, (len(kernel) - 1, 0))[None, None], kernel.flip(0)[None, None]
    )[0, 0]
    picked = response[(torch.arange(frames) * interval / fine).round().long()]
    return picked / picked.abs().max().clamp(min=1e-6)


def bold_series(
    size: tuple[int, int], slices: int, frames: int, interval: float, change: float, generator: torch.Generator
) -> Bold:
    """A random head of `slices` slices with blobs of activation up to `change` (0.02 is 2 %), `interval` s a frame."""
    g = generator
    response = block_design(frames, interval)
    t = torch.arange(frames) * interval
    drift = 0.004 * torch.sin(2 * math.pi * t / (frames * interval) * uniform(g, 0.4, 1.2) + uniform(g, 0, 6.28))
    breath = 0.003 * torch.sin(2 * math.pi * 0.28 * t + uniform(g, 0, 6.28))
    beat = 0.003 * torch.sin(2 * math.pi * 1.1 * t + uniform(g, 0, 6.28))
    series, activation = [], []
    for _ in range(slices):
        brain = _brain(size, g)
        tissue = (brain > 0.3 * brain.max()).float()
        active = change * torch.sigmoid(6 * smooth_field(size, 4, g, brain.device) - 8) * tissue
        slow = drift[:, None, None] * smooth_field(size, 2, g, brain.device)
        fast = breath[:, None, None] * smooth_field(size, 2, g, brain.device)
        pulsed = beat[:, None, None] * smooth_field(size, 5, g, brain.device)
        series.append(brain * (1 + active * response[:, None, None] + slow + fast + pulsed))
        activation.append(active)
    return Bold(torch.stack(series), torch.stack(activation), response)


def _brain(size: tuple[int, int], g: torch.Generator) -> Tensor:
    """A still head (Y, X) with the blur of EPI: grey and white matter, ventricles, dark skull."""
    high, wide = 2 * size[0], 2 * size[1]
    unit = min(high, wide)
    texture = fractal_texture((high, wide), g, torch.device("cpu"))
    inside = torch.full((high, wide), 0.75)
    for _ in range(90):
        y, x, r = uniform(g, 0, high), uniform(g, 0, wide), unit * uniform(g, 0.01, 0.06)
        paint_leaf(inside, texture, y, x, r, uniform(g, 0.5, 1.0), g)
    for side in (-1, 1):
        paint_leaf(inside, texture, 0.47 * high, (0.5 + 0.05 * side) * wide, 0.07 * unit, 1.1, g)
    head = torch.zeros(high, wide)
    paint_leaf(head, torch.zeros_like(texture), 0.5 * high, 0.5 * wide, 0.4 * unit, 1.0, g, stretch=0.9)
    return finish(crop_resolution(0.01 + inside * head, size).real.clamp(min=0), g)
