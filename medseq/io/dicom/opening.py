"""Finding and opening DICOM files (PS3.10) of any origin: their headers, checked, without the pixels.

Files come without preamble, file meta information or extension, gzipped, deflated, of either byte order, and some to
do harm. What is not DICOM is told from what is broken, and no more is read than the header.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydicom import Dataset, FileDataset
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import data_element_offset_to_value, read_dataset
from pydicom.tag import BaseTag
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from pydicom.valuerep import VR

from medseq.errors import InputError
from medseq.io.dicom.content import MOST_HEADER, PREAMBLE, BoundedStream, after_meta, opened
from medseq.io.dicom.finite import check_finite
from medseq.io.dicom.values import dicom_faults_named, quiet, text, uid, whole

_PIXELS = {0x7FE00008: "FloatPixelData", 0x7FE00009: "DoubleFloatPixelData", 0x7FE00010: "PixelData"}
_UNDEFINED = 0xFFFFFFFF
# What ends up in names of files and folders, or joins files to a series.
_UIDS = ("SOPClassUID", "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_VRS = {vr.value.encode() for vr in VR if len(vr.value) == 2}
# The first element of a file without preamble is a group length, a character set or a UID: never longer than this.
_LONGEST_FIRST = 1024
# In bytes, decoded: the largest mammograms have a third of it.
_LARGEST_FRAME = 128 << 20


class PixelElement(NamedTuple):
    """Where the pixels of a file lie: the element's keyword and VR, and its value in the file's content.

    offset: of the value's first byte in `content.opened`. length: in bytes, None when encapsulated.
    """

    keyword: str
    vr: str | None
    offset: int
    length: int | None


class Header(FileDataset):
    """A dataset as pydicom reads it, without its pixels. pixels: where those lie, None when there are none."""

    pixels: PixelElement | None = None


def candidates(path: Path) -> list[Path]:
    """The files that may be DICOM, sorted: the file itself, or all below a folder, links to folders not followed.

    Hidden ones and DICOMDIR are left out: an index of names that a hostile medium chose (CVE-2026-32711).
    Raises InputError when there is nothing, when the path is a DICOMDIR, or a folder cannot be listed.
    """
    if path.name.upper() == "DICOMDIR" and path.is_file():
        raise InputError(f"{path}: this is an index, which medseq does not follow; give the folder around it")
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise InputError(f"{path}: no such file or folder; check the path")
    return sorted(_files_below(path))


def _files_below(folder: Path) -> Iterator[Path]:
    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be listed; check its permissions") from error

    for parent, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(parent, name)
            # Not a pipe or a device: opening one would wait for ever.
            if not name.startswith(".") and name.upper() != "DICOMDIR" and path.is_file():
                yield path


def open_header(path: Path) -> Header | None:
    """The dataset of a DICOM file up to its pixels, with `file_meta`; None when the file is not DICOM, or a DICOMDIR.

    file_meta always holds the transfer syntax, guessed from the first element where the file does not say it.
    Values are converted by pydicom when first asked for: ask through `medseq.io.dicom.values`.
    Raises InputError when the file is broken or hostile: truncated (also when it has fewer pixels than it announces),
    nested or inflated beyond all bounds, of impossible dimensions, with a UID that is none, or with a NaN or infinite
    value in its geometry, timing or scaling.
    """
    with dicom_faults_named(path), quiet():
        if not stat.S_ISREG(path.stat().st_mode):
            raise InputError("not a file; give a DICOM file or a folder of them")
        with opened(path) as (content, size):
            header = _read(BoundedStream(content, size, MOST_HEADER), path)
        if header is None:
            return None
        for key in _UIDS:
            uid(header, key)
        check_finite(header)
        if header.pixels is not None:
            _check_extent(header, header.pixels, size)
        return header


@dataclass
class _PixelStop:
    """Stops pydicom at the pixels of the dataset and remembers what it saw there."""

    element: tuple[str, str | None, int] | None = None

    def __call__(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        if tag not in _PIXELS:
            return False
        self.element = (_PIXELS[tag], vr, length)
        return True


class _Encoding(NamedTuple):
    implicit: bool
    little: bool

    @property
    def syntax(self) -> UID:
        if self.implicit:
            return ImplicitVRLittleEndian
        return ExplicitVRLittleEndian if self.little else ExplicitVRBigEndian


def _read(stream: BoundedStream, path: Path) -> Header | None:
    start = stream.peek(PREAMBLE + 8)[: PREAMBLE + 8]
    has_preamble = start[PREAMBLE - 4 : PREAMBLE] == b"DICM"
    if not has_preamble and _guessed(start) is None:
        return None
    stream.seek(PREAMBLE if has_preamble else 0)
    meta = FileMetaDataset(read_dataset(stream, False, True, stop_when=after_meta))
    syntax = text(meta, "TransferSyntaxUID")
    encoding = _guessed(stream.peek(8)) if syntax is None else _encoding(UID(syntax))
    if uid(meta, "MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
        return None
    if encoding is None:
        encoding = _Encoding(implicit=True, little=True)  # as PS3.5 section 10 has it where nothing else is known
    if syntax is None:
        meta.TransferSyntaxUID = encoding.syntax
    stop = _PixelStop()
    dataset = read_dataset(stream, encoding.implicit, encoding.little, stop_when=stop)
    if not has_preamble and not any(key in dataset for key in ("SOPClassUID", "Modality", "Rows")):
        return None
    header = Header(str(path), dataset, None, meta, *dataset.original_encoding)
    if stop.element is not None:
        header.pixels = _pixel_element(stream.tell(), *stop.element)
    return header


def _pixel_element(offset: int, keyword: str, vr: str | None, length: int) -> PixelElement:
    value = offset + data_element_offset_to_value(vr is None, vr)
    return PixelElement(keyword, vr, value, None if length == _UNDEFINED else length)


def _encoding(syntax: UID) -> _Encoding:
    """How a dataset of this transfer syntax is written; everything but three is explicit little endian (PS3.5 A.4)."""
    return _Encoding(syntax == ImplicitVRLittleEndian, syntax != ExplicitVRBigEndian)


def _guessed(start: bytes) -> _Encoding | None:
    """The encoding of a dataset that begins with an element of group 2 or 8; None when these bytes are no such thing.

    A rule of our own, as pydicom's `force=True` takes any bytes for DICOM.
    """
    vr, length = start[4:6], int.from_bytes(start[4:8], "little")
    if start[:2] in (b"\x02\0", b"\x08\0") and len(start) >= 8:
        if vr in _VRS:
            return _Encoding(implicit=False, little=True)
        return _Encoding(implicit=True, little=True) if length <= _LONGEST_FIRST else None
    return _Encoding(implicit=False, little=False) if start[:2] == b"\0\x08" and vr in _VRS else None


def _check_extent(header: Dataset, pixels: PixelElement, size: int) -> None:
    """Refuse dimensions that cannot be, and more pixels than the file has bytes for; more bytes are padding."""
    rows, columns, bits = (whole(header, key) for key in ("Rows", "Columns", "BitsAllocated"))
    if rows is None or columns is None or bits is None:
        raise InputError("has pixels without Rows, Columns or BitsAllocated; get a fresh copy")
    frames = frame_count(header)
    if min(rows, columns, bits) < 1 or rows * columns * bits > 8 * _LARGEST_FRAME:
        raise InputError(f"announces {rows} x {columns} voxels of {bits} bits; get a fresh copy")
    present = size - pixels.offset if pixels.length is None else min(pixels.length, size - pixels.offset)
    if pixels.length is None:
        # Every compressed frame has at least the tag and length of its item, and two bytes in it (PS3.5 A.4).
        needed = frames * 10
    elif (whole(header, "SamplesPerPixel") or 1) > 1:
        return  # colour, of which some kinds share samples between pixels; its pixels are never read
    else:
        needed = (frames * rows * columns * bits + 7) // 8
    if needed > present:
        raise InputError(
            f"truncated: {frames} frames of {rows} x {columns} voxels need {needed} bytes of pixels, {present} are "
            "there; get a fresh copy"
        )


def frame_count(header: Dataset) -> int:
    """NumberOfFrames, or 1 where there is none. Raises InputError when it is no whole number above 0."""
    frames = whole(header, "NumberOfFrames")
    if frames is not None and frames < 1:
        raise InputError(f"announces {frames} frames; get a fresh copy")
    return 1 if frames is None else frames
