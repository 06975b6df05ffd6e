"""The same seed, device and number of threads give the same bytes, in whatever process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from cli_shelf import command

from medseq.io import load_clip

TASKS = {
    "denoise": "cine.nii.gz --sigma 3",
    "interpolate": "cine.nii.gz",
    "reconstruct": "raw.h5",
}
FRESH = "import sys; from medseq.cli import main; sys.exit(max(main(line.split()) for line in sys.argv[1:]))"


def line(task: str, output: str, seed: int = 4) -> str:
    options = f"--samples 2 --steps 3 --seed {seed} --device cpu --prior tiny.safetensors"
    return f"{task} {TASKS[task]} -o {output}/{task}.nii.gz {options}"


def images(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.nii.gz"))}


@pytest.fixture
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def test_three_tasks_give_the_same_bytes_in_another_process(here, one_thread) -> None:
    for task in TASKS:
        assert command(line(task, "mine")) == 0
        assert command(line(task, "other", 5)) == 0
    one = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    fresh = [line(task, "theirs") for task in reversed(TASKS)]  # nor does what ran before matter
    subprocess.run([sys.executable, "-c", FRESH, *fresh], env=one, check=True, capture_output=True)
    mine = images("mine")
    assert len(mine) == 6 and mine == images("theirs")  # a mean and a std each
    assert all(mine[name] != data for name, data in images("other").items())


@pytest.mark.parametrize("task", TASKS)
def test_threads_change_little(here, one_thread, task) -> None:
    """Sums are taken in another order, and conjugate gradients may stop an iteration earlier or later."""
    assert command(line(task, "one")) == 0
    torch.set_num_threads(2)
    assert command(line(task, "two")) == 0
    one, two = (load_clip(f"{folder}/{task}.nii.gz").data.numpy() for folder in ("one", "two"))
    print(f"{task}: {np.abs(two - one).max() / one.max():.1e} of the largest value")
    np.testing.assert_allclose(two, one, atol=1e-3 * float(one.max()), rtol=0)
