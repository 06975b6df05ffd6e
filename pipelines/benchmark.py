"""Real hearts, simulated acquisition: medseq beside the classical methods, in one run and through the command line.

    MEDSEQ_DATA=... python pipelines/benchmark.py -o runs/benchmark [--prior PATH] [--acceleration 8] [--samples 8]

Real human cine magnitude (`cine_acdc`), 8 of 32 real coil maps, a smooth random phase, complex noise of 1 % of the
99th percentile in each channel, a variable-density k-t mask with 8 central lines. The k-space is written as ISMRMRD and
reconstructed by `medseq reconstruct`. All figures are at fixed scale against the noise-free series.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import torch
from scipy.io import loadmat
from torch import Tensor

from medseq import Clip, KSpace, estimate_maps, load_clip, save_clip, save_kspace
from medseq.baselines import kt_sparse, linear_interpolation, low_rank_sparse, time_average, zero_filled
from medseq.cli import main as medseq
from medseq.metrics import dynamic_region, nrmse, psnr, rank_correlation, ssim, temporal_spectrum_error
from medseq.simulate import acquire
from medseq.warmstart import ITERATIONS, sense_operator

Row = dict[str, float | str]


def real_cine(data: Path) -> Clip:
    """30 magnitude frames 184 x 256 of a human short-axis cine, scaled to about 1, with a smooth random phase.

    The file has no geometry: 1.4 mm pixels and a cycle of 0.9 s are assumed.
    """
    frames = loadmat(data / "cine_acdc" / "demo_data.mat")["demo_data"].astype(np.float32) / 255
    magnitude = torch.from_numpy(frames).permute(2, 0, 1)[None, None]
    g = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 1, 4, 4, generator=g)
    phase = torch.nn.functional.interpolate(coarse, size=magnitude.shape[-2:], mode="bicubic")[:, :, None]
    affine = np.diag([1.4, 1.4, 8.0, 1.0])
    return Clip(torch.polar(magnitude, phase.expand_as(magnitude)), affine, np.arange(30) * 0.03, 0.9)


def real_maps(data: Path, size: tuple[int, int], coils: int = 8) -> Tensor:
    """(1, coils, 1, Y, X): evenly chosen of 32 measured coil maps, resized and scaled to unit root-sum-of-squares."""
    with h5py.File(data / "coils" / "sens.mat") as file:
        stored = next(v for v in file.values() if isinstance(v, h5py.Dataset))[:]
    maps = torch.from_numpy(stored["real"] + 1j * stored["imag"]).to(torch.complex64)
    coil_axis = maps.shape.index(32)
    maps = maps.movedim(coil_axis, 0).reshape(32, 64, 64)[:: 32 // coils, 12:52, 12:52]
    resized = [torch.nn.functional.interpolate(p[:, None], size=size, mode="bilinear") for p in (maps.real, maps.imag)]
    full = torch.complex(*resized).movedim(1, 2)
    full = full / full.abs().square().sum(0, keepdim=True).sqrt()
    return full[None, :, :, :, :].reshape(1, coils, 1, *size)


@dataclass
class Case:
    """What is known of one acquisition: the truth, the k-space, and where things move."""

    truth: Clip
    kspace: KSpace
    region: Tensor

    @staticmethod
    def make(data: Path, acceleration: float, seed: int) -> Case:
        truth = real_cine(data)
        maps = real_maps(data, (truth.data.shape[-2], truth.data.shape[-1]))
        kspace = acquire(truth, coils=maps, acceleration=acceleration, noise=0.01, seed=seed)
        return Case(truth, kspace, dynamic_region(truth.data))

    def score(self, method: str, result: Tensor, seconds: float) -> Row:
        """Magnitudes are compared: the phase of a reconstruction depends on the reference that its coil maps choose."""
        a, b = result.abs(), self.truth.data.abs()
        return {
            "method": method,
            "PSNR heart": psnr(a, b, self.region),
            "PSNR whole": psnr(a, b),
            "NRMSE heart": nrmse(a, b, self.region),
            "SSIM heart": ssim(a, b, self.region),
            "temporal spectrum error": temporal_spectrum_error(a, b, self.region),
            "seconds": seconds,
        }


def reconstruction_table(case: Case, folder: Path, options: list[str], samples: int) -> list[Row]:
    """Classical methods with estimated maps, then the command line on the ISMRMRD file of the same k-space."""
    raw, image = folder / "raw.h5", folder / "reconstruction.nii.gz"
    save_kspace(case.kspace, raw)
    save_clip(case.truth, folder / "truth.nii.gz")
    maps = estimate_maps(case.kspace)
    A, y = sense_operator(case.kspace.keep, maps), case.kspace.data
    grid = [(r, s) for r in (0.02, 0.05, 0.1) for s in (7e-4, 1.5e-3, 4e-3)]
    methods: dict[str, Callable[[], Tensor]] = {
        "zero-filled": lambda: zero_filled(y, A),
        "time average, frozen": lambda: time_average(y, A),
        "k-t sparse": lambda: kt_sparse(y, A),
        "L+S (the warm start)": lambda: low_rank_sparse(y, A, iterations=ITERATIONS),
    }
    rows = [_timed(case, name, method) for name, method in methods.items()]
    tuned = [
        _timed(case, "L+S tuned on the reference", lambda r=r, s=s: low_rank_sparse(y, A, low_rank=r, sparse=s))
        for r, s in grid
    ]
    tuned += [
        _timed(case, "k-t sparse tuned on the reference", lambda t=t: kt_sparse(y, A, threshold=t))
        for t in (5e-4, 1e-3, 2e-3, 4e-3)
    ]
    for name in ("L+S tuned on the reference", "k-t sparse tuned on the reference"):
        rows.append(max((row for row in tuned if row["method"] == name), key=lambda row: float(row["PSNR heart"])))
    rows.append(_command(case, "medseq reconstruct", [str(raw), "-o", str(image), *options], image))
    if samples > 1:
        mean = folder / "draws.nii.gz"
        words = [str(raw), "-o", str(mean), "--samples", str(samples), *options]
        row = _command(case, f"medseq reconstruct --samples {samples}", words, mean)
        std = load_clip(folder / "draws_std.nii.gz").data
        error = (load_clip(mean).data.abs() - case.truth.data.abs()).abs()
        row["Spearman of std and error, heart"] = rank_correlation(std, error, case.region)
        row["Spearman of std and error, whole"] = rank_correlation(std, error)
        rows.append(row)
    return rows


def interpolation_table(case: Case, folder: Path) -> list[Row]:
    """Every second frame removed; only the removed frames are scored."""
    truth = case.truth.with_data(case.truth.data.abs())
    halved = replace(truth, data=truth.data[:, :, ::2], times=truth.times[::2])
    source, result = folder / "halved.nii.gz", folder / "interpolated.nii.gz"
    save_clip(halved, source)
    missing = Case(replace(truth, data=truth.data[:, :, 1::2], times=truth.times[1::2]), case.kspace, case.region)
    times = [torch.from_numpy(np.array(t)) for t in (halved.times, truth.times[1::2])]
    linear = _timed(missing, "linear", lambda: linear_interpolation(halved.data, *times, truth.period))
    began = time.perf_counter()
    if medseq(["interpolate", str(source), "-o", str(result), "--factor", "2"]):
        raise SystemExit("medseq interpolate failed")
    ours = load_clip(result).data[:, :, 1::2]
    return [linear, missing.score("medseq interpolate", ours, time.perf_counter() - began)]


def denoising_table(case: Case, folder: Path) -> list[Row]:
    """5 % complex noise, known to nobody."""
    g = torch.Generator().manual_seed(1)
    noise = torch.randn(case.truth.data.shape, generator=g, dtype=torch.complex64) * 2**0.5
    noisy = case.truth.with_data(case.truth.data + 0.05 * noise)
    source, result = folder / "noisy.nii.gz", folder / "denoised.nii.gz"
    save_clip(noisy, source)
    return [
        case.score("noisy", noisy.data, 0.0),
        _command(case, "medseq denoise", [str(source), "-o", str(result)], result, task="denoise"),
    ]


def _timed(case: Case, name: str, method: Callable[[], Tensor]) -> Row:
    began = time.perf_counter()
    result = method()
    return case.score(name, result, time.perf_counter() - began)


def _command(case: Case, name: str, words: list[str], result: Path, task: str = "reconstruct") -> Row:
    began = time.perf_counter()
    if medseq([task, *words]):
        raise SystemExit(f"{name} failed")
    return case.score(name, load_clip(result).data, time.perf_counter() - began)


def markdown(rows: list[Row]) -> str:
    """A table of all the columns that any row has."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in rows:
        cells = [row.get(c, "") for c in columns]
        lines.append("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--acceleration", type=float, default=8.0)
    parser.add_argument("--samples", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--prior")
    chosen = parser.parse_args()
    if "MEDSEQ_DATA" not in os.environ:
        raise SystemExit("set MEDSEQ_DATA to the folder that holds cine_acdc and coils")
    chosen.output.mkdir(parents=True, exist_ok=True)
    case = Case.make(Path(os.environ["MEDSEQ_DATA"]), chosen.acceleration, chosen.seed)
    options = ["--prior", chosen.prior] if chosen.prior else []
    tables = {
        f"reconstruction, R = {chosen.acceleration:g}": reconstruction_table(
            case, chosen.output, options, chosen.samples
        ),
        "interpolation, every second frame removed": interpolation_table(case, chosen.output),
        "denoising, 5 % complex noise": denoising_table(case, chosen.output),
    }
    text = "\n\n".join(f"### {title}\n\n{markdown(rows)}" for title, rows in tables.items())
    (chosen.output / "benchmark.md").write_text(text + "\n", "utf-8")
    (chosen.output / "benchmark.json").write_text(json.dumps(tables, indent=1), "utf-8")
    print(text)


if __name__ == "__main__":
    main()
