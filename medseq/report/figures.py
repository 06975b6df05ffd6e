"""Montages and movies that put several versions of one series side by side.

One grey scale for every image and one for every error, both fixed by the reference, so that brightness means the
same in every panel. Columns are versions of the series; rows are the image, its error and its x-t profile: one image
column (marked in the first panel) over time, which shows motion that is blurred away or made up.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Errors are shown this many times brighter than images.
ERROR_GAIN = 5
_WHITE, _GREY = 255, 150
_MARGIN, _LINE = 6, 18
# A few bright pixels (vessels, fat near a coil) would otherwise darken everything else.
_WHITE_PERCENTILE = 99.5
# The least duration that viewers of animated GIF honour.
_SHORTEST_MS = 20


@dataclass(frozen=True)
class Panel:
    """One version of the series: its title, magnitude frames (T, Y, X) in the reference's units, and a caption."""

    title: str
    frames: np.ndarray
    caption: str = ""


def montage(
    panels: Sequence[Panel], reference: np.ndarray, path: str | os.PathLike[str], *, frame: int, column: int
) -> None:
    """Write one still picture (PNG by its ending) of `panels`: image at `frame`, error, x-t profile at `column`.

    reference: (T, Y, X) magnitude, the truth that errors are taken against; its 99.5th percentile is white.
    Raises ValueError when a panel's shape differs from the reference's.
    """
    _sheet(panels, reference, frame, column).save(path)


def movie(
    panels: Sequence[Panel], reference: np.ndarray, path: str | os.PathLike[str], *, column: int, seconds: float
) -> None:
    """Write an endless animation (GIF or WebP by the ending of `path`) of `panels`, one sheet for each frame.

    seconds: duration of one frame in real time. Other arguments and errors are those of `montage`.
    """
    sheets = [_sheet(panels, reference, frame, column) for frame in range(len(reference))]
    duration = max(_SHORTEST_MS, round(1000 * seconds))
    sheets[0].save(path, save_all=True, append_images=sheets[1:], duration=duration, loop=0)


def _sheet(panels: Sequence[Panel], reference: np.ndarray, frame: int, column: int) -> Image.Image:
    white = float(np.percentile(reference, _WHITE_PERCENTILE)) or 1.0
    zoom = max(1, round(240 / max(reference.shape[1:])))
    rows = [
        ("image", [_grey(panel.frames[frame], white, zoom) for panel in panels]),
        (
            f"error x {ERROR_GAIN}",
            [_grey(_error(panel, reference)[frame], white / ERROR_GAIN, zoom) for panel in panels],
        ),
        ("x-t profile", [_profile(panel.frames, white, zoom, frame, column) for panel in panels]),
    ]
    _mark_column(rows[0][1][0], column, zoom)
    return _arrange([panel.title for panel in panels], rows, [panel.caption for panel in panels])


def _error(panel: Panel, reference: np.ndarray) -> np.ndarray:
    if panel.frames.shape != reference.shape:
        raise ValueError(f"panel {panel.title!r} is {panel.frames.shape}, the reference {reference.shape}")
    return np.abs(panel.frames - reference)


def _grey(image: np.ndarray, white: float, zoom: int) -> Image.Image:
    levels = np.clip(image / white, 0, 1) * 255
    picture = Image.fromarray(np.round(levels).astype(np.uint8))
    return picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.BICUBIC)


def _profile(frames: np.ndarray, white: float, zoom: int, frame: int, column: int) -> Image.Image:
    """Position (down) against time (right), as wide as an image, with a tick above and below the shown frame."""
    count, height, width = frames.shape
    picture = _grey(frames[:, :, column].T, white, 1)
    picture = picture.resize((width * zoom, height * zoom), Image.Resampling.NEAREST)
    position = (frame + 0.5) * width * zoom / count
    pen = ImageDraw.Draw(picture)
    pen.line([(position, 0), (position, 2 * zoom)], fill=_WHITE, width=2)
    pen.line([(position, picture.height - 2 * zoom), (position, picture.height)], fill=_WHITE, width=2)
    return picture


def _mark_column(picture: Image.Image, column: int, zoom: int) -> None:
    pen = ImageDraw.Draw(picture)
    position = (column + 0.5) * zoom
    for start in range(0, picture.height, 12):
        pen.line([(position, start), (position, start + 4)], fill=_WHITE)


def _arrange(
    titles: Sequence[str], rows: Sequence[tuple[str, list[Image.Image]]], captions: Sequence[str]
) -> Image.Image:
    width, height = rows[0][1][0].size
    font = ImageFont.load_default(13)
    label_width = 12 + max(round(font.getlength(label)) for label, _ in rows)
    sheet = Image.new(
        "L",
        (
            label_width + len(titles) * (width + _MARGIN),
            2 * (_LINE + _MARGIN) + len(rows) * (height + _MARGIN),
        ),
    )
    pen = ImageDraw.Draw(sheet)
    for index, (title, caption) in enumerate(zip(titles, captions, strict=True)):
        middle = label_width + index * (width + _MARGIN) + width // 2
        pen.text((middle, _MARGIN + _LINE // 2), title, fill=_WHITE, font=font, anchor="mm")
        pen.text((middle, sheet.height - _MARGIN - _LINE // 2), caption, fill=_WHITE, font=font, anchor="mm")
    for down, (label, pictures) in enumerate(rows):
        top = _LINE + _MARGIN + down * (height + _MARGIN)
        pen.text((label_width // 2, top + height // 2), label, fill=_GREY, font=font, anchor="mm")
        for index, picture in enumerate(pictures):
            sheet.paste(picture, (label_width + index * (width + _MARGIN), top))
    return sheet
