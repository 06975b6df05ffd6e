"""The report of an evaluation: figures in a table and as plots, agreement, curves, and the series side by side."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from medseq.evaluate import REFERENCE, Curve, Evaluation, Figure
from medseq.report.blocks import Block, Page, Panel, Section, Table, Text
from medseq.report.comparisons import Dots, agreement, curves, dots
from medseq.report.page import figure
from medseq.report.stage import Stage, unsigned, white
from medseq.statistics import Interval
from medseq.summary import Quantity, Summary

_SHOWN_CASES = 4  # with players: a page of many would take minutes to load
_ERROR_GAIN = 5  # errors are shown this many times brighter than images
_PERFECT = {"NRMSE": 0.0, "HFEN": 0.0, "SSIM": 1.0, "edge sharpness": 1.0}
_READ_WITH = (
    "Figures are at fixed scale: nothing was scaled, shifted or interpolated to fit the reference, and the reference's "
    "own peak is the range of PSNR and SSIM.",
    "Intervals are those of the mean, 95 %, by the bootstrap over cases; the p values of Wilcoxon's signed-rank test "
    "are not corrected for how many there are. One case has neither, and says nothing about the next one.",
    "An error in dB favours what is smooth: look at the motion and at the edges as well, and at the pictures.",
)


def evaluation_page(
    title: str,
    evaluations: Sequence[Evaluation],
    summary: Summary,
    *,
    warnings: Sequence[str] = (),
    provenance: Mapping[str, str] | None = None,
) -> Page:
    """One page of all cases; `summary` is that of their figures.

    The first four that still have their series are shown with players.
    """
    figures = [one for found in evaluations for one in found.figures]
    told = [Section("Figures", [*_figure_blocks(figures, summary)])]
    if summary.comparisons:
        told.append(Section("Methods compared", [*_comparisons(summary)]))
    if summary.agreements:
        told.append(Section("Agreement with the reference", [*_agreements(figures, summary)]))
    seen = [found for found in evaluations if found.series][:_SHOWN_CASES]
    shown = [Section(found.case, [*_case_blocks(found)]) for found in seen]
    sections = [*shown, *told] if summary.cases == 1 else [*told, *shown]
    cases = "1 case" if summary.cases == 1 else f"{summary.cases} cases"
    against = "" if all(found.reference is None for found in evaluations) else ", against a reference"
    subtitle = f"{', '.join(summary.methods)}; {cases}{against}"
    reading = Section("How to read this", [Text("", _READ_WITH)])
    return Page(title, subtitle, [*sections, reading], warnings, provenance or {})


def _figure_blocks(figures: Sequence[Figure], summary: Summary) -> Iterator[Block]:
    """A table and a plot for each region."""
    means = {(mean.quantity, mean.method): mean for mean in summary.means}
    one = summary.cases == 1
    for region in dict.fromkeys(quantity.region for quantity, _ in means):
        quantities = list(dict.fromkeys(quantity for quantity, _ in means if quantity.region == region))
        known = any((quantity, REFERENCE) in means for quantity in quantities)
        methods = [*([REFERENCE] if known else []), *summary.methods]
        rows = []
        for quantity in quantities:
            told = [means.get((quantity, method)) for method in methods]
            cells = ["" if mean is None else _with_interval(mean.mean, mean.interval) for mean in told]
            rows.append([_named(quantity), *cells])
        note = "" if one else "Means over cases, with their 95 % intervals."
        yield Table(f"Region: {region}", ["", *methods], rows, note)
        panels = [panel for quantity in quantities if (panel := _panel(quantity, figures, summary)) is not None]
        if panels:
            note = "" if one else "Marks are means, bars their 95 % intervals, strokes the cases."
            yield dots(f"Region: {region}, plotted", panels, note)


def _named(quantity: Quantity) -> str:
    return f"{quantity.metric} ({quantity.unit})" if quantity.unit else quantity.metric


def _panel(quantity: Quantity, figures: Sequence[Figure], summary: Summary) -> Dots | None:
    values: dict[str, list[float]] = {}
    for f in figures:
        if Quantity(f.metric, f.region, f.unit) == quantity and math.isfinite(f.value):
            values.setdefault(f.method, []).append(f.value)
    of_reference = values.pop(REFERENCE, None)
    if not values:
        return None
    intervals = {m.method: m.interval for m in summary.means if m.quantity == quantity}
    named = [(method, values[method]) for method in summary.methods if method in values]
    perfect = _PERFECT.get(quantity.metric) if of_reference is None else float(np.mean(of_reference))
    return Dots(_named(quantity), named, [intervals[method] for method, _ in named], perfect)


def _comparisons(summary: Summary) -> Iterator[Table]:
    """A table for each region and each pair of methods."""
    by_pair: dict[tuple[str, str], list[list[str]]] = {}
    for compared in summary.comparisons:
        place = (compared.quantity.region, f"{compared.method} - {compared.against}")
        by_pair.setdefault(place, []).append(
            [
                _named(compared.quantity),
                f"{compared.found.count}",
                _with_interval(compared.found.difference, compared.found.interval),
                f"{compared.found.p:.2g}",
            ]
        )
    for (region, pair), rows in by_pair.items():
        yield Table(f"{pair}, region: {region}", ["", "cases", "mean difference", "p"], rows)


def _agreements(figures: Sequence[Figure], summary: Summary) -> Iterator[Block]:
    for one in summary.agreements:
        q = one.quantity
        by_method: dict[str, dict[str, float]] = {one.method: {}, REFERENCE: {}}
        for f in figures:
            if Quantity(f.metric, f.region, f.unit) == q and f.method in by_method and math.isfinite(f.value):
                by_method[f.method][f.case] = f.value
        cases = [case for case in by_method[one.method] if case in by_method[REFERENCE]]
        measured, reference = ([by_method[method][case] for case in cases] for method in (one.method, REFERENCE))
        yield agreement(f"{q.metric}, {q.region}: {one.method}", q.unit, measured, reference, one.found)


def _case_blocks(found: Evaluation) -> Iterator[Block]:
    first = next(iter(found.series.values()))
    stage = Stage.moving(first)
    shown = _panels(found, stage)
    note = f"Errors are shown {_ERROR_GAIN} times as bright as images." if found.reference is not None else ""
    yield stage.players("Side by side", shown, note)
    if first.frames > 1:
        pictures = [panel for panel in shown if panel.colours == "grey"]
        yield stage.profiles("Motion along one line", pictures, "Motion that is blurred away or made up shows here.")
    by_quantity: dict[Quantity, list[Curve]] = {}
    for curve in found.curves:
        by_quantity.setdefault(Quantity(curve.metric, curve.region, curve.unit), []).append(curve)
    for quantity, some in by_quantity.items():
        lines = [(curve.method, curve.times, curve.values) for curve in some]
        yield curves(f"{quantity.metric}, {quantity.region}", quantity.unit, lines)


def _panels(found: Evaluation, stage: Stage) -> list[Panel]:
    """Images of all series, then errors of all results, one scale for each kind."""
    frames = {method: stage.frames(clip.data.abs()) for method, clip in found.series.items()}
    brightest = white(next(iter(frames.values())))
    panels = [unsigned(method, each, brightest, "grey") for method, each in frames.items()]
    if REFERENCE not in frames:
        return panels
    most, truth = brightest / _ERROR_GAIN, frames.pop(REFERENCE)
    return panels + [
        Panel(f"{name} - reference", each - truth, -most, most, "diverging") for name, each in frames.items()
    ]


def _with_interval(value: float, interval: Interval | None) -> str:
    shown = figure(value)
    return shown if interval is None else f"{shown} ({figure(interval[0])} to {figure(interval[1])})"
