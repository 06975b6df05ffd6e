"""Still scenes with the statistics of medical images: dead leaves in a body, rings that can beat.

Dead leaves (Lee, Mumford & Huang, IJCV 2001) have the edges, occlusions and power spectrum of natural and medical
images; networks trained on them alone denoise real images (Achddou et al., 2021). Everything is drawn from one
`torch.Generator` on the CPU, painted on the device of choice, and rendered at twice the resolution and cropped
in k-space, so that edges carry the point spread and the ringing of a scanner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from medseq.clip import series_scale


@dataclass(frozen=True)
class Scene:
    """image: (Y, X) float32 magnitude at the scale of `series_scale`. rings: (N, 3) centre y, centre x and radius in
    pixels of what beats (ventricles, vessels); N may be 0. other: the same slice in another phase of the beat, and
    flow: (Y, X, 2) pixels (y, x) such that other at r + flow(r) is what image shows at r; None for a single phase.
    """

    image: Tensor
    rings: Tensor
    other: Tensor | None = None
    flow: Tensor | None = None


def uniform(generator: torch.Generator, low: float, high: float) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def chance(generator: torch.Generator, probability: float) -> bool:
    return uniform(generator, 0.0, 1.0) < probability


def smooth_field(size: tuple[int, int], cells: int, generator: torch.Generator, device: torch.device) -> Tensor:
    """A smooth random field (Y, X), roughly unit std, with about `cells` bumps along each side."""
    coarse = torch.randn(1, 1, cells + 3, cells + 3, generator=generator).to(device)
    fine = F.interpolate(coarse, size=(size[0] + size[0] // 2, size[1] + size[1] // 2), mode="bicubic")
    top, left = size[0] // 4, size[1] // 4
    return fine[0, 0, top : top + size[0], left : left + size[1]]


def fractal_texture(size: tuple[int, int], generator: torch.Generator, device: torch.device) -> Tensor:
    """A random field (Y, X) of unit std whose amplitude spectrum falls as frequency^-s, s in 0.8..2."""
    slope = uniform(generator, 0.8, 2.0)
    noise = torch.randn(size, generator=generator).to(device)
    fy = torch.fft.fftfreq(size[0], device=device)[:, None]
    fx = torch.fft.rfftfreq(size[1], device=device)
    radius = (fy.square() + fx.square()).sqrt().clamp(min=1.0 / max(size))
    field = torch.fft.irfft2(torch.fft.rfft2(noise) * radius**-slope, s=size)
    return (field - field.mean()) / field.std()


def paint_leaf(
    canvas: Tensor,
    texture: Tensor,
    y: float,
    x: float,
    radius: float,
    value: float,
    g: torch.Generator,
    stretch: float | None = None,
) -> None:
    """Paint one soft-edged, textured star-shaped leaf into `canvas`, in place, touching only its bounding box.

    stretch: short over long axis, random when None and then along a random direction. When given: a plainer shape,
    short along Y, as bodies and heads are.
    """
    height, width = canvas.shape
    plain = stretch is not None
    angle = 0.0 if plain else uniform(g, 0.0, math.pi)
    stretch = uniform(g, 0.35, 1.0) if stretch is None else stretch
    reach = 1.45 * radius + 3
    y0, y1 = max(0, int(y - reach)), min(height, int(y + reach) + 1)
    x0, x1 = max(0, int(x - reach)), min(width, int(x + reach) + 1)
    if y0 >= y1 or x0 >= x1:
        return
    dy = torch.arange(y0, y1, device=canvas.device)[:, None] - y
    dx = torch.arange(x0, x1, device=canvas.device) - x
    u = math.cos(angle) * dx + math.sin(angle) * dy
    v = (math.cos(angle) * dy - math.sin(angle) * dx) / stretch
    theta, edge = torch.atan2(v, u), torch.full((), radius, device=canvas.device)
    for harmonic in (2, 3, 5):
        wobble = radius * uniform(g, 0.0, 0.04 if plain else 0.16)
        edge = edge + wobble * torch.cos(harmonic * theta + uniform(g, 0.0, 2 * math.pi))
    softness = uniform(g, 0.4, 1.0) if plain or chance(g, 0.7) else uniform(g, 1.0, 0.3 * radius + 1.5)
    alpha = torch.sigmoid((edge - torch.hypot(u, v)) / softness)
    if not plain and chance(g, 0.1):  # a thin-walled shape: a vessel or a membrane rather than a disc
        wall = uniform(g, 1.0, 3.0)
        alpha = alpha * torch.sigmoid((torch.hypot(u, v) - edge + 2 * wall) / softness)
    patch = texture.roll((int(uniform(g, 0, height)), int(uniform(g, 0, width))), (0, 1))[y0:y1, x0:x1]
    roughness = uniform(g, 0.0, 0.25) if chance(g, 0.7) else 0.0
    paint = (value * (1 + roughness * patch)).clamp(min=0)
    canvas[y0:y1, x0:x1] += alpha * (paint - canvas[y0:y1, x0:x1])


def paint_ring(canvas: Tensor, texture: Tensor, y: float, x: float, radius: float, g: torch.Generator) -> None:
    """Paint a ventricle: dark wall, bright pool and a few papillary blobs in it."""
    wall, pool = uniform(g, 0.15, 0.5), uniform(g, 0.6, 1.3)
    if chance(g, 0.2):
        wall, pool = pool, wall
    paint_leaf(canvas, texture, y, x, radius * uniform(g, 1.2, 1.6), wall, g)
    paint_leaf(canvas, texture, y, x, radius, pool, g)
    for _ in range(int(uniform(g, 0, 5))):
        a, far = uniform(g, 0, 2 * math.pi), radius * uniform(g, 0.2, 0.8)
        spot = radius * uniform(g, 0.08, 0.25)
        paint_leaf(canvas, texture, y + far * math.sin(a), x + far * math.cos(a), spot, wall * uniform(g, 0.7, 1.6), g)


def crop_resolution(image: Tensor, size: tuple[int, int]) -> Tensor:
    """Low-pass `image` (..., Y, X) to (..., *size) by keeping the centre of its k-space, values kept."""
    spectrum = torch.fft.fftshift(torch.fft.fft2(image), dim=(-2, -1))
    for dim, n in zip((-2, -1), size, strict=True):
        have = spectrum.shape[dim]
        spectrum = spectrum.narrow(dim, have // 2 - n // 2, n)
    ratio = size[0] * size[1] / (image.shape[-2] * image.shape[-1])
    return torch.fft.ifft2(torch.fft.ifftshift(spectrum, dim=(-2, -1))) * ratio


def dead_leaves(
    size: tuple[int, int], generator: torch.Generator, device: torch.device | str = "cpu", leaves: int | None = None
) -> Scene:
    """A random still scene of `size` (Y, X) pixels. `leaves`: how many shapes (default 80 to 320)."""
    g, device = generator, torch.device(device)
    big = (2 * size[0], 2 * size[1])
    texture = fractal_texture(big, g, device)
    air = uniform(g, 0.0, 0.06)
    canvas = torch.full(big, uniform(g, 0.1, 0.6), device=device)
    small, large = uniform(g, 1.5, 6.0), uniform(g, 30.0, 0.45 * max(big))
    for _ in range(leaves or int(uniform(g, 80, 320))):
        # p(r) ~ r^-2..-3 between small and large: many small shapes, few large ones
        radius = (small**-1.5 + uniform(g, 0, 1) * (large**-1.5 - small**-1.5)) ** (-1 / 1.5)
        radius = radius if chance(g, 0.75) else uniform(g, small, large)
        value = uniform(g, 0.0, 1.0) ** uniform(g, 0.6, 2.0)
        paint_leaf(canvas, texture, uniform(g, 0, big[0]), uniform(g, 0, big[1]), radius, value, g)
    rings = []
    for _ in range(int(uniform(g, 0, 3.5))):
        y, x = (uniform(g, 0.2, 0.8) * big[0], uniform(g, 0.2, 0.8) * big[1])
        radius = uniform(g, 0.03, 0.14) * min(big)
        paint_ring(canvas, texture, y, x, radius, g)
        rings.append((y / 2, x / 2, radius / 2))
    if chance(g, 0.7):  # a body in air
        body = torch.zeros(big, device=device)
        paint_leaf(body, texture * 0, 0.5 * big[0], 0.5 * big[1], uniform(g, 0.38, 0.6) * max(big), 1.0, g)
        canvas = air + (canvas - air) * body
    canvas = canvas * (uniform(g, 0.0, 0.35) * smooth_field(big, 2, g, device)).exp()  # coil shading
    image = finish(crop_resolution(canvas, size).real, g)
    return Scene(image, torch.tensor(rings).reshape(-1, 3))


def still_scene(image: Tensor, generator: torch.Generator) -> Scene:
    """A real still magnitude frame (Y, X) as a scene; something beats near its middle, where hearts are imaged."""
    g = generator
    rings = [
        (uniform(g, 0.3, 0.7) * image.shape[0], uniform(g, 0.3, 0.7) * image.shape[1], uniform(g, 6, 26))
        for _ in range(int(uniform(g, 1, 4)))
    ]
    return Scene(finish(image, g), torch.tensor(rings).reshape(-1, 3))


def pair_scene(image: Tensor, other: Tensor, flow: Tensor, generator: torch.Generator) -> Scene:
    """Two real phases (Y, X) of one slice as a scene; its one ring, where the view is put, lies where most moves."""
    speed = flow.float().square().sum(-1)
    place = int(torch.multinomial(speed.flatten().cpu() + 1e-9, 1, generator=generator))
    ring = torch.tensor([[float(place // flow.shape[1]), float(place % flow.shape[1]), 20.0]])
    both = finish(torch.stack([image, other]), generator)
    return Scene(both[0], ring, both[1], flow.float())


def finish(images: Tensor, g: torch.Generator) -> Tensor:
    """Sometimes a softer point spread; then the scale that every task uses, with some play. One for all (..., Y, X)."""
    if chance(g, 0.3):
        fy = torch.fft.fftfreq(images.shape[-2], device=images.device)[:, None]
        fx = torch.fft.fftfreq(images.shape[-1], device=images.device)
        window = torch.exp(-(fy.square() + fx.square()) * uniform(g, 0.5, 6.0))
        images = torch.fft.ifft2(torch.fft.fft2(images) * window).real
    return images / series_scale(images.view(-1, *images.shape[-2:])[0]).clamp(min=1e-6) * uniform(g, 0.85, 1.15)
