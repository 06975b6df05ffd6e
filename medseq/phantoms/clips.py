"""Training clips: random windows of random scenes in random motion, with phase and changing contrast."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor

from medseq.phantoms.motion import TimeAxis, displacement, harmonics, pulse, warp
from medseq.phantoms.phases import Stills
from medseq.phantoms.scenes import (
    Scene,
    chance,
    dead_leaves,
    fractal_texture,
    pair_scene,
    smooth_field,
    still_scene,
    uniform,
)


def animate(
    scene: Scene,
    window: tuple[int, int],
    time: TimeAxis,
    generator: torch.Generator,
    real: bool = False,
    flow: bool = False,
) -> Tensor:
    """A complex clip (T, y, x) of a random `window` of a scene that moves, changes contrast and carries a phase.

    real: a magnitude series instead, phase zero, as NIfTI and DICOM hold it. The result is complex64 all the same.
    flow: blood streams through it.
    """
    g, device = generator, scene.image.device
    corner = tuple(int(uniform(g, 0, max(0, s - w) + 0.999)) for s, w in zip(scene.image.shape, window, strict=True))
    rings = scene.rings.clone()
    if len(rings) and chance(g, 0.6):  # look at what beats more often than chance would
        ring = rings[int(uniform(g, 0, len(rings) - 0.001))]
        corner = tuple(
            int(min(max(0, s - w), max(0.0, float(c) - uniform(g, 0.25, 0.75) * w)))
            for s, w, c in zip(scene.image.shape, window, ring[:2], strict=True)
        )
    rings[:, 0] -= corner[0]
    rings[:, 1] -= corner[1]
    frames = _moving(scene, window, (corner[0], corner[1]), rings, time, g)
    if chance(g, 0.5):  # flow, perfusion: a patch grows brighter and darker
        blob = torch.sigmoid(4 * smooth_field(window, 3, g, device) - uniform(g, 1, 5))
        course = pulse(time.phase, g) if chance(g, 0.5) else harmonics(time.phase, g)
        frames = frames * (1 + uniform(g, -0.5, 0.5) * course[:, None, None].to(device) * blob)
    if flow:
        frames = _streaming(frames, time, g)
    if real:
        return torch.complex(frames.abs(), torch.zeros_like(frames))
    angle = uniform(g, 0, 2 * math.pi) + uniform(g, 0, 2.0) * smooth_field(window, int(uniform(g, 1, 4)), g, device)
    if chance(g, 0.4):  # moving spins dephase
        blob = torch.sigmoid(4 * smooth_field(window, 3, g, device) - 2)
        angle = angle + uniform(g, -1, 1) * harmonics(time.phase, g)[:, None, None].to(device) * blob
    return torch.polar(torch.ones_like(frames), angle.expand_as(frames)) * frames


def _streaming(frames: Tensor, time: TimeAxis, g: torch.Generator) -> Tensor:
    """What is bright in (T, y, x), and in a patch, carries a texture along, farther and faster than tissue moves."""
    window, device = (frames.shape[1], frames.shape[2]), frames.device
    texture = fractal_texture((2 * window[0], 2 * window[1]), g, device)
    angle, way = uniform(g, 0, 2 * math.pi), uniform(g, 4, 30)
    course = way * pulse(time.phase + uniform(g, 0, 1), g).to(device)
    along = torch.stack([math.sin(angle) * course, math.cos(angle) * course], dim=-1)
    carried = warp(texture, along[:, None, None].expand(-1, *window, 2), (window[0] // 2, window[1] // 2))
    pool = torch.sigmoid(4 * smooth_field(window, 3, g, device) - uniform(g, -1, 2))
    bright = (frames / frames.amax().clamp(min=1e-6)).clamp(0, 1)
    return frames * (1 + uniform(g, 0.1, 0.6) * pool * bright * carried.clamp(-1.5, 1.5) / 1.5)


def _moving(
    scene: Scene, window: tuple[int, int], corner: tuple[int, int], rings: Tensor, time: TimeAxis, g: torch.Generator
) -> Tensor:
    """The window of a scene in motion, real (T, y, x). Two known phases are morphed into each other by their flow."""
    device = scene.image.device
    if scene.other is None or scene.flow is None:
        return warp(scene.image, displacement(window, rings, time, g, device), corner)
    field = displacement(window, rings[:0], time, g, device)
    # neighbouring tissue contracts nearly, but not quite, at the same time, and may go beyond the two phases
    delay = uniform(g, 0, 0.12) * smooth_field(window, 2, g, device)
    course = pulse(time.phase[:, None, None].to(device) + uniform(g, 0, 1) + delay, g)
    course = course * uniform(g, 0.6, 1.6) + uniform(g, 0, 0.08) * harmonics(time.phase, g)[:, None, None].to(device)
    flow = scene.flow[corner[0] : corner[0] + window[0], corner[1] : corner[1] + window[1]]
    share = course.clamp(0, 1)
    share = share.square() * (3 - 2 * share)
    course = course[..., None]
    return (1 - share) * warp(scene.image, field - course * flow, corner) + share * warp(
        scene.other, field + (1 - course) * flow, corner
    )


@dataclass(frozen=True)
class ClipSource:
    """An endless supply of training clips; batch n depends on `seed` and n alone, so a killed run resumes exactly.

    stills: real magnitude frames to animate beside the dead leaves, or None. still_share: how often.
    flow_share: of clips in which blood streams.
    frames: the clip lengths, one drawn a batch. pixels: frames of `window` a batch holds, whatever their length.
    scenes_per_batch: how fast old scenes are replaced by new ones in the pool of `pool` scenes.
    """

    seed: int = 0
    window: int = 64
    frames: tuple[int, ...] = (1, 8, 16, 24)
    frames_per_batch: int = 32
    real_share: float = 0.2
    stills: Stills | None = None
    still_share: float = 0.5
    flow_share: float = 0.0
    pool: int = 48
    batches_per_scene: int = 2
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def batch(self, number: int) -> tuple[Tensor, bool]:
        """Clips (B, 1, T, window, window) complex64 and whether they are periodic in time."""
        g = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        frames = self.frames[int(uniform(g, 0, len(self.frames) - 0.001))]
        count = max(1, self.frames_per_batch // frames)
        time = TimeAxis.random(frames, g)
        newest = number // self.batches_per_scene
        clips = []
        for _ in range(count):
            scene = self._scene(newest + int(uniform(g, 0, self.pool - 0.001)), chance(g, self.still_share))
            # clips of a batch share periodicity (a switch of the network), not rhythm
            other = time if not time.periodic else TimeAxis(time.phase + uniform(g, 0, 1), True)
            real = chance(g, self.real_share)
            flow = self.flow_share > 0 and chance(g, self.flow_share)  # nothing drawn: the clips of older recipes
            clip = animate(scene, (self.window, self.window), other, g, real, flow)
            clips.append(_turned(clip, g))
        return torch.stack(clips)[:, None], time.periodic

    def _scene(self, number: int, still: bool) -> Scene:
        if still and self.stills is not None:
            g = torch.Generator().manual_seed(self.seed * 7_000_003 + number)
            choice = int(torch.randint(len(self.stills), (), generator=g))
            images, partner = self.stills.images, int(self.stills.partner[choice])
            image = images[choice].to(self.device)
            if partner == choice or chance(g, 0.2):
                return still_scene(image, g)
            return pair_scene(image, images[partner].to(self.device), self.stills.flow[choice].to(self.device), g)
        return _leaves(self.seed * 5_000_011 + number, self.window, str(self.device))


def _turned(clip: Tensor, g: torch.Generator) -> Tensor:
    """One of the eight ways to lay a square window down."""
    for dim in (-2, -1):
        clip = clip.flip(dim) if chance(g, 0.5) else clip
    return clip.transpose(-2, -1) if chance(g, 0.5) else clip


@lru_cache(maxsize=128)
def _leaves(seed: int, window: int, device: str) -> Scene:
    g = torch.Generator().manual_seed(seed)
    size = tuple(int(uniform(g, 1.6, 3.4) * window) // 2 * 2 for _ in range(2))
    return dead_leaves((size[0], size[1]), g, device)
