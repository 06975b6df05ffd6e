"""One self-contained HTML page for people to look at.

Everything is in the file: it asks for nothing from outside, and says so in a strict content security policy, in which
its one style sheet and its one script stand by their hashes. It can be read without scripts.
"""

from __future__ import annotations

import hashlib
import os
import re
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from jinja2 import Environment, StrictUndefined

from medseq.io.files import atomic_write
from medseq.report.blocks import Block, Page, Panel, Picture, Players, Profiles, Section, Table, Text
from medseq.report.images import Reel, Reels, colour_bar, embedded, marked, pixel_count, profile, reels

__all__ = [
    "Block",
    "Page",
    "Panel",
    "Picture",
    "Players",
    "Profiles",
    "Section",
    "Table",
    "Text",
    "write_page",
]

MOST_BYTES = 5_000_000
# For the text, which is not known before it is written.
_SPARE = 100_000
_SPEEDS = ((0.25, "¼ ×"), (0.5, "½ ×"), (1, "1 × (real time)"), (2, "2 ×"), (4, "4 ×"), (8, "8 ×"), (16, "16 ×"))
# Slower than this is played faster than real time at first: few people watch a series of fMRI for minutes.
_SLOWEST = 5.0  # frames a second
# With a unit of a few letters, if any; a dash stands for no number.
_NUMBER = re.compile(r"[-+−±<>]?\d([^A-Za-z]|e[-+])*[A-Za-z]{0,3}$|[-–—]?$")


@dataclass(frozen=True)
class _Shown:
    panel: Panel
    reel: Reel


@dataclass(frozen=True)
class _View:
    """Players as the page has them. times: seconds from the first frame. loop: seconds until it begins again.

    compared: the two panels that flicker unless others are chosen.
    """

    panels: list[_Shown]
    size: tuple[int, int]
    times: list[float]
    loop: float
    speed: float
    still: int
    compared: tuple[int, int]
    note: str


def write_page(page: Page, path: str | os.PathLike[str]) -> None:
    """Write `page` as one HTML file of at most 5 MB, atomically.

    Long series are thinned in time and compressed further where they must be, and the page says so.
    Raises ResourceError when it cannot be written.
    """
    text = render(page)
    with atomic_write(os.fspath(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def render(page: Page, most_bytes: int = MOST_BYTES) -> str:
    """The HTML of a page. most_bytes: what its players are made to fit, together with everything else."""
    style, script = _resource("page.css"), _resource("page.js")
    policy = (
        f"default-src 'none'; img-src data:; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    blocks = [block for section in page.sections for block in section.blocks]
    views = _views([block for block in blocks if isinstance(block, Players)], most_bytes - _SPARE - _fixed(blocks))
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=False)
    environment.filters |= {"figure": figure, "zip": zip}
    return environment.from_string(_resource("page.html")).render(
        page=page,
        policy=policy,
        style=style,
        script=script,
        reels=lambda block: views[id(block)],
        bars={colours: colour_bar(colours) for colours in ("grey", "diverging", "sequential")},
        profile=profile,
        marked=lambda block: marked(block.panels[0], block.column, block.aspect),
        embedded=embedded,
        kind=lambda block: type(block).__name__,
        numeric_columns=_numeric_columns,
        speeds=_SPEEDS,
    )


def figure(value: float) -> str:
    """A number as people write it, to three digits that count: 0.0123, 4.56, 812, 1.5e+06."""
    return f"{value:.3g}" if abs(value) < 100 or abs(value) >= 1e6 else f"{value:.0f}"


def _views(players: Sequence[Players], available: float) -> dict[int, _View]:
    total = sum(pixel_count(block) for block in players)
    return {id(block): _view(block, reels(block, available * pixel_count(block) / total)) for block in players}


def _view(block: Players, made: Reels) -> _View:
    times = np.asarray(block.times, dtype=np.float64)[made.frames]
    times = times - times[0]
    interval = float(np.median(np.diff(times))) if len(times) > 1 else 1.0
    # Powers of two that come closest to the slowest pace, among those that can be chosen.
    speed = 1 if 1 / interval >= _SLOWEST else min(16, 2 ** int(np.ceil(np.log2(_SLOWEST * interval))))
    step = int(made.frames[1]) if len(made.frames) > 1 else 1
    return _View(
        panels=[_Shown(panel, reel) for panel, reel in zip(block.panels, made.panels, strict=True)],
        size=made.size,
        times=np.round(times, 4).tolist(),
        loop=round(block.period or float(times[-1]) + interval, 4),
        speed=speed,
        still=int(np.abs(made.frames - block.still).argmin()),
        compared=_alike(block.panels),
        note=f"One frame in {step} is shown, to keep this page small." if step > 1 else "",
    )


def _alike(panels: Sequence[Panel]) -> tuple[int, int]:
    """The last two panels of the first scale that several share (often a baseline and the result), else the first."""
    scales = [(panel.colours, panel.low, panel.high) for panel in panels]
    shared = next((scale for scale in scales if scales.count(scale) > 1), None)
    one, other = [place for place, scale in enumerate(scales) if scale == shared][-2:] or (0, 1)
    return one, other


def _fixed(blocks: Sequence[Block]) -> int:
    """Bytes of everything that no quality is chosen for."""
    total = 0
    for block in blocks:
        if isinstance(block, Picture):
            total += len(embedded(block.data)) + len(embedded(block.dark or b""))
        elif isinstance(block, Profiles):
            total += sum(len(profile(panel, block)) for panel in block.panels)
    return total


def _numeric_columns(table: Table) -> list[bool]:
    columns: Sequence[tuple[str, ...]] = list(zip(*table.rows, strict=True)) or [()] * len(table.header)
    return [any(column) and all(_NUMBER.match(entry) for entry in column) for column in columns]


def _resource(name: str) -> str:
    return (files("medseq.report") / name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """As a content security policy names what it allows (CSP level 2, "hash-source")."""
    return "sha256-" + b64encode(hashlib.sha256(text.encode()).digest()).decode("ascii")
