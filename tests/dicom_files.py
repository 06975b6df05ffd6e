"""Single DICOM files for tests, as plain as they can be, and the bytes of elements that no library would write."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset, write_file_meta_info
from pydicom.uid import UID, ExplicitVRLittleEndian, MRImageStorage

LONG_VRS = {"OB", "OW", "OF", "OD", "SQ", "UN", "UT"}
ITEM, ITEM_END, SEQUENCE_END = (struct.pack("<HHL", 0xFFFE, element, 0) for element in (0xE000, 0xE00D, 0xE0DD))
UNDEFINED = 0xFFFFFFFF


def picture(rows: int = 16, columns: int = 12, dtype: str = "u2", bits: int | None = None) -> np.ndarray:
    """Random values that use every stored bit, signed ones of both signs."""
    limit = 2 ** (bits or 8 * np.dtype(dtype).itemsize)
    low = -limit // 2 if np.dtype(dtype).kind == "i" else 0
    return np.random.default_rng(5).integers(low, low + limit, (rows, columns)).astype(dtype)


def mr_image(values: np.ndarray | None = None, bits: int | None = None) -> Dataset:
    """A classic MR image, or a multi-frame one when `values` has three axes."""
    values = picture() if values is None else values
    dataset = Dataset()
    dataset.SOPClassUID = MRImageStorage
    dataset.SOPInstanceUID, dataset.SeriesInstanceUID, dataset.StudyInstanceUID = "1.2.3.4", "1.2.3", "1.2"
    dataset.Modality = "MR"
    dataset.PixelSpacing = [1.5, 2.0]
    dataset.ImagePositionPatient = [1.0, 2.0, 3.0]
    dataset.ImageOrientationPatient = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0]
    dataset.SamplesPerPixel = 1
    dataset.PhotometricInterpretation = "MONOCHROME2"
    if values.ndim == 3:
        dataset.NumberOfFrames = len(values)
    dataset.Rows, dataset.Columns = values.shape[-2:]
    dataset.BitsAllocated = 8 * values.dtype.itemsize
    dataset.BitsStored = bits or dataset.BitsAllocated
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    content = values.tobytes()
    dataset.add_new("PixelData", "OW", content + b"\0" * (len(content) % 2))
    return dataset


def meta(syntax: UID = ExplicitVRLittleEndian, kind: UID = MRImageStorage) -> FileMetaDataset:
    found = FileMetaDataset()
    found.MediaStorageSOPClassUID, found.MediaStorageSOPInstanceUID = kind, "1.2.3.4"
    found.TransferSyntaxUID = syntax
    return found


def save(dataset: Dataset, path: Path, syntax: UID = ExplicitVRLittleEndian) -> Path:
    """A file with everything that PS3.10 asks for."""
    dataset.file_meta = meta(syntax)
    dataset.save_as(path, enforce_file_format=True)
    return path


def head(syntax: UID = ExplicitVRLittleEndian, kind: UID = MRImageStorage) -> bytes:
    """Preamble and file meta information."""
    stream = DicomBytesIO()
    write_file_meta_info(stream, meta(syntax, kind))
    return bytes(128) + b"DICM" + stream.getvalue()


def body(dataset: Dataset, implicit: bool = False, little: bool = True) -> bytes:
    """A dataset without any of that."""
    stream = DicomBytesIO()
    stream.is_implicit_VR, stream.is_little_endian = implicit, little
    write_dataset(stream, dataset)
    return stream.getvalue()


def element(tag: int, vr: str, value: bytes, length: int | None = None) -> bytes:
    """One element in explicit little endian, of a length that may be a lie."""
    length = len(value) if length is None else length
    size = struct.pack("<HL", 0, length) if vr in LONG_VRS else struct.pack("<H", length)
    return struct.pack("<HH", tag >> 16, tag & 0xFFFF) + vr.encode() + size + value
