"""Plots for pages, in the typography and the colours of light and of dark ones."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medseq.report.blocks import Picture

# Of lines, in this order: told apart by colour-blind people too, on black as on white (Okabe and Ito 2008).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00")
_WIDTH, _HEIGHT = 7.2, 3.2  # inches
# Ink, soft ink and lines, as in page.css.
_LIGHT, _DARK = ("#1b2025", "#5b646d", "#dfe2e4"), ("#e7eaec", "#9ba5ae", "#2b3137")


def plot(title: str, alt: str, draw: Callable[[Axes], None], *, note: str = "", height: float = _HEIGHT) -> Picture:
    """What `draw` puts into axes, as SVG without a background. alt: what it shows, in words. height: in inches."""
    return small_plots(title, alt, [draw], note=note, height=height, columns=1)


def small_plots(
    title: str,
    alt: str,
    draws: Sequence[Callable[[Axes], None]],
    *,
    note: str = "",
    height: float = _HEIGHT,
    columns: int = 3,
) -> Picture:
    """What each of `draws` puts into axes of its own, in reading order; other arguments are those of `plot`."""
    light = dark = _drawn(draws, columns, height)
    for ink, other in zip(_LIGHT, _DARK, strict=True):
        dark = dark.replace(ink.encode(), other.encode())  # to draw everything once more would take as long again
    return Picture(title, light, alt, dark, note)


def _drawn(draws: Sequence[Callable[[Axes], None]], columns: int, height: float) -> bytes:
    ink, soft, line = _LIGHT
    style: dict[Any, Any] = {
        "font.size": 10,
        "text.color": ink,
        "axes.labelcolor": soft,
        "axes.edgecolor": soft,
        "axes.facecolor": "none",
        "axes.grid": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "grid.color": line,
        "xtick.color": soft,
        "ytick.color": soft,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
        "svg.hashsalt": "medseq",  # the same plot is the same file
    }
    with rc_context(style):
        figure = Figure(figsize=(_WIDTH, height), layout="constrained")
        rows = -(-len(draws) // columns)
        for place, draw in enumerate(draws, start=1):
            axes = figure.add_subplot(rows, columns, place)
            axes.set_prop_cycle(color=COLOURS)
            draw(axes)
        stream = io.BytesIO()
        figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return stream.getvalue()
