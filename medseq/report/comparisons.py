"""Plots that compare methods: their figures with intervals, agreement with a reference, curves over time.

Methods differ by marker and line as well as by colour, so that a plot can be read in grey.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from textwrap import wrap

import numpy as np
from matplotlib.axes import Axes

from medseq.report.blocks import Picture
from medseq.report.page import figure
from medseq.report.plots import COLOURS, plot, small_plots
from medseq.statistics import Agreement, Interval

_MARKERS = ("o", "s", "^", "D", "v")
_LINES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 1)), (0, (3, 1, 1, 1)), (0, (1, 1)))
_COLUMNS = 3
_TITLE_WIDTH = 24  # letters
_GREY = "#808890"  # on white as on black


@dataclass(frozen=True)
class Dots:
    """One figure of several methods.

    values: for each method those of the cases. intervals: of their means, None for none. goal: what it should be, drawn
    as a line; None where nobody knows.
    """

    title: str
    values: Sequence[tuple[str, Sequence[float]]]
    intervals: Sequence[Interval | None]
    goal: float | None = None


def dots(title: str, panels: Sequence[Dots], note: str = "") -> Picture:
    """A small plot for each figure with a line for each method: the mean, its interval, and a stroke for each case."""
    said = "; ".join(
        f"{panel.title}: " + ", ".join(f"{name} {figure(float(np.mean(values)))}" for name, values in panel.values)
        for panel in panels
    )
    draws = [partial(_draw_dots, panel, place % _COLUMNS == 0) for place, panel in enumerate(panels)]
    lines = max(len(panel.values) for panel in panels)
    height = -(-len(panels) // _COLUMNS) * (0.75 + 0.26 * lines)
    return small_plots(title, f"Means by method. {said}", draws, note=note, height=height, columns=_COLUMNS)


def curves(title: str, unit: str, lines: Sequence[tuple[str, np.ndarray, np.ndarray]], note: str = "") -> Picture:
    """Values over time, a line for each (name, times in seconds, values); "reference" is a thick and grey one."""

    def draw(axes: Axes) -> None:
        others = 0
        for name, times, values in lines:
            if name == "reference":
                axes.plot(times, values, label=name, color=_GREY, linewidth=4, alpha=0.7)
                continue
            (line,) = axes.plot(times, values, label=name, linewidth=1.4, markersize=3)
            line.set(color=COLOURS[others % len(COLOURS)], linestyle=_LINES[others % len(_LINES)])
            line.set_marker(_MARKERS[others % len(_MARKERS)])
            others += 1
        axes.set_xlabel("time (s)")
        axes.set_ylabel(unit)
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))

    ends = ", ".join(f"{name} {figure(float(v.min()))} to {figure(float(v.max()))}" for name, _, v in lines)
    return plot(title, f"Curves over time, {ends} {unit}".rstrip(), draw, note=note)


def agreement(
    title: str, unit: str, measured: Sequence[float], reference: Sequence[float], found: Agreement
) -> Picture:
    """Bland-Altman plot: difference against mean of each case, bias and limits of agreement with their intervals."""
    one, other = np.asarray(measured), np.asarray(reference)
    lines = (
        ("bias", found.bias, found.bias_interval, COLOURS[0], "-"),
        ("upper limit", found.upper, found.upper_interval, COLOURS[1], "--"),
        ("lower limit", found.lower, found.lower_interval, COLOURS[1], "--"),
    )

    def draw(axes: Axes) -> None:
        axes.axhline(0, color=_GREY, linewidth=1)
        for name, value, interval, colour, line in lines:
            axes.axhline(value, color=colour, linestyle=line)
            axes.axhspan(*interval, color=colour, alpha=0.15, linewidth=0)
            axes.annotate(
                f"{name} {figure(value)}",
                (1, value),
                (5, 0),
                xycoords=("axes fraction", "data"),
                textcoords="offset points",
                verticalalignment="center",
            )
        axes.plot((one + other) / 2, one - other, "o", color=_GREY, markersize=5)
        axes.set_xlabel(f"mean of result and reference{_in(unit)}")
        axes.set_ylabel(f"result - reference{_in(unit)}")

    said = "; ".join(
        f"{name} {figure(value)}, 95 % interval {figure(low)} to {figure(high)}"
        for name, value, (low, high), *_ in lines
    )
    note = "Shaded: 95 % intervals of the bias and of the limits, between which 95 % of differences are expected."
    return plot(title, f"Bland-Altman plot of {found.count} cases: {said}", draw, note=note)


def _draw_dots(panel: Dots, named: bool, axes: Axes) -> None:
    if panel.goal is not None:
        axes.axvline(panel.goal, color=_GREY, linewidth=1.2, linestyle=":")
    for place, ((_, values), interval) in enumerate(zip(panel.values, panel.intervals, strict=True)):
        colour, marker = COLOURS[place % len(COLOURS)], _MARKERS[place % len(_MARKERS)]
        if interval is not None:
            axes.plot(interval, [place, place], color=colour, linewidth=4, alpha=0.45, solid_capstyle="butt")
        if len(values) > 1:
            axes.plot(values, np.full(len(values), place + 0.3), "|", color=colour, markersize=5, alpha=0.8)
        axes.plot(np.mean(values), place, marker, color=colour, markersize=6)
    axes.set_title("\n".join(wrap(panel.title, _TITLE_WIDTH)), fontsize="medium")
    axes.set_ylim(len(panel.values) - 0.4, -0.6)
    axes.set_yticks(range(len(panel.values)), [name if named else "" for name, _ in panel.values])
    axes.grid(axis="y", visible=False)
    axes.margins(x=0.12)
    axes.locator_params(axis="x", nbins=4)


def _in(unit: str) -> str:
    return f" ({unit})" if unit else ""
