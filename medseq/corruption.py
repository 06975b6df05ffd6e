"""What the network learns to undo: white noise above all, and the errors that the sampler's starting images carry.

A diffusion prior is trained on white noise alone. The best image of a few levels, however, starts from a classical
reconstruction or interpolation whose error is neither white nor independent of the image: motion is smoothed, aliases
remain. A denoiser that has seen such errors removes far more of them (for aliasing as coloured noise: Metzler and
Wetzstein, D-VDAMP, ICASSP 2021; for starting from a degraded image: Bansal et al., Cold Diffusion, NeurIPS 2023). The
noise level that the network is told is always the RMSE in each real channel.

Every function takes clean clips (B, 1, T, Y, X) complex64 and returns corrupted ones and their level (B, 1, T, 1, 1).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medseq.baselines import kt_composite, kt_sparse, low_rank_sparse, wavelet
from medseq.baselines.combined import Weights
from medseq.guides import components
from medseq.noise import unit_noise
from medseq.operators import Coils, Fourier, Mask, Resample, interpolation_matrix
from medseq.patterns import variable_density
from medseq.phantoms.scenes import chance, smooth_field, uniform

LEAST = 0.004  # of the scale: no smaller level is ever asked of the network


def noisy(clean: Tensor, level: Tensor, generator: torch.Generator) -> Tensor:
    """White noise of `level`, which broadcasts to (B, 1, T, 1, 1)."""
    return clean + level * unit_noise(clean, generator)


def denoised(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What local principal components make of white noise, with a share of that noise left in; its level is told."""
    sigma = math.exp(uniform(generator, math.log(0.01), math.log(0.3)))
    level = torch.full((clean.shape[0], 1, clean.shape[2], 1, 1), sigma, device=clean.device)
    seen = noisy(clean, level, generator)
    guess, share = components(seen, level), uniform(generator, 0.15, 0.6)
    return guess + share * (seen - guess), (share * level).clamp(min=LEAST)


def aliased(clean: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What classical reconstructions leave of random undersampling: 3 to 12 fold, 4 coils, noise, any line direction.

    Part of the error is sometimes taken back, as in later levels of the sampler, and some white noise added.
    """
    g = generator
    turned = clean.transpose(-2, -1) if chance(g, 0.5) else clean
    image = turned + uniform(g, 0.2, 1.0) * (_reconstructed(turned, g) - turned)
    if chance(g, 0.5):
        level = _level(image - turned)
        image = image + uniform(g, 0, 0.7) * level * unit_noise(image, g)
    level = _level(image - turned).expand(-1, -1, clean.shape[2], -1, -1)
    return (image.transpose(-2, -1) if turned is not clean else image), _told(level, g)


def skipped(clean: Tensor, periodic: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Frames replaced by linear interpolation between the ones that are known, which carry a little white noise."""
    g, frames = generator, clean.shape[2]
    known = _known_frames(frames, periodic, g).to(clean.device)
    sigma = math.exp(uniform(g, math.log(LEAST), math.log(0.08)))
    seen = clean[:, :, known] + sigma * unit_noise(clean[:, :, known], g)
    time = torch.arange(frames, device=clean.device)
    matrix = interpolation_matrix(time[known].float(), time.float(), float(frames) if periodic else None)
    image = Resample(matrix)(seen)
    error = _level((image - clean)[:, :, ~known])
    level = torch.where(known[:, None, None], sigma, _told(error, g))
    return image, level


def _reconstructed(clean: Tensor, g: torch.Generator) -> Tensor:
    """A classical reconstruction from random lines of simulated coils, seldom run to its end or at its best weights."""
    slices, _, frames, lines, width = clean.shape
    acceleration = math.exp(uniform(g, math.log(3 if frames > 1 else 2), math.log(12 if frames > 1 else 5)))
    power, centre = uniform(g, 0, 4), min(int(uniform(g, 2, 7)), int(lines / acceleration))
    masks = [
        variable_density(frames, lines, acceleration, centre, int(torch.randint(2**31, (), generator=g)), power)
        for _ in range(slices)
    ]
    keep = torch.cat(masks).to(clean.device)
    A = Mask(keep) @ Fourier() @ Coils(random_maps(slices, 4, (lines, width), g, clean.device))
    y = A(clean)
    y = y + torch.where(keep, math.exp(uniform(g, math.log(0.002), math.log(0.06))) * unit_noise(y, g), 0)
    iterations, weight = int(uniform(g, 4, 14)), math.exp(uniform(g, -1.2, 1.2))
    if frames == 1:
        return wavelet(y, A, threshold=3e-3 * weight, iterations=2 * iterations)
    if chance(g, 0.7):
        few, local = math.exp(uniform(g, -1.2, 1.2)), math.exp(uniform(g, -1.2, 1.2))
        weights = Weights(7e-4 * weight, 3e-3 * few, 1e-3 * local)
        return kt_composite(y, A, weights=weights, iterations=iterations + 6)
    if chance(g, 0.5):
        return kt_sparse(y, A, threshold=1e-3 * weight, iterations=iterations)
    return low_rank_sparse(y, A, low_rank=0.05 * weight, sparse=1.5e-3 * weight, iterations=iterations)


def random_maps(slices: int, coils: int, size: tuple[int, int], g: torch.Generator, device: torch.device) -> Tensor:
    """Smooth complex maps (slices, coils, 1, *size) of unit root-sum-of-squares."""
    maps = torch.stack(
        [torch.complex(*(smooth_field(size, 2, g, device) for _ in range(2))) for _ in range(slices * coils)]
    ).view(slices, coils, 1, *size)
    return maps / maps.abs().square().sum(1, keepdim=True).sqrt().clamp(min=1e-3)


def _known_frames(frames: int, periodic: bool, g: torch.Generator) -> Tensor:
    """bool (T,): every second to fourth frame, or all but some random ones; an open series keeps its ends."""
    if chance(g, 0.7):
        step = int(uniform(g, 2, 4.2))
        known = torch.arange(frames) % step == 0
    else:
        known = torch.rand(frames, generator=g) > uniform(g, 0.1, 0.5)
    known[[0, frames // 2]] = True
    if not periodic:
        known[-1] = True
    if bool(known.all()):
        known[1] = False
    return known


def _level(error: Tensor) -> Tensor:
    """RMS (B, 1, 1, 1, 1) in each real channel."""
    return torch.view_as_real(error).square().mean(dim=(1, 2, 3, 4, 5)).sqrt()[:, None, None, None, None]


def _told(level: Tensor, g: torch.Generator) -> Tensor:
    """In use the level is an estimate: 30 % off, as often too high as too low, for each clip."""
    guess = torch.exp(0.3 * torch.randn(level.shape[0], generator=g)).to(level.device)
    return (level * guess[:, None, None, None, None]).clamp(min=LEAST)
