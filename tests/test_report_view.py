"""Which way round images are shown, judged by nibabel's own account of affines."""

from __future__ import annotations

import itertools

import nibabel as nib
import numpy as np
import pytest

from medseq.report.view import view_of

# By the axis that slices are stacked along: what has to lie at the left, right, top and bottom.
SHOWN = {"R": ("A", "P", "S", "I"), "A": ("R", "L", "S", "I"), "S": ("R", "L", "A", "P")}
OPPOSITE = dict(zip("RLAPSI", "LRPAIS", strict=True))
STORED = ["".join(codes) for order in itertools.permutations(("RL", "AP", "SI")) for codes in itertools.product(*order)]


def affine_of(codes: str) -> np.ndarray:
    """Voxel axes that run towards `codes`, of 2, 3 and 5 mm."""
    affine = np.eye(4)
    for axis, (letter, size) in enumerate(zip(codes, (2.0, 3.0, 5.0), strict=True)):
        row = "RLAPSI".index(letter) // 2
        affine[:3, axis] = 0
        affine[row, axis] = size if letter in "RAS" else -size
    return affine


def position(affine: np.ndarray, letter: str, size: tuple[int, int]) -> np.ndarray:
    """How far each voxel of an image (Y, X) lies towards `letter`, mm."""
    y, x = np.mgrid[: size[0], : size[1]]
    place = np.einsum("ij,jyx->iyx", affine[:3, :2], np.stack([x, y]).astype(float))
    axis = ("RL", "AP", "SI").index(next(pair for pair in ("RL", "AP", "SI") if letter in pair))
    return place[axis] if letter in "RAS" else -place[axis]


@pytest.mark.parametrize("codes", STORED)
def test_every_orientation_is_shown_as_radiologists_look_at_it(codes: str):
    affine = affine_of(codes)
    assert "".join(nib.aff2axcodes(affine)) == codes
    view = view_of(affine)
    normal = next(letter for letter in "RAS" if codes[2] in (letter, OPPOSITE[letter]))
    assert view.edges == SHOWN[normal]
    left, right, top, bottom = view.edges
    across, down = view.of(position(affine, right, (4, 6))), view.of(position(affine, bottom, (4, 6)))
    assert (np.diff(across, axis=1) > 0).all() and np.allclose(np.diff(across, axis=0), 0)
    assert (np.diff(down, axis=0) > 0).all() and np.allclose(np.diff(down, axis=1), 0)
    assert view.aspect == pytest.approx(np.diff(down, axis=0)[0, 0] / np.diff(across, axis=1)[0, 0])


def test_a_short_axis_image_of_a_scanner_stays_as_it_is_stored():
    # Columns to the left and a little to the back and down, rows to the back and down, as DICOM images come.
    columns, rows = np.array([-0.8, -0.5, -0.33]), np.array([0.15, -0.7, -0.7])
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = columns / np.linalg.norm(columns), rows / np.linalg.norm(rows)
    affine[:3, 2] = np.cross(affine[:3, 0], affine[:3, 1])
    view = view_of(affine)
    image = np.arange(12.0).reshape(3, 4)
    np.testing.assert_array_equal(view.of(image), image)
    assert view.edges == ("RA", "LP", "SA", "IP") or view.edges == ("RA", "LP", "AS", "PI")


def test_unknown_geometry_is_shown_as_stored_and_not_named():
    view = view_of(np.eye(4))
    assert view.edges is None and view.aspect == 1
    np.testing.assert_array_equal(view.of(np.arange(6).reshape(2, 3)), np.arange(6).reshape(2, 3))
