"""Operations and bytes of network and solver against what this machine does: for `benchmark_speed.py`.

The roofline (Williams, CACM 2009): a piece of intensity I (operations a byte) can do at most min(peak, I * bandwidth)
operations a second. Peaks are measured, products of matrices for operations and a triad a = b + s c for bytes. Bytes
are those of the operands of every operation, as if none stayed in a cache: what does can pass the bound.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from speed_cases import Setting, in_turns
from speed_parts import Stage, stage_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from medseq.baselines.proximal import largest_frequency, soft_spectrum
from medseq.prior import Prior

_MATRIX, _TRIAD = 2048, 2**26
_COMPLEX = 4  # real products of a complex one, each with its sum
_ELEMENTWISE = {"mul": 6, "addcmul": 8, "add": 2, "sub": 2}  # operations of a complex value, else 2


class Counted(TorchDispatchMode):
    """Counts operations and bytes of what runs within, convolutions apart from the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: Counter[str] = Counter()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.is_view or not isinstance(out, Tensor):
            return out
        name = func.overloadpacket.__name__
        kind = "convolutions" if "convolution" in name else "the rest"
        given = [arg for arg in args if isinstance(arg, Tensor)]
        self.bytes[kind] += sum(t.numel() * t.element_size() for t in {id(t): t for t in (*given, out)}.values())
        self.operations[kind] += _operations(func, name, args, kwargs or {}, out)
        return out


def _operations(func: Any, name: str, args: Any, kwargs: Any, out: Tensor) -> int:
    if func.overloadpacket in flop_registry:
        count = int(flop_registry[func.overloadpacket](*args, **kwargs, out_val=out))
        return count * (_COMPLEX if out.is_complex() else 1)
    if "fft" in name:  # the usual 5 N log2 N
        return round(5 * out.numel() * math.log2(max(2, math.prod(out.shape[axis] for axis in args[1]))))
    if name in ("copy_", "clone", "_to_copy", "empty_like", "zeros_like", "index_select", "cat", "index"):
        return 0
    return out.numel() * (_ELEMENTWISE.get(name.rstrip("_"), 2) if out.is_complex() else 1)


def peaks(setting: Setting, repeats: int, matrix: int = _MATRIX, triad: int = _TRIAD) -> dict[str, float]:
    """Operations a second in float32 and bfloat16 and bytes a second, measured."""
    a, b = (torch.randn(matrix, matrix, device=setting.device) for _ in range(2))
    low = [m.to(torch.bfloat16) for m in (a, b)]
    x, y, z = (torch.ones(triad, device=setting.device) for _ in range(3))
    runs = {
        "float32": lambda: a @ b,
        "bfloat16": lambda: low[0] @ low[1],
        "bandwidth": lambda: torch.add(x, y, alpha=2.0, out=z),
    }
    in_turns(runs, 1, setting)
    least = in_turns(runs, max(repeats, 3), setting)
    work = {"float32": 2 * matrix**3, "bfloat16": 2 * matrix**3, "bandwidth": 3 * 4 * triad}
    return {name: work[name] / least[name] for name in runs}


def roofline(setting: Setting, prior: Prior, repeats: int, found: dict[str, float]) -> list[dict[str, float | str]]:
    """Rows of convolutions, the rest of the network, normal operator and soft-thresholding; found: as of `peaks`."""
    stage = stage_of(setting, prior)
    low = "bfloat16" if stage.engine.prior.prior.autocast is not None else "float32"
    with torch.no_grad():
        rows = _network(stage, setting, repeats, low, found)
        image = stage.start.image
        amount = 1e-3 * largest_frequency(image)
        for name, run in (
            ("normal operator (DFT, coils)", partial(stage.A.normal, image)),
            ("soft-thresholding of temporal frequencies", partial(soft_spectrum, image, amount)),
        ):
            with Counted() as counted:
                run()
            time = in_turns({name: run}, repeats, setting)[name]
            rows.append(
                _row(name, sum(counted.operations.values()), sum(counted.bytes.values()), time, "float32", found)
            )
    return rows


def _network(
    stage: Stage, setting: Setting, repeats: int, precision: str, found: dict[str, float]
) -> list[dict[str, float | str]]:
    """The network alone, without its guides: the time of its convolutions is the part that a profiler gives them."""
    ready, image = stage.engine.prior.prior, stage.start.image
    channels = ready.net.channels * (1 + ready.net.guides)
    shown = torch.randn(1, channels, *image.shape[2:], device=image.device)
    noise = torch.zeros(1, image.shape[2], device=image.device)

    def run() -> None:
        with torch.autocast(image.device.type, dtype=ready.autocast, enabled=ready.autocast is not None):
            ready.net(shown, noise, True)

    with Counted() as counted:
        run()
    time = in_turns({"network": run}, repeats, setting)["network"]
    share = _share_of_convolutions(run, image.is_cuda)
    times = {"convolutions": share * time, "the rest": (1 - share) * time}
    return [
        _row(f"network: {kind}", counted.operations[kind], counted.bytes[kind], times[kind], precision, found)
        for kind in times
    ]


def _share_of_convolutions(run: Callable[[], None], on_gpu: bool) -> float:
    kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * on_gpu
    with torch.profiler.profile(activities=kinds) as seen:
        run()
    events = seen.key_averages()
    own = {e.key: e.self_device_time_total if on_gpu else e.self_cpu_time_total for e in events}
    return sum(time for key, time in own.items() if "conv" in key) / max(sum(own.values()), 1e-9)


def _row(
    name: str, operations: float, read: float, time: float, precision: str, found: dict[str, float]
) -> dict[str, float | str]:
    intensity = operations / read
    bound = min(found[precision], intensity * found["bandwidth"])
    return {
        "piece": name,
        "precision": precision,
        "GFLOP": operations / 1e9,
        "GB": read / 1e9,
        "FLOP a byte": intensity,
        "ms": 1e3 * time,
        "GFLOP/s": operations / time / 1e9,
        "bound GFLOP/s": bound / 1e9,
        "share of the bound": operations / time / bound,
        "limited by": "memory" if bound < found[precision] else "operations",
    }
