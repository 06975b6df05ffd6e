"""What a page of a report can hold: players, x-t profiles, pictures, tables and text, as plain data.

Nothing here draws or writes; `medseq.report.page` does. Every text is shown as it is, never as HTML. Frames are shown
as they come: row 0 on top, column 0 at the left (`medseq.report.view` turns a series the way radiologists look at it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from medseq.errors import UsageError

# "grey" from black to white; "diverging" from blue over black, halfway from `low` to `high`, to orange, for
# signed differences; "sequential" from black over red to bright yellow, for what is never negative (std, |error|).
Colours = Literal["grey", "diverging", "sequential"]


@dataclass(frozen=True)
class Panel:
    """One version of a series, or a map of it.

    frames: (T, Y, X) finite float; T is that of the players it is in, or 1 for a map that stands still. low, high: what
    is shown darkest and brightest (first and last colour), in the units of `frames`. caption: a short line below.
    unit: of low and high, shown beside the colour bar. Raises UsageError for other shapes, values or limits.
    """

    title: str
    frames: np.ndarray
    low: float
    high: float
    colours: Colours = "grey"
    caption: str = ""
    unit: str = ""

    def __post_init__(self) -> None:
        if self.frames.ndim != 3 or self.frames.size == 0 or not np.isfinite(self.frames).all():
            raise UsageError(f"{self.title}: frames must be finite, (T, Y, X), got {self.frames.shape}")
        if not (np.isfinite([self.low, self.high]).all() and self.low < self.high):
            raise UsageError(f"{self.title}: there is nothing to show between {self.low} and {self.high}")


@dataclass(frozen=True)
class Players:
    """Panels side by side on one clock: they play, step and scrub together, and two of them can flicker in place.

    panels: one at least, all of one Y and X. times: (T,) seconds, increasing. period: seconds of a cycle, after which
    it begins again, or None: after the last frame. aspect: height of a pixel over its width. edges: what lies at the
    left, right, top and bottom, such as ("R", "L", "A", "P"), or None where it is not known. still: the frame shown
    first, and alone where scripts are off. columns: panels side by side on a wide screen, None: as many as fit.
    Raises UsageError for panels and times that do not fit.
    """

    title: str
    panels: Sequence[Panel]
    times: np.ndarray
    period: float | None = None
    aspect: float = 1.0
    edges: tuple[str, str, str, str] | None = None
    still: int = 0
    columns: int | None = None
    note: str = ""

    def __post_init__(self) -> None:
        _check_alike(self.title, self.panels, len(self.times))
        if not 0 <= self.still < len(self.times):
            raise UsageError(f"{self.title}: there is no frame {self.still} of {len(self.times)}")


@dataclass(frozen=True)
class Profiles:
    """x-t profiles: one image column of every panel (position down) over time (to the right).

    Motion that is blurred away or made up shows here. panels, times, aspect: as in `Players`, T >= 2 in every panel.
    column: which, marked in the first panel. Raises UsageError for panels, times or a column that do not fit.
    """

    title: str
    panels: Sequence[Panel]
    times: np.ndarray
    column: int
    aspect: float = 1.0
    note: str = ""

    def __post_init__(self) -> None:
        _check_alike(self.title, self.panels, len(self.times))
        if len(self.times) < 2 or any(len(panel.frames) != len(self.times) for panel in self.panels):
            raise UsageError(f"{self.title}: profiles over time need two frames at least in every panel")
        if not 0 <= self.column < self.panels[0].frames.shape[2]:
            raise UsageError(f"{self.title}: there is no column {self.column} in {self.panels[0].frames.shape}")


@dataclass(frozen=True)
class Picture:
    """A finished picture, such as a plot. data: PNG, WebP or SVG. alt: what it shows, for those who do not see it.

    dark: the same for dark pages, None where one does for both (`medseq.report.plots` makes both).
    """

    title: str
    data: bytes
    alt: str
    dark: bytes | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Figures. rows: finished text, each as long as the header. Columns of numbers are set flush right.

    links: none, or for every entry of every row where it leads: a URL relative to the page, quoted, or None.
    Raises UsageError for rows of another length, and for links that leave the machine.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    links: Sequence[Sequence[str | None]] = ()

    def __post_init__(self) -> None:
        if any(len(row) != len(self.header) for row in (*self.rows, *self.links)):
            raise UsageError(f"{self.title}: every row must have {len(self.header)} entries, as the header has")
        if self.links and len(self.links) != len(self.rows):
            raise UsageError(f"{self.title}: every row must have its links, or none")
        if any(link and (":" in link or link.startswith("/")) for row in self.links for link in row):
            raise UsageError(f"{self.title}: links must be relative")


@dataclass(frozen=True)
class Text:
    """Paragraphs under a title, which may be empty."""

    title: str
    paragraphs: Sequence[str]


Block = Players | Profiles | Picture | Table | Text


@dataclass(frozen=True)
class Section:
    """What belongs together under one heading, such as one task or one series of a subject.

    lead: a line below the title. provenance: how it was made, where that is not the same for the whole page.
    """

    title: str
    blocks: Sequence[Block]
    lead: str = ""
    provenance: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """One report. warnings: shown before everything else. provenance: how it was made, shown at the end.

    Neither may hold a path, a UID or a name of anybody; what `run.json` holds may be shown.
    """

    title: str
    subtitle: str
    sections: Sequence[Section]
    warnings: Sequence[str] = ()
    provenance: Mapping[str, str] = field(default_factory=dict)


def _check_alike(title: str, panels: Sequence[Panel], frames: int) -> None:
    if not panels or len({panel.frames.shape[1:] for panel in panels}) != 1:
        raise UsageError(f"{title}: panels must be one at least, and all of one size")
    if any(len(panel.frames) not in (1, frames) for panel in panels):
        raise UsageError(f"{title}: every panel must have {frames} frames, one for each time, or one")
