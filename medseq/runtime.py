"""Where and how a restoration runs: device, precision, the prior made ready for a series, progress, seeds."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from medseq.errors import ResourceError, UsageError
from medseq.io.weights import load_prior
from medseq.memory import Task, fitting_side
from medseq.posterior import Denoiser, Samples
from medseq.prior import Prior, SpreadTable, Windowed
from medseq.tiling import Tiled

Progress = Callable[[int, int], None]

# A series of this many frames, a whole cardiac cycle, is seen at once; a longer one in windows, short to save memory.
WHOLE, WINDOW, OVERLAP = 96, 64, 16


def choose_device(name: str = "auto") -> torch.device:
    """`auto` (a GPU if there is one), `cpu` or `cuda[:n]`. UsageError for other names, ResourceError if absent."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"device {name!r} is none of auto, cpu, cuda, cuda:0, cuda:1, ...") from None
    if device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r} is none of auto, cpu, cuda, cuda:0, cuda:1, ...")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ResourceError(f"device {name!r} is not there ({torch.cuda.device_count()} GPUs found); use --device cpu")
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype | None:
    """The dtype the network computes in (None: float32). `auto`: bfloat16 where the hardware is fast at it."""
    choices: dict[str, torch.dtype | None] = {"float32": None, "bfloat16": torch.bfloat16}
    if name == "auto":
        fast = device.type == "cuda" or "AVX512" in torch.backends.cpu.get_cpu_capability()
        return torch.bfloat16 if fast else None
    if name not in choices:
        raise UsageError(f"precision {name!r} is none of auto, float32, bfloat16")
    return choices[name]


def in_windows(prior: Denoiser) -> Denoiser:
    """A prior, or anything called like one, that sees a long series in windows."""
    return Windowed(prior, WINDOW, OVERLAP, WHOLE)


class Compiled(nn.Module):
    """A network by `torch.compile`, anew for every shape that it meets; on a GPU recorded as CUDA graphs.

    The result differs by rounding, as operations are fused. Compiling takes tens of seconds, so that it pays for many
    series of one shape only. Raises ResourceError where there is no compiler (on a CPU one of C++), or it fails.
    """

    def __init__(self, net: nn.Module, device: torch.device) -> None:
        super().__init__()
        on_gpu = device.type == "cuda"
        if not on_gpu and shutil.which(os.environ.get("CXX") or "g++") is None:
            raise ResourceError("compiling the network takes a C++ compiler: install g++ (or set CXX), or do without")
        self.guides = getattr(net, "guides", 0)
        self.run = torch.compile(net, dynamic=False, mode="reduce-overhead" if on_gpu else None)

    def forward(self, x: Tensor, noise: Tensor, periodic: bool = False) -> Tensor:
        try:
            out: Tensor = self.run(x, noise, periodic)
        except torch._dynamo.exc.TorchDynamoException as error:
            words = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ResourceError(f"the network could not be compiled ({words}); do without") from error
        return out


class Engine:
    """A prior made ready for one series, and what its runs share.

    prior: a Prior, a name or path for `load_prior`, or None for the shipped one. Its attribute `prior` is that on the
    device, in the chosen precision, periodic or not, in tiles where memory is short; `denoiser` is what the sampler
    calls: the same, in windows when the series is long. compile: its network by `Compiled`. few_steps: whether this is
    what a prior of few evaluations is made for; it is refused (UsageError) for anything else.
    """

    def __init__(
        self,
        prior: Prior | str | Path | None,
        *,
        frames: int,
        periodic: bool,
        device: str,
        precision: str,
        seed: int,
        samples: int,
        steps: int,
        progress: Progress | None,
        compile: bool = False,
        few_steps: bool = False,
    ) -> None:
        if samples < 1 or steps < 1:
            raise UsageError(f"steps and samples must be at least 1, got {steps} and {samples}")
        if not 0 <= seed < 2**31:
            raise UsageError(f"the seed must be a whole number from 0 to 2^31 - 1, got {seed}")
        self.device = choose_device(device)
        loaded = prior if isinstance(prior, Prior) else load_prior(prior)
        if loaded.spread is None:
            raise UsageError("this prior has no spread table: measure it with medseq.recipe.measure_spread")
        if loaded.few and not few_steps:
            raise UsageError("a prior of few evaluations only reconstructs whole series; take one of many, as heart-3")
        net = loaded.net.to(self.device)
        ready = Prior(
            Compiled(net, self.device) if compile else net,
            loaded.sigma_data,
            loaded.spread,
            periodic=periodic and frames <= WHOLE,  # a window does not go over into itself
            autocast=choose_precision(precision, self.device),
            few=loaded.few,
        ).eval()
        self.prior = Tiled(ready)
        self._window, self._precision = (frames if frames <= WHOLE else WINDOW), ready.autocast
        self.denoiser = in_windows(self.prior)
        self.spread: SpreadTable = loaded.spread
        self.trust, self.periodic = loaded.trust, periodic
        self.seed, self.samples, self.steps = seed, samples, steps
        self._progress, self._done, self._total = progress, 0, 0

    def fit(self, task: Task, shape: tuple[int, ...]) -> None:
        """Have the prior see tiles where memory is too short for whole images; shape: (B, C, T, Y, X) of the result.

        Raises ResourceError, before anything is done, when that is not enough.
        """
        self.prior.side = fitting_side(
            task, shape, self.device, window=self._window, samples=self.samples, precision=self._precision
        )

    @property
    def kind(self) -> str:
        """What comes out: one best `image`, or the mean of several `draws`."""
        return "image" if self.samples == 1 else "draws"

    def generator(self, item: int, sample: int) -> torch.Generator:
        """Noise of one slice and sample, the same whatever else is restored beside it and on whatever device."""
        return torch.Generator().manual_seed((self.seed * 1_000_003 + item) * 1_009 + sample)

    def expect(self, evaluations: int) -> None:
        """How many calls of `tick` there will be."""
        self._total = evaluations

    def last(self, loop: Samples) -> Tensor:
        """The sample that the sampler ends with, reporting every level on the way."""
        while True:
            try:
                next(loop)  # not held while the sampler goes on
            except StopIteration as end:
                sample: Tensor = end.value
                return sample
            self.tick()

    def tick(self) -> None:
        """One evaluation of the network is done."""
        self._done += 1
        if self._progress is not None:
            self._progress(self._done, max(self._total, self._done))
