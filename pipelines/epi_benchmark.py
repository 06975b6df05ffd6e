"""BOLD from undersampled EPI k-space: amplitudes kept, aliases left, noise against the g-factor, in one command.

    MEDSEQ_DATA=... python pipelines/epi_benchmark.py -o runs/epi [--accelerations 2 3] [--seed 0]

A simulated run (`medseq.phantoms.bold.bold_run`) is acquired through 16 of 32 measured coil maps (simulated ones
without MEDSEQ_DATA), fully and with every R-th line, the same in every frame (with a calibration scan) or shifted. Maps
are estimated. Every method reconstructs the series with activation and without it, of one and the same noise.

bias: GLM(f(x + a)) - GLM(f(x)) in active voxels, over the same of the fully sampled run, less 1. outside: the 99th
percentile over quiet tissue of what that differs by there, in percent of the signal (the activation is up to 2).
static: the 95th percentile over the tissue of the error of the mean image. t: median of the t value in active voxels
over that of full sampling, and what 1 / (g sqrt R) would leave of it were all errors thermal. noise: that of a still
object over the closed form of SENSE, sigma g sqrt R with the true maps: median, and 5th to 95th percentile over the
tissue.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from benchmark_cases import real_maps
from torch import Tensor

from medseq import Clip, KSpace, baselines
from medseq.acquisition import whitened
from medseq.activation import design_matrix, glm
from medseq.bold import tissue_mask
from medseq.bold_kspace import reconstruct_bold
from medseq.phantoms.bold import Effects, block_design, bold_run
from medseq.phantoms.epi import g_factor
from medseq.report.sheet import contact_sheet
from medseq.simulate import acquire_epi, head_coil_maps, scanner_affine
from medseq.warmstart import sense_operator

SIZE, SLICES, FRAMES, TR = (64, 64), 3, 60, 2.0
CHANGE, NOISE, COILS = 0.02, 0.01, 16
ACTIVE = 0.005  # signal change of voxels that count as active
Method = Callable[[KSpace], Clip]


@dataclass(frozen=True)
class Scene:
    """rest, task: the series without noise and its activation, complex. active, tissue: bool (B, 1, 1, Y, X)."""

    rest: Clip
    task: Clip
    active: Tensor
    tissue: Tensor
    maps: Tensor


def scene(seed: int, data: str | None) -> Scene:
    g = torch.Generator().manual_seed(seed)
    run = bold_run(SIZE, SLICES, FRAMES, TR, g, change=CHANGE, effects=Effects(noise=0, varied=False))
    turn = torch.polar(torch.ones_like(run.mean), run.phase)[:, None, None]
    activation = torch.einsum("rbyx,rbt->btyx", run.activation, run.response) * run.mean[:, None]
    affine = scanner_affine(SIZE, SLICES, (run.voxel[2], run.voxel[1], run.voxel[0]))
    times = np.arange(FRAMES) * TR
    rest, task = (Clip(1000 * x[:, None] * turn, affine, times) for x in (run.clean - activation, run.clean))
    maps = real_maps(Path(data), SIZE, COILS) if data else head_coil_maps(rest, COILS, seed)
    active = run.activation.sum(0)[:, None, None] > ACTIVE
    return Scene(rest, task, active, tissue_mask(task.data), maps)


def each_slice(kspace: KSpace, solve: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]) -> Clip:
    """Slices one after the other: solve(y, keep, maps, calibration lines)."""
    white, _, _ = whitened(kspace)
    assert white.maps is not None
    found = []
    for b in range(SLICES):
        lines = None
        if white.calibration is not None:
            scan = white.calibration[b : b + 1]
            lines = scan[..., (scan != 0).any(-1)[0, 0, 0], :]
        found.append(solve(white.data[b : b + 1], white.keep, white.maps[b : b + 1], lines))
    return Clip(torch.cat(found), kspace.affine, kspace.times)


def by_sense(kspace: KSpace) -> Clip:
    def solve(y: Tensor, keep: Tensor, maps: Tensor, _: Tensor | None) -> Tensor:
        return baselines.sense(y, sense_operator(keep, maps), regularization=1e-3, iterations=30)

    return each_slice(kspace, solve)


def by_grappa(kspace: KSpace) -> Clip:
    """TGRAPPA where lines shift."""

    def solve(y: Tensor, keep: Tensor, maps: Tensor, lines: Tensor | None) -> Tensor:
        if lines is None:
            return baselines.tgrappa(y, keep, maps)
        return baselines.grappa(y, keep, maps, calibration=lines)

    return each_slice(kspace, solve)


METHODS: dict[str, Method] = {
    "SENSE, frame by frame": by_sense,
    "GRAPPA / TGRAPPA": by_grappa,
    "**medseq, bold**": lambda kspace: reconstruct_bold(kspace).clip,
    "**medseq, bold, denoised**": lambda kspace: reconstruct_bold(kspace, denoise=True).clip,
}


@dataclass(frozen=True)
class Result:
    """Maps (B, 1, 1, Y, X). change: of the signal by the task, in percent. t: of the task. mean: magnitude. noise: std
    of a still object."""

    change: Tensor
    t: Tensor
    mean: Tensor
    noise: Tensor


def result(it: Scene, method: Method, acceleration: int, shifted: bool, seed: int) -> Result:
    still = replace(it.rest, data=it.rest.data.mean(2, keepdim=True).expand_as(it.rest.data))
    design = design_matrix(block_design(FRAMES, TR), TR)
    options = {"coils": it.maps, "acceleration": acceleration, "noise": NOISE, "shifted": shifted, "seed": seed}
    rest, task, alone = (method(acquire_epi(clip, **options)).data.abs() for clip in (it.rest, it.task, still))
    with_task, without = glm(task, design), glm(rest, design)
    change = with_task.percent - without.percent
    return Result(change, with_task.t, task.mean(2, keepdim=True), alone.std(2, keepdim=True))


def figures(it: Scene, found: Result, full: Result, acceleration: int) -> dict[str, str]:
    quiet, active = it.tissue & ~it.active, it.active & it.tissue
    slope = (found.change * full.change)[active].sum() / full.change[active].square().sum()
    outside = (found.change - full.change)[quiet].abs().quantile(0.99)
    static = ((found.mean - full.mean).abs() / full.mean)[it.tissue].quantile(0.95)
    support = it.tissue[:, 0, 0]
    maps = it.maps[:, :, 0].movedim(1, 0).expand(-1, SLICES, -1, -1)
    g = g_factor(maps, support, float(acceleration), 1)[:, None, None] if acceleration > 1 else torch.ones(1)
    theory = g * acceleration**0.5 * full.noise[it.tissue].median()
    ratio = (found.noise / theory)[it.tissue]
    low, middle, high = ratio.quantile(torch.tensor([0.05, 0.5, 0.95])).tolist()
    expected = (1 / (g * acceleration**0.5)).expand_as(it.tissue)[active].median()
    return {
        "bias": f"{100 * (float(slope) - 1):+.1f} %",
        "outside": f"{float(outside):.2f} %",
        "static": f"{100 * float(static):.1f} %",
        "t": f"{float((found.t / full.t)[active].median()):.2f} ({float(expected):.2f})",
        "noise": f"{middle:.2f} ({low:.2f} to {high:.2f})",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--accelerations", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    chosen.output.mkdir(parents=True, exist_ok=True)
    it = scene(chosen.seed, os.environ.get("MEDSEQ_DATA"))
    full = result(it, METHODS["**medseq, bold**"], 1, True, chosen.seed)
    rows, pictures = [], [("fully sampled", picture(full, full))]
    for acceleration in chosen.accelerations:
        for shifted in (False, True):
            for name, method in METHODS.items():
                found = result(it, method, acceleration, shifted, chosen.seed)
                values = figures(it, found, full, acceleration)
                lines = "shifted" if shifted else "the same"
                rows.append({"R": str(acceleration), "lines": lines, "method": name, **values})
                print(rows[-1], flush=True)
                pictures.append((f"R = {acceleration}, {lines}, {name}", picture(found, full)))
    contact_sheet(pictures, chosen.output / "epi.png", frames=4)
    head = list(rows[0])
    table = [head, ["---"] * len(head), *(list(row.values()) for row in rows)]
    text = "\n".join("| " + " | ".join(cells) + " |" for cells in table)
    (chosen.output / "epi.md").write_text(text + "\n", "utf-8")


def picture(found: Result, full: Result) -> np.ndarray:
    """Of the middle slice: mean, 10 times its error, noise, and activation up to 3 %; white is 1."""
    b = SLICES // 2
    brightest = float(full.mean[b].max())
    shown = [
        found.mean / brightest,
        10 * (found.mean - full.mean).abs() / brightest,
        found.noise / (4 * float(full.noise[b].median())),
        found.change.abs() / 3,
    ]
    return torch.stack([one[b, 0, 0].float() for one in shown]).numpy()


if __name__ == "__main__":
    main()
