"""The recipe of the prior of images: what it sees, how strong the noise is, and what is measured of it afterwards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from medseq.corruption import aliased, denoised, noisy, skipped
from medseq.errors import InputError, UsageError
from medseq.guides import GUIDES
from medseq.io.weights import load_prior
from medseq.network import VideoUNet
from medseq.noise import unit_noise
from medseq.phantoms.clips import ClipSource
from medseq.phantoms.phases import Stills
from medseq.prior import Prior, SpreadTable
from medseq.train import Schedule


@dataclass(frozen=True)
class Recipe(Schedule):
    """All that makes a prior, apart from the still frames. A YAML preset holds the same names (`config.py`).

    Beside what `Schedule` holds. sigma_data: std of each real channel of the clips. log_sigma: mean and std of ln sigma
    for 80 % of the clips; the others are log-uniform in `sigma_range`. mixed_share: clips whose frames carry two noise
    levels (known and missing frames). aliased_share, skipped_share, denoised_share: batches that carry the errors of
    classical reconstructions, interpolations and filters in place of white noise (`medseq.corruption`). start_from:
    name or path of a prior whose weights to start from, of the same sizes. spread_batches: held-out batches that the
    spread table is measured on.

    Raises UsageError for values that no training can have.
    """

    width: tuple[int, ...] = (32, 80, 160)
    blocks: int = 2
    guided: bool = True
    sigma_data: float = 0.3
    log_sigma: tuple[float, float] = (-1.8, 1.3)
    sigma_range: tuple[float, float] = (0.002, 20.0)
    mixed_share: float = 0.2
    aliased_share: float = 0.0
    skipped_share: float = 0.0
    denoised_share: float = 0.0
    start_from: str | None = None
    window: int = 64
    frames: tuple[int, ...] = (1, 12, 12, 24)
    frames_per_batch: int = 48
    real_share: float = 0.2
    still_share: float = 0.5
    flow_share: float = 0.0
    spread_batches: int = 12

    def __post_init__(self) -> None:
        super().__post_init__()
        positive = (self.sigma_data, self.window, self.frames_per_batch, self.blocks)
        if min(positive) <= 0 or not self.width or not self.frames or min(*self.width, *self.frames) < 1:
            raise UsageError("sizes of a training recipe must be positive")
        if self.window % 2 ** len(self.width) or min(self.width) < 4:
            raise UsageError(f"the window must be a multiple of {2 ** len(self.width)}, and every width at least 4")
        shares: tuple[float, ...] = (self.mixed_share, self.real_share, self.still_share)
        shares += (self.aliased_share, self.skipped_share, self.denoised_share)
        if (
            self.aliased_share + self.skipped_share + self.denoised_share > 1
            or min(shares) < 0
            or max(shares) > 1
            or not 0 < self.sigma_range[0] < self.sigma_range[1]
        ):
            raise UsageError("shares of a training recipe lie between 0 and 1, and noise levels increase from above 0")

    @property
    def schedule(self) -> Schedule:
        return self

    def prior(self) -> Prior:
        """An untrained prior, or one with the weights of `start_from`. Raises InputError when that has other sizes."""
        net = VideoUNet(self.width, self.blocks, GUIDES if self.guided else 0)
        if self.start_from is not None:
            before = load_prior(self.start_from).net.state_dict()
            try:
                net.load_state_dict(_widened(before, net.state_dict()))
            except RuntimeError:
                raise InputError(f"{self.start_from}: this prior has other sizes than the recipe") from None
        return Prior(net, self.sigma_data, autocast=self.autocast)

    def lessons(self, stills: Stills | None, device: torch.device) -> ImageLessons:
        """Clips, each with the errors that this recipe asks for."""
        held_out = self.source(stills, device, held_out=True)
        return ImageLessons(self, self.source(stills, device), held_out)

    def about(self, stills: Stills | None) -> dict[str, Any]:
        """For the card."""
        return {
            "what": "video diffusion prior for dynamic MR series, trained with `medseq train`",
            "data": "procedural phantoms (medseq.phantoms)"
            + ("" if stills is None else f", {len(stills)} animated stills"),
        }

    def source(self, stills: Stills | None, device: torch.device, *, held_out: bool = False) -> ClipSource:
        """The clips of this recipe; `held_out` ones come from another seed and, where there are, other stills.

        The last tenth of the stills is held out: in the order of their names other people, all but a few frames.
        """
        if stills is not None:
            first = len(stills) - max(1, len(stills) // 10)
            stills = stills.part(first, len(stills)) if held_out else stills.part(0, first)
        return ClipSource(
            seed=self.seed + 77 if held_out else self.seed,
            window=self.window,
            frames=(max(self.frames),) if held_out else self.frames,
            frames_per_batch=self.frames_per_batch,
            real_share=self.real_share,
            stills=stills,
            still_share=self.still_share,
            flow_share=self.flow_share,
            device=device,
        )


@dataclass(frozen=True)
class ImageLessons:
    """Clips with noise and the errors of classical methods (`corrupted`)."""

    recipe: Recipe
    source: ClipSource
    held_out: ClipSource

    def loss(self, prior: Prior, number: int) -> Tensor:
        """The weighted error of `prior`, whose periodicity is set, on batch `number`."""
        clean, prior.periodic = self.source.batch(number)
        g = torch.Generator().manual_seed((self.recipe.seed + 1) * 9_000_011 + number)
        image, sigma = corrupted(self.recipe, clean, prior.periodic, g)
        return loss(prior, clean, image, sigma)

    def spread(self, prior: Prior) -> SpreadTable:
        """Against white noise, on clips of the held-out stills."""
        return measure_spread(prior, self.held_out, self.recipe.spread_batches)


def draw_sigma(recipe: Recipe, clips: int, frames: int, generator: torch.Generator) -> Tensor:
    """Noise levels (clips, 1, frames, 1, 1), on the CPU; equal over a clip's frames but for the mixed share."""
    mean, std = recipe.log_sigma
    low, high = map(math.log, recipe.sigma_range)
    normal = mean + std * torch.randn(clips, 2, generator=generator)
    spread = low + (high - low) * torch.rand(clips, 2, generator=generator)
    levels = torch.where(torch.rand(clips, 2, generator=generator) < 0.8, normal, spread).clamp(low, high).exp()
    mixed = torch.rand(clips, 1, generator=generator) < recipe.mixed_share
    share = torch.rand(clips, 1, generator=generator)
    second = mixed & (torch.rand(clips, frames, generator=generator) < share)
    return torch.where(second, levels[:, 1:], levels[:, :1])[:, None, :, None, None]


def corrupted(recipe: Recipe, clean: Tensor, periodic: bool, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """What the network is shown of `clean`, and the level (B, 1, T, 1, 1) that it is told: one kind for a batch."""
    slices, frames = clean.shape[0], clean.shape[2]
    kind = float(torch.rand((), generator=generator))
    if kind < recipe.aliased_share:
        return aliased(clean, generator)
    if kind < recipe.aliased_share + recipe.skipped_share and frames >= 4:
        return skipped(clean, periodic, generator)
    if kind > 1 - recipe.denoised_share and frames > 1:
        return denoised(clean, generator)
    sigma = draw_sigma(recipe, slices, frames, generator).to(clean.device)
    return noisy(clean, sigma, generator), sigma


def loss(prior: Prior, clean: Tensor, image: Tensor, sigma: Tensor) -> Tensor:
    """EDM's weighted denoising error (Karras 2022, eq. 108): 1 for a denoiser that always answers 0 or `image`."""
    error = torch.view_as_real(prior(image, sigma) - clean).square().mean(-1)
    return (prior.weight(sigma) * error).mean()


def _widened(before: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights of a network without guides for one with them, which at first sees none and keeps every gate shut."""
    result = dict(before)
    old, new = before["enter.weight"], wanted["enter.weight"]
    if old.shape[1] == 8 < new.shape[1]:
        # a pixel-unshuffle keeps the four pixels of a channel together, so whole channels come after the old ones
        result["enter.weight"] = torch.cat([old, torch.zeros_like(new[:, 8:])], dim=1)
        for name in ("leave.weight", "leave.bias"):
            result[name] = torch.cat([before[name], torch.zeros_like(wanted[name][8:])])
    return result


@torch.no_grad()
def measure_spread(prior: Prior, source: ClipSource, batches: int, levels: int = 25) -> SpreadTable:
    """The RMSE (each real channel) of `prior` at noise levels .002 to 20 over clips that it was not trained on."""
    sigmas = torch.logspace(math.log10(0.002), math.log10(20.0), levels).tolist()
    errors = torch.zeros(levels)
    for number in range(batches):
        clean, prior.periodic = source.batch(number)
        for i, sigma in enumerate(sigmas):
            g = torch.Generator().manual_seed(number * levels + i)
            clean_hat = prior(clean + sigma * unit_noise(clean, g), sigma)
            errors[i] += torch.view_as_real(clean_hat - clean).square().mean().cpu() / batches
    return SpreadTable(sigmas, errors.sqrt().tolist())
