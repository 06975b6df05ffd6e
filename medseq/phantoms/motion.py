"""Motion of a still scene: beating, breathing, drifting, all as smooth displacement fields over time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medseq.phantoms.scenes import chance, smooth_field, uniform


@dataclass(frozen=True)
class TimeAxis:
    """When the frames are, in units of a heart beat: phase (T,), and whether the last frame leads to the first."""

    phase: Tensor
    periodic: bool

    @staticmethod
    def random(frames: int, generator: torch.Generator) -> TimeAxis:
        """A whole gated cycle, or any stretch (a part of a beat to some beats, with irregular rhythm) that is not."""
        g = generator
        if frames > 1 and chance(g, 0.5):
            return TimeAxis(torch.arange(frames) / frames + uniform(g, 0, 1), True)
        rate = 1.0 / uniform(g, 8.0, 60.0)
        phase = rate * torch.arange(frames) + uniform(g, 0, 1)
        if chance(g, 0.3):
            phase = phase + 0.1 * torch.sin(2 * math.pi * uniform(g, 0.1, 0.7) * phase + uniform(g, 0, 6.28))
        return TimeAxis(phase, False)


def pulse(phase: Tensor, generator: torch.Generator) -> Tensor:
    """A periodic course in [0, 1]: contraction in a part of the beat, slower relaxation, now and then a second hump."""
    systole = uniform(generator, 0.25, 0.5)
    x = phase % 1.0
    rise = 0.5 - 0.5 * torch.cos(math.pi * x / systole)
    fall = 0.5 + 0.5 * torch.cos(math.pi * (x - systole) / (1 - systole))
    course = torch.where(x < systole, rise, fall ** uniform(generator, 1.0, 2.5))
    if chance(generator, 0.3):
        wave = 0.5 + 0.5 * torch.cos(2 * math.pi * (2 * phase - uniform(generator, 0, 1)))
        course = 0.8 * course + 0.2 * wave
    return course


def harmonics(phase: Tensor, generator: torch.Generator) -> Tensor:
    """A smooth periodic course of three random harmonics, within about -1..1."""
    course = torch.zeros_like(phase)
    for k in (1, 2, 3):
        course = course + uniform(generator, -1, 1) / k * torch.cos(
            2 * math.pi * k * phase + uniform(generator, 0, 6.28)
        )
    return course / 1.8


def _beat(grid: Tensor, ring: Tensor, time: TimeAxis, g: torch.Generator) -> Tensor:
    """Displacement (T, Y, X, 2) of contraction and torsion about one ring, fading with distance from it."""
    course = pulse(time.phase + uniform(g, 0, 1), g)[:, None, None, None].to(grid.device)
    away = grid - ring[:2].to(grid.device)
    reach = float(ring[2]) * uniform(g, 1.2, 2.2)
    near = torch.exp(-away.square().sum(-1, keepdim=True) / (2 * reach**2))
    squeeze = uniform(g, 0.05, 0.7) * course  # 1 / fraction that is left of the radius, minus 1
    turn = uniform(g, -0.25, 0.25) * course
    side = torch.stack([-away[..., 1], away[..., 0]], dim=-1)
    return near * (squeeze * away + turn * side)


def displacement(
    size: tuple[int, int], rings: Tensor, time: TimeAxis, g: torch.Generator, device: torch.device
) -> Tensor:
    """Where each pixel comes from, minus where it is: (T, Y, X, 2) in pixels (y, x). rings: (N, 3) in this window."""
    y = torch.arange(size[0], device=device, dtype=torch.float32)
    x = torch.arange(size[1], device=device, dtype=torch.float32)
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1)
    field = torch.zeros(len(time.phase), *size, 2, device=device)
    for ring in rings:
        if chance(g, 0.85):
            field = field + _beat(grid, ring, time, g)
    if chance(g, 0.6):  # other tissue follows, within a patch: the rest of a body lies still
        patch = torch.sigmoid(3 * smooth_field(size, 2, g, device) - uniform(g, -1, 4))[..., None]
        for _ in range(3):
            detail = int(uniform(g, 1, 7))
            sway = torch.stack([smooth_field(size, detail, g, device) for _ in range(2)], dim=-1)
            course = harmonics(time.phase, g)[:, None, None, None].to(device)
            field = field + uniform(g, 0, 5) / math.sqrt(detail) * course * patch * sway
    if not time.periodic and chance(g, 0.4):  # breathing and drift move all, mostly along one axis
        slow = torch.sin(2 * math.pi * uniform(g, 0.05, 0.4) * time.phase + uniform(g, 0, 6.28)).to(device)
        angle = uniform(g, 0, 6.28)
        direction = torch.tensor([math.sin(angle), math.cos(angle)], device=device)
        field = field + uniform(g, 0, 4) * slow[:, None, None, None] * direction
    return field


def warp(image: Tensor, field: Tensor, corner: tuple[int, int]) -> Tensor:
    """Look up `image` (Y, X) at window pixel + corner + field: (T, y, x, 2) -> (T, y, x), bicubic, mirrored outside."""
    frames, height, width = field.shape[:3]
    y = torch.arange(height, device=image.device)[:, None] + field[..., 0] + corner[0]
    x = torch.arange(width, device=image.device) + field[..., 1] + corner[1]
    # grid_sample's unit: -1 and 1 are the outer edges of the corner pixels (align_corners=False)
    where = torch.stack([(2 * x + 1) / image.shape[1] - 1, (2 * y + 1) / image.shape[0] - 1], dim=-1)
    source = image.expand(frames, 1, *image.shape)
    return F.grid_sample(source, where, mode="bicubic", padding_mode="reflection", align_corners=False)[:, 0]
