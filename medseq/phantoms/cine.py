"""A beating heart in a chest, drawn at random: the cine phantom of `medseq simulate`, with its truth known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseq.phantoms.motion import TimeAxis, displacement, pulse, warp
from medseq.phantoms.scenes import (
    Scene,
    crop_resolution,
    finish,
    fractal_texture,
    paint_leaf,
    paint_ring,
    smooth_field,
    uniform,
)


def chest(size: tuple[int, int], generator: torch.Generator, device: torch.device | str = "cpu") -> Scene:
    """A short-axis-like still (Y, X): body, lungs, liver, vessels, spine, and two ventricles as its rings."""
    g, device = generator, torch.device(device)
    high, wide = 2 * size[0], 2 * size[1]
    unit = min(high, wide)
    texture = fractal_texture((high, wide), g, device)
    inside = torch.full((high, wide), 0.45, device=device)
    for _ in range(60):  # muscle, fat and vessels
        y, x, r = uniform(g, 0, high), uniform(g, 0, wide), unit * uniform(g, 0.01, 0.09)
        paint_leaf(inside, texture, y, x, r, uniform(g, 0.15, 1.0), g)
    for side in (-1, 1):
        paint_leaf(inside, texture, 0.45 * high, (0.5 + 0.26 * side) * wide, 0.2 * unit, 0.06, g)
    paint_leaf(inside, texture, 0.72 * high, 0.36 * wide, 0.2 * unit, uniform(g, 0.3, 0.6), g)
    paint_leaf(inside, texture, 0.8 * high, 0.5 * wide, 0.06 * unit, uniform(g, 0.5, 0.8), g)
    y, x, r = uniform(g, 0.44, 0.5) * high, uniform(g, 0.52, 0.56) * wide, uniform(g, 0.085, 0.11) * unit
    paint_leaf(inside, texture, y, x - 0.6 * r, 2.4 * r, 0.3, g, stretch=0.8)
    paint_leaf(inside, texture, y - 0.2 * r, x - 2.0 * r, 0.9 * r, 0.9, g, stretch=0.9)
    paint_ring(inside, texture, y, x, r, g)
    body = torch.zeros_like(inside)
    paint_leaf(body, torch.zeros_like(texture), 0.5 * high, 0.5 * wide, 0.44 * unit, 1.0, g, stretch=0.85)
    shading = (0.2 * smooth_field((high, wide), 2, g, device)).exp()
    image = crop_resolution((0.01 + inside * body) * shading, size).real
    rings = torch.tensor([[y, x, r], [y - 0.3 * r, x - 2.0 * r, 0.8 * r]]) / 2
    return Scene(finish(image, g), rings)


def beating_heart(
    size: tuple[int, int], frames: int, generator: torch.Generator, device: torch.device | str = "cpu"
) -> Tensor:
    """One gated cycle (T, Y, X) complex64 of a random chest: contraction, torsion, flow and a smooth phase."""
    g = generator
    scene = chest(size, g, device)
    time = TimeAxis(torch.arange(frames) / frames, True)
    images = warp(scene.image, displacement(size, scene.rings, time, g, scene.image.device), (0, 0))
    flow = torch.sigmoid(4 * smooth_field(size, 3, g, scene.image.device) - 3)
    images = images * (1 + uniform(g, -0.2, 0.2) * pulse(time.phase, g)[:, None, None].to(images.device) * flow)
    angle = uniform(g, 0, 2 * math.pi) + 0.8 * smooth_field(size, 2, g, scene.image.device)
    return torch.polar(torch.ones_like(images), angle.expand_as(images)) * images
