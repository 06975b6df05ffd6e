"""A scanner for tests: small MR series in the layouts of the vendors, with the truth about what was measured.

    truth = scan(folder, vendor="siemens", kind="cine", slices=3, frames=5)

Each layout puts the same pretended exam (dicom_exam.py) into files as that vendor does (dicom_layouts.py).
Encodings, lost, repeated and shuffled files come on top.
"""

from __future__ import annotations

import gzip
import random
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from dicom_exam import NORMAL, TR, Exam
from dicom_layouts import LAYOUTS, Layout
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)


@dataclass(frozen=True)
class Truth:
    """What a reader must find.

    affine: 4x4, (column, row, slice) -> RAS mm, slices along the normal. times: (T,) s. values: (B, T, rows, columns),
    complex when two components were scanned. slice_times: (B,) s, for bold. triggers: (B, T) s, for cine.
    """

    folder: Path
    affine: np.ndarray
    times: np.ndarray
    period: float | None
    values: np.ndarray
    slice_times: np.ndarray | None
    triggers: np.ndarray | None


def scan(
    folder: Path,
    vendor: str = "siemens",
    kind: str = "cine",
    *,
    slices: int = 3,
    frames: int = 5,
    components: tuple[str, ...] = ("M",),
    jitter: float = 0.0,
    missing: tuple[tuple[int, int], ...] = (),
    duplicates: int = 0,
    encoding: str = "explicit",
    file_names: int | None = None,
    instance_numbers: int | None = None,
    downward: bool = False,
    echo: float = 30.0,
    number: int = 7,
    name: str = "exam",
) -> Truth:
    """Write a series into the folder.

    vendor: of LAYOUTS; kind: "cine" or "bold"; encoding: of ENCODINGS. components: ("M",), ("M", "P") or ("R", "I").
    missing: (slice, frame) without a file. duplicates: how many files are there twice. downward: the scanner counts
    slices against the normal. file_names, instance_numbers: seeds that shuffle them. echo: ms. See Exam for the rest.
    """
    step = (-1 if downward else 1) * Exam("", 1, 1).step
    exam = Exam(kind, slices, frames, components, jitter, echo, name, number, missing, step)
    layout = LAYOUTS[vendor]
    objects = list(layout.objects(exam))
    if instance_numbers is not None:
        _shuffle_numbers(objects, random.Random(instance_numbers))
    objects += [deepcopy(each) for each in objects[:duplicates]]
    names = [f"IM{number:05d}" for number in range(len(objects))]
    if file_names is not None:
        random.Random(file_names).shuffle(names)
    folder.mkdir(parents=True, exist_ok=True)
    for each, file_name in zip(objects, names, strict=True):
        _save(each, folder / f"{name}-{number}-{file_name}", encoding)
    truth = _truth(folder, exam, layout, step @ NORMAL < 0)
    return replace(truth, slice_times=None) if vendor.startswith("philips") else truth


def _truth(folder: Path, exam: Exam, layout: Layout, reverse: bool) -> Truth:
    def values(component: str) -> np.ndarray:
        return np.array(
            [
                [layout.real(exam.stored(b, t, component).astype(float), t, component) for t in range(exam.frames)]
                for b in range(exam.slices)
            ]
        )

    parts = [values(component) for component in exam.components]
    data = parts[0]
    if exam.components == ("M", "P"):
        data = parts[0] * np.exp(1j * parts[1])
    elif exam.components == ("R", "I"):
        data = parts[0] + 1j * parts[1]
    affine, slice_times, triggers = exam.affine, exam.slice_times, exam.triggers
    if reverse:
        affine = affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, exam.slices - 1], [0, 0, 0, 1]])
        data, slice_times, triggers = data[::-1], slice_times[::-1], triggers[::-1]
    if exam.is_cine:
        return Truth(folder, affine, triggers.mean(axis=0), float(exam.cycles.mean()), data, None, triggers)
    return Truth(folder, affine, TR * np.arange(exam.frames), None, data, slice_times, None)


ENCODINGS = {
    "explicit": ExplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "rle": RLELossless,
    "j2k": JPEG2000Lossless,
    "bare": ImplicitVRLittleEndian,  # no preamble and no file meta information
    "gzip": ExplicitVRLittleEndian,
}


def _shuffle_numbers(objects: list[Dataset], random_: random.Random) -> None:
    numbers = [each.InstanceNumber for each in objects]
    random_.shuffle(numbers)
    for each, number in zip(objects, numbers, strict=True):
        each.InstanceNumber = number


def _save(dataset: Dataset, path: Path, encoding: str) -> None:
    syntax = UID(ENCODINGS[encoding])
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian if syntax.is_compressed else syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    if syntax in (RLELossless, JPEG2000Lossless):
        dataset.compress(syntax, generate_instance_uid=False)
    if not syntax.is_little_endian:
        dataset.PixelData = np.frombuffer(dataset.PixelData, "<u2").astype(">u2").tobytes()
    if encoding == "bare":
        del dataset.file_meta
        dataset.save_as(path, implicit_vr=True, little_endian=True, enforce_file_format=False)
    else:
        dataset.save_as(path, enforce_file_format=True)
    if encoding == "gzip":
        path.with_name(path.name + ".gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
