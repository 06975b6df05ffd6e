"""One record for each 2-D image of a DICOM file, in the same words whichever vendor and kind of object it came in."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage, MRImageStorage

from medseq.errors import InputError
from medseq.io.dicom import values
from medseq.io.dicom.attributes import Attributes, first_items, frame_attributes
from medseq.io.dicom.components import PHASE, component, phase_intercept, radians_per_unit
from medseq.io.dicom.tiles import is_mosaic, tiles

_LONGEST_PROTOCOL = 1 << 18
# Millimetres beyond which a number is damage, not geometry: smaller than any voxel, further than any table goes.
_SMALLEST, _FARTHEST = 1e-5, 1e6
_MULTIFRAME = (EnhancedMRImageStorage, LegacyConvertedEnhancedMRImageStorage)
_VENDORS = {
    "SIEMENS": "Siemens",
    "PHILIPS": "Philips",
    "GE MEDICAL": "GE",
    "GE HEALTHCARE": "GE",
    "CANON": "Canon",
    "TOSHIBA": "Canon",
    "UIH": "United Imaging",
    "UNITED IMAGING": "United Imaging",
}


@dataclass(frozen=True, slots=True)
class Clues:
    """What a header says about when its image was taken: seconds, or counts from wherever the vendor starts.

    trigger: after the R wave (or, Philips fMRI, after the first volume). temporal, acquisition, instance: the vendor's
    numbers. offset: of the temporal position. acquired, content: by the clock. timer: GE's, from the series' start.
    """

    trigger: float | None = None
    temporal: float | None = None
    offset: float | None = None
    acquired: float | None = None
    acquisition: float | None = None
    timer: float | None = None
    content: float | None = None
    instance: float | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One 2-D image, ready to be sorted. `path` and `index` as in `Frame`.

    What joins images to a series: study, series, reference (frame of reference UID), protocol, orientation (LPS cosines
    of a row and a column), spacing (row, column; mm), matrix (columns, rows), echo (s), component, image_type.
    What sorts them: position (LPS mm), clues. step: mm between slices as announced. planned: frames announced.
    slope, intercept: stored to real values, to radians for a phase; is_scaled: False where its unit is unknown.
    repetition, cycle: TR and R-R, s. delay: s from the volume's start (mosaics). is_planar: EPI. marks: what else
    matters for the kind: "diffusion", "contrast", "perfusion". interleaved: GE's slice order, where it says one.
    """

    path: Path
    index: int
    instance_uid: str
    study: str
    series: str
    number: int | None
    description: str
    protocol: str
    vendor: str
    reference: str
    image_type: tuple[str, ...]
    component: str
    orientation: tuple[float, ...]
    spacing: tuple[float, ...]
    matrix: tuple[int, int]
    position: tuple[float, float, float]
    step: float | None
    echo: float | None
    slope: float
    intercept: float
    is_scaled: bool
    repetition: float | None
    cycle: float | None
    planned: int | None
    is_planar: bool
    marks: frozenset[str]
    interleaved: bool | None
    clues: Clues
    delay: float | None = None


def is_image(header: Dataset) -> bool:
    """Whether an object with pixels is one of the MR images that medseq reads; False for maps and other derived ones.

    Raises InputError for pixels of any other kind (CT, colour, secondary captures).
    """
    sop_class = values.uid(header, "SOPClassUID")
    modality = values.text(header, "Modality")
    if sop_class in (MRImageStorage, *_MULTIFRAME) or (sop_class is None and modality == "MR"):
        if (values.whole(header, "SamplesPerPixel") or 1) != 1:
            raise InputError("a colour image, which has no measured values; leave it out")
        return True
    if modality != "MR":
        raise InputError(f"an image of modality {_safe(modality)}; medseq reads MR images")
    return False


def records(path: Path, header: Dataset, precise: bool = False) -> list[Record]:
    """Every 2-D image of an MR file. precise: Philips' precise values instead of those its console shows.

    Raises InputError when the header lacks what places an image in space, or contradicts itself.
    """
    if values.uid(header, "SOPClassUID") in _MULTIFRAME:
        return list(_multiframe(path, header, precise))
    frame = Attributes((header,))
    if is_mosaic(frame):
        whole = _record(path, 0, header, frame, precise)
        return [
            replace(whole, **asdict(tile)) for tile in tiles(frame, whole.orientation, whole.spacing, whole.position)
        ]
    if (values.whole(header, "NumberOfFrames") or 1) > 1:
        raise InputError("several frames in an object that holds one; convert it to Enhanced MR")
    return [_record(path, 0, header, frame, precise)]


def _multiframe(path: Path, header: Dataset, precise: bool) -> Iterator[Record]:
    groups = values.items(header, "PerFrameFunctionalGroupsSequence")
    count = values.whole(header, "NumberOfFrames") or 1
    if len(groups) != count:
        raise InputError(f"announces {count} frames and describes {len(groups)}; get a fresh copy")
    shared = [item for group in values.items(header, "SharedFunctionalGroupsSequence") for item in first_items(group)]
    for index, group in enumerate(groups):
        yield _record(path, index, header, frame_attributes(header, group, shared), precise, count)


def _record(path: Path, index: int, header: Dataset, frame: Attributes, precise: bool, count: int = 1) -> Record:
    vendor = vendor_of(frame.text("Manufacturer"))
    kind = component(frame, vendor)
    slope, intercept, is_scaled = _scale(header, frame, vendor, kind, precise)
    rows, columns = frame.whole("Rows"), frame.whole("Columns")
    position = frame.numbers("ImagePositionPatient", 3)
    if position is None or rows is None or columns is None:
        raise InputError("says nowhere where in space it is (ImagePositionPatient); it cannot be placed")
    if max(map(abs, position)) > _FARTHEST:
        raise InputError("lies absurdly far away (ImagePositionPatient); get a fresh copy")
    is_planar = _is_planar(frame)
    trigger = _milli(frame.number("NominalCardiacTriggerDelayTime", "ActualCardiacTriggerDelayTime", "TriggerTime"))
    instance = (frame.number("InstanceNumber") or 0.0) * count + index
    timer = frame.private(0x0021, "GEMS_RELA_01", 0x5E) if vendor == "GE" else None
    return Record(
        path=path,
        index=index,
        instance_uid=frame.text("SOPInstanceUID") or "",
        study=frame.text("StudyInstanceUID") or "",
        series=frame.text("SeriesInstanceUID") or "",
        number=frame.whole("SeriesNumber"),
        description=frame.text("SeriesDescription") or "",
        protocol=frame.text("ProtocolName") or frame.text("SeriesDescription") or "",
        vendor=vendor,
        reference=frame.text("FrameOfReferenceUID") or "",
        image_type=frame.words("FrameType") or frame.words("ImageType"),
        component=kind,
        orientation=_orientation(frame),
        spacing=_spacing(frame),
        matrix=(columns, rows),
        position=(position[0], position[1], position[2]),
        step=frame.positive("SpacingBetweenSlices", "SliceThickness"),
        echo=_milli(frame.positive("EffectiveEchoTime", "EchoTime")),
        slope=slope,
        intercept=intercept,
        is_scaled=is_scaled,
        repetition=_milli(frame.positive("RepetitionTime")),
        cycle=_cycle(frame),
        planned=_planned(frame, trigger),
        is_planar=is_planar,
        marks=frozenset(_marks(frame)),
        interleaved=_is_interleaved(frame) if vendor == "GE" and is_planar else None,
        clues=Clues(
            trigger=trigger,
            temporal=frame.number("TemporalPositionIndex", "TemporalPositionIdentifier"),
            offset=frame.number("TemporalPositionTimeOffset"),
            acquired=frame.acquired(),
            acquisition=frame.number("AcquisitionNumber"),
            timer=timer[0] / 1e4 if timer else None,
            content=frame.content(),
            instance=instance,
        ),
    )


def vendor_of(manufacturer: str | None) -> str:
    """The name that medseq uses for a manufacturer, or the manufacturer as it stands."""
    name = (manufacturer or "").upper()
    return next((short for start, short in _VENDORS.items() if name.startswith(start)), manufacturer or "unknown")


def _orientation(frame: Attributes) -> tuple[float, ...]:
    cosines = frame.numbers("ImageOrientationPatient", 6)
    if cosines is None:
        raise InputError("says nowhere how it lies in space (ImageOrientationPatient); it cannot be placed")
    row, column = np.array(cosines[:3]), np.array(cosines[3:])
    if max(abs(row @ row - 1), abs(column @ column - 1), abs(row @ column)) > 1e-3:
        raise InputError("its ImageOrientationPatient is no pair of perpendicular unit vectors; get a fresh copy")
    return cosines


def _spacing(frame: Attributes) -> tuple[float, ...]:
    spacing = frame.numbers("PixelSpacing", 2)
    if spacing is None or min(spacing) <= 0:
        raise InputError("its voxels have no size (PixelSpacing); get a fresh copy")
    if not _SMALLEST < min(spacing) <= max(spacing) < _FARTHEST:
        raise InputError("its voxels have an absurd size (PixelSpacing); get a fresh copy")
    return spacing


def _scale(header: Dataset, frame: Attributes, vendor: str, kind: str, precise: bool) -> tuple[float, float, bool]:
    slope, intercept, is_radians = _mapping(header, frame)
    if slope == 0:
        raise InputError("its rescale slope is zero, which leaves no values; get a fresh copy")
    if kind == PHASE and not is_radians:
        unit = radians_per_unit(vendor, header, slope, intercept)
        if unit is not None:
            return slope * unit, intercept * unit + phase_intercept(vendor, slope, intercept), True
        return slope, intercept, False
    private = frame.private(0x2005, "Philips MR Imaging DD 001", 0x0E) if precise and vendor == "Philips" else None
    if private and private[0] > 0:
        # Precise value = (stored * RS + RI) / (RS * SS): Chenevert et al., Transl. Oncol. 7 (2014) 65-71.
        return 1 / private[0], intercept / (slope * private[0]), True
    return slope, intercept, True


def _mapping(header: Dataset, frame: Attributes) -> tuple[float, float, bool]:
    """Slope and intercept from stored to real values, and whether these are said to be radians.

    Classic MR has no rescale (PS3.3 C.8.3.1), though scanners write one; where there is none a real world value mapping
    says the same (PS3.3 C.7.6.16.2.11): so do the series that medseq derives.
    """
    world = Attributes((*frame.layers, *values.items(header, "RealWorldValueMappingSequence")))
    slope, intercept = frame.number("RescaleSlope"), frame.number("RescaleIntercept")
    world_slope = world.number("RealWorldValueSlope")
    if slope is None and world_slope is not None:
        slope, intercept = world_slope, world.number("RealWorldValueIntercept")
    # A rescale slope has at most 16 characters, a mapping's is a double.
    agree = slope is not None and world_slope is not None and math.isclose(slope, world_slope, rel_tol=1e-9)
    units = world.items("MeasurementUnitsCodeSequence") if agree else []
    is_radians = any(values.text(unit, "CodeValue") == "rad" for unit in units)
    return 1.0 if slope is None else slope, intercept or 0.0, is_radians


def _cycle(frame: Attributes) -> float | None:
    interval = frame.positive("RRIntervalTimeNominal", "NominalInterval")
    rate = frame.positive("HeartRate")
    return _milli(interval) if interval else 60.0 / rate if rate else None


def _planned(frame: Attributes, trigger: float | None) -> int | None:
    temporal = frame.positive("NumberOfTemporalPositions")
    cardiac = frame.positive("CardiacNumberOfImages") if trigger is not None else None
    planned = max(temporal or 0, cardiac or 0)
    return int(planned) or None


def _is_planar(frame: Attributes) -> bool:
    """Echo-planar: said outright, or, by Philips, as a gradient echo with a train of several."""
    sequence = frame.words("ScanningSequence")
    train = frame.number("EchoTrainLength", "GradientEchoTrainLength") or 0
    return (
        "EP" in sequence
        or frame.text("EchoPlanarPulseSequence") == "YES"
        or (sequence == ("GR",) and train > 10 and _cycle(frame) is None)
    )


def _marks(frame: Attributes) -> Iterator[str]:
    words = set(frame.words("FrameType") + frame.words("ImageType"))
    if (frame.positive("DiffusionBValue") or 0) > 0 or "DIFFUSION" in words:
        yield "diffusion"
    if frame.text("ContrastBolusAgent") is not None:
        yield "contrast"
    if {"PERFUSION", "ASL"} & words or frame.text("ArterialSpinLabelingContrast") is not None:
        yield "perfusion"


def _is_interleaved(frame: Attributes) -> bool | None:
    """GE's SLICEORDER, from the gzipped text of its protocol (0025,101B); None where it says nothing."""
    block = frame.private_bytes(0x0025, "GEMS_SERS_01", 0x1B) or b""
    start = block.find(b"\x1f\x8b")
    if start < 0:
        return None
    try:
        protocol = zlib.decompressobj(31).decompress(block[start:], _LONGEST_PROTOCOL)
    except zlib.error:
        return None
    found = re.search(rb'SLICEORDER "([01])"', protocol)
    return None if found is None else found[1] == b"1"


def _milli(value: float | None) -> float | None:
    return None if value is None else value / 1000.0


def _safe(modality: str | None) -> str:
    return modality if modality and modality.isalnum() and len(modality) <= 4 else "unknown"
