"""The classical methods of `benchmark.py`, and how each is given its best weights on the reference itself."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from medseq import Clip, KSpace, estimate_maps
from medseq import baselines as classical
from medseq.noise import estimate_noise_image, magnitude_unbias
from medseq.warmstart import classical_problem

MOST_RUNS = 9  # of one method on one case
Run = Callable[..., Tensor]


@dataclass(frozen=True)
class Method:
    """run: takes the weights, gives the image series. start: the weights to begin the search at (none: no search)."""

    name: str
    run: Run
    start: tuple[float, ...] = ()


@dataclass(frozen=True)
class Tuned:
    """The best of all runs. seconds: of that one run."""

    image: Tensor
    weights: tuple[float, ...]
    score: float
    seconds: float


def tuned(method: Method, score: Callable[[Tensor], float]) -> Tuned:
    """The method at its best weights for `score`: every weight in turn doubled and halved as long as that helps."""
    seen: dict[tuple[float, ...], float] = {}
    best: Tuned | None = None

    def attempt(weights: tuple[float, ...]) -> bool:
        nonlocal best
        if weights in seen or len(seen) >= MOST_RUNS:
            return False
        began = time.perf_counter()
        image = method.run(*weights)
        seconds = time.perf_counter() - began
        seen[weights] = score(image)
        if best is not None and seen[weights] <= best.score:
            return False
        best = Tuned(image, weights, seen[weights], seconds)
        return True

    attempt(method.start)
    assert best is not None
    for place in range(len(method.start)):
        for factor in (2.0, 0.5):
            while attempt(_scaled(best.weights, place, factor)):
                pass
    return best


def _scaled(weights: tuple[float, ...], place: int, factor: float) -> tuple[float, ...]:
    return tuple(w * factor if i == place else w for i, w in enumerate(weights))


def reconstructions(kspace: KSpace, *, equispaced: bool = False) -> list[Method]:
    """The classical reconstructions, with the maps of the k-space or, where it has none, estimated ones.

    Those that treat frames apart are for one frame only: in a simulated beating heart they are 3 to 12 dB behind.
    """
    maps = estimate_maps(kspace) if kspace.maps is None else kspace.maps
    y, A = classical_problem(kspace.data, kspace.keep, maps, kspace.trajectory)
    zeros = Method("zero-filled", partial(classical.zero_filled, y, A))
    if kspace.frames == 1:
        return [
            zeros,
            Method("SENSE", lambda r: classical.sense(y, A, regularization=r), (3e-3,)),
            Method("wavelet", lambda t: classical.wavelet(y, A, threshold=t), (3e-3,)),
            Method("TV in space", lambda w: classical.total_variation(y, A, weight=w), (3e-3,)),
        ]
    circular = kspace.period is not None
    methods = [
        zeros,
        Method("time average, frozen", partial(classical.time_average, y, A)),
        Method("k-t sparse", lambda t: classical.kt_sparse(y, A, threshold=t), (1e-3,)),
        Method("TV in time", lambda w: classical.temporal_tv(y, A, weight=w, periodic=circular), (3e-3,)),
        Method("L+S", lambda r, s: classical.low_rank_sparse(y, A, low_rank=r, sparse=s), (0.05, 1.5e-3)),
        Method("locally low rank", lambda t: classical.locally_low_rank(y, A, threshold=t), (0.02,)),
    ]
    if equispaced:
        methods.append(Method("TGRAPPA", lambda: classical.tgrappa(y, kspace.keep, maps)))
    return methods


def denoisers(noisy: Clip) -> list[Method]:
    """The classical denoisers; the level is unknown to them and estimated.

    Magnitudes lose their Rician bias afterwards, as medseq's do.
    """
    x = noisy.data
    sigma = float(estimate_noise_image(x).mean())
    magnitude = not noisy.is_complex

    def finished(image: Tensor) -> Tensor:
        return magnitude_unbias(image, sigma) if magnitude else image

    return [
        Method("noisy", lambda: x),
        Method("local PCA", lambda f: finished(classical.local_pca(x, f * sigma)), (1.0,)),
        Method("local PCA, Wiener", lambda f: finished(classical.local_pca_wiener(x, f * sigma)), (1.0,)),
        Method("TV", lambda w: finished(classical.total_variation_denoise(x, sigma, weight=w)), (0.6,)),
        Method("non-local means", lambda w: finished(classical.non_local_means(x, sigma, weight=w)), (0.6,)),
    ]


def interpolations(known: Clip, wanted: Tensor) -> list[Method]:
    """Every classical interpolation to `wanted` seconds; the Fourier one where there is a period."""
    times = torch.tensor(known.times)
    runs = {
        "linear": classical.linear_interpolation,
        "cubic": classical.cubic_interpolation,
        "optical flow": classical.optical_flow_interpolation,
    }
    if known.period is not None:
        runs["Fourier"] = classical.fourier_interpolation
    return [Method(name, partial(run, known.data, times, wanted, known.period)) for name, run in runs.items()]
