"""How good restored series are, in figures: fixed-scale image metrics, motion, and what clinicians read.

One call judges one case: several methods, with a reference or without. `medseq.summary` puts many cases together,
`medseq.bold_evaluation` is for fMRI. Nothing is scaled, shifted or interpolated to fit the reference.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from medseq.clinical import (
    area_curve,
    blood_threshold,
    cavity,
    ejection_fraction,
    region_curve,
    upslope,
    volume_curve,
)
from medseq.clip import Clip
from medseq.errors import MedseqWarning, UsageError
from medseq.matching import matched
from medseq.metrics import (
    dynamic_region,
    edge_sharpness,
    fitted,
    hfen,
    nrmse,
    profile_error,
    psnr,
    ssim,
    temporal_spectrum_error,
)
from medseq.temporal import temporal_statistics

REFERENCE = "reference"  # what the reference is called among the methods
WHOLE, DYNAMIC, VENTRICLE = "whole", "dynamic", "ventricle"  # regions
_OWN_NAMES = (REFERENCE, WHOLE, DYNAMIC, VENTRICLE)
_SCALE = 1.25  # a result this much brighter or darker than the reference is warned of
_FEWEST_MOVING = 3  # frames, to speak of motion

Metric = Callable[[Tensor, Tensor, Tensor | None], float]
_IMAGE: dict[str, tuple[Metric, str]] = {
    "NRMSE": (nrmse, ""),
    "PSNR": (psnr, "dB"),
    "SSIM": (ssim, ""),
    "HFEN": (hfen, ""),
}
_MOTION: dict[str, Metric] = {"temporal spectrum error": temporal_spectrum_error, "x-t profile error": profile_error}


@dataclass(frozen=True)
class Figure:
    """One number: `metric` of `method` in `region` of `case`; the method may be the reference. unit: "" for none."""

    case: str
    method: str
    metric: str
    region: str
    value: float
    unit: str = ""


@dataclass(frozen=True)
class Curve:
    """A figure over time: times (T,) in seconds and values (T,)."""

    case: str
    method: str
    metric: str
    region: str
    times: np.ndarray
    values: np.ndarray
    unit: str = ""


@dataclass
class Evaluation:
    """What was found of one case.

    series: as they were compared, at common times, the reference first where there is one. regions: bool
    (B, 1, 1 or T, Y, X) each, those that were found and those that were given.
    """

    case: str
    series: Mapping[str, Clip]
    regions: dict[str, Tensor] = field(default_factory=dict)
    figures: list[Figure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    @property
    def reference(self) -> Clip | None:
        return self.series.get(REFERENCE)

    def add(self, method: str, metric: str, region: str, value: float | Tensor, unit: str = "") -> None:
        self.figures.append(Figure(self.case, method, metric, region, float(value), unit))

    def add_curve(self, method: str, metric: str, region: str, values: Tensor, unit: str = "") -> None:
        times = self.series[method].times
        self.curves.append(Curve(self.case, method, metric, region, times, values.cpu().numpy(), unit))

    def rivals(self) -> Iterator[tuple[str, Clip]]:
        """The series that are judged, without the reference."""
        return ((name, clip) for name, clip in self.series.items() if name != REFERENCE)


def evaluate_series(
    results: Mapping[str, Clip],
    reference: Clip | None = None,
    *,
    case: str = "",
    regions: Mapping[str, Tensor] | None = None,
    ventricle: Tensor | None = None,
    masks: Mapping[str, Tensor] | None = None,
    perfusion: bool = False,
) -> Evaluation:
    """Judge series of one case, `results` by the name of the method, at the times they have in common with `reference`.

    regions: bool (B, 1, 1, Y, X) by name; figures are told of each, of the whole image, and of where the reference
    moves (`dynamic_region`). ventricle: the same, around the left ventricle: its blood is told by one threshold, that
    of the reference (without one, each series' own), by the rule of `cavity`. masks: the blood of each series,
    (B, 1, T, Y, X) at the common times, by name of the method or "reference", in place of a threshold. perfusion: tell
    the up-slope in each of `regions`, too.

    Image errors are those of magnitudes, and of complex values besides where all are complex. A figure that a series
    has no answer to (nothing moves, frames too small) is left out, with a MedseqWarning. Raises InputError where grids
    or times do not agree (`matched`), and UsageError for regions and masks that do not fit and for names that are
    taken.
    """
    found = opened(results, reference, case, regions)
    if reference is not None:
        if reference.frames >= _FEWEST_MOVING:
            with left_out("figures of the dynamic region"):
                found.regions = {DYNAMIC: dynamic_region(found.series[REFERENCE].data), **found.regions}
        add_image_figures(found)
    _add_motion(found)
    for name in regions or {}:
        _add_region_curves(found, name, perfusion)
    if masks is not None:
        _add_blood(found, masks)
    elif ventricle is not None:
        found.regions[VENTRICLE] = ventricle
        _add_blood(found, _by_threshold(found, ventricle))
    return found


def opened(
    results: Mapping[str, Clip], reference: Clip | None, case: str, regions: Mapping[str, Tensor] | None
) -> Evaluation:
    """An evaluation without figures yet: series at common times; names and regions checked, as in `evaluate_series`."""
    taken = {*results, *(regions or {})} & set(_OWN_NAMES)
    if not results or taken:
        raise UsageError(f"give another name than {sorted(taken)[0]}" if taken else "there is no result to judge")
    series = matched(({} if reference is None else {REFERENCE: reference}) | dict(results))
    first = next(iter(series.values())).data
    for region in (regions or {}).values():
        if not bool(fitted(region, first).any()):
            raise UsageError("a region is empty")
    return Evaluation(case, series, dict(regions or {}))


def add_image_figures(found: Evaluation) -> None:
    """Errors against the reference in the whole image and in each region; another scale is warned of."""
    assert found.reference is not None
    truth = found.reference.data
    _warn_of_scale(found)
    places: dict[str, Tensor | None] = {WHOLE: None, **found.regions}
    for place, region in places.items():
        for method, clip in found.rivals():
            for metric, (compute, unit) in _IMAGE.items():
                with left_out(f"{metric} of {place}"):
                    found.add(method, metric, place, compute(clip.data.abs(), truth.abs(), region), unit)
            if clip.is_complex and truth.is_complex():
                found.add(method, "NRMSE, complex", place, nrmse(clip.data, truth, region))


def _add_motion(found: Evaluation) -> None:
    """Flicker of every series; errors of motion where there is a reference."""
    if next(iter(found.series.values())).frames < _FEWEST_MOVING:
        return
    for place in ([] if found.reference is not None else [WHOLE]) + list(found.regions):
        for method, clip in found.series.items():
            with left_out(f"flicker of {place}"):
                found.add(method, "flicker", place, flicker(clip, found.regions.get(place)))
    if found.reference is None:
        return
    truth = found.reference.data.abs()
    for place, region in found.regions.items():
        for method, clip in found.rivals():
            for metric, compute in _MOTION.items():
                with left_out(f"{metric} of {place}"):
                    found.add(method, metric, place, compute(clip.data.abs(), truth, region))
            with left_out(f"edge sharpness of {place}"):
                sharpness = edge_sharpness(clip.data.abs(), truth, region)
                found.add(method, "edge sharpness", place, sharpness.mean())
                found.add_curve(method, "edge sharpness", place, sharpness)


def flicker(clip: Clip, region: Tensor | None = None) -> float:
    """Flicker index (`temporal_statistics`) of the voxels that the region ever holds, all slices together."""
    voxels = clip.data.movedim(2, 0).flatten(1)
    if region is not None:
        voxels = voxels[:, fitted(region, clip.data).any(2).flatten()]
    return float(temporal_statistics(voxels[None, None, :, None], clip.period is not None).flicker)


def _add_region_curves(found: Evaluation, place: str, perfusion: bool) -> None:
    curves = {method: region_curve(clip.data, found.regions[place]) for method, clip in found.series.items()}
    for method, curve in curves.items():
        found.add_curve(method, "mean signal", place, curve)
        if perfusion:
            with left_out(f"up-slope of {place}"):
                found.add(method, "up-slope", place, upslope(curve, found.series[method].times), "1/s")
        if REFERENCE in curves and method != REFERENCE:
            error = (curve - curves[REFERENCE]).norm() / curves[REFERENCE].norm()
            found.add(method, "mean signal error", place, 100 * error, "%")


def _by_threshold(found: Evaluation, ventricle: Tensor) -> dict[str, Tensor]:
    """The blood of each series, by the threshold of the reference or its own."""
    return {
        method: cavity(clip.data, ventricle, blood_threshold((found.reference or clip).data, ventricle))
        for method, clip in found.series.items()
    }


def _add_blood(found: Evaluation, masks: Mapping[str, Tensor]) -> None:
    """Areas of one slice, or volumes of several, over the cycle and at its ends."""
    if set(masks) - set(found.series):
        raise UsageError(f"masks of {sorted(set(masks) - set(found.series))} belong to no series")
    curves = {}
    for method, mask in masks.items():
        clip = found.series[method]
        if mask.shape != clip.data.shape:
            raise UsageError(f"{method}: masks {tuple(mask.shape)} do not fit series {tuple(clip.data.shape)}")
        one = mask.shape[0] == 1
        what, unit = ("LV area", "mm^2") if one else ("LV volume", "ml")
        curve = curves[method] = area_curve(mask, clip.affine)[0] if one else volume_curve(mask, clip.affine)
        found.add_curve(method, what, VENTRICLE, curve, unit)
        found.add(method, f"{what}, largest", VENTRICLE, curve.max(), unit)
        found.add(method, f"{what}, smallest", VENTRICLE, curve.min(), unit)
        change = "LV area change" if one else "LV ejection fraction"
        with left_out(change):
            found.add(method, change, VENTRICLE, 100 * ejection_fraction(curve), "%")
        if method != REFERENCE and REFERENCE in curves:
            error = 100 * (curve - curves[REFERENCE]) / curves[REFERENCE].max()
            found.add(method, f"{what} error, rms", VENTRICLE, error.square().mean().sqrt(), "% of largest")
            found.add(method, f"{what} error, largest", VENTRICLE, error.abs().max(), "% of largest")


def _warn_of_scale(found: Evaluation) -> None:
    assert found.reference is not None
    truth = found.reference.data.abs().double().flatten()
    for method, clip in found.rivals():
        factor = float(clip.data.abs().double().flatten() @ truth / (truth @ truth))
        if not 1 / _SCALE < factor < _SCALE:
            warnings.warn(
                f"{method}: is about {factor:.3g} times as bright as the reference; figures are at fixed scale and "
                "mean little until both are in the same units",
                MedseqWarning,
                stacklevel=3,
            )


@contextmanager
def left_out(what: str) -> Iterator[None]:
    """A figure that has no answer is warned of and left out, in place of an end to all others."""
    try:
        yield
    except UsageError as error:
        warnings.warn(f"{what}: left out, as {error}", MedseqWarning, stacklevel=3)
