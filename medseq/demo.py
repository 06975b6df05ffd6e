"""The main job on a sample series whose truth is known: reconstruct, denoise, interpolate, compare, draw.

The sample is simulated, so that anybody can check it; it flatters every method that learned from simulations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medseq import terminal
from medseq.baselines import linear_interpolation, low_rank_sparse, time_average, zero_filled
from medseq.clip import Clip, KSpace, series_scale
from medseq.coils import estimate_maps
from medseq.io import load_clip, load_kspace, save_clip
from medseq.io.weights import weights_path
from medseq.metrics import dynamic_region, psnr
from medseq.noise import unit_noise
from medseq.provenance import RunRecord
from medseq.reconstruction import reconstruct
from medseq.report.blocks import Section, Table
from medseq.report.compared import Version, compared
from medseq.report.figures import Panel, montage, movie
from medseq.report.restored import attempt_report
from medseq.restore import denoise, interpolate
from medseq.warmstart import sense_operator

SAMPLE = Path(__file__).parent.parent / "sample_data"
# What sample_data/README.md makes the sample with.
_FRAMES, _SIZE = 20, (104, 104)
# Noise of the series to be denoised, relative to its scale.
_NOISE = 0.05
# Of the methods the one that needs no film: it stands still.
_UNSHOWN = "time average, frozen"
_HEART = "Heart: the region that moves. Interpolation is judged in the frames that had been left out."
_SIMULATED = "The sample is simulated, which flatters every method that learned from simulations."
_LEADS = {
    "reconstruct": f"From 8-fold undersampled k-space of 8 coils. {_SIMULATED}",
    "denoise": f"Noise of {100 * _NOISE:.0f} % added to the reference. {_SIMULATED}",
    "interpolate": f"Every second frame left out and filled in again. {_SIMULATED}",
}


@dataclass(frozen=True)
class Score:
    """PSNR in dB of one method at one task: of the whole image, and of the heart (the region that moves)."""

    task: str
    method: str
    whole: float
    heart: float


# The scores of one task, and what makes its part of the report.
Task = tuple[list[Score], Callable[[], Section]]


def run_demo(folder: Path, record: RunRecord, *, device: str = "auto") -> list[Score]:
    """Restore the sample series into `folder`: NIfTI series, PNG montages, WebP movies, and `report.html`.

    Returns the table of scores. The sample comes from the checkout, else the same one is simulated. Inputs and timings
    go to `record`.
    """
    record.add_model(weights_path())
    kspace, truth = _sample(record)
    truth = truth.with_data(truth.data.abs())
    heart = dynamic_region(truth.data)
    save_clip(truth, folder / "reference.nii.gz")
    tasks = [
        _reconstruct(folder, record, kspace, truth, heart, device),
        _denoise(folder, record, truth, heart, device),
        _interpolate(folder, record, truth, heart, device),
    ]
    attempt_report(folder / "report.html", "medseq demo", record, lambda: [section() for _, section in tasks])
    return [score for scores, _ in tasks for score in scores]


def _sample(record: RunRecord) -> tuple[KSpace, Clip]:
    raw, truth = SAMPLE / "cine.h5", SAMPLE / "cine_truth.nii.gz"
    if raw.is_file() and truth.is_file():
        record.add_input(raw)
        record.add_input(truth)
        return load_kspace(raw), load_clip(truth)
    from medseq.simulate import acquire, simulate_cine

    clip = simulate_cine(_FRAMES, _SIZE)
    return acquire(clip), clip


def _reconstruct(folder: Path, record: RunRecord, kspace: KSpace, truth: Clip, heart: Tensor, device: str) -> Task:
    with record.timed("baselines"):
        operator = sense_operator(kspace.keep, estimate_maps(kspace))
        series = {
            "zero-filled": zero_filled(kspace.data, operator).abs(),
            "time average, frozen": time_average(kspace.data, operator).abs(),
            "L+S": low_rank_sparse(kspace.data, operator).abs(),
        }
    with record.timed("reconstruct"), terminal.progress("reconstruct") as progress:
        restored = reconstruct(kspace, device=device, progress=progress)
    series["medseq"] = restored.clip.data.abs()
    save_clip(restored.clip.with_data(series["medseq"]), folder / "reconstructed.nii.gz")
    return _compare(folder, "reconstruct", truth, series, heart, slice(None))


def _denoise(folder: Path, record: RunRecord, truth: Clip, heart: Tensor, device: str) -> Task:
    sigma = _NOISE * float(series_scale(truth.data.mean(dim=2)))
    complex_noise = unit_noise(truth.data.to(torch.complex64), torch.Generator().manual_seed(0))
    noisy = truth.with_data((truth.data + sigma * complex_noise).abs())  # a magnitude, so its noise is Rician
    with record.timed("denoise"), terminal.progress("denoise") as progress:
        restored = denoise(noisy, device=device, progress=progress)
    save_clip(noisy, folder / "noisy.nii.gz")
    save_clip(restored.clip, folder / "denoised.nii.gz")
    return _compare(folder, "denoise", truth, {"noisy": noisy.data, "medseq": restored.clip.data}, heart, slice(None))


def _interpolate(folder: Path, record: RunRecord, truth: Clip, heart: Tensor, device: str) -> Task:
    times = np.asarray(truth.times)
    halved = replace(truth, data=truth.data[:, :, ::2], times=times[::2])
    with record.timed("interpolate"), terminal.progress("interpolate") as progress:
        restored = interpolate(halved, times=times, device=device, progress=progress)
    save_clip(halved, folder / "every_second_frame.nii.gz")
    save_clip(restored.clip, folder / "interpolated.nii.gz")
    linear = linear_interpolation(
        halved.data, torch.from_numpy(times[::2].copy()), torch.from_numpy(times.copy()), truth.period
    )
    series = {"linear": linear, "medseq": restored.clip.data}
    return _compare(folder, "interpolate", truth, series, heart, slice(1, None, 2))


def _compare(folder: Path, task: str, truth: Clip, series: dict[str, Tensor], heart: Tensor, judged: slice) -> Task:
    """Score and draw every version of the series; `judged` frames count, the others were given."""
    reference = truth.data[:, :, judged]
    scores = [
        Score(task, method, psnr(data[:, :, judged], reference), psnr(data[:, :, judged], reference, heart))
        for method, data in series.items()
    ]
    captions = [f"{score.whole:.1f} dB, heart {score.heart:.1f} dB" for score in scores]
    panels = [Panel("reference", _frames(truth.data))] + [
        Panel(method, _frames(data), caption) for (method, data), caption in zip(series.items(), captions, strict=True)
    ]
    moves = (reference - truth.data.mean(2, keepdim=True)).abs() * heart
    frame = range(truth.frames)[judged][int(moves[0].sum((0, 2, 3)).argmax())]
    column = int((truth.data.std(2) * heart[:, :, 0])[0, 0].sum(0).argmax())
    interval = float(np.median(np.diff(np.asarray(truth.times))))
    montage(panels, panels[0].frames, folder / f"{task}.png", frame=frame, column=column)
    movie(panels, panels[0].frames, folder / f"{task}.webp", column=column, seconds=interval)
    return scores, partial(_section, task, truth, series, scores)


def _section(task: str, truth: Clip, series: dict[str, Tensor], scores: Sequence[Score]) -> Section:
    versions = [
        Version(method, data.abs(), f"{score.whole:.1f} dB, heart {score.heart:.1f} dB")
        for (method, data), score in zip(series.items(), scores, strict=True)
        if method != _UNSHOWN
    ]
    rows = [[score.method, f"{score.whole:.1f}", f"{score.heart:.1f}"] for score in scores]
    table = Table("PSNR at fixed scale (dB)", ["", "whole image", "heart"], rows, _HEART)
    return Section(task.capitalize(), [*compared(truth, versions), table], _LEADS[task])


def _frames(data: Tensor) -> np.ndarray:
    """The first slice: (B, 1, T, Y, X) -> (T, Y, X)."""
    return data[0, 0].abs().float().cpu().numpy()


def print_scores(scores: Sequence[Score]) -> None:
    """Print the demo's table."""
    from rich.console import Console
    from rich.table import Table

    table = Table("task", "method")
    table.add_column("PSNR, whole (dB)", justify="right")
    table.add_column("PSNR, heart (dB)", justify="right")
    for number, score in enumerate(scores):
        first = number == 0 or scores[number - 1].task != score.task
        if first and number:
            table.add_section()
        table.add_row(score.task if first else "", score.method, f"{score.whole:.1f}", f"{score.heart:.1f}")
    Console().print(table)
