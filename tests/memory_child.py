"""How much memory a reconstruction takes, in a process of its own: prints JSON, in bytes. Or runs a command in little.

memory_child.py FRAMES SIZE COILS STEPS        peak, input and output of one reconstruction
memory_child.py --left MIB ARGUMENT...         `medseq ARGUMENT...` with MIB of address space to go, unsuspecting
"""

from __future__ import annotations

import json
import resource
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import psutil
import torch

from medseq import memory, reconstruction
from medseq.cli import main
from medseq.clip import KSpace
from medseq.simulate import acquire, simulate_cine


def scan(frames: int, size: int, coils: int) -> KSpace:
    """Real-time k-space of a few beats, which are alike."""
    beat = simulate_cine(min(frames, 16), (size, size), seed=1)
    clip = replace(beat, data=beat.data[:, :, torch.arange(frames) % beat.frames], times=None, period=None)
    return acquire(clip, coils=coils, acceleration=4, seed=1)


def measured(frames: int, size: int, coils: int, steps: int) -> dict[str, int]:
    reconstruction.reconstruct(scan(4, 32, 2), steps=1)  # what libraries allocate once
    before = psutil.Process().memory_info().rss
    kspace = scan(frames, size, coils)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    done = reconstruction.reconstruct(kspace, steps=steps)
    status = Path("/proc/self/status").read_text().splitlines()
    peak = int(next(line for line in status if line.startswith("VmHWM")).split()[1]) << 10
    tensors = [done.clip.data] if done.std is None else [done.clip.data, done.std.data]
    return {
        "peak": peak - before,
        "input": kspace.data.numel() * 8,
        "output": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
        "series": frames * size * size * 8,
    }


def limited(left: int, arguments: list[str]) -> int:
    memory.available = lambda device: 1 << 50
    reconstruction.reconstruct(scan(4, 32, 2), steps=1)
    limit = psutil.Process().memory_info().vms + (left << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    return main(arguments)


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "--left":
        sys.exit(limited(int(sys.argv[2]), sys.argv[3:]))
    warnings.simplefilter("ignore")
    frames, size, coils, steps = map(int, sys.argv[1:])
    print(json.dumps(measured(frames, size, coils, steps)))
