"""Training in two processes: one process with both batches, and after a kill the very weights of a run without one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
import yaml
from test_train import TINY, _weights
from torch import Tensor

from medseq.prior import Prior
from medseq.recipe import ImageLessons
from medseq.train import load_checkpoint, start, training

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without distributed")

RECIPE = Path(__file__).parent.parent / "pipelines" / "train_multi_gpu.py"
ALIKE = """
import sys, torch, torch.distributed as dist
from test_train import TINY, _weights
from medseq.train import train
for state in train(TINY, sys.argv[1]): pass
mine = _weights(state.prior); theirs = mine.clone(); dist.broadcast(theirs, 0)
assert torch.equal(mine, theirs)
dist.barrier(); dist.destroy_process_group()
"""
DYING = """
import os, runpy, signal, sys
import medseq.train as train
save = train.save_checkpoint
def dying(state, path):
    save(state, path)
    if state.step == 4:
        os.kill(os.getpid(), signal.SIGKILL)
train.save_checkpoint = dying
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def together(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a program in two processes that talk through gloo."""
    here = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])
    environment = {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    environment["CUDA_VISIBLE_DEVICES"] = ""
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=0"]
    command += ["--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run of two processes that nothing stopped; both end with the same weights."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "alike.py").write_text(ALIKE)
    done = together(folder / "alike.py", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@dataclass(frozen=True)
class Both:
    """What two processes learn from in a step, in one."""

    lessons: ImageLessons

    def loss(self, prior: Prior, number: int) -> Tensor:
        return (self.lessons.loss(prior, 2 * number) + self.lessons.loss(prior, 2 * number + 1)) / 2


def test_two_processes_learn_what_one_learns_from_both_batches(whole: Path) -> None:
    device = torch.device("cpu")
    one, two = start(TINY, device), start(TINY, device)
    for _ in training(TINY, one, Both(TINY.lessons(None, device))):
        pass
    load_checkpoint(two, whole / "checkpoint.pt")
    assert two.step == one.step == TINY.steps
    moved = (_weights(one.prior) - _weights(start(TINY, device).prior)).abs().max()
    assert (_weights(one.prior) - _weights(two.prior)).abs().max() < 1e-4 * moved
    assert (_weights(one.average) - _weights(two.average)).abs().max() < 1e-4 * moved


def test_the_recipe_goes_on_after_a_kill_to_the_same_weights(whole: Path, tmp_path: Path) -> None:
    (tmp_path / "dying.py").write_text(DYING)
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump({"recipe": {k: _plain(v) for k, v in asdict(TINY).items()}}))
    died = together(tmp_path / "dying.py", RECIPE, config, "-o", tmp_path / "run")
    assert died.returncode != 0 and not (tmp_path / "run" / "prior.safetensors").exists()
    done = together(RECIPE, config, "-o", tmp_path / "run")
    assert done.returncode == 0, done.stderr[-3000:]
    assert "trained for 6 steps of 2 batches" in done.stdout and (tmp_path / "run" / "run.json").is_file()
    for name in ("prior.safetensors", "loss.csv"):
        assert (tmp_path / "run" / name).read_bytes() == (whole / name).read_bytes()


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def test_a_fault_is_one_line(tmp_path: Path) -> None:
    words = [sys.executable, str(RECIPE), str(tmp_path / "missing.yaml"), "-o", str(tmp_path / "run")]
    failed = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert failed.returncode == 4 and failed.stderr.count("\n") == 1 and not (tmp_path / "run").exists()
