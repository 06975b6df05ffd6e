"""The cases of `fmri_benchmark.py`: a real resting series and a simulated one, into which known activation is put.

The real series is not part of the project; `MEDSEQ_DATA` names its folder. Nothing here was chosen by looking at
results on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medseq import Clip, load_clip
from medseq.activation import brain_mask, design_matrix, inject
from medseq.phantoms.bold import Effects, bold_run
from medseq.phantoms.fluctuations import response_course
from medseq.simulate import scanner_affine

CHANGES = (0.01, 0.02)
BLOCK = 16.0  # seconds of task, and of rest
ACTIVE = 0.5  # voxels of at least this weight are called active
_VOXELS_A_BLOB = 500  # of the brain
_SIMULATED_FRAMES, _SNR = 75, 45.0

Crop = tuple[slice, slice, slice]


@dataclass(frozen=True)
class Injection:
    """One known activation: signal change `change` times weight (B, 1, 1, Y, X) times response (T,)."""

    name: str
    change: float
    weight: Tensor
    response: Tensor

    def into(self, series: Tensor) -> Tensor:
        return inject(series, self.weight, self.response, self.change)

    @property
    def active(self) -> Tensor:
        return self.weight >= ACTIVE


@dataclass(frozen=True)
class Case:
    """A series without a task. truth: the same without noise, where it is known. halves: responses of odd and even
    blocks of the block designs. null_designs: random tasks that never were."""

    name: str
    clip: Clip
    mask: Tensor
    injections: list[Injection]
    halves: tuple[Tensor, Tensor]
    null_designs: list[Tensor]
    truth: Tensor | None = None

    @property
    def interval(self) -> float:
        return float(np.diff(self.clip.times).mean())

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        x, y, z = np.linalg.norm(self.clip.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)


def real_case(data: Path, crop: Crop, null_designs: int) -> Case:
    """Human rest at 3 T (`fmri_rest`), or a crop (z, y, x) of it."""
    clip = _cropped(load_clip(data / "fmri_rest" / "sub-01_task-rest_bold.nii.gz"), crop)
    size = " x ".join(str(clip.data.shape[axis]) for axis in (0, 3, 4, 2))
    return _case(f"real {size}", clip, None, null_designs)


def simulated_case(size: tuple[int, int], slices: int, null_designs: int, seed: int = 0) -> Case:
    """A simulated head at rest with everything but a task: networks, drift, breathing, pulse, motion, and Rician noise
    that coils and acceleration shape; its median SNR is that of the real series."""
    voxel = (3.0, 208 / max(size), 208 / max(size))
    rest, g = Effects(task=0.0, varied=False), torch.Generator().manual_seed(seed)
    run = bold_run(size, slices, _SIMULATED_FRAMES, 1.5, g, voxel=voxel, snr=_SNR, effects=rest)
    affine = scanner_affine(size, slices, (voxel[2], voxel[1], voxel[0]))
    clip = Clip(1000 * run.series[:, None], affine, 1.5 * np.arange(_SIMULATED_FRAMES))
    name = f"simulated {slices} x {size[0]} x {size[1]} x {_SIMULATED_FRAMES}, seed {seed}"
    return _case(name, clip, 1000 * run.clean[:, None], null_designs)


def random_blocks(frames: int, interval: float, g: torch.Generator) -> Tensor:
    """Blocks of 16 to 20 s in turn with rest as long, from a random moment on."""
    block = 16 + 4 * float(torch.rand((), generator=g))
    first = 2 * block * (float(torch.rand((), generator=g)) - 0.5)
    starts = torch.arange(first, frames * interval, 2 * block)
    return response_course(starts, block, interval * torch.arange(frames))


def random_events(frames: int, interval: float, g: torch.Generator) -> Tensor:
    """Events of 1 s, 4 s and then an exponential time of mean 6 s apart."""
    gaps = 4 + 6 * torch.empty(math.ceil(frames * interval / 4)).exponential_(generator=g)
    return response_course(gaps.cumsum(0), 1.0, interval * torch.arange(frames))


def blobs(mean: Tensor, mask: Tensor, voxel_mm: tuple[float, float, float], g: torch.Generator) -> Tensor:
    """Weights in [0, 1] like `mask`: Gaussians of 6 to 10 mm FWHM about random voxels, where the mean image is brighter
    than the median of the mask (grey matter, in EPI)."""
    bright = mask & (mean > mean[mask].median())
    places = bright.nonzero()[:, (4, 3, 0)] * torch.tensor(voxel_mm)
    distance_to = [
        (torch.arange(n) * size).view(shape)
        for n, size, shape in zip(
            (mask.shape[4], mask.shape[3], mask.shape[0]), voxel_mm, [(1, 1, -1), (1, -1, 1), (-1, 1, 1)], strict=True
        )
    ]
    weight = torch.zeros(mask.shape[0], *mask.shape[-2:])
    for _ in range(max(6, int(mask.sum()) // _VOXELS_A_BLOB)):
        centre = places[int(torch.randint(len(places), (), generator=g))]
        width = 6 + 4 * float(torch.rand((), generator=g))
        squared = sum(((axis - c) ** 2 for axis, c in zip(distance_to, centre, strict=True)), start=torch.zeros(()))
        weight = torch.maximum(weight, torch.exp(-4 * math.log(2) * squared / width**2))
    return weight[:, None, None] * bright


def _case(name: str, clip: Clip, truth: Tensor | None, null_designs: int) -> Case:
    g = torch.Generator().manual_seed(0)
    mask, mean = brain_mask(clip.data), clip.data.mean(2, keepdim=True)
    case = Case(name, clip, mask, [], (mean, mean), [], truth)
    frames, interval = clip.frames, case.interval
    onsets, seconds = torch.arange(BLOCK, frames * interval, 2 * BLOCK), interval * torch.arange(frames)
    odd, even = (response_course(onsets[half::2], BLOCK, seconds) for half in (0, 1))
    responses = {"blocks": response_course(onsets, BLOCK, seconds), "events": random_events(frames, interval, g)}
    injections = [
        Injection(f"{change:.0%} {design}", change, blobs(mean, mask, case.voxel_mm, g), response)
        for design, response in responses.items()
        for change in CHANGES
    ]
    tasks = [draw(frames, interval, g) for draw in (random_blocks, random_events) for _ in range(null_designs // 2)]
    designs = [design_matrix(task, interval) for task in tasks]
    return replace(case, injections=injections, halves=(odd, even), null_designs=designs)


def _cropped(clip: Clip, crop: Crop) -> Clip:
    z, y, x = crop
    affine = clip.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ [x.start or 0, y.start or 0, z.start or 0]
    return replace(clip, data=clip.data[z, :, :, y, x].contiguous(), affine=affine)
