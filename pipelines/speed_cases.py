"""What `benchmark_speed.py` measures with: simulated cases, fair clocks and peaks of memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import medseq
from medseq import KSpace, simulate
from medseq.baselines import low_rank_sparse
from medseq.operators import LinearOp
from medseq.prior import Prior
from medseq.reconstruction import BEST_STEPS
from medseq.warmstart import classical_problem

LS_ITERATIONS = 50  # of tuned L+S; its weights change the image, not the time
# What is asked of `medseq.reconstruct` besides prior, steps, precision and device.
PRESETS: dict[str, dict[str, Any]] = {"best image": {}}


@dataclass(frozen=True)
class Setting:
    """One reconstruction: its k-space (size: Y, X) and how it is made. steps: None for the number of the preset.
    processor_time: counted in the place of the clock's, the fairer on a busy machine if there is one thread."""

    frames: int = 30
    size: tuple[int, int] = (184, 256)
    coils: int = 8
    acceleration: float = 8.0
    steps: int | None = None
    precision: str = "auto"
    device: str = "cpu"
    preset: str = "best image"
    processor_time: bool = False

    @property
    def told(self) -> dict[str, Any]:
        return asdict(self) | {"size": "x".join(map(str, self.size)), "steps": self.steps or BEST_STEPS}


def kspace_of(setting: Setting) -> KSpace:
    """A beating heart, simulated; with its coil maps, which no method then estimates."""
    truth = simulate.simulate_cine(setting.frames, setting.size, seed=1)
    maps = simulate.coil_maps(setting.coils, setting.size, seed=1)
    return replace(simulate.acquire(truth, coils=maps, acceleration=setting.acceleration, seed=1), maps=maps)


def ours(kspace: KSpace, setting: Setting, prior: Prior) -> medseq.Restored:
    return medseq.reconstruct(
        kspace,
        prior=prior,
        steps=setting.steps,
        device=setting.device,
        precision=setting.precision,
        **PRESETS[setting.preset],
    )


def classical(kspace: KSpace, device: str) -> tuple[Tensor, LinearOp]:
    """Data and operator as L+S takes them."""
    assert kspace.maps is not None
    return classical_problem(kspace.data.to(device), kspace.keep.to(device), kspace.maps.to(device))


def theirs(y: Tensor, A: LinearOp, iterations: int = LS_ITERATIONS) -> Tensor:
    return low_rank_sparse(y, A, iterations=iterations)


def in_turns(runs: Mapping[str, Callable[[], object]], repeats: int, setting: Setting) -> dict[str, float]:
    """Least seconds of each run. They take turns, so that what else the machine does meets them alike."""
    least = dict.fromkeys(runs, float("inf"))
    for _ in range(repeats):
        for name, run in runs.items():
            least[name] = min(least[name], seconds(run, setting))
    return least


def seconds(run: Callable[[], object], setting: Setting) -> float:
    clock = time.process_time if setting.processor_time else time.perf_counter
    _finish(setting.device)
    began = clock()
    run()
    _finish(setting.device)
    return clock() - began


def peak_memory(run: Callable[[], object], device: str) -> int:
    """Bytes that a run takes beyond what was held before: of the process on a CPU, of the allocator on a GPU."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        return torch.cuda.max_memory_allocated() - before
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = _resident("VmRSS")
    run()
    return _resident("VmHWM") - before


def _finish(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _resident(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) << 10
