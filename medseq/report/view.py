"""Which way round an image is shown: as radiologists look at it, told from the affine of a series.

The patient's right is at the left of axial and coronal images, anterior or superior at the top; sagittal images look to
the left of the page. Oblique images are turned the way that comes nearest; nothing is resampled.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

# What the columns run to and what the rows run to, in RAS, for images whose normal is nearest to x, y and z.
_TOWARDS = {0: ((0, -1, 0), (0, 0, -1)), 1: ((-1, 0, 0), (0, 0, -1)), 2: ((-1, 0, 0), (0, -1, 0))}
_LETTERS = ("LR", "PA", "IS")
# A direction is named by every axis it is turned to by more than this: the sine of 22.5 degrees.
_NAMED = np.sin(np.pi / 8)


@dataclass(frozen=True)
class View:
    """How to turn images (..., Y, X). aspect: height of a pixel over its width, as shown.

    edges: what lies at the left, right, top and bottom, None where the geometry of the series is not known.
    """

    transposed: bool
    rows_reversed: bool
    columns_reversed: bool
    aspect: float
    edges: tuple[str, str, str, str] | None

    def of(self, images: np.ndarray) -> np.ndarray:
        """Images (..., Y, X) as they are shown."""
        if self.transposed:
            images = images.swapaxes(-1, -2)
        if self.rows_reversed:
            images = images[..., ::-1, :]
        return images[..., ::-1] if self.columns_reversed else images


def view_of(affine: np.ndarray) -> View:
    """affine: 4x4, voxel (x, y, z) -> RAS mm. The identity stands for geometry that nobody knows: shown as stored."""
    if np.array_equal(affine, np.eye(4)):
        return View(False, False, False, 1.0, None)
    sizes = np.linalg.norm(affine[:3, :2], axis=0)
    x, y = (affine[:3, :2] / sizes).T
    to_right, down = (np.array(way) for way in _TOWARDS[int(np.abs(np.cross(x, y)).argmax())])

    def nearness(choice: tuple[bool, bool, bool]) -> float:
        right, below = _directions(x, y, *choice)
        return float(right @ to_right + below @ down)

    either = (False, True)
    transposed, rows_reversed, columns_reversed = max(itertools.product(either, either, either), key=nearness)
    right, below = _directions(x, y, transposed, rows_reversed, columns_reversed)
    width, height = sizes[::-1] if transposed else sizes
    edges = (_name(-right), _name(right), _name(-below), _name(below))
    return View(transposed, rows_reversed, columns_reversed, float(height / width), edges)


def _directions(
    x: np.ndarray, y: np.ndarray, transposed: bool, rows_reversed: bool, columns_reversed: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Where the columns and the rows of the image as shown run to."""
    right, below = (y, x) if transposed else (x, y)
    return (-right if columns_reversed else right), (-below if rows_reversed else below)


def _name(direction: np.ndarray) -> str:
    """Such as "R", or "RA" of an oblique direction, the nearest axis first."""
    axes = sorted(range(3), key=lambda axis: -abs(direction[axis]))
    return "".join(_LETTERS[axis][int(direction[axis] > 0)] for axis in axes if abs(direction[axis]) > _NAMED)
