"""What is shown of a BOLD series that was denoised: what it cost and what it gained, in the figures of fMRI."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from medseq.activation import detrend, lag_one
from medseq.bold import SMALLEST, tissue_mask
from medseq.clip import Clip
from medseq.gathering import Restored
from medseq.metrics import tsnr
from medseq.report.blocks import Block, Panel, Players, Table, Text
from medseq.report.page import figure
from medseq.report.stage import Stage, unsigned, white
from medseq.report.structure import structure_table, told
from medseq.smoothness import fwhm, overall

_VOLUMES = 40  # that smoothness is read from, as a mean over volumes: more would say the same
_SHOWN_STDS = 3.0  # of the changes, to both sides of zero
_CARPET_VOXELS = 400
_CARPET_SHAPE = 0.7  # height over width
_LIMITS = {
    "amplitude": f"a response of {SMALLEST:.0f} mm would have lost more of its amplitude than is allowed",
    "smoothness": "the series would have become smoother than is allowed",
    "noise": "no more of it is noise",
}
_USE = (
    "What can be a haemodynamic response (slow and wide) is left as it was; of the rest a share is taken away. A model "
    "of responses has to give up the degrees of freedom lost (the map of that name): else its t values come out "
    "too large.",
    "Responses narrower than 6 mm or faster than 0.15 Hz lose up to the share named here of their amplitude. Motion, "
    "breathing and pulse stay in the series.",
)


def bold_denoised(before: Clip, restored: Restored) -> list[Block]:
    """Blocks of a BOLD series that was denoised. before: as it was read; `restored.maps` and `info` by `bold_task`."""
    good = _measured(before, restored.info)
    after = restored.clip
    series, clean = (_magnitude(clip.data[:, :, good]) for clip in (before, after))
    mask = tissue_mask(clean)
    stage = Stage.fullest(after, mask)
    interval = float(np.median(np.diff(after.times)))
    return [
        _players(stage, before, after, mask),
        _maps(stage, series, clean, mask, restored),
        _carpet(series, clean, mask, interval),
        _amounts(restored.info),
        _figures(series, clean, mask, interval, _voxel(after)),
        _structure(series, clean, mask),
        Text("What this may be used for", _USE),
    ]


def _measured(before: Clip, info: dict) -> np.ndarray:
    """The volumes that were neither missing nor censored."""
    good = np.ones(before.frames, bool) if before.present is None else before.present.all(0).numpy()
    good[np.array(info.get("filled_volumes", []), int) - 1] = False
    return np.flatnonzero(good)


def _magnitude(series: Tensor) -> Tensor:
    return series.abs() if series.is_complex() else series


def _players(stage: Stage, before: Clip, after: Clip, mask: Tensor) -> Block:
    one, other = stage.frames(before.data), stage.frames(after.data)
    head = np.where(stage.frames(mask), other.mean(0), np.inf)  # a per cent of the dark says nothing
    changes = [100 * (frames - frames.mean(0)) / head for frames in (one, other)]
    panels = [
        unsigned("Result", other, white(other), "grey"),
        *_changes(("Change, input", "Change, result"), changes),
        *_changes(("Removed",), [100 * (one - other) / head]),
    ]
    note = (
        "Change: from the mean over time, in per cent of it. What was removed has a scale of its own, and should look "
        "like noise alone."
    )
    return stage.players("The series, and how it changes", panels, note)


def _changes(titles: Sequence[str], changes: Sequence[np.ndarray]) -> list[Panel]:
    """Of one scale, set by the first: edges and vessels, which change most, go beyond it."""
    there = np.abs(changes[0][changes[0] != 0])
    limit = _SHOWN_STDS * 1.4826 * float(np.median(there)) if there.size else 1.0  # std of a normal law by its median
    pairs = zip(titles, changes, strict=True)
    return [Panel(title, change, -limit, limit, "diverging", unit="%") for title, change in pairs]


def _maps(stage: Stage, series: Tensor, clean: Tensor, mask: Tensor, restored: Restored) -> Block:
    gains = [torch.where(mask, tsnr(each), 0) for each in (series, clean)]
    removed, lost = (torch.where(mask, restored.maps[name].data, 0) for name in ("removed", "dof_lost"))
    share = 100 * removed / clean.mean(2, keepdim=True).clamp(min=1e-6)
    high = white(gains[1][mask].numpy())
    panels = [
        unsigned("tSNR, input", stage.stills(gains[0], mask), high),
        unsigned("tSNR, result", stage.stills(gains[1], mask), high),
        unsigned("Removed, std", stage.stills(share, mask), white(share[mask].numpy()), unit="%"),
        unsigned("Degrees of freedom lost", stage.stills(lost, mask), float(lost.max()) or 1.0),
    ]
    note = "Over the tissue. Both tSNR maps have one scale; removed is in per cent of the mean."
    return stage.still_players("Maps", panels, note)


def _carpet(series: Tensor, clean: Tensor, mask: Tensor, interval: float) -> Block:
    """Every voxel a row, time to the right (Power 2017): what the whole head does at once is a vertical line."""
    chosen = mask.flatten().nonzero()[:, 0]
    chosen = chosen[torch.linspace(0, len(chosen) - 1, min(len(chosen), _CARPET_VOXELS)).round().long()]
    rows = []
    for each in (series, clean):
        courses = each.movedim(2, 0).flatten(1)[:, chosen].T  # (V, T)
        mean = courses.mean(1, keepdim=True)
        rows.append((100 * (courses - mean) / mean.clamp(min=1e-6)).numpy()[None])
    panels = [*_changes(("Input", "Result"), rows), *_changes(("Removed",), [rows[0] - rows[1]])]
    note = (
        f"Each row is a voxel of the tissue ({len(chosen)} of them, slice after slice), time runs to the right over "
        f"{interval * series.shape[2]:.0f} s: change from the mean. A vertical line is what the whole head did at once."
    )
    aspect = _CARPET_SHAPE * series.shape[2] / len(chosen)
    return Players("Carpet", panels, np.zeros(1), aspect=aspect, note=note)


def _amounts(info: dict) -> Table:
    rows = [
        ["Share removed of what cannot be a response", _percent(info["share"])],
        [f"Amplitude kept by responses of {SMALLEST:.0f} mm", _percent(info["kept"])],
        ["Growth of smoothness (FWHM)", _percent(info["growth"])],
        ["Noise in what cannot be a response", _percent(info["noise_share"])],
        ["Noise, std (units of the series)", figure(info["noise"])],
        ["Degrees of freedom lost, median over tissue", figure(info["dof_lost"])],
    ]
    if info.get("filled_volumes"):
        rows.append(["Volumes filled in", str(len(info["filled_volumes"]))])
    limit = _LIMITS[info["limit"]]
    return Table("How much was removed", ["", "value"], rows, f"Why no more: {limit}.")


def _figures(series: Tensor, clean: Tensor, mask: Tensor, interval: float, voxel: tuple[float, float, float]) -> Table:
    values = [_told(each, mask, interval, voxel) for each in (series, clean)]
    names = (
        "tSNR, median over tissue",
        "Smoothness, FWHM along x (mm)",
        "Smoothness, FWHM along y (mm)",
        "Smoothness, FWHM along z (mm)",
        "Smoothness, FWHM overall (mm)",
        "Autocorrelation from one volume to the next",
    )
    rows = [[name, *each] for name, *each in zip(names, *values, strict=True)]
    note = (
        "A higher tSNR says little of responses, which are slow. FWHM (as AFNI's 3dFWHMx tells it) and autocorrelation "
        "after mean and slow drift were taken out."
    )
    return Table("Before and after", ["", "input", "result"], rows, note)


def _told(series: Tensor, mask: Tensor, interval: float, voxel: tuple[float, float, float]) -> list[str]:
    residual = torch.cat([detrend(each, interval).float() for each in series.split(1)])
    widths = fwhm(residual[:, :, _some(residual)], mask, voxel)
    numbers = [float(tsnr(series)[mask].median()), *widths.tolist(), overall(widths)]
    return [*(f"{number:.2f}" if np.isfinite(number) else "–" for number in numbers), told(lag_one(residual, mask))]


def _structure(series: Tensor, clean: Tensor, mask: Tensor) -> Table:
    some = _some(series)
    removed = series[:, :, some] - clean[:, :, some]
    return structure_table(removed, series.mean(2, keepdim=True), mask, ("along x", "along y", "along z"))


def _some(series: Tensor) -> np.ndarray:
    count = series.shape[2]
    return np.unique(np.linspace(0, count - 1, min(count, _VOLUMES)).round().astype(int))


def _voxel(clip: Clip) -> tuple[float, float, float]:
    x, y, z = np.linalg.norm(clip.affine[:3, :3], axis=0).tolist()
    return x, y, z


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
