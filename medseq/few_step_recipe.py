"""The recipe of the prior of few evaluations: simulated acquisitions, their quick starts, and what comes of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medseq.corruption import random_maps
from medseq.errors import InputError, UsageError
from medseq.few_steps import FEWEST_FRAMES
from medseq.guides import GUIDES
from medseq.io.weights import load_prior
from medseq.measurement import Measurement
from medseq.network import VideoUNet
from medseq.noise import unit_noise
from medseq.operators import Mask
from medseq.patterns import equispaced, variable_density
from medseq.phantoms.clips import ClipSource
from medseq.phantoms.phases import Stills
from medseq.phantoms.scenes import chance, uniform
from medseq.prior import Prior, SpreadTable
from medseq.recipe import Recipe, measure_spread
from medseq.train import Schedule
from medseq.warmstart import Start, sense_operator, warm_start

_SPREAD, _ITERATIONS = 0.4, 2  # of the answer about the truth, over the error of the start; of conjugate gradients


@dataclass(frozen=True)
class FewStepRecipe(Schedule):
    """All that makes a prior of few evaluations, beside what `Schedule` holds.

    start_from: name or path of the prior whose weights to start from. blocks: residual blocks a resolution, the first
    of those that it has. acceleration, noise: the least and the most of the simulated acquisitions, drawn
    log-uniformly. coils: one of these numbers is drawn. direct_weight: of the error of the answer by itself; with what
    was measured it counts 1. window, frames, frames_per_batch, real_share, still_share, flow_share, spread_batches: as
    in `Recipe`.

    Raises UsageError for values that no training can have.
    """

    start_from: str = "heart-3"
    blocks: int = 2
    acceleration: tuple[float, float] = (3.0, 14.0)
    noise: tuple[float, float] = (0.003, 0.05)
    coils: tuple[int, ...] = (4, 8)
    direct_weight: float = 0.5
    window: int = 80
    frames: tuple[int, ...] = (12, 16, 24, 30)
    frames_per_batch: int = 30
    real_share: float = 0.1
    still_share: float = 0.65
    flow_share: float = 0.5
    spread_batches: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.frames) < FEWEST_FRAMES or self.window < 32 or not self.coils or min(self.coils) < 1:
            raise UsageError(f"few steps need at least {FEWEST_FRAMES} frames, windows of 32 and a coil")
        if not 1 <= self.acceleration[0] <= self.acceleration[1] or not 0 < self.noise[0] <= self.noise[1]:
            raise UsageError("accelerations start from 1 and noise levels above 0, the least before the most")
        self._clips()

    @property
    def schedule(self) -> Schedule:
        return self

    def prior(self) -> Prior:
        """One with the weights of `start_from`. Raises InputError when that has fewer blocks, or no guides."""
        before = load_prior(self.start_from)
        assert isinstance(before.net, VideoUNet)
        net, tensors = VideoUNet(before.net.width, self.blocks, GUIDES), before.net.state_dict()
        try:
            net.load_state_dict({name: tensors[name] for name in net.state_dict()})
        except (KeyError, RuntimeError):
            raise InputError(
                f"{self.start_from}: this prior has no {self.blocks} guided blocks to start from"
            ) from None
        return Prior(net, before.sigma_data, autocast=self.autocast, few=True)

    def lessons(self, stills: Stills | None, device: torch.device) -> FewStepLessons:
        clips = self._clips()
        return FewStepLessons(self, clips.source(stills, device), clips.source(stills, device, held_out=True))

    def about(self, stills: Stills | None) -> dict[str, Any]:
        """For the card."""
        return {
            **self._clips().about(stills),
            "what": "prior for reconstructions of few evaluations (medseq.few_steps), trained with `medseq train`",
        }

    def _clips(self) -> Recipe:
        return Recipe(
            seed=self.seed,
            window=self.window,
            frames=self.frames,
            frames_per_batch=self.frames_per_batch,
            real_share=self.real_share,
            still_share=self.still_share,
            flow_share=self.flow_share,
            spread_batches=self.spread_batches,
        )


@dataclass(frozen=True)
class FewStepLessons:
    """Clips, measured as a scanner would, and the two estimates of each."""

    recipe: FewStepRecipe
    source: ClipSource
    held_out: ClipSource

    def loss(self, prior: Prior, number: int) -> Tensor:
        """The squared error of the answer, by itself and with what was measured, over that of the start, on batch
        `number`. What the measurement mends counts less so; what is used afterwards (`few_steps`) has no gradient."""
        clean, prior.periodic = self.source.batch(number)
        g = torch.Generator().manual_seed((self.recipe.seed + 1) * 9_000_011 + number)
        measurement, start = acquired(self.recipe, clean, prior.periodic, g)
        answer = prior(start.image, start.error)
        consistent = measurement.solve(answer, _SPREAD * start.error)
        power = self.recipe.direct_weight * _power(answer - clean) + _power(consistent - clean)
        # Where the error was told too small, no network can do much: such a batch shall not outweigh the others.
        return power / _power(start.image - clean).clamp(min=start.error**2)

    def spread(self, prior: Prior) -> SpreadTable:
        """Against white noise, on clips of the held-out stills: what one evaluation without data would do."""
        return measure_spread(prior, self.held_out, self.recipe.spread_batches)


@torch.no_grad()
def acquired(recipe: FewStepRecipe, clean: Tensor, periodic: bool, g: torch.Generator) -> tuple[Measurement, Start]:
    """What a scanner would measure of `clean` (B, 1, T, Y, X), and the quick start from it."""
    slices, _, frames, lines, width = clean.shape
    keep = _lines(recipe, frames, lines, g).to(clean.device)
    coils = recipe.coils[int(uniform(g, 0, len(recipe.coils) - 0.001))]
    maps = random_maps(slices, coils, (lines, width), g, clean.device)
    sigma = _log_uniform(g, recipe.noise)
    full = sense_operator(keep, maps)
    y = Mask(keep)(full(clean) + sigma * unit_noise(maps.expand(-1, -1, frames, -1, -1), g))
    seed = int(torch.randint(2**31 - 1, (), generator=g))
    start = warm_start(y, keep, maps, sigma, seed, periodic=periodic, quick=True)
    return Measurement(y, full, sigma, iterations=_ITERATIONS), start


def _lines(recipe: FewStepRecipe, frames: int, lines: int, g: torch.Generator) -> Tensor:
    acceleration = _log_uniform(g, recipe.acceleration)
    centre = max(2, min(int(uniform(g, 3, 8)), round(lines / acceleration) - 2))
    if chance(g, 0.15):
        return equispaced(frames, lines, max(2, round(acceleration)), centre)
    seed = int(torch.randint(2**31 - 1, (), generator=g))
    return variable_density(frames, lines, acceleration, centre, seed, uniform(g, 0, 4))


def _log_uniform(g: torch.Generator, ends: tuple[float, float]) -> float:
    return math.exp(uniform(g, math.log(ends[0]), math.log(ends[1])))


def _power(error: Tensor) -> Tensor:
    return torch.view_as_real(error).square().mean()
