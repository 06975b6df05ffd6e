"""What makes a BOLD signal fluctuate: tasks, networks, drift, breathing, pulse and head motion.

Each is a few maps times courses, so that whatever is linear in space (point spread, interpolation) is done on the maps.
Courses are functions of time, sampled when each slice is acquired: breathing and pulse alias as they do on a scanner.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations_with_replacement

import torch
import torch.nn.functional as F
from torch import Tensor

from medseq.phantoms.head import Head
from medseq.phantoms.scenes import chance, uniform
from medseq.phantoms.volumes import Lattice, log_uniform, smooth_volume

# Seconds between the points at which haemodynamic responses are computed.
_FINE = 0.1


@dataclass(frozen=True)
class Components:
    """maps (K, Z, Y, X) in units of the signal; courses (K, B, T), one for each slice, as slices differ in timing."""

    maps: Tensor
    courses: Tensor

    def scaled(self, factor: float) -> Components:
        return Components(factor * self.maps, self.courses)


def haemodynamic_response(seconds: Tensor) -> Tensor:
    """SPM's canonical double gamma (peak near 5 s, undershoot near 15 s), height 1."""
    t = seconds.clamp(min=0)
    shape = t**5 * torch.exp(-t) / math.gamma(6) - t**15 * torch.exp(-t) / math.gamma(16) / 6
    return shape / 0.1755


def response_course(
    starts: Tensor, length: float | Tensor, seconds: Tensor, delay: float = 0.0, dispersion: float = 1.0
) -> Tensor:
    """The response, height 1, to stimuli of `length` s from each of `starts` (N,) s on, at `seconds` of any shape >= 0.

    length: of all, or (N,) of each. delay: seconds later than the canonical response. dispersion: how much longer it
    takes.
    """
    count = math.ceil(float(seconds.max()) / _FINE) + 1
    fine = torch.arange(count) * _FINE
    lag = fine[:, None] - starts + 1e-4  # a start on the grid belongs to it, whatever the rounding
    task = ((lag >= 0) & (lag < length)).any(1).float()
    kernel = haemodynamic_response((torch.arange(0, 40, _FINE) - delay) / dispersion)
    padded = F.pad(task, (len(kernel) - 1, 0))[None, None]
    course = F.conv1d(padded, kernel.flip(0)[None, None])[0, 0][(seconds / _FINE).round().long()]
    return course / course.abs().max().clamp(min=1e-6)


def band_course(seconds: Tensor, low: float, high: float, slope: float, generator: torch.Generator) -> Tensor:
    """A random course of about unit std with power falling as f^-slope from `low` to `high` Hz, at `seconds`."""
    tones = 32
    # one tone at random in each of equal parts of the band: as smooth a spectrum as noise has, at any time
    frequency = low + (high - low) * (torch.arange(tones) + torch.rand(tones, generator=generator)) / tones
    power = frequency**-slope * -torch.rand(tones, generator=generator).clamp(min=1e-6).log()
    phase = 2 * math.pi * torch.rand(tones, generator=generator)
    waves = torch.cos(2 * math.pi * frequency * seconds[..., None] + phase)
    return waves @ (2 * power / power.sum()).sqrt()


def task(
    head: Head, lattice: Lattice, seconds: Tensor, change: float | None, generator: torch.Generator, varied: bool = True
) -> Components:
    """Two to six regions in grey matter, 6 to 20 mm wide (FWHM), that respond to blocks or events by 0.5 to 5 %.

    change: the response of the strongest instead. varied: regions differ in delay and dispersion, stimuli are drawn at
    random; else all respond canonically to the blocks of `block_starts`.
    """
    g = generator
    starts, length = _stimuli(float(seconds.max()), g) if varied else (block_starts(float(seconds.max())), 16.0)
    place, weight = lattice.positions(), (head.grey * (head.depth > 0)).flatten()
    strength = [log_uniform(g, 0.005, 0.05) for _ in range(int(uniform(g, 2, 6.99)))]
    factor = 1.0 if change is None else change / max(strength)
    maps, courses = [], []
    for amplitude in strength:
        centre = place.flatten(1)[:, int(torch.multinomial(weight + 1e-9, 1, generator=g))]
        distance = (place - centre.view(3, 1, 1, 1)).square().sum(0)
        blob = torch.exp(-4 * math.log(2) * distance / uniform(g, 6, 20) ** 2)
        maps.append(factor * amplitude * blob * head.grey * head.signal)
        shape = (uniform(g, -1, 2), uniform(g, 0.8, 1.3)) if varied else (0.0, 1.0)
        courses.append(response_course(starts, length, seconds, *shape))
    return Components(torch.stack(maps), torch.stack(courses))


def block_starts(end: float, block: float = 16.0) -> Tensor:
    """(N,) seconds at which the task begins when `block` seconds of rest and of task take turns, up to `end`."""
    return torch.arange(block, max(end, block) + 1, 2 * block)


def _stimuli(end: float, g: torch.Generator) -> tuple[Tensor, float]:
    """Starts (N,) and length in seconds of random blocks, or of events at random intervals (Dale 1999)."""
    if chance(g, 0.5):
        length = uniform(g, 8, 30)
        gaps = torch.full((1 + int(end / length / 2),), 2 * length)
    else:
        length = uniform(g, 0.2, 2)
        gaps = 3 + uniform(g, 3, 12) * -torch.rand(1 + int(end / 4), generator=g).clamp(min=1e-6).log()
    return gaps.cumsum(0) - gaps[0] * uniform(g, 0, 0.8), length


def networks(head: Head, lattice: Lattice, seconds: Tensor, generator: torch.Generator) -> Components:
    """Three to eight resting networks of 0.3 to 1.5 % at 0.01 to 0.1 Hz, often bilateral, and a global one."""
    g = generator
    count = int(uniform(g, 3, 8.99))
    fields = smooth_volume(lattice, uniform(g, 14, 25), g, count)
    fields = (fields + uniform(g, 0, 1) * fields.flip(-1)).clamp(min=0)
    # compact regions: what is below the mean does not belong; nowhere more than 1
    maps = torch.cat([fields / fields.amax((1, 2, 3), keepdim=True), torch.ones(1, *lattice.shape)])
    strength = torch.tensor([log_uniform(g, 0.003, 0.015) for _ in range(count)] + [log_uniform(g, 0.0005, 0.005)])
    courses = [band_course(seconds, 0.01, 0.1, uniform(g, 0.5, 1.5), g) for _ in range(count + 1)]
    return Components(strength.view(-1, 1, 1, 1) * maps * head.grey * head.signal, torch.stack(courses))


def drift(head: Head, lattice: Lattice, seconds: Tensor, generator: torch.Generator) -> Components:
    """Slow changes of the scanner, up to about 1 %: smooth maps times a line, a parabola and a slow wave."""
    g = generator
    share = seconds / seconds.max().clamp(min=1e-6)
    wave = torch.sin(2 * math.pi * (uniform(g, 0.5, 1.5) * share + uniform(g, 0, 1)))
    courses = torch.stack([2 * share - 1, 6 * share * (share - 1) + 1, wave])
    maps = log_uniform(g, 0.0002, 0.004) * smooth_volume(lattice, 60, g, count=3)
    return Components(maps * head.signal, courses)


def breath(seconds: Tensor, generator: torch.Generator) -> Tensor:
    """The phase of breathing in radians, 0.2 to 0.35 Hz with a wandering rate, at `seconds`."""
    return _rhythm(seconds, uniform(generator, 0.2, 0.35), generator)


def respiration(head: Head, lattice: Lattice, phase: Tensor, generator: torch.Generator) -> Components:
    """Breathing of `phase` (B, T): strongest at the edges of the brain, where it moves the field (Raj 2001)."""
    g = generator
    edge = 0.2 + torch.exp(-head.depth.clamp(min=0) / uniform(g, 6, 15))
    maps = log_uniform(g, 0.001, 0.012) * edge * smooth_volume(lattice, 40, g, count=2)
    return Components(maps * head.signal, torch.stack([phase.sin(), phase.cos()]))


def cardiac(head: Head, lattice: Lattice, seconds: Tensor, generator: torch.Generator) -> Components:
    """Pulsation at 0.8 to 1.3 Hz and twice that, near vessels and fluid, not everywhere at once (Dagli 1999)."""
    g = generator
    phase = _rhythm(seconds, uniform(g, 0.8, 1.3), g)
    courses = torch.stack([phase.sin(), phase.cos(), (2 * phase).sin(), (2 * phase).cos()])
    near = 0.03 + head.vessels + 0.3 * head.fluid
    maps = log_uniform(g, 0.005, 0.15) * near * smooth_volume(lattice, 15, g, count=4)
    maps[2:] *= 0.4
    return Components(maps * head.signal, courses)


def _rhythm(seconds: Tensor, rate: float, g: torch.Generator) -> Tensor:
    """Phase in radians of an oscillation of `rate` Hz that comes early and late."""
    return 2 * math.pi * rate * seconds + log_uniform(g, 0.5, 8) * band_course(seconds, 0.005, 0.06, 1, g)


def spontaneous(lattice: Lattice, frames: int, interval: float, generator: torch.Generator) -> Tensor:
    """(T, Z, Y, X) of about unit std: local activity that belongs to no network, 4 to 9 mm wide, slow as networks are.

    Its power falls as 1 / (1 + (f / 0.05 Hz)^2).
    """
    g = generator
    field = smooth_volume(lattice, uniform(g, 4, 9), g, count=frames)
    frequency = torch.fft.rfftfreq(frames, interval).view(-1, 1, 1, 1)
    gain = (1 + (frequency / 0.05).square()).rsqrt()
    spectrum = torch.fft.rfft(field, dim=0) * gain
    return torch.fft.irfft(spectrum, n=frames, dim=0) / gain.square().mean().sqrt()


def head_motion(frames: int, breathing: Tensor, generator: torch.Generator) -> Tensor:
    """Rigid motion (6, T): three shifts (z, y, x) in mm and three turns in radians, zero on average.

    A random walk of 0.05 to 0.5 mm over the run, a nod with every breath of phase `breathing` (T,), now and then a
    jerk that half goes back. Turns move the surface of the head about as far as shifts do.
    """
    g = generator
    walk = torch.randn(6, frames, generator=g).cumsum(1) / math.sqrt(frames) * log_uniform(g, 0.05, 0.5)
    walk = walk + torch.rand(6, 1, generator=g) * log_uniform(g, 0.005, 0.06) * breathing.sin()
    for _ in range(int(uniform(g, -1, 3.99))):
        since = torch.arange(frames) - int(uniform(g, 0, frames))
        size = log_uniform(g, 0.05, 0.5) * torch.randn(6, 1, generator=g)
        walk = walk + size * (since >= 0) * (0.5 + 0.5 * torch.exp(-since.clamp(min=0) / 1.5))
    walk = walk - walk.mean(1, keepdim=True)
    return torch.cat([walk[:3], walk[3:] / 75])


def moved(signal: Tensor, lattice: Lattice, motion: Tensor, slices: int) -> Components:
    """What rigid `motion` (6, T) adds to a still `signal` (Z, Y, X), in `slices` slices that all see it at once.

    A motion p carries a signal to exp(-sum p_k L_k) signal, where L_k is the derivative along the k-th shift or turn.
    To second order in p that is 6 + 21 maps.
    """
    first = [_derivative(signal, lattice, k) for k in range(6)]
    maps, courses = [-one for one in first], list(motion)
    for k, j in combinations_with_replacement(range(6), 2):
        second = _derivative(first[j], lattice, k)
        maps.append(second / 2 if k == j else (second + _derivative(first[k], lattice, j)) / 2)
        courses.append(motion[k] * motion[j])
    return Components(torch.stack(maps), torch.stack(courses)[:, None].expand(-1, slices, -1))


def _derivative(signal: Tensor, lattice: Lattice, parameter: int) -> Tensor:
    """The change of a signal per mm along z, y, x (parameters 0 to 2) or per radian about them (3 to 5)."""
    if parameter < 3:
        return _slope(signal, lattice, parameter)
    one, other = ((1, 2), (2, 0), (0, 1))[parameter - 3]
    place = lattice.positions()
    return place[one] * _slope(signal, lattice, other) - place[other] * _slope(signal, lattice, one)


def _slope(signal: Tensor, lattice: Lattice, axis: int) -> Tensor:
    """Central differences per mm. The y axis runs against its index: anterior is low Y."""
    sign = -1 if axis == 1 else 1
    return torch.gradient(signal, spacing=sign * lattice.spacing[axis], dim=axis)[0]
