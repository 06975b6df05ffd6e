"""A random head as echo-planar imaging (EPI) shows it: folded cortex, ventricles, skull, eyes, dropout, distortion."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medseq.phantoms.scenes import uniform
from medseq.phantoms.volumes import FWHM, Lattice, smooth_volume

# Millimetres over which one tissue turns into the next.
_EDGE = 0.5


@dataclass(frozen=True)
class Head:
    """Parts of a head, each (Z, Y, X).

    signal: magnitude of a T2*-weighted image, about 1 in grey matter. grey, fluid: share of grey matter and of
    cerebrospinal fluid. vessels: 0 to 1 near large arteries and sinuses. depth: mm below the surface of the brain.
    """

    signal: Tensor
    grey: Tensor
    fluid: Tensor
    vessels: Tensor
    depth: Tensor


def random_head(lattice: Lattice, generator: torch.Generator) -> Head:
    """A head at a random height, tilt and size on a `lattice` of a few millimetres or less (adult: 140 x 175 mm)."""
    g = generator
    place = _placed(lattice, g)
    susceptibility = _susceptibility(place, g)
    # Off resonance shifts along the phase encoding (y), above the sinuses most (Jezzard and Balaban 1995).
    place[1] += uniform(g, -6, 6) * susceptibility
    depth = _depth(place, g) + 2.5 * smooth_volume(lattice, 40, g)[0]
    grey, fluid = _cortex(lattice, place, depth, g)
    inside = _step(depth)
    for core, to_fluid in _deep_structures(place, g):
        grey, fluid = grey * (1 - core), fluid * (1 - core)
        grey, fluid = (grey, fluid + core * inside) if to_fluid else (grey + core * inside, fluid)
    white = (inside - grey - fluid).clamp(min=0)
    signal = grey + uniform(g, 0.75, 0.92) * white + uniform(g, 1.2, 1.8) * fluid
    signal = signal + _outside_brain(place, depth, g)
    texture = 1 + uniform(g, 0.02, 0.06) * smooth_volume(lattice, 6, g)[0]
    signal = signal * texture.clamp(min=0) * torch.exp(-uniform(g, 0.5, 3) * susceptibility)
    return Head(signal, grey, fluid, _vessels(lattice, place, inside, g), depth)


def _placed(lattice: Lattice, g: torch.Generator) -> Tensor:
    """(3, Z, Y, X): position of each point in the head's own z, y, x, in mm."""
    place = lattice.positions()
    play = max(5.0, 50 - lattice.shape[0] * lattice.spacing[0] / 2)  # thin stacks may lie anywhere in the brain
    shift = torch.tensor([uniform(g, -play, play) + 5, uniform(g, -5, 5), uniform(g, -4, 4)])
    angles = [math.radians(uniform(g, -8, 8)) for _ in range(3)]
    turn = torch.matrix_exp(
        torch.tensor([[0, angles[0], angles[1]], [-angles[0], 0, angles[2]], [-angles[1], -angles[2], 0]])
    )
    return torch.einsum("ij,jzyx->izyx", turn / uniform(g, 0.93, 1.07), place) + shift.view(3, 1, 1, 1)


def _step(distance: Tensor) -> Tensor:
    """From 0 to 1 where a signed distance in mm turns positive."""
    return torch.sigmoid(distance / _EDGE)


def _inside_ellipsoid(place: Tensor, centre: tuple[float, ...], radii: tuple[float, ...]) -> Tensor:
    """(Z, Y, X): about the distance in mm below the surface of an ellipsoid, negative outside."""
    squares = [(axis - c).square() for axis, c in zip(place, centre, strict=True)]
    norm = sum(s / r**2 for s, r in zip(squares, radii, strict=True)).sqrt().clamp(min=1e-3)
    slope = sum(s / r**4 for s, r in zip(squares, radii, strict=True)).sqrt() / norm
    return (1 - norm) / slope.clamp(min=1 / max(radii))


def _depth(place: Tensor, g: torch.Generator) -> Tensor:
    radii = (68 * uniform(g, 0.95, 1.05), 84 * uniform(g, 0.95, 1.05), 68 * uniform(g, 0.95, 1.05))
    return _inside_ellipsoid(place, (0.0, 0.0, 0.0), radii)


def _cortex(lattice: Lattice, place: Tensor, depth: Tensor, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shares of grey matter and fluid: a ribbon along the surface, the fissure and the sulci, fluid in between.

    Sulci are the sheets where a random field changes its sign; its slope turns its value into a distance.
    """
    z, y, x = place
    width = uniform(g, 12, 18)
    sulcus = smooth_volume(lattice, width, g)[0].abs() * width / FWHM / math.sqrt(1.5)
    sulcus = sulcus + (depth - uniform(g, 14, 22)).clamp(min=0)
    fissure = x.abs() + 0.5 * (35 - torch.hypot(y, z + 10)).clamp(min=0)
    nearest = torch.minimum(torch.minimum(sulcus, fissure), depth)
    gap = uniform(g, 0.4, 1.2)
    fluid = _step(gap - nearest) * _step(depth)
    return _step(gap + uniform(g, 2.4, 3.4) - nearest) * _step(depth) - fluid, fluid


def _deep_structures(place: Tensor, g: torch.Generator) -> list[tuple[Tensor, bool]]:
    """Thalami, basal ganglia, ventricles and cisterns: where each is, and whether it is filled with fluid."""
    mirrored = torch.stack([place[0], place[1], place[2].abs()])
    size = uniform(g, 0.7, 1.5)
    structures = [
        ((4.0, -12.0, 12.0), (9.0, 14.0, 8.0), False),
        ((2.0, 10.0, 24.0), (12.0, 20.0, 6.0), False),
        ((14.0, 0.0, 8.0), (7.0 * size, 28.0 * size, 4.5 * size), True),
        ((6.0, -32.0, 22.0), (12.0 * size, 9.0 * size, 5.0 * size), True),
        ((-2.0, -5.0, 0.0), (9.0, 13.0, 1.8 * size), True),
        ((-34.0, 2.0, 0.0), (9.0, 10.0, 14.0), True),
        ((-38.0, -32.0, 0.0), (9.0, 5.0, 6.0 * size), True),
    ]
    return [(_step(_inside_ellipsoid(mirrored, centre, radii)), fluid) for centre, radii, fluid in structures]


def _outside_brain(place: Tensor, depth: Tensor, g: torch.Generator) -> Tensor:
    """Signal of the scalp (its fat suppressed), of the thin film of skull, and of the eyes."""
    scalp = _step(depth + uniform(g, 12, 17)) - _step(depth + uniform(g, 6, 9))
    skull = _step(depth + 9) - _step(depth)
    mirrored = torch.stack([place[0], place[1], place[2].abs()])
    eyes = _step(_inside_ellipsoid(mirrored, (-28.0, 82.0, 31.0), (12.0, 12.0, 12.0)))
    return uniform(g, 0.1, 0.4) * scalp + 0.03 * skull + uniform(g, 1.2, 1.8) * eyes


def _susceptibility(place: Tensor, g: torch.Generator) -> Tensor:
    """(Z, Y, X), 0 to about 1: how strongly air in the sinuses and ear canals disturbs the field."""
    z, y, x = place
    reach = uniform(g, 12, 20)
    sinus = ((z + 32) / 0.8).square() + (y - 48).square() + (x / 1.2).square()
    ears = ((z + 38) / 0.8).square() + (y + 8).square() + (x.abs() - 55).square()
    return torch.exp(-sinus / (2 * reach**2)) + 0.7 * torch.exp(-ears / (2 * (0.7 * reach) ** 2))


def _vessels(lattice: Lattice, place: Tensor, inside: Tensor, g: torch.Generator) -> Tensor:
    """Random thin curves (where two fields are both zero), and the vessels at the base of the brain."""
    tubes = smooth_volume(lattice, 25, g, count=2).square().sum(0)
    base = _inside_ellipsoid(place, (-32.0, 5.0, 0.0), (12.0, 22.0, 22.0))
    return (torch.exp(-tubes / (2 * 0.15**2)) + torch.sigmoid(base / uniform(g, 4, 12))).clamp(max=1) * inside
