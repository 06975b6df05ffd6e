"""Where a reconstruction spends its time, and how cost grows: for `benchmark_speed.py`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from speed_cases import LS_ITERATIONS, Setting, classical, in_turns, kspace_of, ours, seconds, theirs
from torch import Tensor

from medseq import KSpace
from medseq.acquisition import average_image, prepared
from medseq.coils import estimate_maps
from medseq.gathering import checked_scale, spread_of
from medseq.guides import guides
from medseq.measurement import Measurement
from medseq.operators import LinearOp
from medseq.prior import Prior
from medseq.reconstruction import BEST_STEPS, BETWEEN_LEVELS, SOLVE_ITERATIONS, SOLVE_TOLERANCE
from medseq.runtime import Engine
from medseq.warmstart import Start, sense_operator, warm_start

_GROWTH = (1.0, 2.0, 4.0)  # of frames and voxels
_COILS = (3, 6, 12)  # more are compressed


@dataclass(frozen=True)
class Stage:
    """What a reconstruction of one slice holds when its first evaluation is due."""

    engine: Engine
    kspace: KSpace
    y: Tensor
    A: LinearOp
    sigma: float
    start: Start
    begin: Callable[[], Start]

    @property
    def measurement(self) -> Measurement:
        return Measurement(self.y, self.A, self.sigma, iterations=SOLVE_ITERATIONS, tolerance=SOLVE_TOLERANCE)


def stage_of(setting: Setting, prior: Prior) -> Stage:
    kspace = kspace_of(setting)
    engine = Engine(
        prior,
        frames=kspace.frames,
        periodic=True,
        device=setting.device,
        precision=setting.precision,
        seed=0,
        samples=1,
        steps=setting.steps or BEST_STEPS,
        progress=None,
    )
    ready = prepared(kspace)
    scale = checked_scale(average_image(ready.average))
    made, keep, maps = ready.slice(0, engine.device, scale)
    y, sigma = made.frames(slice(0, kspace.frames)), ready.level / scale
    begin = partial(warm_start, y, keep, maps, sigma, 0, periodic=True)
    return Stage(engine, kspace, y, sense_operator(keep, maps), sigma, begin(), begin)


def profile(setting: Setting, prior: Prior, repeats: int) -> list[dict[str, float | str]]:
    """Seconds of each part of a reconstruction, how often it runs, its share of the whole, and what is left over.

    Parts are timed by themselves on the data that the whole has. The network has one evaluation more than steps where
    the prior says what mismatch to expect.
    """
    stage = stage_of(setting, prior)
    engine, image, error = stage.engine, stage.start.image, stage.start.error
    level = torch.full((1, 1, image.shape[2], 1, 1), error, device=image.device)
    steps = engine.steps
    evaluations = steps + bool(engine.trust.expected)
    solver, go_on = stage.measurement, stage.start.go_on
    assert go_on is not None
    timed = partial(in_turns, repeats=repeats, setting=setting)
    with torch.no_grad():
        least = timed(
            {
                "whole": partial(ours, stage.kspace, setting, prior),
                "whitening": partial(prepared, stage.kspace),
                "warm start": stage.begin,
                "classical iterations between": partial(go_on, image, BETWEEN_LEVELS),
                "evaluation": partial(engine.denoiser, image, error),
                "guides": partial(guides, image, level, engine.periodic),
                "solve": partial(solver.solve, image, spread_of(engine)(error)),
                "normal operator": partial(stage.A.normal, image),
                "coil maps": partial(estimate_maps, replace(prepared(stage.kspace).average, maps=None)),
                "to the device and back": lambda: stage.kspace.data.to(engine.device).cpu(),
            }
        )
    parts = [
        ("network", least["evaluation"] - least["guides"], evaluations),
        ("guides of the network", least["guides"], evaluations),
        ("conjugate gradients, stopped by themselves", least["solve"], steps),
        ("warm start", least["warm start"], 1),
        ("classical iterations between levels", least["classical iterations between"], steps - 1),
        ("whitening and average", least["whitening"], 1),
    ]
    rows: list[dict[str, float | str]] = [
        {"part": name, "ms a call": 1e3 * s, "calls": calls, "share": s * calls / least["whole"]}
        for name, s, calls in parts
    ]
    rows.append({"part": "left over", "ms a call": 0.0, "calls": 1, "share": 1 - sum(float(r["share"]) for r in rows)})
    rows.append({"part": "whole", "ms a call": 1e3 * least["whole"], "calls": 1, "share": 1.0})
    # One of the solver's or of the iterations' many; only where maps are not given; only of a GPU.
    for name in ("normal operator", "coil maps", "to the device and back"):
        rows.append({"part": f"besides: {name}", "ms a call": 1e3 * least[name], "calls": 1, "share": 0.0})
    return rows


def launches(setting: Setting, prior: Prior) -> int:
    """Kernels that one reconstruction launches on a GPU."""
    kspace = kspace_of(setting)
    ours(kspace, setting, prior)
    kinds = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=kinds) as seen:
        ours(kspace, setting, prior)
    return sum(event.count for event in seen.key_averages() if "LaunchKernel" in event.key)


def exponents(setting: Setting, prior: Prior, repeats: int) -> list[dict[str, float | str]]:
    """Slopes of log seconds over log frames, voxels and coils, all in one run and in turns."""
    frames = [replace(setting, frames=round(setting.frames * f)) for f in _GROWTH]
    voxels = [replace(setting, size=_grown(setting.size, f**0.5)) for f in _GROWTH]
    coils = [replace(setting, coils=c) for c in _COILS]
    rows: list[dict[str, float | str]] = []
    for axis, settings, amounts in (
        ("frames", frames, [s.frames for s in frames]),
        ("voxels", voxels, [s.size[0] * s.size[1] for s in voxels]),
        ("coils", coils, [s.coils for s in coils]),
    ):
        runs = [_of_growth(s, prior) for s in settings]
        least = [dict.fromkeys(runs[0], float("inf")) for _ in runs]
        for _ in range(repeats):
            for s, run, found in zip(settings, runs, least, strict=True):
                for name, one in run.items():
                    found[name] = min(found[name], seconds(one, s))
        for name in runs[0]:
            times = [found[name] for found in least]
            told = {"at": ", ".join(map(str, amounts)), "seconds": ", ".join(f"{t:.3g}" for t in times)}
            rows.append({"of": name, "over": axis, "exponent": slope(amounts, times)} | told)
    return rows


def _of_growth(setting: Setting, prior: Prior) -> dict[str, Callable[[], object]]:
    stage = stage_of(setting, prior)
    y, A = classical(stage.kspace, setting.device)
    solver = stage.measurement
    return {
        f"L+S, a tenth of {LS_ITERATIONS} iterations": partial(theirs, y, A, LS_ITERATIONS // 10),
        "solver": partial(solver.solve, stage.start.image, spread_of(stage.engine)(stage.start.error)),
        "reconstruction": partial(ours, stage.kspace, setting, prior),
    }


def slope(amounts: list[int], times: list[float]) -> float:
    """Least squares of log times = exponent * log amounts + constant."""
    return float(np.polyfit(np.log(amounts), np.log(times), 1)[0])


def _grown(size: tuple[int, int], factor: float) -> tuple[int, int]:
    """Sides that many times as long, to the nearest multiple of 8."""
    height, width = (8 * round(side * factor / 8) for side in size)
    return height, width
