"""Training of the prior: loss, noise distribution, moving average, and a loop that is a generator.

Every batch and every noise depends on (seed, step, rank) alone, so a run that was killed and resumed from its
checkpoint gives the very weights of one that was not. Needs torch, numpy and safetensors only, so it runs on a bare GPU
machine. Single process, or several under `torchrun` (gradients averaged).
"""

from __future__ import annotations

import copy
import math
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from medseq.corruption import aliased, denoised, noisy, skipped
from medseq.errors import InputError, UsageError
from medseq.guides import GUIDES
from medseq.io.files import atomic_write
from medseq.io.weights import load_prior, save_prior
from medseq.network import VideoUNet
from medseq.noise import unit_noise
from medseq.phantoms.clips import ClipSource
from medseq.phantoms.phases import Stills
from medseq.prior import Prior, SpreadTable


@dataclass(frozen=True)
class Recipe:
    """All that makes a prior, apart from the still frames. A YAML preset holds the same names (`config.py`).

    learning_rate falls linearly to 0 over the last `cooldown` share of `steps`. sigma_data: std of each real channel
    of the clips. log_sigma: mean and std of ln sigma for 80 % of the clips; the others are log-uniform in
    `sigma_range`. mixed_share: clips whose frames carry two noise levels (known and missing frames). aliased_share,
    skipped_share, denoised_share: batches that carry the errors of classical reconstructions, interpolations and
    filters in place of white noise (`medseq.corruption`). start_from: name or path of a prior whose weights to start
    from, of the same sizes. spread_batches: held-out batches that the spread table is measured on.

    Raises UsageError for values that no training can have.
    """

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012  (a misspelt name in a preset is an error)

    width: tuple[int, ...] = (32, 80, 160)
    blocks: int = 2
    guided: bool = True
    sigma_data: float = 0.3
    steps: int = 10_000
    learning_rate: float = 6e-4
    cooldown: float = 0.5
    ema: float = 0.999
    log_sigma: tuple[float, float] = (-1.8, 1.3)
    sigma_range: tuple[float, float] = (0.002, 20.0)
    mixed_share: float = 0.2
    aliased_share: float = 0.0
    skipped_share: float = 0.0
    denoised_share: float = 0.0
    start_from: str | None = None
    seed: int = 0
    window: int = 64
    frames: tuple[int, ...] = (1, 12, 12, 24)
    frames_per_batch: int = 48
    real_share: float = 0.2
    still_share: float = 0.5
    bfloat16: bool = True
    compile: bool = False
    checkpoint_every: int = 250
    spread_batches: int = 12

    def __post_init__(self) -> None:
        positive = (self.sigma_data, self.steps, self.learning_rate, self.window, self.frames_per_batch, self.blocks)
        counts = (*self.width, *self.frames, self.checkpoint_every)
        if min(positive) <= 0 or not self.width or not self.frames or min(counts) < 1:
            raise UsageError("sizes, steps and rates of a training recipe must be positive")
        if self.window % 2 ** len(self.width) or min(self.width) < 4:
            raise UsageError(f"the window must be a multiple of {2 ** len(self.width)}, and every width at least 4")
        shares: tuple[float, ...] = (self.cooldown, self.ema, self.mixed_share, self.real_share, self.still_share)
        shares += (self.aliased_share, self.skipped_share, self.denoised_share)
        if (
            self.aliased_share + self.skipped_share + self.denoised_share > 1
            or min(shares) < 0
            or max(shares) > 1
            or not 0 < self.sigma_range[0] < self.sigma_range[1]
        ):
            raise UsageError("shares of a training recipe lie between 0 and 1, and noise levels increase from above 0")

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
            device=device,
        )


@dataclass
class Training:
    """The state of a run: what a checkpoint holds. `step` counts finished steps."""

    prior: Prior
    average: Prior
    optimizer: torch.optim.AdamW
    step: int = 0
    losses: list[float] = field(default_factory=list)


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


def start(recipe: Recipe, device: torch.device) -> Training:
    """A fresh run: weights drawn from the recipe's seed, or those of another prior.

    Raises InputError when that prior cannot be read or has other sizes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        net = VideoUNet(recipe.width, recipe.blocks, GUIDES if recipe.guided else 0)
    if recipe.start_from is not None:
        before = load_prior(recipe.start_from).net.state_dict()
        try:
            net.load_state_dict(_widened(before, net.state_dict()))
        except RuntimeError:
            raise InputError(f"{recipe.start_from}: this prior has other sizes than the recipe") from None
    net = net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    prior = Prior(net, recipe.sigma_data, autocast=torch.bfloat16 if recipe.bfloat16 else None)
    average = copy.deepcopy(prior).requires_grad_(False)
    optimizer = torch.optim.AdamW(prior.parameters(), lr=recipe.learning_rate, weight_decay=0.01, betas=(0.9, 0.99))
    return Training(prior, average, optimizer)


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


def rate(recipe: Recipe, step: int) -> float:
    """Learning rate of a step: 200 steps of warm-up, constant, then linearly to zero."""
    cooling = (recipe.steps - step) / max(1.0, recipe.cooldown * recipe.steps)
    return recipe.learning_rate * min(1.0, (step + 1) / 200, max(0.0, cooling))


def training(recipe: Recipe, state: Training, source: ClipSource) -> Iterator[Training]:
    """Train on, yielding the same `state` after every step; the caller saves, prints and stops as it likes."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    net = state.prior.net
    # a compiled module shares its parameters with `net`, which checkpoints see under their plain names
    run = copy.copy(state.prior)
    run._modules = dict(state.prior._modules)
    if recipe.compile:
        run.net = torch.compile(net, dynamic=False)  # type: ignore[assignment]
    while state.step < recipe.steps:
        number = state.step * world + rank
        clean, run.periodic = source.batch(number)
        g = torch.Generator().manual_seed((recipe.seed + 1) * 9_000_011 + number)
        image, sigma = corrupted(recipe, clean, run.periodic, g)
        value = loss(run, clean, image, sigma)
        state.optimizer.zero_grad()
        value.backward()
        for p in net.parameters():
            if world > 1 and p.grad is not None:
                dist.all_reduce(p.grad)
                p.grad /= world
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for group in state.optimizer.param_groups:
            group["lr"] = rate(recipe, state.step)
        state.optimizer.step()
        state.step += 1
        _follow(state.average.net, net, min(recipe.ema, (1 + state.step) / (10 + state.step)))
        if not math.isfinite(last := value.item()):
            raise InputError(f"training diverged at step {state.step}: lower learning_rate and resume")
        state.losses.append(last)
        yield state


@torch.no_grad()
def _follow(average: torch.nn.Module, net: torch.nn.Module, decay: float) -> None:
    for a, p in zip(average.parameters(), net.parameters(), strict=True):
        a.lerp_(p, 1 - decay)


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


def save_checkpoint(state: Training, path: Path) -> None:
    """Everything `load_checkpoint` needs, as plain tensors (no pickled code), replaced only when complete."""
    tensors = {"step": torch.tensor(state.step), "losses": torch.tensor(state.losses, dtype=torch.float64)}
    for name, prior in (("prior", state.prior), ("average", state.average)):
        tensors |= {f"{name}.{key}": value for key, value in prior.net.state_dict().items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{slot}": value for slot, value in slots.items()}
    with atomic_write(path) as partial:
        torch.save(tensors, partial)


def load_checkpoint(state: Training, path: Path) -> None:
    """Continue where `save_checkpoint` stood. Raises InputError when the file does not fit the recipe."""
    try:
        tensors: dict[str, Tensor] = torch.load(path, weights_only=True, map_location="cpu")
        for name, prior in (("prior", state.prior), ("average", state.average)):
            head = name + "."
            prior.net.load_state_dict({k[len(head) :]: v for k, v in tensors.items() if k.startswith(head)})
        slots: dict[int, dict[str, Tensor]] = {}
        for key in (k for k in tensors if k.startswith("adam.")):
            _, index, slot = key.split(".")
            slots.setdefault(int(index), {})[slot] = tensors[key]
        state.optimizer.load_state_dict({**state.optimizer.state_dict(), "state": slots})
        state.step, state.losses = int(tensors["step"]), tensors["losses"].tolist()
    except Exception as error:  # torch raises half a dozen kinds for a damaged file
        first = str(error).splitlines()[0][:200]
        raise InputError(f"{path}: not a checkpoint of this recipe ({first}); delete it to start anew") from error


def train(
    recipe: Recipe, folder: str | Path, *, stills: Stills | None = None, resume: bool = True, device: str = "cpu"
) -> Iterator[Training]:
    """Run a recipe to its end, yielding after every step; leaves `prior.safetensors` and its card in `folder`.

    Checkpoints are written on the way, from which the same call goes on (resume). Under `torchrun` every process calls
    this; the first one writes. stills: real magnitude frames to animate beside the phantoms.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group()
    first = not dist.is_initialized() or dist.get_rank() == 0
    where = torch.device(device)
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        where = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    state = start(recipe, where)
    checkpoint = folder / "checkpoint.pt"
    if resume and checkpoint.exists():
        load_checkpoint(state, checkpoint)
    began, done = time.monotonic(), state.step
    for _ in training(recipe, state, recipe.source(stills, where)):
        if first and (state.step % recipe.checkpoint_every == 0 or state.step == recipe.steps):
            save_checkpoint(state, checkpoint)
        yield state
    if not first:
        return
    state.average.eval()
    state.average.spread = measure_spread(
        state.average, recipe.source(stills, where, held_out=True), recipe.spread_batches
    )
    about = {
        "what": "video diffusion prior for dynamic MR series, trained with `medseq train`",
        "data": "procedural phantoms (medseq.phantoms)"
        + ("" if stills is None else f", {len(stills)} animated stills"),
        "steps": state.step,
        "hours_of_this_run": round((time.monotonic() - began) / 3600, 2),
        "steps_of_this_run": state.step - done,
        "final_loss": round(sum(state.losses[-200:]) / max(1, len(state.losses[-200:])), 4),
        "recipe": asdict(recipe),
    }
    save_prior(state.average, folder / "prior.safetensors", about)
    curve = [f"{i + 1},{value:.5f}" for i, value in enumerate(state.losses)]
    with atomic_write(folder / "loss.csv") as partial:
        partial.write_text("step,loss\n" + "\n".join(curve) + "\n", "utf-8")
