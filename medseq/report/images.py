"""Frames as pictures: colours, sprite sheets that fit a number of bytes, and what had to be left out for that."""

from __future__ import annotations

import io
import math
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import Colormap, LinearSegmentedColormap
from PIL import Image

from medseq.report.blocks import Colours, Panel, Players, Profiles

# Zero is black, so that nothing to see looks like nothing, and neither sign is brighter than the other.
_MAPS: dict[Colours, Colormap] = {
    "diverging": LinearSegmentedColormap.from_list("", ["#a5d5ff", "#2b86d9", "#000000", "#d9622b", "#ffc9a5"]),
    "sequential": colormaps["inferno"],
}
# Pixels that a panel is shown with: one that plays, and one that stands still, which may hold many slices.
_LONGEST_SIDE, _LONGEST_STILL = 400, 1000
# Frames are shown enlarged; a still of fewer pixels would look worse for it when printed.
_QUALITIES = (90, 75, 60)
_STILL_QUALITY = 92
# Browsers hold a decoded sheet at 4 bytes a pixel, and a page has several.
_MOST_PIXELS = 12_000_000
_SAMPLE = 6  # frames that tell how many bytes all of them will take
_PROFILE_WIDTH = 360
_LEVELS = 256


@dataclass(frozen=True)
class Reel:
    """The frames of one panel as data URIs.

    still: one frame alone, in colours. sheet: all frames, rows of `columns` of them in reading order, in levels of grey
    that the page colours: pictures compressed in colour lose the sign of a fine difference. None for a still panel.
    """

    still: str
    sheet: str | None
    columns: int


@dataclass(frozen=True)
class Reels:
    """All panels of players. frames: which of the frames are left; size: (width, height) of one in pixels."""

    panels: list[Reel]
    frames: np.ndarray
    size: tuple[int, int]


def reels(players: Players, limit: float) -> Reels:
    """Encode players into about `limit` bytes: lower quality first, then every second, fourth, ... frame.

    Lossy for the eye; pixels are made square.
    """
    size = _size(players)
    for frames, quality in _ever_smaller(len(players.times), size):
        few = frames[:: max(1, len(frames) // _SAMPLE)]
        if len(frames) > 1 and _bytes(_encoded_panels(players, few, size, quality)) * len(frames) > limit * len(few):
            continue
        made = _encoded_panels(players, frames, size, quality)
        if len(frames) == 1 or _bytes(made) <= limit:
            break
    return Reels(made, frames, size)


def _ever_smaller(count: int, size: tuple[int, int]) -> Iterator[tuple[np.ndarray, int]]:
    """Which frames to keep and at what quality, down to one frame."""
    step = max(1, math.ceil(count * size[0] * size[1] / _MOST_PIXELS))
    while True:
        frames = np.arange(0, count, step)
        yield from ((frames, quality) for quality in _QUALITIES)
        if len(frames) == 1:
            return
        step *= 2


def _encoded_panels(players: Players, frames: np.ndarray, size: tuple[int, int], quality: int) -> list[Reel]:
    return [_reel(panel, players.still, frames, size, quality) for panel in players.panels]


def _bytes(made: list[Reel]) -> int:
    return sum(len(reel.still) + len(reel.sheet or "") for reel in made)


def pixel_count(players: Players) -> int:
    """How many pixels all frames of all panels have: their share of a page's bytes goes by it."""
    return sum(panel.frames.size for panel in players.panels)


def profile(panel: Panel, block: Profiles) -> str:
    """Position (down, pixels square with those of the image) against time (to the right, true to the times)."""
    times = np.asarray(block.times)
    moments = np.linspace(times[0], times[-1] + np.median(np.diff(times)), _PROFILE_WIDTH, endpoint=False)
    shown = np.searchsorted(times, moments + 1e-9, side="right") - 1
    lines = coloured(panel.frames[shown, :, block.column].T, panel)
    height = round(lines.shape[0] * max(block.aspect, 1.0))
    picture = Image.fromarray(lines)
    return _webp(picture.resize((_PROFILE_WIDTH, height), Image.Resampling.BILINEAR), _STILL_QUALITY)


def marked(panel: Panel, column: int, aspect: float) -> str:
    """The mean of a panel over time, with a dashed line where `column` is."""
    picture = coloured(panel.frames.mean(0), panel).copy()
    dashes = np.arange(len(picture)) % 6 < 3
    picture[dashes, column] = (255, 214, 10)
    height, width = picture.shape[:2]
    image = Image.fromarray(picture)
    return _webp(image.resize(_square(width, height, aspect), Image.Resampling.NEAREST), _STILL_QUALITY)


def colour_bar(colours: Colours) -> str:
    """From the lowest to the highest, left to right: one pixel a level, from which the page takes its colours too."""
    ramp = np.arange(_LEVELS, dtype=np.uint8)[None]
    return _data_uri(_encoded(Image.fromarray(_table(colours)[ramp]), "PNG"), "image/png")


def coloured(image: np.ndarray, panel: Panel) -> np.ndarray:
    """(..., Y, X) in the units of a panel -> (..., Y, X, 3) uint8."""
    return _table(panel.colours)[_levels(image, panel)]


def embedded(data: bytes) -> str:
    """A finished picture as a data URI, by its own first bytes: PNG, WebP, else SVG."""
    if data.startswith(b"\x89PNG"):
        return _data_uri(data, "image/png")
    return _data_uri(data, "image/webp" if data[:4] == b"RIFF" else "image/svg+xml")


def _levels(image: np.ndarray, panel: Panel) -> np.ndarray:
    share = np.clip((image - panel.low) / (panel.high - panel.low), 0, 1)
    return np.round(share * (_LEVELS - 1)).astype(np.uint8)


def _table(colours: Colours) -> np.ndarray:
    """(256, 3) uint8."""
    if colours == "grey":
        return np.arange(_LEVELS, dtype=np.uint8)[:, None].repeat(3, axis=1)
    return np.round(_MAPS[colours](np.arange(_LEVELS))[:, :3] * 255).astype(np.uint8)


def _reel(panel: Panel, still: int, frames: np.ndarray, size: tuple[int, int], quality: int) -> Reel:
    moves = len(panel.frames) > 1
    alone = _resized(coloured(panel.frames[still if moves else 0], panel), size)
    if not moves:
        return Reel(_still(alone, panel), None, 1)
    width, height = size
    columns = math.ceil(math.sqrt(len(frames) * height / width))  # a sheet about as high as it is wide
    rows = math.ceil(len(frames) / columns)
    sheet = Image.new("L", (columns * width, rows * height))
    for place, frame in enumerate(frames):
        picture = _resized(_levels(panel.frames[frame], panel), size)
        sheet.paste(picture, (place % columns * width, place // columns * height))
    return Reel(_still(alone, panel), _webp(sheet, quality), columns)


def _size(players: Players) -> tuple[int, int]:
    height, width = players.panels[0].frames.shape[1:]
    width, height = _square(width, height, players.aspect)
    longest = _LONGEST_SIDE if len(players.times) > 1 else _LONGEST_STILL
    shrink = min(1.0, longest / max(width, height))
    return max(1, round(width * shrink)), max(1, round(height * shrink))


def _square(width: int, height: int, aspect: float) -> tuple[int, int]:
    """Width and height of an image whose pixels have been made square, never by leaving any out."""
    return (width, round(height * aspect)) if aspect >= 1 else (round(width / aspect), height)


def _resized(picture: np.ndarray, size: tuple[int, int]) -> Image.Image:
    image = Image.fromarray(picture)
    return image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)


def _still(image: Image.Image, panel: Panel) -> str:
    if panel.colours == "grey":
        return _webp(image, _STILL_QUALITY)
    return _data_uri(_encoded(image, "WEBP", lossless=True), "image/webp")


def _webp(image: Image.Image, quality: int) -> str:
    return _data_uri(_encoded(image, "WEBP", quality=quality, method=2), "image/webp")


def _encoded(image: Image.Image, kind: str, **options: int) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _data_uri(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{b64encode(data).decode('ascii')}"
