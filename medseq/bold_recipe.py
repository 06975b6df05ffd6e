"""The recipe of the prior of BOLD fluctuations, which learns from simulated runs alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medseq.bold_prior import GUIDES, BoldPrior
from medseq.errors import UsageError
from medseq.network import VideoUNet
from medseq.phantoms.bold_clips import FluctuationSource
from medseq.phantoms.phases import Stills
from medseq.prior import SpreadTable
from medseq.train import Schedule

_LEVELS = 9


@dataclass(frozen=True)
class BoldRecipe(Schedule):
    """All that makes a `BoldPrior`, beside what `Schedule` holds.

    width, blocks: of the network. window, slices, frames: voxels, slices and volumes of a batch, the number of volumes
    drawn from `frames`. pool, batches_per_run: see `FluctuationSource`. spread_batches: held-out batches that the
    spread table is measured on.

    Raises UsageError for values that no training can have.
    """

    width: tuple[int, ...] = (24, 48, 96)
    blocks: int = 1
    window: int = 32
    slices: int = 3
    frames: tuple[int, ...] = (48, 64)
    pool: int = 16
    batches_per_run: int = 5
    spread_batches: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        counts = (self.blocks, self.window, self.slices, self.pool, self.batches_per_run, self.spread_batches)
        if not self.width or not self.frames or min(*self.width, *counts) < 1 or min(self.frames) < 8:
            raise UsageError("sizes of a training recipe must be positive, and a batch holds at least 8 volumes")

    @property
    def schedule(self) -> Schedule:
        return self

    def prior(self) -> BoldPrior:
        """An untrained prior, which answers with the principal components alone."""
        return BoldPrior(VideoUNet(self.width, self.blocks, GUIDES, channels=1), autocast=self.autocast)

    def lessons(self, stills: Stills | None, device: torch.device) -> FluctuationLessons:
        """Pieces of simulated runs. Raises UsageError for stills, which do not fluctuate."""
        if stills is not None:
            raise UsageError("the prior of fluctuations learns from simulated runs alone; leave stills out")
        return FluctuationLessons(self, self._source(self.seed, device), self._source(self.seed + 77, device))

    def about(self, stills: Stills | None) -> dict[str, Any]:
        """For the card."""
        return {
            "what": "prior of BOLD fluctuations in units of their noise, trained with `medseq train`",
            "data": "simulated BOLD runs (medseq.phantoms.bold)",
        }

    def _source(self, seed: int, device: torch.device) -> FluctuationSource:
        return FluctuationSource(
            seed=seed,
            window=self.window,
            slices=self.slices,
            frames=self.frames,
            pool=self.pool,
            batches_per_run=self.batches_per_run,
            device=device,
        )


@dataclass(frozen=True)
class FluctuationLessons:
    """Simulated fluctuations with noise of unit level."""

    recipe: BoldRecipe
    source: FluctuationSource
    held_out: FluctuationSource

    def loss(self, prior: BoldPrior, number: int) -> Tensor:
        """Mean squared error in units of the noise."""
        clean, noisy = self.source.batch(number)
        return (prior(noisy, 1.0) - clean).square().mean()

    @torch.no_grad()
    def spread(self, prior: BoldPrior) -> SpreadTable:
        """Against noise of a tenth to ten times the usual level, on runs that it was not trained on."""
        sigmas = torch.logspace(-1, 1, _LEVELS).tolist()
        errors = torch.zeros(_LEVELS)
        for number in range(self.recipe.spread_batches):
            clean, noisy = self.held_out.batch(number * self.recipe.batches_per_run)  # a new run each
            for i, sigma in enumerate(sigmas):
                error = prior(clean + sigma * (noisy - clean), sigma) - clean
                errors[i] += error.square().mean().cpu() / self.recipe.spread_batches
        return SpreadTable(sigmas, [math.sqrt(error) for error in errors.tolist()])
