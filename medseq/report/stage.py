"""What of a series is shown, and how bright: one slice in motion, all slices as stills."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medseq.clip import Clip
from medseq.errors import UsageError
from medseq.metrics import dynamic_region
from medseq.report.blocks import Colours, Panel, Players, Profiles
from medseq.report.view import View, view_of

# A few bright voxels (vessels, fat near a coil) would otherwise darken everything else.
_WHITE_PERCENTILE = 99.5
_MOST_SLICES = 12
LETTERS = "Shown as radiologists look at it: in axial and coronal images the patient's right is at the left."
UNKNOWN = "The file does not say how it lies in the patient: shown as it is stored."


@dataclass(frozen=True)
class Stage:
    """One slice of a series, turned the way it is looked at. slice: from 0. like: the series that it belongs to."""

    like: Clip
    slice: int
    view: View

    @classmethod
    def moving(cls, clip: Clip) -> Stage:
        """The slice in which most moves."""
        power = clip.data.abs().var(2, correction=0).sum((1, 2, 3))
        return cls(clip, int(power.argmax()), view_of(clip.affine))

    @classmethod
    def fullest(cls, clip: Clip, mask: Tensor) -> Stage:
        """The slice that holds most of a mask (B, 1, 1, Y, X)."""
        return cls(clip, int(mask.sum((1, 2, 3, 4)).argmax()), view_of(clip.affine))

    def frames(self, data: Tensor) -> np.ndarray:
        """Of (B, 1, T, Y, X): (T, Y, X) of this slice as shown; of complex ones the magnitude."""
        real = data.abs() if data.is_complex() else data
        return self.view.of(real[self.slice, 0].float().cpu().numpy())

    def stills(self, data: Tensor, mask: Tensor | None = None) -> np.ndarray:
        """Of a map (B, 1, 1, Y, X): its slices side by side, at most 12 evenly spaced ones, (1, rows Y, columns X).

        mask: (B, 1, 1, Y, X) bool, outside of whose bounds nothing is shown.
        """
        images = data[self.slices(data), 0, 0]
        if mask is not None:
            rows, columns = (mask.any(0).any(axis)[0, 0].nonzero()[:, 0] for axis in (-1, -2))
            images = images[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        return _mosaic(self.view.of(images.float().cpu().numpy()))[None]

    @staticmethod
    def slices(data: Tensor) -> np.ndarray:
        count = data.shape[0]
        return np.unique(np.linspace(0, count - 1, min(count, _MOST_SLICES)).round().astype(int))

    def players(
        self, title: str, panels: list[Panel], note: str = "", still: int = 0, columns: int | None = None
    ) -> Players:
        """Panels of this slice over time."""
        clip = self.like
        about = [f"Slice {self.slice + 1} of {clip.data.shape[0]}."] if clip.data.shape[0] > 1 else []
        about += [LETTERS if self.view.edges else UNKNOWN, note]
        return Players(
            title,
            panels,
            clip.times,
            period=clip.period,
            aspect=self.view.aspect,
            edges=self.view.edges,
            still=still,
            columns=columns,
            note=" ".join(filter(None, about)),
        )

    def still_players(self, title: str, panels: list[Panel], note: str = "") -> Players:
        """Panels made of `stills`."""
        count, shown = self.like.data.shape[0], len(self.slices(self.like.data))
        about = f"{shown} of {count} slices, evenly spaced. " if shown < count else ""
        columns = 2 if len(panels) in (2, 4) else None
        return Players(title, panels, np.zeros(1), aspect=self.view.aspect, columns=columns, note=about + note)

    def profiles(self, title: str, panels: list[Panel], note: str = "") -> Profiles:
        """Through the column in which most moves, in what moves of the last panel in grey (a heart, not the chest)."""
        moving = [panel.frames for panel in panels if panel.colours == "grey"][-1]
        power = moving.var(0)
        with suppress(UsageError):  # it stands still
            power = power * dynamic_region(torch.from_numpy(moving.copy())[None, None])[0, 0, 0].numpy()
        column = int(power.sum(0).argmax())
        return Profiles(title, panels, self.like.times, column, aspect=self.view.aspect, note=note)


def _mosaic(images: np.ndarray) -> np.ndarray:
    """(N, Y, X) -> (rows Y, columns X), about as high as wide, in reading order, a black border around each."""
    images = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    count, height, width = images.shape
    usual = math.ceil(math.sqrt(count * height / width))
    near = range(max(1, usual - 1), usual + 2)
    columns = min(near, key=lambda number: (-count % number, abs(number - usual)))  # the fewest places left empty
    rows = math.ceil(count / columns)
    images = np.concatenate([images, np.zeros((rows * columns - count, height, width), images.dtype)])
    return images.reshape(rows, columns, height, width).swapaxes(1, 2).reshape(rows * height, columns * width)


def white(frames: np.ndarray) -> float:
    """What is shown white: the 99.5th percentile, above 0."""
    return float(np.percentile(frames, _WHITE_PERCENTILE)) or 1.0


def signed(title: str, frames: np.ndarray, **about: str) -> Panel:
    """A difference, its own 99.5th percentile to both sides of 0."""
    limit = white(np.abs(frames))
    return Panel(title, frames, -limit, limit, "diverging", **about)


def unsigned(title: str, frames: np.ndarray, high: float, colours: Colours = "sequential", **about: str) -> Panel:
    """From 0 to `high`."""
    return Panel(title, frames, 0.0, high, colours, **about)
