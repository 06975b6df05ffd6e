"""A derived MR series beside its source: files that an archive keeps under the same patient and study.

Classic MR Image Storage, one frame a file, is what the most archives and viewers take; Enhanced MR is an option. The
images are numbered phase by phase (all slices of a time, then the next time), as converters expect it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from medseq import __version__
from medseq.clip import Clip
from medseq.errors import InputError, ResourceError
from medseq.io.dicom.deidentify import deidentified
from medseq.io.dicom.derived import Derivation, keep_own_words
from medseq.io.dicom.images import Images, components
from medseq.io.dicom.multiframe import enhanced_image
from medseq.io.dicom.parametric import refer_to_enhanced, uncertainty_map
from medseq.io.dicom.series import DicomSeries
from medseq.io.dicom.uids import IMPLEMENTATION
from medseq.io.dicom.values import quiet

_TOLERANCE = 1e-3  # mm


def save_derived(
    clip: Clip,
    folder: Path,
    source: DicomSeries,
    derivation: Derivation,
    *,
    std: Clip | None = None,
    multiframe: bool = False,
    deidentify: bytes | None = None,
    number: int = 1,
) -> list[Path]:
    """Write `clip`, which was made of `source`, as a new MR series; returns the files in the order of their numbers.

    folder: exists and is empty; the caller removes it when writing fails. clip: on the source's grid, (B, 1, T, Y, X);
    its times may differ from the source's. A complex clip becomes two series, magnitudes and phases (radians).
    std: (B, 1, T, Y, X), the standard deviation of each magnitude, in the same units; it is written as a Parametric Map
    series (float32). multiframe: one Enhanced MR file a series instead of a classic file a frame.
    deidentify: the secret key with which the basic profile of PS3.15 is applied to every object.
    number: of the first new series, after the source's number times 100; the others count on from there.
    UIDs follow from source, derivation and pixels: the same call writes the same bytes, other content has other UIDs.
    Raises InputError when the clip does not fit the source, is not finite, or a header of the source is broken, and
    ResourceError when a file cannot be written.
    """
    for each in (clip,) if std is None else (clip, std):
        _check_fit(each, clip.frames, source)
    written: list[Path] = []
    series = [Images(part, clip, source, derivation, number + k) for k, part in enumerate(components(clip, source))]
    for images, prefix in zip(series, ("IM", "PH"), strict=False):
        objects = [_enhanced(images, clip, source)] if multiframe else _classic(images, clip)
        written += _write(objects, folder, prefix, deidentify)
    if std is not None:
        enhanced = _enhanced(series[0], clip, source) if multiframe else None
        written += _write(_maps(std, series[0], enhanced, number + len(series)), folder, "SD", deidentify)
    return written


def _check_fit(clip: Clip, frames: int, source: DicomSeries) -> None:
    """Refuse a clip that is on another grid than the series it is said to come from, or not finite."""
    shape = (len(source.frames), frames, source.matrix[1], source.matrix[0])
    found = tuple(clip.data[:, 0].shape)
    if found != shape:
        raise InputError(
            f"series {source.number} asks for (slices, frames, rows, columns) {shape}, got {found}; give its grid"
        )
    corners = np.array([[x, y, z, 1] for x in (0, shape[3]) for y in (0, shape[2]) for z in (0, shape[0])])
    if np.abs(corners @ (clip.affine - source.affine).T).max() > _TOLERANCE:
        raise InputError(f"the images lie elsewhere than series {source.number}; only its own grid can be written")
    if not bool(clip.data.isfinite().all()):
        raise InputError(f"series {source.number} is not written, as some values of the result are not finite")


def _classic(images: Images, clip: Clip) -> Iterator[Dataset]:
    return (image for t in range(clip.frames) for image in images.at(t))


def _enhanced(images: Images, clip: Clip, source: DicomSeries) -> Dataset:
    return enhanced_image(list(_classic(images, clip)), clip, images.series, source.kind)


def _maps(std: Clip, images: Images, enhanced: Dataset | None, number: int) -> Iterator[Dataset]:
    """One map for each time, as two frames of a map cannot lie at the same place. enhanced: what they refer to."""
    for t in range(std.frames):
        shown = images.at(t)
        made = uncertainty_map(std.data[:, 0, t].abs().cpu().numpy(), shown, images.series, number, t + 1)
        if enhanced is not None:
            refer_to_enhanced(made, shown, enhanced)
        yield made


def _write(objects: Iterable[Dataset], folder: Path, prefix: str, key: bytes | None) -> list[Path]:
    """Files of the objects, numbered from 1, whose names say nothing of what is in them."""
    written = []
    for number, dataset in enumerate(objects, 1):
        path = folder / f"{prefix}{number:05d}.dcm"
        _write_file(dataset if key is None else _anonymous(dataset, key), path)
        written.append(path)
    return written


def _anonymous(dataset: Dataset, key: bytes) -> Dataset:
    clean = deidentified(dataset, key)
    keep_own_words(clean, dataset)
    return clean


def _write_file(dataset: Dataset, path: Path) -> None:
    """A DICOM file (PS3.10) of Explicit VR Little Endian, whose preamble is empty and so cannot be another format."""
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.ImplementationClassUID = IMPLEMENTATION
    dataset.file_meta.ImplementationVersionName = f"MEDSEQ_{__version__}"[:16]
    dataset.preamble = b"\0" * 128
    try:
        with quiet():
            dataset.save_as(path, enforce_file_format=True)
    except OSError as error:
        reason = error.strerror or "no reason given"
        raise ResourceError(
            f"{path}: cannot be written ({reason}); check the folder, its rights and free space"
        ) from error
