"""Whether an archive keeps what it was sent."""

from __future__ import annotations

from enum import Enum
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.tag import BaseTag

from medseq.io.dicom.opening import Header, frame_count
from medseq.io.dicom.pixels import PixelReader
from medseq.io.dicom.values import dicom_faults_named, quiet

# Acquisition, relationship, image presentation, functional groups: what makes the image. An archive may correct the
# rest, such as the patient and the study that an image belongs to (PS3.4 section B.4.1.3).
_GROUPS_OF_THE_IMAGE = {0x0018, 0x0020, 0x0028, 0x5200}
_STUDY_ID = 0x00200010
_FRAMES_AT_ONCE = 64


class Kept(Enum):
    """What has become of an image."""

    SAME = "same"
    CORRECTED = "corrected"  # attributes that an archive may change
    OTHER = "other"  # another image under the same UID


def compare(reader: PixelReader, sent: Path, header: Header, stored: Path, found: Header) -> Kept:
    """What an archive gives back beside what it was sent: two files of one UID and their headers.

    Pixels are compared decoded, as archives may compress them. Raises InputError like `PixelReader`.
    """
    changed = _changed(header, found)
    if any(tag.group in _GROUPS_OF_THE_IMAGE for tag in changed):
        return Kept.OTHER
    if not _same_pixels(reader, sent, header, stored, found):
        return Kept.OTHER
    return Kept.CORRECTED if changed else Kept.SAME


def _changed(one: Dataset, other: Dataset) -> set[BaseTag]:
    """The tags whose values differ; empty and absent are the same, and group lengths say nothing."""
    tags = {tag for tag in one.keys() | other.keys() if tag.element != 0 and tag != _STUDY_ID}
    with dicom_faults_named("an archived image"), quiet():
        return {tag for tag in tags if _value(one, tag) != _value(other, tag)}


def _value(dataset: Dataset, tag: BaseTag) -> object:
    element = dataset.get(tag)
    return None if element is None or element.is_empty else element.value


def _same_pixels(reader: PixelReader, sent: Path, header: Header, stored: Path, found: Header) -> bool:
    if header.pixels is None or found.pixels is None:
        return header.pixels == found.pixels
    frames = frame_count(header)
    return frames == frame_count(found) and all(
        np.array_equal(reader.read(sent, header, some), reader.read(stored, found, some), equal_nan=True)
        for some in (range(frames)[first : first + _FRAMES_AT_ONCE] for first in range(0, frames, _FRAMES_AT_ONCE))
    )
