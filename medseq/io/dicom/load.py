"""DICOM files and folders as series, and series as Clips."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medseq.clip import Clip
from medseq.errors import InputError, MedseqWarning, ResourceError, UsageError
from medseq.io.dicom.assemble import assemble
from medseq.io.dicom.duplicates import without_duplicates
from medseq.io.dicom.grouping import Stack, grouped, pairs, stacks
from medseq.io.dicom.opening import candidates, open_header
from medseq.io.dicom.pixels import PixelReader
from medseq.io.dicom.records import Record, is_image, records
from medseq.io.dicom.series import DicomSeries, Frame
from medseq.io.dicom.values import dicom_faults_named

# Bytes of stored values that are read at once; a file of many frames is read in several goes.
_PORTION = 1 << 26


@dataclass(frozen=True)
class Refused:
    """A file or a series that cannot be used. what: its path, or "series 7"; reason: what is wrong, what to do."""

    what: str
    reason: str


@dataclass(frozen=True)
class Found:
    """What a file or folder holds. ignored: files that are not DICOM, or DICOM without MR images (reports, maps)."""

    series: list[DicomSeries]
    refused: list[Refused]
    ignored: int


def find_series(path: str | Path, *, precise: bool = False) -> Found:
    """Every MR series in a file or below a folder, by series number; only headers are read.

    Images are grouped and sorted by what their headers say, never by file names (docs/dicom-reading.md has the rules).
    precise: scale Philips images by their private scale slope to precise values, comparable between series, instead of
    those that the console displays.
    A file or series that cannot be used is listed with the reason. Raises InputError when the path itself is no use.
    """
    found: list[Record] = []
    refused: list[Refused] = []
    ignored = 0
    for file in candidates(Path(path)):
        try:
            images = _images(file, precise)
        except InputError as error:
            refused.append(Refused(str(file), str(error).removeprefix(f"{file}: ")))
            continue
        found += images
        ignored += not images
    series, faulty = _series(found)
    return Found(series, refused + faulty, ignored)


def _images(file: Path, precise: bool) -> list[Record]:
    header = open_header(file)
    if header is None or header.pixels is None:
        return []
    with dicom_faults_named(file):
        return records(file, header, precise) if is_image(header) else []


def _series(found: Sequence[Record]) -> tuple[list[DicomSeries], list[Refused]]:
    series: list[DicomSeries] = []
    refused: list[Refused] = []
    clean: list[Stack] = []
    # Duplicates go first, series by series: with them, no stack could be told to be one slice, or one volume.
    for images in grouped(found, lambda record: (record.study, record.series)).values():
        try:
            clean.append(without_duplicates(Stack(tuple(images))))
        except InputError as error:
            refused.append(Refused(_label(images[0]), str(error)))
    notes = {each.first.series: each.problems for each in clean}
    for stack, half in pairs(stacks(record for each in clean for record in each.records)):
        try:
            series.append(assemble(stack.noted(notes[stack.first.series]), half))
        except InputError as error:
            refused.append(Refused(_label(stack.first), str(error)))
    return sorted(series, key=lambda each: -1 if each.number is None else each.number), refused


def _label(record: Record) -> str:
    return "a series without number" if record.number is None else f"series {record.number}"


def load_series(series: DicomSeries, *, allow_missing: bool = False) -> Clip:
    """The pixels of a series as a Clip of real values: float32, or complex64 where phases are joined.

    allow_missing: put zeros where a frame is missing, and say so in `Clip.present`.
    Warns with MedseqWarning of each of the series' problems. Raises InputError, naming the folder, when frames are
    missing and that is not allowed, when a file has changed or cannot be decoded, when a value is not finite or all are
    zero.
    """
    folder, missing = series.folder, series.missing
    if missing and not allow_missing:
        raise InputError(f"{folder}: {_named(series)} lacks {_listed(missing)}; --allow-missing-frames fills them in")
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        data = _read(series)
    if not bool(torch.isfinite(data).all()):
        raise InputError(f"{folder}: {_named(series)} has values that are not finite; get a fresh copy")
    if not bool(data.any()):
        raise InputError(f"{folder}: every value of {_named(series)} is zero; there is nothing to work on")
    for problem in series.problems:
        warnings.warn(f"{folder}: {_named(series)}: {problem}", MedseqWarning, stacklevel=2)
    present = torch.tensor([[frame is not None for frame in row] for row in series.frames]) if missing else None
    return Clip(data, series.affine, series.times, series.period, series.slice_times, present)


def load_dicom(
    path: str | Path, *, series: int | None = None, allow_missing: bool = False, precise: bool = False
) -> Clip:
    """The one image series of a file or folder as a Clip: `choose_series`, then `load_series`, which raise and warn."""
    return load_series(choose_series(path, series, precise=precise), allow_missing=allow_missing)


def choose_series(path: str | Path, number: int | None = None, *, precise: bool = False) -> DicomSeries:
    """The one series of a file or folder that is meant, options as in `find_series`.

    number: its series number; without it, the only series that has more than one frame.
    Warns with MedseqWarning of files and series that cannot be used, and of series left aside.
    Raises InputError when there is none or no telling which, UsageError when none has the number.
    """
    path = Path(path)
    found = find_series(path, precise=precise)
    there = ", ".join(sorted({_named(each) for each in found.series}))
    if not found.series:
        reason = f" ({found.refused[0].what}: {found.refused[0].reason})" if found.refused else ""
        raise InputError(f"{path}: no MR image series that can be used{reason}; check the path")
    meant = [each for each in found.series if number in (None, each.number)]
    if not meant:
        raise UsageError(f"{path}: there is no series {number}; there are {there}")
    moving = [each for each in meant if len(each.times) > 1] or meant
    if len(moving) > 1:
        if number is None:
            raise InputError(f"{path}: there are {there}; say which with --series N")
        raise InputError(f"{path}: {len(moving)} different series have number {number}; give the folder of one of them")
    for note in _left_aside(found, moving[0], number):
        warnings.warn(f"{path}: {note}", MedseqWarning, stacklevel=2)
    return moving[0]


def _left_aside(found: Found, chosen: DicomSeries, number: int | None) -> Iterator[str]:
    if number is None and len(found.series) > 1:
        yield f"{_named(chosen)} is taken, the only one of {len(found.series)} with more than one frame"
    if found.refused:
        first = found.refused[0]
        yield f"{len(found.refused)} files or series cannot be used, the first, {first.what}: {first.reason}"


def _named(series: DicomSeries) -> str:
    return "the series without number" if series.number is None else f"series {series.number}"


def _listed(missing: list[tuple[int, int]]) -> str:
    some = ", ".join(f"slice {b + 1} frame {t + 1}" for b, t in missing[:6])
    return some if len(missing) <= 6 else f"{some} and {len(missing) - 6} more"


def _read(series: DicomSeries) -> torch.Tensor:
    """(B, 1, T, Y, X) real values, float32 or complex64, zeros where a frame is missing."""
    columns, rows = series.matrix
    kind = np.float32 if series.phases is None else np.complex64
    try:
        data = np.zeros((len(series.frames), 1, len(series.times), rows, columns), kind)
    except MemoryError as error:
        raise ResourceError(
            f"not enough memory for {_named(series)}; free some, or take a machine with more"
        ) from error
    for b, t, values in _values(series.frames, series.matrix):
        data[b, 0, t] = values
    for b, t, values in _values(series.phases or (), series.matrix):
        if series.is_cartesian:
            data[b, 0, t] += 1j * values
        else:
            data[b, 0, t] *= np.exp(1j * values)
    return torch.from_numpy(data)


def _values(
    frames: tuple[tuple[Frame | None, ...], ...], matrix: tuple[int, int]
) -> Iterator[tuple[int, int, np.ndarray]]:
    """Slice, frame and real values (rows, columns) of each image, file by file."""
    cells = [(frame, b, t) for b, row in enumerate(frames) for t, frame in enumerate(row) if frame is not None]
    with PixelReader() as reader:
        for path, wanted in grouped(cells, lambda cell: cell[0].path).items():
            for (frame, b, t), stored in _stored(reader, path, wanted, matrix):
                # In double precision, as the product of a 16-bit value and a slope has more digits than a single has.
                yield b, t, stored.astype(np.float64) * frame.slope + frame.intercept


def _stored(
    reader: PixelReader, path: Path, cells: Sequence[tuple[Frame, int, int]], matrix: tuple[int, int]
) -> Iterator[tuple[tuple[Frame, int, int], np.ndarray]]:
    """Each of the cells of one file with its stored values (rows, columns)."""
    header = open_header(path)
    if header is None:
        raise InputError(f"{path}: no longer a DICOM file; leave the folder alone while it is read")
    columns, rows = matrix
    with dicom_faults_named(path):
        side = int(header.Columns) // columns
        if (side * columns, side * rows) != (header.Columns, header.Rows):
            raise InputError(f"{header.Columns} x {header.Rows} voxels instead of {columns} x {rows}; get a fresh copy")
        if side > 1:  # a mosaic: one frame, of which the cells are tiles
            image = reader.read(path, header, [0])[0]
            for cell in cells:
                y, x = rows * (cell[0].index // side), columns * (cell[0].index % side)
                yield cell, image[y : y + rows, x : x + columns]
            return
        portion = max(1, _PORTION // (2 * rows * columns))
        for start in range(0, len(cells), portion):
            some = cells[start : start + portion]
            yield from zip(some, reader.read(path, header, [cell[0].index for cell in some]), strict=True)
