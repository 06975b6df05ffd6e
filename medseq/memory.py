"""How much memory a restoration needs, and how much there is.

The law counts what is held at the peak: the results of all slices, some image series of the slice at hand, and what the
network holds for every voxel of a window of frames and a tile. Its constants were measured (docs/measurements.md).
"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Literal

import psutil
import torch

from medseq.errors import ResourceError
from medseq.measurement import CHUNK
from medseq.tiling import sides, tile_voxels

Task = Literal["reconstruct", "denoise", "interpolate"]

_COMPLEX = 8  # bytes of a value
PROGRAM = 48 << 20  # buffers of libraries, and the weights
_SERIES = {"reconstruct": 10, "denoise": 8, "interpolate": 12}  # image series held at once, of one slice
_COIL_CHUNKS = 4  # chunks of frames of all coils
_NETWORK = {torch.bfloat16: 420, None: 800}  # bytes a voxel, with its guides
_FILTER = 250  # bytes a voxel of the classical filter of denoising, which sees no tiles
_CGROUP = Path("/sys/fs/cgroup")


def needed(
    task: Task,
    shape: tuple[int, ...],
    *,
    window: int,
    samples: int = 1,
    precision: torch.dtype | None = None,
    side: int | None = None,
) -> int:
    """Bytes that restoring needs beyond its input. shape: (B, C, T, Y, X) of the result, and the coils it comes from.

    window: frames that the network sees at once. precision: that it computes in, None for float32. side: of its tiles.
    """
    slices, coils, frames, height, width = shape
    series = _COMPLEX * frames * height * width
    results = slices * series * (2 if samples == 1 else 2 + 2 * samples)
    chunk = _COMPLEX * coils * min(frames, CHUNK) * height * width * _COIL_CHUNKS if task == "reconstruct" else 0
    network = _NETWORK[precision] * window * tile_voxels((height, width), side)
    if task == "denoise":
        network = max(network, _FILTER * window * height * width)
    return PROGRAM + results + _SERIES[task] * series + chunk + network


def available(device: torch.device) -> int:
    """Bytes that this process may still take: of the GPU, or of the machine, its control group and its own limit."""
    if device.type == "cuda":
        free = torch.cuda.mem_get_info(device)[0]
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    left = [psutil.virtual_memory().available]
    for limit, used in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, now = _number(_CGROUP / limit), _number(_CGROUP / used)
        if most is not None and now is not None:
            left.append(most - now)
    most = resource.getrlimit(resource.RLIMIT_AS)[0]
    if most != resource.RLIM_INFINITY:
        left.append(most - psutil.Process().memory_info().vms)
    return max(0, min(left))


def _number(file: Path) -> int | None:
    """What a file of one number says; None when it is not there or says `max`."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def fitting_side(
    task: Task,
    shape: tuple[int, ...],
    device: torch.device,
    *,
    window: int,
    samples: int = 1,
    precision: torch.dtype | None = None,
) -> int | None:
    """The largest side of tiles with which the task fits into memory; None: without tiles.

    Raises ResourceError when it does not with the smallest ones either.
    """
    there = available(device)
    for side in sides((shape[-2], shape[-1])):
        need = needed(task, shape, window=window, samples=samples, precision=precision, side=side)
        if need <= there:
            return side
    raise ResourceError(
        f"{task} needs {need / 2**30:.1f} GiB of memory, and {there / 2**30:.1f} GiB are there; free some, or give "
        "fewer frames, slices or samples"
    )
