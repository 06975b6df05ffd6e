"""Frames reconstructed in the order they came, one slice beside the other."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from medseq.clip import KSpace
from medseq.stream.frames import Frame, Item, Start


class Reconstruction(Protocol):
    """What reconstructs the frames of one slice, each from itself and those before (`CausalReconstruction`)."""

    def first(self, y: Tensor, keep: Tensor) -> Tensor:
        """Those held back, all at once: (1, C, T, Y, X) k-space and bool (1, 1, T, Y, 1) -> (1, 1, T, Y, X)."""

    def frame(self, y: Tensor, keep: Tensor) -> Tensor:
        """(1, C, 1, Y, X) k-space and bool (1, 1, 1, Y, 1), which of its lines are measured -> (1, 1, 1, Y, X)."""

    def missed(self, count: int = 1) -> None:
        """So many frames never came."""


Begin = Callable[[KSpace], Reconstruction]


@dataclass(frozen=True)
class Done:
    """A frame and its image (1, 1, 1, Y, X), complex, in the units of the k-space.

    affine: of its slice, as in `KSpace`. lost: frames since the last image that never came or were dropped. live: it
    came when those that were held back for calibration were done.
    """

    frame: Frame
    image: Tensor
    affine: np.ndarray
    lost: int
    live: bool


def reconstructed(items: Iterable[Item], begin: Begin) -> Iterator[Done]:
    """The images of all frames among `items`, each as soon as it is done.

    begin: makes the reconstruction of a slice from its first frames. The iterator waits where `items` does.
    """
    slices: dict[int, _Slice] = {}
    for item in items:
        if isinstance(item, Start):
            slices[item.slice] = _Slice(begin(item.kspace), item.kspace.affine)
            yield from slices[item.slice].begin(item.frames)
            slices[item.slice].ready = time.monotonic()
        else:
            yield slices[item.slice].advance(item)


class _Slice:
    def __init__(self, reconstruction: Reconstruction, affine: np.ndarray) -> None:
        self._reconstruction, self._affine = reconstruction, affine
        self._last, self.ready = -1, math.inf  # when those that were held back are done

    def begin(self, frames: Sequence[Frame]) -> Iterator[Done]:
        """Of the frames held back; that some between them never came is told, and makes no difference."""
        y, keep = (torch.cat(parts, 2) for parts in zip(*((frame.y, frame.keep) for frame in frames), strict=True))
        for frame, image in zip(frames, self._reconstruction.first(y, keep).split(1, dim=2), strict=True):
            yield self._done(frame, image, frame.number - self._last - 1)

    def advance(self, frame: Frame) -> Done:
        lost = frame.number - self._last - 1
        if lost:
            self._reconstruction.missed(lost)
        return self._done(frame, self._reconstruction.frame(frame.y, frame.keep), lost)

    def _done(self, frame: Frame, image: Tensor, lost: int) -> Done:
        self._last = frame.number
        return Done(frame, image, self._affine, lost, frame.received >= self.ready)
