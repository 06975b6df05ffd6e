"""Convex baselines against those of SigPy and BART: each at the best of a few weights, ours is not worse."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import sigpy.mri.app
import torch
from torch import Tensor

from medseq.baselines import locally_low_rank, sense, temporal_tv, total_variation, wavelet
from medseq.metrics import nrmse
from medseq.noise import unit_noise
from medseq.operators import Coils, Fourier, LinearOp, Mask
from medseq.patterns import variable_density
from medseq.phantoms.cine import beating_heart
from medseq.simulate import coil_maps

FRAMES, SIZE = 6, (48, 40)
# Part of their error that ours may be larger by. Grids of weights are coarse, so that either may miss its best by this.
MARGIN = 0.05

Problem = tuple[Tensor, Tensor, Tensor, LinearOp]


@pytest.fixture(scope="module", params=[3, 5])
def problem(request: pytest.FixtureRequest) -> Problem:
    """Truth, its undersampled noisy k-space, the true maps, and the operator of the two."""
    truth = beating_heart(SIZE, FRAMES, torch.Generator().manual_seed(11))[None, None]
    maps = coil_maps(6, SIZE)
    mask = Mask(variable_density(FRAMES, SIZE[0], request.param, centre=6))
    A = mask @ Fourier() @ Coils(maps)
    y = A(truth)
    return truth, y + 0.01 * mask(unit_noise(y, torch.Generator().manual_seed(1))), maps, A


def least(truth: Tensor, reconstruct: Callable[[float], Tensor], weights: list[float]) -> float:
    return min(nrmse(reconstruct(weight), truth) for weight in weights)


def sigpy_frames(app: type, y: Tensor, maps: Tensor, weight: float) -> Tensor:
    """Every frame by an app of SigPy: (1, 1, T, Y, X)."""
    coils = maps[0, :, 0].numpy()
    frames = [app(frame.numpy(), coils, weight, max_iter=50, show_pbar=False).run() for frame in y[0].unbind(1)]
    return torch.from_numpy(np.stack(frames))[None, None]


def save_cfl(path: Path, array: np.ndarray) -> None:
    """BART's format: sizes in text, complex64 in column-major order."""
    path.with_suffix(".hdr").write_text(f"# Dimensions\n{' '.join(map(str, array.shape))}\n")
    path.with_suffix(".cfl").write_bytes(array.astype(np.complex64).tobytes(order="F"))


def load_cfl(path: Path) -> np.ndarray:
    sizes = path.with_suffix(".hdr").read_text().splitlines()[1].split()
    return np.fromfile(path.with_suffix(".cfl"), np.complex64).reshape([int(size) for size in sizes], order="F")


def bart_pics(folder: Path, y: Tensor, maps: Tensor, *options: str) -> Tensor:
    """`bart pics` on all frames at once: coils are its dimension 3, frames its dimension 10."""
    if shutil.which("bart") is None:
        pytest.skip("BART is not installed (Debian: apt-get install bart)")
    save_cfl(folder / "kspace", np.expand_dims(y[0].permute(2, 3, 0, 1).numpy(), (2, 4, 5, 6, 7, 8, 9)))
    save_cfl(folder / "maps", np.expand_dims(maps[0, :, 0].permute(1, 2, 0).numpy(), 2))
    # -S: at the scale of the data.
    command = ["bart", "pics", "-S", "-d0", *options, "kspace", "maps", "image"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    image = load_cfl(folder / "image").reshape(*SIZE, FRAMES)
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None, None]


def test_bart_means_the_same_by_least_squares(problem: Problem, tmp_path: Path) -> None:
    """The test of the tests: files, axes, scale and transform are understood, so that images agree, not errors only."""
    _, y, maps, A = problem
    # BART scales the data before it weighs the penalty, which least squares with the same weight do not mind.
    theirs = bart_pics(tmp_path, y, maps, "-l2", "-r", "0.01", "-i", "100")
    assert nrmse(sense(y, A, regularization=0.01, iterations=100), theirs) < 0.01


OURS = {
    "wavelet": (wavelet, "threshold", [1e-3, 2e-3, 4e-3]),
    "total variation": (total_variation, "weight", [1e-3, 2e-3, 4e-3]),
    # Time is a circle for BART. Its ADMM stops before it fits the noise; ours converges, and leaves that to the ridge.
    "temporal TV": (partial(temporal_tv, periodic=True, regularization=1e-2), "weight", [1e-3, 2e-3, 4e-3]),
    "locally low rank": (locally_low_rank, "threshold", [1e-3, 2e-3, 4e-3]),
}
SIGPY = {
    "wavelet": (sigpy.mri.app.L1WaveletRecon, [2e-3, 5e-3, 1e-2]),
    "total variation": (sigpy.mri.app.TotalVariationRecon, [1e-2, 2e-2, 4e-2]),
}
# Flags are bits of the dimensions: 3 is space, 1024 time.
BART = {
    "wavelet": (["-i", "50"], "W:3:0", [1e-3, 3e-3, 1e-2]),
    "total variation": (["-i", "100"], "T:3:0", [1e-2, 2e-2, 4e-2]),
    "temporal TV": (["-i", "100"], "T:1024:0", [1e-3, 3e-3, 1e-2]),
    "locally low rank": (["-i", "50", "-b", "8"], "L:3:3", [1e-3, 3e-3, 1e-2]),
}


def our_least(name: str, problem: Problem) -> float:
    truth, y, _, A = problem
    method, argument, weights = OURS[name]
    return least(truth, lambda weight: method(y, A, **{argument: weight}), weights)


@pytest.mark.parametrize("name", SIGPY)
def test_not_worse_than_sigpy(name: str, problem: Problem) -> None:
    truth, y, maps, _ = problem
    app, weights = SIGPY[name]
    theirs = least(truth, lambda weight: sigpy_frames(app, y, maps, weight), weights)
    assert our_least(name, problem) < (1 + MARGIN) * theirs


@pytest.mark.parametrize("name", BART)
def test_not_worse_than_bart(name: str, problem: Problem, tmp_path: Path) -> None:
    truth, y, maps, _ = problem
    options, penalty, weights = BART[name]
    theirs = least(truth, lambda weight: bart_pics(tmp_path, y, maps, *options, "-R", f"{penalty}:{weight:f}"), weights)
    assert our_least(name, problem) < (1 + MARGIN) * theirs
