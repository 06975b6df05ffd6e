"""The classic MR images of a derived series: source headers, derivation, times and pixels put together."""

from __future__ import annotations

import hashlib
from copy import deepcopy
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import MRImageStorage

from medseq.clip import Clip
from medseq.errors import InputError
from medseq.io.dicom import values
from medseq.io.dicom.classic import classic_header, copied, decimal
from medseq.io.dicom.clocks import WHEN, set_cardiac_times, set_running_times
from medseq.io.dicom.derived import Derivation, NewSeries, SourceImage, describe
from medseq.io.dicom.moments import Moment, moments
from medseq.io.dicom.opening import open_header
from medseq.io.dicom.scale import choose_scale, source_scale
from medseq.io.dicom.series import DicomSeries, Frame
from medseq.io.dicom.uids import content_uid

# Words of ImageType that say what part of a complex image it is; Philips' go on, as in M_FFE.
_PARTS = {"M": "M", "P": "P", "R": "R", "I": "I", "PHASE MAP": "P"}
_PHASE_SCALE = (np.pi / 2048, -np.pi)  # 12 bits for a turn, where the source stores no phase
# By these a derived image names what it was made of.
_NAMES = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
# What a viewer shows as black and white: the darkest and brightest half percent are no guide.
_WINDOW = (0.005, 0.995)


@dataclass(frozen=True)
class Component:
    """One real series of a clip: its magnitudes or, in radians, its phases.

    letter: "M" or "P", as in ImageType. real: (B, T, Y, X). frames: [slice][time] of the source, for the headers.
    scale: slope and intercept of the source.
    """

    letter: str
    real: np.ndarray
    frames: tuple[tuple[Frame | None, ...], ...]
    scale: tuple[float, float]


def components(clip: Clip, source: DicomSeries) -> list[Component]:
    """The magnitudes of a clip, and the phases of a complex one."""
    data = clip.data[:, 0].detach().cpu().resolve_conj()
    scale = source_scale(chain.from_iterable(source.frames))
    if not clip.is_complex:
        return [Component("M", data.numpy(), source.frames, scale)]
    has_phases = source.phases is not None and not source.is_cartesian
    phase_scale = source_scale(chain.from_iterable(source.phases)) if source.phases and has_phases else _PHASE_SCALE
    return [
        Component("M", data.abs().numpy(), source.frames, scale),
        Component("P", data.angle().numpy(), source.phases or source.frames, phase_scale),
    ]


class Images:
    """Makes the images of one component, time by time, so that only their stored pixels are held all at once."""

    def __init__(self, component: Component, clip: Clip, source: DicomSeries, derivation: Derivation, number: int):
        """number: of the new series, after the source's times 100. Raises InputError on a broken source header."""
        self._component, self._clip, self._source = component, clip, source
        self._filled = _filled(derivation, clip)
        self._moments = [moments(row, source.times, source.period, clip.times) for row in source.frames]
        self._header = lru_cache(maxsize=256)(_header)
        self._starts = [self._start(row) for row in component.frames]
        scale = choose_scale(component.real, *component.scale)
        self._stored = scale.stored(component.real)
        self._window = _window(self._stored)
        is_phase = component.letter == "P"
        self.series = NewSeries(
            derivation,
            uid=content_uid([*self._origin(), derivation.canonical, str(number)]),
            number=(source.number or 0) % 10**7 * 100 + number,  # an integer string ends at 2^31
            title=f"{derivation.task} phase" if is_phase else derivation.task,
            scale=scale,
            units=codes.UCUM.Radian if is_phase else codes.UCUM.NoUnits,
        )

    def at(self, t: int) -> list[Dataset]:
        """The images of frame `t`, slice by slice: complete MR Image Storage objects but for file meta information."""
        return [self._image(b, t) for b in range(len(self._moments))]

    def _image(self, b: int, t: int) -> Dataset:
        moment = self._moments[b][t]
        dataset = classic_header(*self._nearest(b, moment))
        synthetic = moment.synthetic or bool(self._filled[b, t])
        describe(dataset, self.series, self._sources(b, moment), synthetic)
        dataset.ImageType = _with_component(values.words(dataset, "ImageType"), self._component.letter)
        if self._clip.period is not None:
            set_cardiac_times(dataset, self._clip, t, moment)
        else:
            first, start = self._starts[b]
            dataset.update(deepcopy(start))  # what follows changes its elements in place
            set_running_times(dataset, self._clip, t, self._clip.times[t] - self._source.times[first], self._source)
        dataset.SOPClassUID = MRImageStorage
        dataset.InstanceNumber = t * len(self._moments) + b + 1
        dataset.SOPInstanceUID = content_uid([self.series.uid, str(dataset.InstanceNumber)])
        _add_pixels(dataset, self._stored[b, t], self._window)
        return dataset

    def _nearest(self, b: int, moment: Moment) -> tuple[Dataset, Frame]:
        frame = self._component.frames[b][moment.sources[0]] or self._source.frames[b][moment.sources[0]]
        assert frame is not None  # `moments` names frames that are there
        return self._header(frame.path), frame

    def _sources(self, b: int, moment: Moment) -> list[SourceImage]:
        """What the frame was made of, magnitudes and phases alike."""
        rows = (self._source.frames[b], self._source.phases[b] if self._source.phases else ())
        frames = [row[k] for row in rows if row for k in moment.sources]
        return [self._source_image(frame) for frame in frames if frame is not None]

    def _source_image(self, frame: Frame) -> SourceImage:
        header = self._header(frame.path)
        return SourceImage(header, frame.index + 1 if "NumberOfFrames" in header else None)

    def _start(self, row: tuple[Frame | None, ...]) -> tuple[int, Dataset]:
        """The first frame of a slice: its index, and when it was acquired."""
        index, frame = next((k, frame) for k, frame in enumerate(row) if frame is not None)
        return index, copied(classic_header(self._header(frame.path), frame), WHEN)

    def _origin(self) -> list[bytes | str]:
        """What tells this series from any other, derivation aside."""
        first = [next(frame for frame in row if frame is not None) for row in self._component.frames]
        uids = [self._header(frame.path).SOPInstanceUID for frame in first]
        geometry = self._clip.affine.tobytes() + self._clip.times.tobytes() + self._filled.tobytes()
        pixels = hashlib.sha256(self._stored.data).digest()
        return [self._source.uid, *uids, geometry, self._component.letter, pixels]


def _header(path: Path) -> Dataset:
    header = open_header(path)
    if header is None:
        raise InputError(f"{path}: no longer a DICOM file; get a fresh copy")
    for keyword in _NAMES:
        if values.uid(header, keyword) is None:
            raise InputError(f"{path}: has no {keyword}, so that no DICOM can refer to it; write NIfTI instead")
    return header


def _filled(derivation: Derivation, clip: Clip) -> np.ndarray:
    """(B, T) bool: frames that were filled in."""
    shape = (clip.data.shape[0], clip.frames)
    filled = np.zeros(shape, bool) if derivation.synthetic is None else np.asarray(derivation.synthetic, dtype=bool)
    if filled.shape != shape:
        raise InputError(f"synthetic frames must be marked in an array of shape {shape}, got {filled.shape}")
    return filled


def _with_component(words: tuple[str, ...], letter: str) -> list[str]:
    """ImageType of a magnitude or phase image, made from that of whatever part of a complex one.

    It stays as it is where it names the right part, and for a magnitude also where it names none.
    """
    parts = {word: _PARTS.get(word) or _PARTS.get(word.split("_")[0]) for word in words}
    if set(parts.values()) - {None} == {letter} or (letter == "M" and not any(parts.values())):
        return list(words)
    return [*words[:2], letter, *(word for word in words[2:] if parts[word] is None)]


def _window(stored: np.ndarray) -> tuple[float, float]:
    """Centre and width of the window of a series, in stored values."""
    lowest, highest = int(stored.min()), int(stored.max())
    counts = np.zeros(highest - lowest + 1, np.int64)
    for each in stored:
        counts += np.bincount(each.ravel().astype(np.int32) - lowest, minlength=len(counts))
    low, high = lowest + np.searchsorted(np.cumsum(counts), np.array(_WINDOW) * stored.size)
    return (float(low) + float(high)) / 2, max(float(high) - float(low), 1.0)


def _add_pixels(dataset: Dataset, stored: np.ndarray, window: tuple[float, float]) -> None:
    """The Image Pixel module (PS3.3 C.7.6.3) and the window. stored: (rows, columns) uint16 or int16."""
    dataset.Rows, dataset.Columns = stored.shape
    dataset.SamplesPerPixel = 1
    if values.text(dataset, "PhotometricInterpretation") not in ("MONOCHROME1", "MONOCHROME2"):
        dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit = 15
    dataset.PixelRepresentation = int(stored.dtype.kind == "i")
    representation = "SS" if dataset.PixelRepresentation else "US"
    dataset.add_new("SmallestImagePixelValue", representation, int(stored.min()))
    dataset.add_new("LargestImagePixelValue", representation, int(stored.max()))
    dataset.WindowCenter, dataset.WindowWidth = map(decimal, window)
    dataset.add_new("PixelData", "OW", stored.astype(stored.dtype.newbyteorder("<")).tobytes())
