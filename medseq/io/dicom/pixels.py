"""The stored values of whole frames of DICOM files (PS3.3 C.7.6.3, PS3.5 section 8), native or compressed."""

from __future__ import annotations

import io
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from medseq.errors import InputError, ResourceError
from medseq.io.dicom.content import BoundedStream, opened
from medseq.io.dicom.decoding import Compressed, Decoder
from medseq.io.dicom.opening import Header, PixelElement, frame_count, open_header
from medseq.io.dicom.values import dicom_faults_named, quiet, text, whole

_NATIVE = (
    ImplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
)
_FLOATS: dict[str, np.dtype] = {"FloatPixelData": np.dtype(np.float32), "DoubleFloatPixelData": np.dtype(np.float64)}
# Seconds to decode a file: ten times and more what the slowest codec takes for real frames. There are damaged JPEG-LS
# streams that the decoder of CharLS never finishes.
_PATIENCE, _PATIENCE_PER_FRAME = 20.0, 0.2


@dataclass(frozen=True)
class _Layout:
    """How the pixels of a file are stored. dtype: of the decoded values, in native byte order."""

    element: PixelElement
    syntax: UID
    rows: int
    columns: int
    frames: int
    dtype: np.dtype
    stored_bits: int
    high_bit: int
    photometric: str

    @property
    def frame_bytes(self) -> int:
        return self.rows * self.columns * self.dtype.itemsize

    def compressed(self, stream: bytes) -> Compressed:
        options = {
            "rows": self.rows,
            "columns": self.columns,
            "number_of_frames": 1,
            "samples_per_pixel": 1,
            "bits_allocated": 8 * self.dtype.itemsize,
            "bits_stored": self.stored_bits,
            "pixel_representation": int(self.dtype.kind == "i"),
            "photometric_interpretation": self.photometric,
            "pixel_keyword": "PixelData",
        }
        return Compressed(stream, self.syntax, options, (self.rows, self.columns), self.dtype)


class PixelReader:
    """Reads frames of DICOM files. Compressed ones are decoded in one child process, which the context ends."""

    def __init__(self) -> None:
        self._decoder = Decoder()

    def __enter__(self) -> PixelReader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._decoder.close()

    def read(self, path: Path, header: Dataset | None, indices: Sequence[int]) -> np.ndarray:
        """The frames `indices` of a file, counted from 0: (n, rows, columns) stored values in native byte order.

        header: what `open_header` gave for the file; it is opened again when None, or not from there.
        Integers are masked to BitsStored and extended by their sign, so that overlays in unused bits (retired, PS3.5
        8.1.1) are left out. Nothing is scaled or inverted: MONOCHROME1, in which low values are bright, included.
        Raises InputError, naming the file, when it has no such frame, is in colour or of a kind not listed in
        docs/dicom-reading.md, when a frame cannot be decoded within reasonable time and memory, and when the
        file is broken; the reader can go on with the next file. ResourceError when the frames exceed the memory.
        """
        with dicom_faults_named(path), quiet():
            if not isinstance(header, Header):
                header = open_header(path)
            if header is None:
                raise InputError("not a DICOM image; leave it out")
            layout = _layout(header)
            if not all(0 <= index < layout.frames for index in indices):
                raise InputError(f"has {layout.frames} frames, others were asked for; get a fresh copy")
            try:
                values = np.empty((len(indices), layout.rows, layout.columns), layout.dtype)
                with opened(path) as (content, size):
                    if layout.syntax in _NATIVE:
                        _read_native(content, layout, indices, values)
                    else:
                        self._read_compressed(BoundedStream(content, size), layout, indices, values)
            except MemoryError as error:
                raise ResourceError(f"{path}: {len(indices)} frames exceed the memory; free some") from error
            return _masked(values, layout)

    def _read_compressed(
        self, stream: BoundedStream, layout: _Layout, indices: Sequence[int], values: np.ndarray
    ) -> None:
        wanted = set(indices)
        deadline = time.monotonic() + _PATIENCE + _PATIENCE_PER_FRAME * len(wanted)
        stream.seek(layout.element.offset)
        frames = generate_frames(stream, number_of_frames=layout.frames)
        for index, frame in enumerate(frames):
            if index in wanted:
                left = max(1, round(deadline - time.monotonic()))
                values[np.equal(indices, index)] = self._decoder.decoded(layout.compressed(frame), left)
                wanted.remove(index)
            if not wanted:
                return
        raise InputError(f"announces {layout.frames} frames and has fewer; get a fresh copy")


def _layout(header: Header) -> _Layout:
    element = header.pixels
    if element is None:
        raise InputError("has no pixels; leave it out")
    rows, columns, bits = (whole(header, key) for key in ("Rows", "Columns", "BitsAllocated"))
    if rows is None or columns is None or bits is None:
        raise InputError("has pixels without Rows, Columns or BitsAllocated; get a fresh copy")
    syntax = UID(text(header.file_meta, "TransferSyntaxUID") or "")
    if (syntax in _NATIVE) != (element.length is not None):
        raise InputError(f"its pixels are not stored as it says ({syntax.name}); get a fresh copy")
    photometric = _photometric(header)
    dtype = _FLOATS.get(element.keyword) or _integers(header, bits)
    stored = _or(whole(header, "BitsStored"), bits)
    high = _or(whole(header, "HighBit"), stored - 1)
    if dtype.kind != "f" and not 1 <= stored <= high + 1 <= bits:
        raise InputError(f"BitsStored {stored} and HighBit {high} do not fit {bits} bits; get a fresh copy")
    if element.length is None and (dtype.kind == "f" or high != stored - 1):
        raise InputError(f"compressed values of this kind cannot be read ({syntax.name}); decompress it first")
    return _Layout(element, syntax, rows, columns, frame_count(header), dtype, stored, high, photometric)


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _photometric(header: Header) -> str:
    """MONOCHROME1 or MONOCHROME2; raises InputError for colour."""
    photometric = text(header, "PhotometricInterpretation") or "MONOCHROME2"
    samples = _or(whole(header, "SamplesPerPixel"), 1)
    if samples != 1 or not photometric.startswith("MONOCHROME"):
        raise InputError("in colour, which no MR series is; leave it out")
    return photometric


def _integers(header: Header, bits: int) -> np.dtype:
    if bits not in (8, 16, 32):
        raise InputError(f"values of {bits} bits are not read, only 8, 16 and 32; convert it first")
    signed = _or(whole(header, "PixelRepresentation"), 0)
    if signed not in (0, 1):
        raise InputError(f"PixelRepresentation is {signed}, which says nothing of the sign; get a fresh copy")
    return np.dtype(f"{'i' if signed else 'u'}{bits // 8}")


def _read_native(content: io.FileIO | io.BytesIO, layout: _Layout, indices: Sequence[int], values: np.ndarray) -> None:
    """Fill `values` from the places of the wanted frames in the file, and from nowhere else."""
    big_endian = layout.syntax == ExplicitVRBigEndian
    stored = layout.dtype.newbyteorder(">" if big_endian else "<")
    # Bytes are written in words of two when their VR is OW (PS3.5 section 8.2, A.3).
    swapped = big_endian and layout.dtype.itemsize == 1 and layout.element.vr == "OW"
    for place, index in enumerate(indices):
        start = index * layout.frame_bytes
        frame = _words_swapped if swapped else _bytes
        raw = frame(content, layout.element.offset, start, layout.frame_bytes)
        values[place] = np.frombuffer(raw, stored).reshape(layout.rows, layout.columns)


def _bytes(content: BinaryIO, offset: int, start: int, count: int) -> bytes:
    content.seek(offset + start)
    raw = content.read(count)
    if len(raw) != count:
        raise InputError("truncated in its pixels; get a fresh copy")
    return raw


def _words_swapped(content: BinaryIO, offset: int, start: int, count: int) -> bytes:
    first, last = start - start % 2, start + count + (start + count) % 2
    words = np.frombuffer(_bytes(content, offset, first, last - first), ">u2")
    return words.astype("<u2").tobytes()[start - first :][:count]


def _masked(values: np.ndarray, layout: _Layout) -> np.ndarray:
    """Only the BitsStored below HighBit, extended by the sign of PixelRepresentation (PS3.5 section 8.1.1)."""
    allocated = 8 * layout.dtype.itemsize
    if layout.dtype.kind == "f" or layout.stored_bits == allocated:
        return values
    # Shifting up drops the unused bits above; shifting back a signed type fills in its sign.
    return values << (allocated - 1 - layout.high_bit) >> (allocated - layout.stored_bits)
