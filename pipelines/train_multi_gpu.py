"""Train a prior on several GPUs: every process learns from batches of its own, and gradients are averaged.

    torchrun --standalone --nproc-per-node=4 --max-restarts=0 pipelines/train_multi_gpu.py CONFIG.yaml -o runs/heart

A step sees as many batches as there are processes; `steps` and `learning_rate` of the configuration stay as they are.
After whatever stopped it, the same line goes on from the last checkpoint, to the same weights bit for bit as long as
the number of processes stays. Leave restarts in place off: what survives a dead process waits for it for ever.
Without a GPU the processes run on the CPU; without torchrun it is one process, as `medseq train`.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from medseq import MedseqError
from medseq.config import load_config
from medseq.provenance import RunRecord

TOLD = 100  # steps between two lines


def run(config: Path, output: Path) -> None:
    """Train, or train on; the first process tells of it, and writes what there is to write."""
    first, processes = os.environ.get("RANK", "0") == "0", int(os.environ.get("WORLD_SIZE", "1"))
    record = RunRecord("train_multi_gpu", {"processes": processes})
    record.add_input(config)
    settings = load_config(config)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with record.timed("train"):
        for step in settings.train(output, settings.load_stills(), resume=True, device=device):
            if first and step % TOLD == 0:
                print(f"step {step} of {settings.steps}, {record.elapsed:.0f} s", flush=True)
    if first:
        record.save(output / "run.json")
        print(f"{output}: trained for {settings.steps} steps of {processes} batches")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path, help="YAML file; configs/ holds presets")
    parser.add_argument("-o", "--output", type=Path, required=True, help="folder for checkpoints and weights")
    options = parser.parse_args()
    try:
        run(options.config, options.output)
    except MedseqError as fault:
        print(fault, file=sys.stderr)
        return fault.exit_code
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    sys.exit(main())
