"""What is shown of a series that was denoised, filled in or reconstructed with the prior; no reference is at hand."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from medseq.acquisition import slice_of, whitened
from medseq.baselines import linear_interpolation, zero_filled
from medseq.bold import tissue_mask
from medseq.clip import Clip, KSpace, Trajectory
from medseq.errors import InputError
from medseq.gathering import Restored
from medseq.metrics import tsnr
from medseq.noise import estimate_noise_image
from medseq.report.blocks import Block, Panel, Picture, Players, Table
from medseq.report.page import figure
from medseq.report.plots import COLOURS, plot
from medseq.report.stage import Stage, signed, unsigned, white
from medseq.report.structure import structure_table
from medseq.temporal import TemporalStatistics, temporal_statistics
from medseq.warmstart import classical_problem, sense_operator

_FEWEST_FRAMES = 3  # that say anything about motion
_AIR = "Noise of magnitudes has a mean where there is no signal; it was taken out, so that air is dark."
_NO_REFERENCE = "Nothing here knows the truth: these figures tell how a result behaves, not how right it is."


def denoised(before: Clip, restored: Restored) -> list[Block]:
    """Blocks of a series that was denoised. before: as it was read, of the same size."""
    after = restored.clip
    stage = Stage.moving(after)
    removed = before.data.abs() - after.data.abs()
    panels = [*_versions(stage, ("Input", before), ("Result", after)), signed("Removed", stage.frames(removed))]
    note = _AIR if restored.info.get("rician_bias_removed") else ""
    blocks: list[Block] = [_players(stage, "Input, result and what was removed", panels, restored, note)]
    if after.frames < _FEWEST_FRAMES:
        return blocks
    blocks.append(
        stage.profiles("Motion along one line", panels, "Edges that move should stay sharp, and nothing else appear.")
    )
    blocks += _all_slices(stage, before, after, removed)
    blocks.append(_behaviour(("input", before), ("result", after), noise=restored.info.get("noise")))
    mean = before.data.abs().mean(2, keepdim=True)
    blocks.append(structure_table(removed, mean, tissue_mask(before.data), ("in a row", "in a column")))
    return blocks + _spectrum(stage, ("input", before), ("result", after))


def interpolated(before: Clip, restored: Restored) -> list[Block]:
    """Blocks of a series at other times. before: as it was read."""
    after = restored.clip
    stage = Stage.moving(after)
    held = after.with_data(before.data[:, :, _latest(before, after.times)])
    times, wanted = (torch.from_numpy(np.array(clip.times)) for clip in (before, after))
    linear = after.with_data(linear_interpolation(before.data, times, wanted, before.period))
    panels = _versions(stage, ("Input, each frame held", held), ("Straight lines in time", linear), ("Result", after))
    difference = after.data.abs() - linear.data.abs()
    shown = [*panels, signed("Result − straight lines", stage.frames(difference))]
    blocks: list[Block] = [
        _players(
            stage,
            "Input, result and how it differs from straight lines in time",
            shown,
            restored,
            "Frames between the measured ones are estimates; what happened there was not seen.",
            still=int(difference.square().sum((0, 1, 3, 4)).argmax()),
        )
    ]
    if min(before.frames, after.frames) < _FEWEST_FRAMES:
        return blocks
    blocks.append(stage.profiles("Motion along one line", panels))
    blocks.append(_behaviour(("input", before), ("straight lines", linear), ("result", after)))
    return blocks


def reconstructed(kspace: KSpace, restored: Restored) -> list[Block]:
    """Blocks of a series that was reconstructed. The result may be complex, which lets its fit to the data be told."""
    after = restored.clip
    stage = Stage.moving(after)
    white_kspace, sigma, gain = whitened(kspace)
    parts = [slice_of(white_kspace, b, torch.device("cpu")) for b in range(kspace.data.shape[0])]
    # whitened() gave them maps
    operators = [sense_operator(part.keep, part.maps, part.trajectory) for part in parts if part.maps is not None]
    zeros = [
        zero_filled(*classical_problem(part.data, part.keep, part.maps, part.trajectory))
        for part in parts
        if part.maps is not None
    ]
    before = after.with_data(torch.cat(zeros) / gain)
    before = before.with_data(before.data * _level(before.data, after.data))
    panels = _versions(stage, ("Zero-filled", before), ("Result", after))
    difference = after.data.abs() - before.data.abs()
    shown = [*panels, signed("Result − zero-filled", stage.frames(difference))]
    blocks: list[Block] = [
        _players(
            stage,
            "What was measured and what was made of it",
            shown,
            restored,
            "Zero-filled: the measured k-space alone, at the level of the result.",
        )
    ]
    if after.frames >= _FEWEST_FRAMES:
        blocks.append(stage.profiles("Motion along one line", shown))
        blocks += _all_slices(stage, before, after, None)
        blocks.append(_behaviour(("zero-filled", before), ("result", after)))
    fit = []
    if after.is_complex:
        images = (after.data * gain).split(1)
        fit = [_misfit(A(image), part, sigma) for A, part, image in zip(operators, parts, images, strict=True)]
    blocks += [_measured(kspace, sigma, fit), _sampling(kspace, stage.slice)]
    return blocks


def _versions(stage: Stage, *clips: tuple[str, Clip]) -> list[Panel]:
    """Panels of one grey scale, set by the last."""
    frames = [(title, stage.frames(clip.data)) for title, clip in clips]
    brightest = white(frames[-1][1])
    return [unsigned(title, each, brightest, "grey") for title, each in frames]


def _players(stage: Stage, title: str, panels: list[Panel], restored: Restored, note: str, still: int = 0) -> Players:
    """With the std, where there is one, and what it means."""
    if restored.std is not None:
        frames = stage.frames(restored.std.data)
        name, meaning = _std_told(restored.info)
        panels = [*panels, unsigned(name, frames, white(frames))]
        note = f"{note} {meaning}".strip()
    return stage.players(title, panels, note, still)


def _std_told(info: Mapping[str, Any]) -> tuple[str, str]:
    """What the std is called, and what it says of the error."""
    if "interval_factors" not in info:
        return "Std over the samples", "The std over the samples is not calibrated: it is no confidence interval."
    reach = info["interval_factors"]["90%"]
    basis = info["coverage_basis"].removeprefix("calibrated on ")
    return "Std of the error", f"Std: what the error is to be expected like; {reach:.2g} of it cover 90 % on {basis}."


def _latest(before: Clip, times: np.ndarray) -> np.ndarray:
    """Of each time the frame that was measured last, 0 before the first."""
    return np.maximum(np.searchsorted(before.times, times + 1e-9, side="right") - 1, 0)


def _level(before: Tensor, after: Tensor) -> float:
    """What brings the one nearest to the other."""
    one, other = before.abs(), after.abs()
    return float((one * other).sum() / one.square().sum())


def _all_slices(stage: Stage, before: Clip, after: Clip, removed: Tensor | None) -> list[Block]:
    if after.data.shape[0] == 1:
        return []
    means = [stage.stills(clip.data.abs().mean(2, keepdim=True)) for clip in (before, after)]
    high = white(means[1])
    panels = [
        unsigned(f"{title}, mean", mean, high, "grey") for title, mean in zip(("Before", "After"), means, strict=True)
    ]
    if removed is not None:
        std = stage.stills(removed.std(2, keepdim=True))
        panels.append(unsigned("Removed, std in time", std, white(std)))
    return [stage.still_players("All slices", panels)]


def _behaviour(*versions: tuple[str, Clip], noise: list[float] | None = None) -> Table:
    """Temporal SNR and motion of versions of a series, medians over slices. noise: of the first of two, estimated."""
    magnitudes = [clip.data.abs() for _, clip in versions]
    moving = [_motion(clip.data, clip) for _, clip in versions]
    mask = tissue_mask(magnitudes[-1])
    rows = [
        ["Temporal SNR, median over tissue", *(_tsnr(series, mask) for series in magnitudes)],
        ["Flicker (0 none, 1 white noise)", *(_median(each.flicker if each else None) for each in moving)],
        ["Correlation of a frame with the next", *(_median(each.correlation if each else None) for each in moving)],
        [
            "Share of motion above half the Nyquist frequency",
            *(_median(each.fast if each else None) for each in moving),
        ],
    ]
    if noise:
        levels = [figure(float(np.median(noise))), _noise_left(magnitudes[-1])]
        rows.insert(0, ["Noise, std (units of the series)", *levels])
    note = f"{_NO_REFERENCE} Temporal SNR is mean over std in time, so that true motion lowers it."
    return Table("Figures that need no reference", ["", *(name for name, _ in versions)], rows, note)


def _tsnr(series: Tensor, mask: Tensor) -> str:
    """Of the voxels that vary."""
    values = tsnr(series)[mask]
    return figure(float(values[values > 0].median())) if bool((values > 0).any()) else "–"


def _noise_left(series: Tensor) -> str:
    levels = []
    for each in series.split(1):
        with suppress(InputError):  # a slice without anything in it
            levels.append(float(estimate_noise_image(each)))
    return figure(float(np.median(levels))) if levels else "–"


def _median(values: Tensor | None) -> str:
    return "–" if values is None else f"{float(values.median()):.3f}"


def _motion(series: Tensor, clip: Clip) -> TemporalStatistics | None:
    """Of the slices of a series in which every frame shows something; None where there is no such slice."""
    series = series.abs()
    shown = series.flatten(3).var(3).amin(2)[:, 0] > 0
    return temporal_statistics(series[shown], clip.period is not None) if bool(shown.any()) else None


def _spectrum(stage: Stage, *versions: tuple[str, Clip]) -> list[Block]:
    """A plot of the slice on the stage, if every frame of it shows something."""
    curves = {}
    for name, clip in versions:
        series = clip.data[stage.slice, None].abs()
        told = _motion(series, clip)
        if told is None:
            return []
        below = told.frequency < 1  # at the Nyquist frequency there is half as much of everything
        nyquist = 0.5 / float(np.median(np.diff(clip.times)))
        power = told.spectrum[0] * (told.motion[0] * series.std()).square()
        curves[name] = (told.frequency * nyquist)[below].numpy(), power[below].clamp(min=1e-12).numpy()

    def draw(axes: Axes) -> None:
        for name, (frequency, power) in curves.items():
            axes.semilogy(frequency, power, label=name)
        axes.set_xlabel("temporal frequency (Hz)")
        axes.set_ylabel("power (units of the series, squared)")
        axes.legend()

    alt = "Power of the changes over time against temporal frequency, of the input and of the result."
    note = "White noise is a level floor; where the input rises above it, both should agree, less the floor."
    return [plot("What changes over time, by frequency", alt, draw, note=note)]


def _misfit(predicted: Tensor, part: KSpace, sigma: float) -> float:
    """RMS of what the result leaves unexplained of the measured k-space, over the noise."""
    keep = part.keep.expand(part.data.shape)
    return float((predicted - part.data)[keep].abs().square().mean().div(2).sqrt() / sigma)


def _measured(kspace: KSpace, sigma: float, fit: list[float]) -> Table:
    share = 1 / kspace.acceleration
    rows = [
        ["Coils", str(kspace.coils)],
        ["Share of k-space measured", f"{100 * share:.1f} %"],
        ["Acceleration", f"{1 / share:.1f}"],
        ["Noise, std of each real channel", figure(sigma)],
    ]
    note = ""
    if fit:
        rows.append(["Misfit to the measured k-space, over the noise", f"{float(np.median(fit)):.2f}"])
        note = (
            "A misfit of 1 explains the data to within their noise; well above it something measured was left out, "
            "well below it noise was fitted."
        )
    return Table("What was measured", ["", "value"], rows, note)


def _sampling(kspace: KSpace, b: int) -> Picture:
    if kspace.trajectory is not None:
        return _first_frame(kspace.trajectory)
    keep = kspace.keep[b if kspace.keep.shape[0] > 1 else 0, 0].expand(kspace.frames, *kspace.data.shape[-2:])
    lines = keep.float().mean(2).T.numpy()  # (Y, T)

    def draw(axes: Axes) -> None:
        one = ListedColormap([COLOURS[0]])  # where nothing was measured the page is seen
        axes.imshow(np.zeros_like(lines), cmap=one, alpha=lines, aspect="auto", interpolation="nearest")
        axes.grid(False)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("frame")
        axes.set_ylabel("phase-encoding line")

    return plot("Lines that were measured", "Which lines of k-space were measured in which frame.", draw)


def _first_frame(trajectory: Trajectory) -> Picture:
    y, x = trajectory.points[0].cpu().unbind(-1)

    def draw(axes: Axes) -> None:
        axes.plot(x.T.numpy(), y.T.numpy(), color=COLOURS[0], linewidth=0.7)
        axes.set_aspect("equal")
        axes.set_xlabel("kx (cycles per voxel)")
        axes.set_ylabel("ky (cycles per voxel)")

    return plot("Readouts of the first frame", "Where in k-space the readouts of the first frame lie.", draw)
