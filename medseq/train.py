"""Training of the priors: schedule, moving average, checkpoints, and a loop that is a generator.

Every batch and every noise depends on (seed, step, rank) alone, so a run that was killed and resumed from its
checkpoint gives the very weights of one that was not. Needs torch, numpy and safetensors only, so it runs on a bare GPU
machine. Single process, or several under `torchrun` (gradients averaged). What is learnt says the recipe: `Recipe` for
images (`medseq.recipe`), `FewStepRecipe` for few evaluations (`medseq.few_step_recipe`), `BoldRecipe` for fluctuations
(`medseq.bold_recipe`).
"""

from __future__ import annotations

import copy
import io
import math
import os
import shutil
import time
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from medseq.bold_prior import BoldPrior
from medseq.errors import InputError, MedseqWarning, ResourceError, UsageError
from medseq.io.files import atomic_write, only_process
from medseq.io.weights import save_prior
from medseq.phantoms.phases import Stills
from medseq.prior import Prior, SpreadTable

P = TypeVar("P", Prior, BoldPrior)
P_contra = TypeVar("P_contra", Prior, BoldPrior, contravariant=True)


@dataclass(frozen=True)
class Schedule:
    """What all recipes have in common. A YAML preset holds the same names (`config.py`).

    learning_rate falls linearly to 0 over the last `cooldown` share of `steps`. ema: decay of the moving average of the
    weights, which is what ships. Raises UsageError for values that no training can have.
    """

    __pydantic_config__ = {"extra": "forbid", "allow_inf_nan": False}  # noqa: RUF012  (a misspelt name in a preset is an error)

    steps: int = 10_000
    learning_rate: float = 6e-4
    cooldown: float = 0.5
    ema: float = 0.999
    seed: int = 0
    bfloat16: bool = True
    compile: bool = False
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        if min(self.steps, self.learning_rate, self.checkpoint_every) <= 0:
            raise UsageError("steps and rates of a training recipe must be positive")
        if min(self.cooldown, self.ema) < 0 or max(self.cooldown, self.ema) > 1:
            raise UsageError("shares of a training recipe lie between 0 and 1")

    @property
    def autocast(self) -> torch.dtype | None:
        """The dtype that the network computes in, None for float32."""
        return torch.bfloat16 if self.bfloat16 else None


class Lessons(Protocol[P_contra]):
    """What a prior learns from, and how well it has."""

    def loss(self, prior: P_contra, number: int) -> Tensor:
        """The error on batch `number`, to be made small."""

    def spread(self, prior: P_contra) -> SpreadTable:
        """The RMSE at each noise level on what it was not trained on."""


class Course(Protocol[P]):
    """What training asks of a recipe."""

    @property
    def schedule(self) -> Schedule: ...

    def prior(self) -> P:
        """An untrained prior, its weights drawn from the seed, or those of the one to go on from."""

    def lessons(self, stills: Stills | None, device: torch.device) -> Lessons[P]: ...

    def about(self, stills: Stills | None) -> dict[str, Any]:
        """What the card says of the kind of prior and of its data."""


@dataclass
class Training(Generic[P]):
    """The state of a run: what a checkpoint holds. `step` counts finished steps."""

    prior: P
    average: P
    optimizer: torch.optim.AdamW
    step: int = 0
    losses: list[float] = field(default_factory=list)


def start(course: Course[P], device: torch.device) -> Training[P]:
    """A fresh run. Raises InputError when the prior to go on from cannot be read or has other sizes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(course.schedule.seed)
        prior = course.prior()
    prior.net.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(prior).requires_grad_(False)
    rate = course.schedule.learning_rate
    optimizer = torch.optim.AdamW(prior.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.99))
    return Training(prior, average, optimizer)


def rate(schedule: Schedule, step: int) -> float:
    """Learning rate of a step: 200 steps of warm-up, constant, then linearly to zero."""
    cooling = (schedule.steps - step) / max(1.0, schedule.cooldown * schedule.steps)
    return schedule.learning_rate * min(1.0, (step + 1) / 200, max(0.0, cooling))


def training(schedule: Schedule, state: Training[P], lessons: Lessons[P]) -> Iterator[Training[P]]:
    """Train on, yielding the same `state` after every step; the caller saves, prints and stops as it likes."""
    rank, world = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    net = state.prior.net
    # a compiled module shares its parameters with `net`, which checkpoints see under their plain names
    run = copy.copy(state.prior)
    run._modules = dict(state.prior._modules)
    if schedule.compile:
        run.net = torch.compile(net, dynamic=False)  # type: ignore[assignment]
    while state.step < schedule.steps:
        number = state.step * world + rank
        value = lessons.loss(run, number)
        state.optimizer.zero_grad()
        value.backward()
        for p in net.parameters():
            if world > 1 and p.grad is not None:
                dist.all_reduce(p.grad)
                p.grad /= world
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        for group in state.optimizer.param_groups:
            group["lr"] = rate(schedule, state.step)
        state.optimizer.step()
        state.step += 1
        _follow(state.average.net, net, min(schedule.ema, (1 + state.step) / (10 + state.step)))
        if not math.isfinite(last := value.item()):
            raise InputError(f"training diverged at step {state.step}: lower learning_rate and resume")
        state.losses.append(last)
        yield state


@torch.no_grad()
def _follow(average: torch.nn.Module, net: torch.nn.Module, decay: float) -> None:
    for a, p in zip(average.parameters(), net.parameters(), strict=True):
        a.lerp_(p, 1 - decay)


def save_checkpoint(state: Training, path: Path, previous: Path | None = None) -> None:
    """Everything `load_checkpoint` needs, as plain tensors (no pickled code), replaced only when complete.

    previous: what the one that is replaced is called from now on.
    """
    tensors = {"step": torch.tensor(state.step), "losses": torch.tensor(state.losses, dtype=torch.float64)}
    for name, prior in (("prior", state.prior), ("average", state.average)):
        tensors |= {f"{name}.{key}": value for key, value in prior.net.state_dict().items()}
    for index, slots in state.optimizer.state_dict()["state"].items():
        tensors |= {f"adam.{index}.{slot}": value for slot, value in slots.items()}
    packed = io.BytesIO()  # what torch raises when the disk fills up is no OSError
    torch.save(tensors, packed)
    with atomic_write(path) as partial:
        partial.write_bytes(packed.getbuffer())
        if previous is not None and path.exists():
            os.replace(path, previous)


def load_checkpoint(state: Training, path: Path) -> None:
    """Continue where `save_checkpoint` stood. Raises InputError when the file is damaged or does not fit the recipe."""
    if fault := _damage(path):
        raise InputError(f"{path}: not a checkpoint any more ({fault}); delete it to start anew")
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


def _damage(path: Path) -> str | None:
    """What is wrong with a checkpoint, by the CRC-32 of each of its tensors, which torch itself does not look at."""
    try:
        with zipfile.ZipFile(path) as packed:
            broken = packed.testzip()
    except Exception as error:  # zipfile, too, raises many kinds for a damaged file
        return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
    return None if broken is None else f"the CRC-32 of {broken} differs"


def resume_training(state: Training, newest: Path, previous: Path) -> bool:
    """Continue from the newest checkpoint, or with a MedseqWarning from the one before it when that one is damaged.

    Returns whether the newest is good, or there is none. Raises InputError when both are damaged, or one is of another
    recipe.
    """
    fault = _damage(newest) if newest.exists() else None
    if newest.exists() and (fault is None or not previous.exists()):
        load_checkpoint(state, newest)
    elif previous.exists():
        load_checkpoint(state, previous)
        if fault is not None:
            warnings.warn(
                f"{newest}: damaged ({fault}); training goes on from the checkpoint before it, of step {state.step}",
                MedseqWarning,
                stacklevel=2,
            )
    return fault is None


def train(
    course: Course[P], folder: str | Path, *, stills: Stills | None = None, resume: bool = True, device: str = "cpu"
) -> Iterator[Training[P]]:
    """Run a recipe to its end, yielding after every step; leaves `prior.safetensors` and its card in `folder`.

    Checkpoints are written on the way, from which the same call goes on (resume), or from the one before when the last
    is damaged. Under `torchrun` every process calls this; the first one writes. stills: real magnitude frames to
    animate beside the phantoms.
    Raises InputError for checkpoints that are of no use, ResourceError when another process trains in `folder` or it
    cannot be written.
    """
    if "WORLD_SIZE" in os.environ and not dist.is_initialized():
        dist.init_process_group()
    first = not dist.is_initialized() or dist.get_rank() == 0
    with _training_folder(Path(folder)) if first else nullcontext():
        yield from _train(course, Path(folder), stills, resume, device, first)


@contextmanager
def _training_folder(folder: Path) -> Iterator[None]:
    """The folder of a run, made where it is missing, for this process alone. Raises ResourceError."""
    made = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ResourceError(
            f"{folder}: cannot be written ({error.strerror}); choose a folder that can, or change its permissions"
        ) from error
    with only_process(folder, "training in it"):
        try:
            yield
        finally:
            if made and os.listdir(folder) == [".lock"]:  # it stopped before there was anything to keep
                shutil.rmtree(folder, ignore_errors=True)


def _train(
    course: Course[P], folder: Path, stills: Stills | None, resume: bool, device: str, first: bool
) -> Iterator[Training[P]]:
    where = torch.device(device)
    if device == "cuda" and "LOCAL_RANK" in os.environ:
        where = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    schedule, state, lessons = course.schedule, start(course, where), course.lessons(stills, where)
    newest, previous = folder / "checkpoint.pt", folder / "checkpoint.previous.pt"
    # Neither a damaged checkpoint nor one of the run before a restart may take the place of the last good one.
    keep = resume and resume_training(state, newest, previous)
    if first and not resume:
        previous.unlink(missing_ok=True)
    began, done = time.monotonic(), state.step
    for _ in training(schedule, state, lessons):
        if first and (state.step % schedule.checkpoint_every == 0 or state.step == schedule.steps):
            save_checkpoint(state, newest, previous if keep else None)
            keep = True
        yield state
    if not first:
        return
    state.average.eval()
    state.average.spread = lessons.spread(state.average)
    about = {
        **course.about(stills),
        "steps": state.step,
        "hours_of_this_run": round((time.monotonic() - began) / 3600, 2),
        "steps_of_this_run": state.step - done,
        "final_loss": round(sum(state.losses[-200:]) / max(1, len(state.losses[-200:])), 4),
        "recipe": asdict(schedule),
    }
    save_prior(state.average, folder / "prior.safetensors", about)
    curve = [f"{i + 1},{value:.5f}" for i, value in enumerate(state.losses)]
    with atomic_write(folder / "loss.csv") as partial:
        partial.write_text("step,loss\n" + "\n".join(curve) + "\n", "utf-8")
