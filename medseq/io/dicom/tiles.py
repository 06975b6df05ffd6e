"""Siemens mosaics: a volume as tiles of one big image, row by row, which stands in space as the big image would."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from medseq.errors import InputError
from medseq.io.dicom.attributes import Attributes

_PLAIN, _CSA = "SIEMENS MR HEADER", "SIEMENS CSA HEADER"


@dataclass(frozen=True)
class Tile:
    """One slice of a mosaic; fields as in `Record`."""

    index: int
    position: tuple[float, float, float]
    matrix: tuple[int, int]
    step: float
    delay: float | None


def is_mosaic(frame: Attributes) -> bool:
    """Whether the image holds several slices as tiles. Raises InputError for the grid of another vendor."""
    words = frame.words("ImageType")
    if "VFRAME" in words:
        raise InputError("a grid of slices (VFRAME), which medseq does not take apart; export it as Enhanced MR")
    return "MOSAIC" in words


def tiles(
    frame: Attributes,
    orientation: tuple[float, ...],
    spacing: tuple[float, ...],
    position: tuple[float, float, float],
) -> Iterator[Tile]:
    """The slices of a mosaic. orientation, spacing, position: those of the big image, as in `Record`.

    ImagePositionPatient is where the big image would have begun had it been acquired: half of what it is larger than a
    tile is to be added along rows and columns. Slices follow each other along SliceNormalVector of the CSA header, else
    along row x column (nibabel's page on Siemens mosaics; dcm2niix's notes on Siemens).
    Raises InputError when the number of slices is unknown, does not fit the image, or the order is reversed.
    """
    csa = _csa(frame)
    count = _count(frame, csa)
    side = math.ceil(math.sqrt(count))
    columns, rows = frame.whole("Columns") or 0, frame.whole("Rows") or 0
    if columns % side or rows % side:
        raise InputError(f"a mosaic of {count} slices does not fit {columns} x {rows} voxels; get a fresh copy")
    tile = (columns // side, rows // side)
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    wider = row * spacing[1] * (columns - tile[0]) / 2 + column * spacing[0] * (rows - tile[1]) / 2
    step = frame.positive("SpacingBetweenSlices", "SliceThickness")
    if step is None:
        raise InputError("a mosaic that does not say how far apart its slices are; get a fresh copy")
    normal = _normal(np.cross(row, column), csa)
    delays = _delays(frame, csa, count)
    for index in range(count):
        x, y, z = (np.array(position) + wider + index * step * normal).tolist()
        yield Tile(index, (x, y, z), tile, step, None if delays is None else delays[index])


def _csa(frame: Attributes) -> dict[str, list[float]]:
    """The numbers of the private image header; {} when there is none or it cannot be read."""
    raw = frame.private_bytes(0x0029, _CSA, 0x10)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on import it calls itself experimental
        from nibabel.nicom import csareader
    try:
        tags = (csareader.read(raw) or {}).get("tags", {}) if raw else {}
    except Exception:  # noqa: BLE001 - it raises whatever struct, numpy and str raise on broken bytes
        return {}
    return {name: tag["items"] for name, tag in tags.items() if all(isinstance(x, int | float) for x in tag["items"])}


def _count(frame: Attributes, csa: dict[str, list[float]]) -> int:
    said = frame.private(0x0019, _PLAIN, 0x0A) or csa.get("NumberOfImagesInMosaic")
    if not said or not 1 <= said[0] <= 1024:
        raise InputError("a mosaic that does not say how many slices it has; export it with its private attributes")
    if csa.get("ProtocolSliceNumber", [0])[:1] > [1]:
        raise InputError("a mosaic whose slices are in reversed order, which medseq does not trust; export Enhanced MR")
    return int(said[0])


def _normal(normal: np.ndarray, csa: dict[str, list[float]]) -> np.ndarray:
    """The direction in which tiles follow each other: row x column, or its opposite where the CSA header says so."""
    said = csa.get("SliceNormalVector", [])
    return -normal if len(said) == 3 and float(np.dot(said, normal)) < 0 else normal


def _delays(frame: Attributes, csa: dict[str, list[float]], count: int) -> list[float] | None:
    said = frame.private(0x0019, _PLAIN, 0x29) or csa.get("MosaicRefAcqTimes") or ()
    return [time / 1000.0 for time in said[:count]] if len(said) >= count else None
