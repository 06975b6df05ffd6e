"""BOLD series of random heads with every part known: mean, activation, fluctuations, noise."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from medseq.clip import series_scale
from medseq.errors import UsageError
from medseq.phantoms import fluctuations as parts
from medseq.phantoms.epi import Encoding, g_factor, head_coil
from medseq.phantoms.fluctuations import Components, block_starts, haemodynamic_response, response_course
from medseq.phantoms.head import Head, random_head
from medseq.phantoms.scenes import chance, uniform
from medseq.phantoms.volumes import Lattice, log_uniform, smooth_volume

__all__ = ["Bold", "BoldRun", "Effects", "block_design", "bold_run", "bold_series", "haemodynamic_response"]


# A field of view, mm, that holds every head.
_HEAD = 208.0
# Below this part of the series' scale there is no tissue, and no share of its signal.
_AIR = 0.05


@dataclass(frozen=True)
class Bold:
    """series: (B, T, Y, X) float32 without noise. phase: (B, Y, X) radians. activation: (B, Y, X), the task's signal
    change as a share of the voxel's mean. response: (T,), the task's haemodynamic response, 0 at rest and 1 at its
    height. voxel: (z, y, x) mm.
    """

    series: Tensor
    phase: Tensor
    activation: Tensor
    response: Tensor
    voxel: tuple[float, float, float]


@dataclass(frozen=True)
class Effects:
    """How strong each part of a run is: 1 as drawn at random, 0 left out, more for more.

    task, networks, local (spontaneous activity outside networks), drift, respiration, cardiac, motion: the
    fluctuations. noise: thermal. varied: random stimuli, a response of its own for each region, and slices acquired
    one after the other; else blocks of 16 s, the canonical response, and all slices at once. point_spread: T2* decay,
    partial Fourier, zero-filling and filters. acceleration: noise amplified by SENSE and simultaneous slices.
    """

    task: float = 1.0
    networks: float = 1.0
    local: float = 1.0
    drift: float = 1.0
    respiration: float = 1.0
    cardiac: float = 1.0
    motion: float = 1.0
    noise: float = 1.0
    varied: bool = True
    point_spread: bool = True
    acceleration: bool = True


@dataclass(frozen=True)
class BoldRun:
    """One run and its truth, at the scale of `series_scale`; slices B are neighbours in space.

    measured: (B, T, Y, X) complex64 with noise. Its phase stands still but for the noise.
    mean: (B, Y, X), the temporal mean without noise. fluctuation: (B, T, Y, X) without noise, of zero temporal mean;
    what is out of phase with the mean is left out, as magnitudes hardly see it. phase: (B, Y, X) radians.
    activation: (R, B, Y, X), the signal change of each responding region as a share of the mean. response: (R, B, T)
    when each slice is acquired, 0 at rest and 1 at its height. noise: (B, Y, X), std of each real channel. grey:
    (B, Y, X), share of the signal that comes from grey matter.
    voxel: (z, y, x) mm. interval: seconds a frame. slice_times: (B,) seconds after a frame's start.
    """

    measured: Tensor
    mean: Tensor
    fluctuation: Tensor
    phase: Tensor
    activation: Tensor
    response: Tensor
    noise: Tensor
    grey: Tensor
    voxel: tuple[float, float, float]
    interval: float
    slice_times: Tensor

    @property
    def series(self) -> Tensor:
        """(B, T, Y, X) float32: the magnitude a scanner stores, its noise Rician."""
        return self.measured.abs()

    @property
    def clean(self) -> Tensor:
        """(B, T, Y, X) float32: mean and fluctuation."""
        return self.mean[:, None] + self.fluctuation


def block_design(frames: int, interval: float, block: float = 16.0) -> Tensor:
    """(T,) response to blocks of `block` seconds rest and task in turn, one frame every `interval` seconds."""
    seconds = torch.arange(frames) * interval
    return response_course(block_starts(float(seconds.max()), block), block, seconds)


def bold_series(
    size: tuple[int, int], slices: int, frames: int, interval: float, change: float, generator: torch.Generator
) -> Bold:
    """A random head that fills `size`, with regions of activation up to `change` (0.02 is 2 %), `interval` s a frame.

    Free of noise and motion, and quieter than most, so that the task is easily found; all regions respond to
    `block_design`.
    """
    voxel = (3.5, _HEAD / max(size), _HEAD / max(size))
    effects = Effects(
        networks=0.5,
        local=0.5,
        respiration=0.3,
        cardiac=0.2,
        motion=0,
        noise=0,
        varied=False,
        acceleration=False,
    )
    run = bold_run(size, slices, frames, interval, generator, voxel=voxel, change=change, effects=effects)
    return Bold(run.clean, run.phase, run.activation.sum(0), block_design(frames, interval), voxel)


def bold_run(
    size: tuple[int, int],
    slices: int,
    frames: int,
    interval: float,
    generator: torch.Generator,
    *,
    voxel: tuple[float, float, float] | None = None,
    change: float | None = None,
    snr: float | None = None,
    effects: Effects = Effects(),  # noqa: B008  # frozen
) -> BoldRun:
    """A random run of `frames` volumes of `slices` slices of `size` (Y, X), one every `interval` seconds.

    voxel: (z, y, x) mm; drawn when None: in-plane 2 to 3.5 mm, as large as shows the whole head if that is possible,
    else the run is a window on it. change: signal change of the most active region (0.02 is 2 %), drawn from 0.5 to 5 %
    when None. snr: median over the brain of the mean over the thermal noise's std, drawn from 20 to 200 when None.

    Raises UsageError for impossible sizes or values.
    """
    _check(size, slices, frames, interval, voxel, snr)
    g = generator
    voxel = _drawn_voxel(size, g) if voxel is None else voxel
    # One more slice on either side, so that what moves has neighbours; twice as fine as what is stored.
    lattice = Lattice((2 * slices + 4, 2 * size[0], 2 * size[1]), (voxel[0] / 2, voxel[1] / 2, voxel[2] / 2))
    stored = Lattice((slices, *size), voxel)
    head = random_head(lattice, g)
    slice_times = _slice_times(slices, interval, g) if effects.varied else torch.zeros(slices)
    seconds = torch.arange(frames) * interval + slice_times[:, None]
    components = _components(head, lattice, seconds, change, effects, g)
    encoding = Encoding.random(size, g) if effects.point_spread else Encoding.ideal(size)
    camera = _Camera.focused(encoding, head.signal, lattice, g)

    rest, grey, task = camera.share(head.signal), camera.share(head.grey * head.signal), camera.maps(components[0])
    local = effects.local * log_uniform(g, 0.001, 0.01) * parts.spontaneous(stored, frames, interval, g)
    fluctuation = camera.fluctuation(components) + local.movedim(0, 1) * grey[:, None]
    offset = fluctuation.mean(1)
    mean, fluctuation = rest + offset, fluctuation - offset[:, None]
    shading, noise = _sensitivity(stored, rest > 2 * _AIR, effects.acceleration, g)
    gain = shading / series_scale(mean * shading)
    noise = effects.noise * noise * _level(gain * mean / noise, head, log_uniform(g, 20, 200) if snr is None else snr)
    clean = gain[:, None] * (mean[:, None] + fluctuation)
    return BoldRun(
        measured=clean * camera.phasor[:, None] + noise[:, None] * encoding.noise((slices, frames), g),
        mean=gain * mean,
        fluctuation=gain[:, None] * fluctuation,
        phase=camera.phasor.angle(),
        activation=task / mean.where(mean > _AIR, torch.inf),
        response=components[0].courses,
        noise=noise,
        grey=(grey / rest.clamp(min=_AIR)).clamp(0, 1),
        voxel=voxel,
        interval=interval,
        slice_times=slice_times,
    )


def _components(
    head: Head, lattice: Lattice, seconds: Tensor, change: float | None, effects: Effects, g: torch.Generator
) -> list[Components]:
    """The parts of the fluctuation at slice times `seconds` (B, T), the task first."""
    breathing = parts.breath(seconds, g)
    motion = effects.motion * parts.head_motion(seconds.shape[1], breathing[len(seconds) // 2], g)
    return [
        parts.task(head, lattice, seconds, change, g, effects.varied).scaled(effects.task),
        parts.networks(head, lattice, seconds, g).scaled(effects.networks),
        parts.drift(head, lattice, seconds, g).scaled(effects.drift),
        parts.respiration(head, lattice, breathing, g).scaled(effects.respiration),
        parts.cardiac(head, lattice, seconds, g).scaled(effects.cardiac),
        parts.moved(head.signal, lattice, motion, len(seconds)),
    ]


@dataclass(frozen=True)
class _Camera:
    """From the fine lattice to stored images: mean over the slice, encoding, and the part in phase with the mean.

    turn: complex (Z, Y, X), the object's own phasor. phasor: complex (B, Y, X), that of its mean image.
    """

    encoding: Encoding
    turn: Tensor
    phasor: Tensor

    @staticmethod
    def focused(encoding: Encoding, signal: Tensor, lattice: Lattice, g: torch.Generator) -> _Camera:
        phase = uniform(g, 0, 2 * math.pi) + uniform(g, 0, 1.5) * smooth_volume(lattice, 60, g)[0]
        turn = torch.polar(torch.ones_like(phase), phase)
        return _Camera(encoding, turn, torch.sgn(encoding.image(_pooled_slices(signal * turn))))

    def share(self, thing: Tensor) -> Tensor:
        """What a part (Z, Y, X) of the signal adds to the stored magnitude (B, y, x)."""
        return (self.encoding.image(_pooled_slices(thing * self.turn)) * self.phasor.conj()).real

    def maps(self, part: Components) -> Tensor:
        """(K, B, y, x). One after the other: all at once would fill the memory."""
        return torch.stack([self.share(one) for one in part.maps])

    def fluctuation(self, components: list[Components]) -> Tensor:
        """The sum of all maps times their courses, (B, T, y, x)."""
        maps = torch.cat([self.maps(part) for part in components])
        return torch.einsum("kbyx,kbt->btyx", maps, torch.cat([part.courses for part in components]))


def _pooled_slices(fine: Tensor) -> Tensor:
    """The mean of each two sub-slices (Z, ...), the margins left out."""
    return (fine[2:-2:2] + fine[3:-2:2]) / 2


def _level(ratio: Tensor, head: Head, snr: float) -> Tensor:
    """What noise must be multiplied by for a median SNR in the brain; ratio: (B, Y, X), the SNR that it has."""
    depth = torch.nn.functional.avg_pool2d(_pooled_slices(head.depth)[:, None], 2)[:, 0]
    return ratio[depth > min(0.0, float(depth.max()) - 1)].median() / snr


def _sensitivity(stored: Lattice, support: Tensor, accelerated: bool, g: torch.Generator) -> tuple[Tensor, Tensor]:
    """Shading of the signal and shape of the noise, each (B, Y, X), of a random head coil and acceleration.

    Where the scanner evens out its coils' shading, the noise takes its inverse.
    """
    maps = head_coil(stored.positions(), int(uniform(g, 8, 24)), g)
    reduction, bands = uniform(g, 1, 2.5) if chance(g, 0.6) else 1.0, int(uniform(g, 1, 4.5))
    together = bands if stored.shape[0] % bands == 0 else 1
    noise = g_factor(maps, support, reduction, together) if accelerated else torch.ones(stored.shape)
    received = maps.abs().square().sum(0).sqrt()
    received = received / received.median()
    return (torch.ones_like(received), noise / received) if chance(g, 0.7) else (received, noise)


def _drawn_voxel(size: tuple[int, int], g: torch.Generator) -> tuple[float, float, float]:
    in_plane = min(max(uniform(g, 205, 235) / max(size), 2.0), 3.5)
    return uniform(g, 2.0, 4.0), in_plane, in_plane


def _slice_times(slices: int, interval: float, g: torch.Generator) -> Tensor:
    """(B,) seconds after a frame's start: ascending, or every other slice first."""
    order = torch.arange(slices)
    if chance(g, 0.6):
        order = torch.cat([order[::2], order[1::2]])
    return order.argsort() * interval / slices


def _check(
    size: tuple[int, int],
    slices: int,
    frames: int,
    interval: float,
    voxel: tuple[float, float, float] | None,
    snr: float | None,
) -> None:
    if slices < 1 or frames < 1 or min(size) < 16:
        raise UsageError(f"can't simulate {frames} frames of {slices} slices of {size[0]} x {size[1]} (at least 16)")
    for name, values in (("interval", (interval,)), ("voxel size", voxel), ("signal-to-noise ratio", (snr,))):
        if not all(value is None or 0 < value < math.inf for value in values or ()):
            raise UsageError(f"the {name} must be positive, got {values}")
