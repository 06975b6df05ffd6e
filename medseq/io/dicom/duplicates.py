"""Images that are there twice: sent again, exported into two folders, renamed. One of them is enough, if they agree."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np

from medseq.errors import InputError
from medseq.io.dicom.grouping import Stack, grouped
from medseq.io.dicom.pixels import PixelReader
from medseq.io.dicom.records import Record


def without_duplicates(stack: Stack) -> Stack:
    """The stack with one of each image, the first by path.

    Two images are one when they share the SOPInstanceUID (PS3.3 C.12.1), or kind, place, echo and every clue of time.
    Raises InputError when such two differ in their pixels, as nobody can tell which is right.
    """
    by_uid = grouped(stack.records, lambda record: (record.instance_uid, record.index))
    kept = [_one_of(twins) for twins in by_uid.values()]
    by_clues = grouped(kept, _appearance)
    kept = [_one_of(twins) for twins in by_clues.values()]
    lost = len(stack.records) - len(kept)
    if not lost:
        return stack
    note = f"{lost} images are there more than once, with the same pixels; one of each is taken"
    return replace(stack, records=tuple(kept), problems=(*stack.problems, note))


def _appearance(record: Record) -> Hashable:
    kind = (record.component, record.image_type, record.echo, record.orientation, record.matrix)
    return *kind, record.position, record.index, *astuple(record.clues)


def _one_of(twins: Sequence[Record]) -> Record:
    twins = sorted(twins, key=lambda record: record.path)
    if len(twins) > 1 and not _agree({record.path for record in twins}, twins):
        raise InputError(f"{twins[0].path} and {twins[1].path} claim to be one image and differ; remove the wrong one")
    return twins[0]


def _agree(paths: Iterable[Path], twins: Sequence[Record]) -> bool:
    if len({_digest(path) for path in paths}) == 1:
        return True
    with PixelReader() as reader:
        images = [reader.read(record.path, None, [0 if _is_tile(record) else record.index]) for record in twins]
    scales = {(record.slope, record.intercept) for record in twins}
    return len(scales) == 1 and all(np.array_equal(image, images[0]) for image in images)


def _is_tile(record: Record) -> bool:
    """Of a mosaic, which is one frame."""
    return "MOSAIC" in record.image_type


def _digest(path: Path) -> bytes:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
